//! What a first-time user encounters: placeholder answers, wrong addresses, incomplete configuration.

use super::common::{Desk, RunToEnd, all_ids, good};
use super::fake::{Fake, says};

#[test]
fn answers_of_a_model_replace_placeholder_answers() {
    let (desk, sim) = (Desk::with(10), good());
    desk.plain("run in.jsonl -o out.jsonl --provider extract")
        .expect(0);
    desk.plain("run in.jsonl -o out.jsonl --provider extract")
        .ends(0, "nothing to send");
    desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
    assert_eq!(sim.stats().calls, 10);
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
    let lines = desk.results("out.jsonl");
    assert!(lines.iter().all(|line| line["provider"] == "local"));

    // In the opposite case, a missing provider discards no billed answer.
    let before = desk.read("out.jsonl");
    let mut command = desk.command(["run", "in.jsonl", "-o", "out.jsonl"]);
    command.env("LOCAL_LLM_BASE_URL", "http://127.0.0.1:9");
    command.ended().ends(2, "no provider can be used");
    assert_eq!(desk.read("out.jsonl"), before);
}

#[test]
fn a_wrong_path_stops_early_and_says_why() {
    let url = Fake::start(|_| says(404, "<html>")).url();
    let desk = Desk::with(300);
    let mut command = desk.command(["run", "in.jsonl", "-o", "out.jsonl", "-j", "3"]);
    command
        .args(["--provider", "openai", "--model", "m", "--base-url", &url])
        .env("OPENAI_API_KEY", "sk-first-0123456789");
    command
        .ended()
        .ends(4, "no such address; is the base URL right?");
    // Ten identical failures suffice; two more calls may be in flight by then.
    let tried = desk.results("out.jsonl").len();
    assert!(tried <= 12, "{tried} items were sent to a wrong address");
}

#[test]
fn more_fallbacks_than_a_route_has_steps_are_refused_before_anything_is_touched() {
    let desk = Desk::with(1);
    let run = |fallbacks: usize| {
        let names = vec!["extract"; fallbacks].join(",");
        desk.plain(&format!(
            "run in.jsonl -o out.jsonl --provider extract --fallback {names}"
        ))
    };
    run(32).ends(2, "found 32 providers; at most 31");
    assert!(!desk.exists("out.jsonl"));
    run(31).expect(0);
}
