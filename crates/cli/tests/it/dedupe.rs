//! Identical prompts are sent once and all get the answer, whatever happens meanwhile.

use std::collections::BTreeSet;

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::batch_runs::{SHORT, WORDS, other, taking};
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

fn summary(stdout: &str) -> Value {
    serde_json::from_str::<Value>(stdout).unwrap()["summary"].clone()
}

#[test]
fn duplicates_are_sent_once_with_dedupe() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", with_equals(30, 20));
    let mut calls = 0;
    for (flags, made) in [
        ("", 30),
        ("--temperature 0", 30),
        ("--temperature 0 --dedupe", 20),
        ("--temperature 0.5 --dedupe", 20),
    ] {
        let words = format!("in.jsonl -o out.jsonl -j 3 --json {flags}");
        let dry = desk
            .run(&sim, &format!("{words} --dry-run"))
            .expect(0)
            .json();
        dry.has(json!({"to_send": made, "equal": 30 - made, "repeated": made - 20}));
        let ended = desk.run(&sim, &words).expect(0);
        let ended = match made {
            30 => ended.says("30 to send, 10 of them equal to others (--dedupe sends those once)"),
            _ => ended.says("20 to send, 10 answered with equal ones"),
        };
        assert_eq!(sim.stats().calls - calls, made, "{flags}");
        calls += made;
        let told = summary(&ended.stdout);
        assert_eq!(told["answered_by_equals"], 30 - made, "{flags}");
        assert_eq!(told["calls_saved"], 30 - made, "{flags}");
        told.has(json!({"completed": 30, "calls": made}));
        assert_eq!(desk.ids("out.jsonl"), all_ids(30), "{flags}");
        let of_lines: u64 = desk
            .results("out.jsonl")
            .iter()
            .filter_map(|line| line["usage"]["output_tokens"].as_u64())
            .sum();
        assert_eq!(told["usage"]["output_tokens"], of_lines, "{flags}");
        std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    }
    let few = "in.jsonl -o out.jsonl --dedupe --max-items 5 --dry-run --json";
    let few = desk.run(&sim, few).expect(0).json();
    few.has(json!({"to_send": 5}));
}

#[test]
fn a_run_through_the_queue_and_its_plan_reject_dedupe() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write("in.jsonl", with_equals(9, 3));
    let why = "goes through the queue, where each prompt is a separate request: remove it, or ";
    for start in ["run", "run --dry-run"] {
        let words = format!("{start} {WORDS} --strategy batch --dedupe");
        other(&desk, &sim, &words)
            .ends(2, "--dedupe is for calls")
            .says(&format!("{why}use --strategy sync"));
    }
    assert_eq!(
        (sim.stats().calls, sim.batch_stats().items_accepted),
        (0, 0)
    );
}

#[test]
fn the_line_of_a_duplicate_names_the_item_that_was_sent() {
    let (desk, sim) = (Desk::new(), good());
    let rows = "id,prompt,who\na,Name a prime.,x\nb,Name a prime.,y\nc,Name another.,z\n";
    desk.write("in.csv", rows);
    let words = "in.csv -o out.jsonl --keep who --dedupe --ordered";
    desk.run(&sim, words)
        .ends(0, "3 items: 2 to send, 1 answered with equal ones")
        .says("1 answered by equal prompts (1 call saved)");
    let lines = desk.results("out.jsonl");
    let (asked, answered) = (&lines[0], &lines[1]);
    assert_eq!((id(asked), id(answered)), ("a".into(), "b".into()));
    assert_eq!(asked["text"], "echo: Name a prime.");
    for same in ["text", "provider", "model", "finish_reason", "request_hash"] {
        assert_eq!(asked[same], answered[same], "{same}");
    }
    assert_eq!(answered["answered_by"], "a");
    assert_eq!(asked.get("answered_by"), None);
    assert_eq!(answered["input"], json!({"who": "y"}));
    let free = (
        &answered["usage"],
        &answered["cost_usd"],
        &answered["attempts"],
    );
    assert_eq!(free, (&Value::Null, &json!(0.0), &json!(0)));
    assert!(asked["usage"].is_object());
    let calls = sim.stats().calls;
    desk.run(&sim, words).ends(0, "nothing to send");
    assert_eq!(sim.stats().calls, calls);
}

/// Its reply was billed, and a request for each identical item would be billed again.
#[test]
fn an_unusable_reply_is_requested_once_for_all_duplicates() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::Empty, 1.0));
    desk.write("in.jsonl", with_equals(3000, 1));
    let words = "in.jsonl -o out.jsonl --dedupe --json";
    let ended = desk.run(&sim, words).expect(3);
    let told = summary(&ended.stdout);
    assert_eq!((sim.stats().calls, &told["calls_saved"]), (1, &json!(2999)));
    assert_eq!(told["unusable_replies"], 3000);
    let lines = desk.results("out.jsonl");
    let ids: BTreeSet<String> = lines.iter().map(id).collect();
    assert_eq!(ids, ids_in_order(3000).into_iter().collect());
    assert!(lines.iter().all(|l| l["error"]["unusable_reply"] == true));
    // As if the run had been killed between them, and with new ids.
    let text = desk.read("out.jsonl");
    let some: Vec<&str> = text.split_inclusive('\n').take(1000).collect();
    desk.write("out.jsonl", some.concat());
    let more =
        "{\"id\":\"new\",\"prompt\":\"prompt 0\"}\n{\"id\":\"newer\",\"prompt\":\"prompt 0\"}\n";
    desk.write("in.jsonl", with_equals(3000, 1) + more);
    let ended = desk
        .run(&sim, words)
        .ends(3, "2,002 equal to ones with unusable replies, not sent")
        .says("3,002 items have replies that were paid for and cannot be read; --resend all");
    let told = summary(&ended.stdout);
    told.has(json!({"unusable_replies": 3002, "failed": 3002}));
    assert_eq!(
        (sim.stats().calls, desk.results("out.jsonl").len()),
        (1, 3002)
    );
    // The server answers now, and is called once more for all of them.
    desk.run(&sim, &format!("{words} --resend all")).expect(0);
    assert_eq!(
        (sim.stats().calls, desk.results("out.jsonl").len()),
        (2, 3002)
    );
}

#[test]
fn embeddings_of_another_model_are_not_reused() {
    let (desk, sim) = (Desk::new(), good());
    let run = |model: &str| {
        let words = format!(
            "run in.jsonl -o out.jsonl --task embed --dedupe --provider local --base-url {}",
            sim.base_url()
        );
        let mut command = desk.command(words.split_whitespace());
        command.env("BATCHWRIGHT_MODEL", model);
        command.ended()
    };
    desk.write("in.jsonl", with_equals(4, 4));
    run("a").expect(0);
    // The same texts under other ids, and a new one: embeddings of two models in one output would be useless.
    let renamed = with_equals(4, 4).replace("i-", "r-");
    desk.input(renamed + "{\"id\":\"new\",\"prompt\":\"new\"}\n");
    let before = desk.read("out.jsonl");
    let refused = run("b").expect(2);
    refused.errs("has embeddings of local/a");
    assert_eq!((sim.stats().embedded, desk.read("out.jsonl")), (4, before));
    run("a").ends(0, "4 answered by equal prompts");
    assert_eq!(sim.stats().embedded, 5);
    // If both models are present, only the embeddings of one are reused.
    let mixed = desk
        .read("out.jsonl")
        .replacen("\"model\":\"a\"", "\"model\":\"b\"", 2);
    desk.write("out.jsonl", mixed);
    desk.write("in.jsonl", with_equals(4, 4).replace("i-", "s-"));
    run("b").expect(0);
    let lines = desk.results("out.jsonl");
    let models: BTreeSet<&str> = lines
        .iter()
        .filter(|line| id(line).starts_with("s-"))
        .filter_map(|line| line["model"].as_str())
        .collect();
    assert_eq!(models, ["b"].into());
}

#[test]
fn a_resumed_run_answers_duplicates_from_the_output() {
    const DIFFERENT: usize = 210;
    let desk = killed(4, &with_equals(300, DIFFERENT), DIFFERENT, 3, "--dedupe");
    for line in desk.results("out.jsonl") {
        let number: usize = id(&line)["i-".len()..].parse().unwrap();
        let asks = if number < DIFFERENT {
            number
        } else {
            number * 7 % DIFFERENT
        };
        assert_eq!(line["text"], format!("echo: prompt {asks}"));
    }
}
