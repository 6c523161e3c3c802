//! Servers that accept few concurrent calls, are unreachable, or return nothing useful: what was billed is requested again
//! only on demand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright_simulate::{BatchConfig, SimConfig, Trouble};
use serde_json::{Value, json};

use super::batch_runs;
use super::common::{Desk, Has, RunToEnd, all_ids, simulator};
use super::fake::{Fake, reply};

#[test]
fn a_run_stops_after_ten_billed_unusable_replies() {
    for (trouble, words) in [
        (Trouble::Empty, ""),
        (Trouble::Empty, "--fallback extract"),
        (Trouble::BrokenJson, "--max-retries 0"),
    ] {
        let broken = SimConfig::default().trouble(trouble, 1.0);
        let desk = Desk::with(60);
        let sim = simulator(broken.trouble_times(trouble, None));
        let ended = desk.run(&sim, &format!("in.jsonl -o out.jsonl -j 2 {words}"));
        ended
            .expect(4)
            .says("stopped: the first 10 replies were all unusable, and each was billed")
            .says("the last one begins with \"{");
        let stats = sim.stats();
        assert!((10..=12).contains(&stats.calls), "{} calls", stats.calls);
        assert_eq!((stats.paid, stats.paid_twice), (stats.calls, 0));
    }
    // With `--on-error continue`, the run continues.
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::Empty, 1.0));
    desk.prompts("in.jsonl", 20);
    let words = "in.jsonl -o out.jsonl -j 2 --on-error continue";
    desk.run(&sim, words).expect(3);
    assert_eq!(sim.stats().calls, 20);
}

#[test]
fn an_address_of_another_server_stops_the_run() {
    let desk = Desk::with(300);
    let sim = simulator(SimConfig::default());
    let elsewhere = sim.base_url().replace("/v1", "/elsewhere");
    let words = format!(
        "run in.jsonl -o out.jsonl --provider openai --model m -j 3 --base-url {elsewhere}"
    );
    let mut command = desk.command(words.split_whitespace());
    let ended = command.env("OPENAI_API_KEY", "k").ended();
    ended
        .ends(4, "stopped: the address is not that of the provider's API")
        .says("answered 404");
    assert!(sim.stats().calls <= 10 + 2 * 3, "{}", sim.stats().calls);
}

#[test]
fn progress_says_that_a_limit_per_minute_slows_a_run() {
    let slow = SimConfig::default().rpm(60).burst(1);
    let silent = SimConfig::default().rpm(240).burst(1).hide_limits(true);
    let run = |config, prompts, flags: &str| {
        let (desk, sim) = (Desk::with(prompts), simulator(config));
        let words = format!("in.jsonl -o out.jsonl --progress always {flags}");
        desk.run(&sim, &words).expect(0)
    };
    // All runs wait for the simulator.
    std::thread::scope(|scope| {
        let told = scope.spawn(|| run(slow.clone(), 5, ""));
        let set = scope.spawn(|| run(slow.clone(), 5, "--rpm 60"));
        run(silent, 60, "").says("limited by quota");
        told.join().unwrap().says("limited by quota");
        set.join().unwrap().says("limited by quota");
    });
}

#[test]
fn a_run_finds_the_useful_concurrency_and_never_exceeds_a_given_one() {
    // Slow enough that a busy machine does not look like a busy server.
    let slow = SimConfig::default().latency(Duration::from_millis(150));
    let run = |items, words: &str| {
        let (desk, sim) = (Desk::with(items), simulator(slow.clone()));
        let words = format!("run in.jsonl -o out.jsonl --model m --json --provider openai {words}");
        let mut command = desk.command(words.split_whitespace());
        command
            .args(["--base-url", &sim.base_url()])
            .env("OPENAI_API_KEY", "sk-pace-0123456789");
        let ended = command.ended().expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(items));
        (ended, sim.stats().max_in_flight)
    };
    let (ended, most) = run(400, "");
    assert!((11..=256).contains(&most), "{most} at once");
    let told = &ended.json()["summary"]["most_in_flight"];
    assert!(told.as_u64().unwrap() >= most);
    let ended = ended.says("5 in flight, up to 256 while that helps");
    ended.tells(&format!(", up to {told} calls at once"));
    // So few items that no more calls are started than at first.
    let (ended, _) = run(10, "-j auto --rpm 60000");
    ended
        .says("5 in flight, up to 256")
        .tells(", up to 5 calls at once");
    assert!(run(40, "-j 5").1 <= 5);
}

/// A billed reply without a usable answer.
fn picture() -> Value {
    let image =
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}});
    reply(json!({"role": "assistant", "content": null, "images": [image]}))
}

#[test]
fn a_batch_with_empty_answers_is_not_submitted_again() {
    let batches = BatchConfig::default().duration(batch_runs::SHORT);
    let settings = SimConfig::default().trouble(Trouble::Empty, 1.0);
    let (desk, sim) = (Desk::with(4), simulator(settings.batches(batches)));
    let run = |words: &str| batch_runs::run(&desk, &sim, &format!("in.jsonl -o out.jsonl {words}"));
    for (words, code, accepted) in [("", 3, 4), ("", 3, 4), ("--resend all", 0, 8)] {
        run(words).expect(code);
        assert_eq!(sim.batch_stats().items_accepted, accepted);
    }
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
}

#[test]
fn unusable_images_are_requested_once_and_again_only_on_demand() {
    let desk = Desk::with(4);
    let answer = Arc::new(Mutex::new(picture()));
    let told = answer.clone();
    let first = Fake::answering(move |_| told.lock().unwrap().clone());
    let fallback = Fake::answering(|_| json!({}));
    let run = |words: &str| {
        let mut command = first.run(&desk, &format!("-j 2 --fallback local:small {words}"));
        command.env("LOCAL_LLM_BASE_URL", fallback.url()).ended()
    };
    run("").ends(3, "4 replies were paid for and cannot be read");
    for line in desk.results("out.jsonl") {
        let why = "not a usable reply: the reply holds image data and no text";
        line["error"].has(
            json!({"kind": "malformed", "message": why, "unusable_reply": true,
            "raw": picture().to_string()}),
        );
        line.has(json!({"attempts": 1, "/usage/output_tokens": 5}));
    }
    // Neither the next run nor a changed server requests them again automatically.
    *answer.lock().unwrap() = reply(json!({"content": "Oslo"}));
    let plan =
        "4 items have replies that were paid for and cannot be read; --resend all sends them again";
    run("").ends(3, plan).hides("to try the failed ones again");
    run("--resend all --dry-run").ends(0, "would send 4 items");
    assert_eq!(first.calls().len(), 4);
    run("--resend all --max-items 1").expect(0);
    assert_eq!(first.calls().len(), 5);
    run("--resend all").expect(0);
    assert_eq!((first.calls().len(), fallback.calls().len()), (8, 0));
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
}
