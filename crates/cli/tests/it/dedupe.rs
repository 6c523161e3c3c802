//! Identical prompts are sent once and all get the answer, whatever happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd, all_ids, good, id, ids_in_order, simulator};
use super::run_killed::killed;

/// `n` items; those from `different` on have the same prompts as earlier ones.
fn with_equals(n: usize, different: usize) -> String {
    let line = |i: usize| {
        let asks = if i < different { i } else { i * 7 % different };
        format!("{{\"id\":\"i-{i}\",\"prompt\":\"prompt {asks}\"}}\n")
    };
    (0..n).map(line).collect()
}

#[test]
fn duplicates_are_sent_once_with_dedupe() {
    let (desk, sim) = (Desk::new(), good());
    desk.input(with_equals(30, 20));
    let all = "30 to send, 10 of them equal to others (--dedupe sends those once)";
    let once = "20 to send, 10 answered with equal ones";
    for (flags, made, says) in [
        ("--temperature 0", 30, all),
        ("--temperature 0.5 --dedupe", 20, once),
    ] {
        let before = sim.stats().calls;
        let words = format!("in.jsonl -o {made}.jsonl -j 3 --json {flags}");
        let dry = desk.run(&sim, &format!("{words} --dry-run")).expect(0);
        let plan = json!({"to_send": made, "equal": 30 - made, "repeated": made - 20});
        dry.json().has(plan);
        let told = desk.run(&sim, &words).ends(0, says).json()["summary"].take();
        assert_eq!(sim.stats().calls - before, made, "{flags}");
        assert_eq!(desk.ids(&format!("{made}.jsonl")), all_ids(30), "{flags}");
        let lines = desk.results(&format!("{made}.jsonl"));
        let used = lines
            .iter()
            .filter_map(|line| line["usage"]["output_tokens"].as_u64());
        told.has(
            json!({"answered_by_equals": 30 - made, "calls_saved": 30 - made, "completed": 30,
            "calls": made, "/usage/output_tokens": used.sum::<u64>()}),
        );
    }
    let few = "in.jsonl -o out.jsonl --dedupe --max-items 5 --dry-run --json";
    let few = desk.run(&sim, few).expect(0).json();
    few.has(json!({"to_send": 5}));
}

#[test]
fn the_line_of_a_duplicate_names_the_item_that_was_sent() {
    let (desk, sim) = (Desk::new(), good());
    let rows = "id,prompt,who\na,Name a prime.,x\nb,Name a prime.,y\nc,Name another.,z\n";
    desk.write("in.csv", rows);
    let words = "in.csv -o out.jsonl --keep who --dedupe --ordered";
    desk.run(&sim, words).ends(0, "1 saved by equal prompts");
    let lines = desk.results("out.jsonl");
    lines[0].has(json!({"id": "a", "text": "echo: Name a prime.", "answered_by": null}));
    assert!(lines[0]["usage"].is_object());
    for same in ["text", "provider", "model", "finish_reason", "request_hash"] {
        assert_eq!(lines[0][same], lines[1][same], "{same}");
    }
    lines[1].has(
        json!({"id": "b", "answered_by": "a", "input": {"who": "y"}, "usage": null,
        "cost_usd": 0.0, "attempts": 0}),
    );
    desk.run(&sim, words).ends(0, "nothing to send");
    assert_eq!(sim.stats().calls, 2);
}

/// Its reply was billed, and a request for each identical item would be billed again.
#[test]
fn an_unusable_reply_is_requested_once_for_all_duplicates() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::Empty, 1.0));
    desk.input(with_equals(3000, 1));
    let words = "in.jsonl -o out.jsonl --dedupe --json";
    let done = || (sim.stats().calls, desk.results("out.jsonl").len());
    let ended = desk.run(&sim, words).expect(3);
    ended
        .json()
        .has(json!({"/summary/calls_saved": 2999, "/summary/unusable_replies": 3000}));
    assert_eq!(done(), (1, 3000));
    let lines = desk.results("out.jsonl");
    let ids: BTreeSet<String> = lines.iter().map(id).collect();
    assert_eq!(ids, ids_in_order(3000).into_iter().collect());
    assert!(lines.iter().all(|l| l["error"]["unusable_reply"] == true));
    // As if the run had been killed between them, and with new ids.
    let text = desk.read("out.jsonl");
    desk.write(
        "out.jsonl",
        text.split_inclusive('\n').take(1000).collect::<String>(),
    );
    let more =
        "{\"id\":\"new\",\"prompt\":\"prompt 0\"}\n{\"id\":\"newer\",\"prompt\":\"prompt 0\"}\n";
    desk.input(with_equals(3000, 1) + more);
    let ended = desk
        .run(&sim, words)
        .ends(3, "2,002 equal to ones with unusable replies, not sent")
        .says("3,002 items have replies that were paid for and cannot be read; --resend all");
    ended
        .json()
        .has(json!({"/summary/unusable_replies": 3002, "/summary/failed": 3002}));
    assert_eq!(done(), (1, 3002));
    // The server answers now, and is called once more for all of them.
    desk.run(&sim, &format!("{words} --resend all")).expect(0);
    assert_eq!(done(), (2, 3002));
}

#[test]
fn embeddings_of_another_model_are_not_reused() {
    let (desk, sim) = (Desk::new(), good());
    let run = |model: &str| {
        let url = sim.base_url();
        let words = "run in.jsonl -o out.jsonl --task embed --dedupe --provider local --base-url";
        let mut command = desk.command(words.split(' ').chain([&*url]));
        command.env("BATCHWRIGHT_MODEL", model).ended()
    };
    desk.input(with_equals(4, 4));
    run("a").expect(0);
    // The same texts under other ids, and a new one: embeddings of two models in one output would be useless.
    let renamed = with_equals(4, 4).replace("i-", "r-");
    desk.input(renamed + "{\"id\":\"new\",\"prompt\":\"new\"}\n");
    let before = desk.read("out.jsonl");
    run("b").expect(2).errs("has embeddings of local/a");
    assert_eq!((sim.stats().embedded, desk.read("out.jsonl")), (4, before));
    run("a").ends(0, "4 saved by equal prompts");
    assert_eq!(sim.stats().embedded, 5);
    // If both models are present, only the embeddings of one are reused.
    let mixed = desk.read("out.jsonl");
    let mixed = mixed.replacen("\"model\":\"a\"", "\"model\":\"b\"", 2);
    desk.write("out.jsonl", mixed);
    desk.input(with_equals(4, 4).replace("i-", "s-"));
    run("b").expect(0);
    let mut lines = desk.results("out.jsonl");
    lines.retain(|line| id(line).starts_with("s-"));
    assert!(!lines.is_empty() && lines.iter().all(|line| line["model"] == "b"));
}

#[test]
fn a_resumed_run_answers_duplicates_from_the_output() {
    const DIFFERENT: usize = 210;
    let input = with_equals(300, DIFFERENT);
    let desk = killed(4, &input, DIFFERENT, 3, "--dedupe");
    let lines = desk.results("out.jsonl");
    let answers: BTreeMap<String, Value> = lines
        .iter()
        .map(|line| (id(line), line["text"].clone()))
        .collect();
    for row in super::common::results(&input) {
        let text = format!("echo: {}", row["prompt"].as_str().unwrap());
        assert_eq!(answers[&id(&row)], text);
    }
}
