//! Identical prompts are sent once and all get the answer, whatever happens meanwhile.

use std::collections::BTreeSet;

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::batch_runs::{SHORT, WORDS, other, taking};
use super::common::{
    Desk, Has, RunToEnd, all_ids, eventually, good, id, ids_in_order, prompt_lines, simulator,
};
use super::program::fed;

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
}

#[test]
fn a_plan_of_batches_counts_duplicates_that_the_queue_sends() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write("in.jsonl", with_equals(9, 3));
    let words = format!("{WORDS} --temperature 0 --json --strategy batch");
    let plan = other(&desk, &sim, &format!("run --dry-run {words}")).expect(0);
    plan.json()
        .has(json!({"to_send": 9, "equal": 0, "calls_saved": 0, "/models/0/requests": 9}));
    let words = format!("run {WORDS} --temperature 0 --strategy batch");
    other(&desk, &sim, &words).ends(0, "9 items: 9 to send");
    assert_eq!(sim.batch_stats().items_accepted, 9);
    // The answers in the output do not answer items with other ids.
    desk.write("in.jsonl", with_equals(9, 3).replace("i-", "r-"));
    other(&desk, &sim, &format!("{words} --dry-run")).ends(0, "9 items: 9 to send");
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

#[test]
fn a_prompt_answered_in_the_output_is_not_sent_under_another_id() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", with_equals(10, 10));
    let words = "in.jsonl -o out.jsonl --dedupe";
    desk.run(&sim, words).expect(0);
    // One item with a new id, two more identical ones, and one with a new prompt.
    let more = ["x", "y", "z"].map(|id| format!("{{\"id\":\"{id}\",\"prompt\":\"prompt 3\"}}\n"));
    let other = "{\"id\":\"new\",\"prompt\":\"prompt 10\"}\n";
    let renamed = with_equals(10, 10).replace("i-5", "renamed");
    desk.write("in.jsonl", format!("{renamed}{}{other}", more.concat()));
    desk.run(&sim, &format!("{words} --dry-run"))
        .ends(0, "1 to send, 4 answered by earlier results of equal ones");
    desk.run(&sim, words)
        .ends(0, "4 answered by equal prompts (4 calls saved)");
    assert_eq!(sim.stats().calls, 11);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines.len(), 15);
    let of = |name: &str| lines.iter().find(|line| id(line) == name).unwrap();
    assert_eq!(of("renamed")["answered_by"], "i-5");
    assert_eq!(
        (&of("y")["answered_by"], &of("y")["text"]),
        (&json!("i-3"), &of("i-3")["text"])
    );
    desk.run(&sim, words).ends(0, "nothing to send");
}

#[test]
fn answers_cannot_be_copied_from_an_output_that_is_not_a_file() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", with_equals(4, 2));
    desk.run(&sim, "in.jsonl --dedupe")
        .ends(2, "the output is not a regular file");
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn a_changed_item_gets_the_existing_answer_of_another_item() {
    // If the first lines of the output are moved to the archive, the positions of the others change.
    for changed in ["prompt 3", "prompt 0"] {
        let (desk, sim) = (Desk::new(), good());
        desk.write("in.jsonl", with_equals(4, 4));
        desk.run(&sim, "in.jsonl -o out.jsonl --dedupe").expect(0);
        desk.write("in.jsonl", with_equals(4, 4).replace(changed, "prompt 1"));
        desk.run(&sim, "in.jsonl -o out.jsonl --dedupe").expect(0);
        assert_eq!((sim.stats().calls, desk.ids("out.jsonl")), (4, all_ids(4)));
        let lines = desk.results("out.jsonl");
        let answered = lines.iter().find(|line| line.get("answered_by").is_some());
        let answered = answered.unwrap_or_else(|| panic!("{lines:?}"));
        answered.has(json!({"answered_by": "i-1", "text": "echo: prompt 1"}));
    }
}

#[test]
fn a_failure_applies_to_all_duplicates() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::Refusal, 1.0));
    desk.write("in.jsonl", with_equals(3000, 1));
    let ended = desk
        .run(&sim, "in.jsonl -o out.jsonl --dedupe --json")
        .ends(3, "2,999 failed with equal prompts (2,999 calls saved)");
    let told = summary(&ended.stdout);
    let failed = (&told["failed"], &told["errors"]["blocked"]);
    assert_eq!(failed, (&json!(3000), &json!(3000)));
    assert_eq!((sim.stats().calls, &told["calls_saved"]), (1, &json!(2999)));
    let lines = desk.results("out.jsonl");
    let ids: BTreeSet<String> = lines.iter().map(id).collect();
    assert_eq!(ids, ids_in_order(3000).into_iter().collect());
    assert!(lines.iter().all(|line| line["error"]["kind"] == "blocked"));
    let paid: u64 = lines
        .iter()
        .filter_map(|line| line["usage"]["output_tokens"].as_u64())
        .sum();
    assert_eq!(told["usage"]["output_tokens"], paid);
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

/// A line that identifies an item but is not a complete outcome.
#[test]
fn a_line_of_another_program_without_an_answer_is_not_reused() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", with_equals(1, 1));
    let words = "in.jsonl -o out.jsonl --dedupe";
    desk.run(&sim, words).expect(0);
    let line = &desk.results("out.jsonl")[0];
    let short = json!({"id": "elsewhere", "success": true, "request_hash": line["request_hash"], "text": 7});
    desk.write("out.jsonl", format!("{short}\n"));
    desk.run(&sim, words).expect(0);
    assert_eq!((sim.stats().calls, desk.results("out.jsonl").len()), (2, 2));
}

#[cfg(unix)]
#[test]
fn an_interrupted_large_group_is_completed_by_the_next_run() {
    let (desk, sim) = (Desk::new(), good());
    let n = 20_000;
    desk.write("in.jsonl", with_equals(n, 1));
    let words = "in.jsonl -o out.jsonl --dedupe --json";
    let running = desk.start(&sim, words);
    let began = || std::fs::metadata(desk.path("out.jsonl")).is_ok_and(|file| file.len() > 0);
    eventually(began);
    running.signal("INT");
    let ended = running.wait().expect(130);
    let told = summary(&ended.stdout);
    let lines = desk.results("out.jsonl").len();
    assert!((1..n).contains(&lines), "{lines} of {n} were written");
    let counted = (&told["completed"], &told["pending"]);
    assert_eq!(counted, (&json!(lines), &json!(n - lines)));
    desk.run(&sim, words).expect(0);
    assert_eq!((sim.stats().calls, desk.ids("out.jsonl")), (1, all_ids(n)));
}

#[test]
fn a_call_for_duplicates_is_retried_as_one_call() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::Error503, 1.0));
    desk.write("in.jsonl", with_equals(20, 2));
    desk.run(&sim, "in.jsonl -o out.jsonl --dedupe").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
    let stats = sim.stats();
    assert_eq!(
        (stats.answered, stats.calls),
        (2, 2 + stats.by_trouble["error_503"])
    );
}

#[test]
fn equal_texts_are_embedded_once() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", with_equals(300, 200));
    let ended = desk
        .run(&sim, "in.jsonl -o out.jsonl --task embed --dedupe --json")
        .expect(0);
    assert_eq!(
        (sim.stats().embedded, desk.ids("out.jsonl")),
        (200, all_ids(300))
    );
    let told = summary(&ended.stdout);
    told.has(json!({"vectors": 300, "answered_by_equals": 100}));
}

#[test]
fn standard_input_is_read_to_its_end_and_compared() {
    let (desk, sim) = (Desk::new(), good());
    let again = "{\"id\":\"again\",\"prompt\":\"prompt 3\"}\n";
    let lines = prompt_lines(10) + again;
    fed(&mut desk.against(&sim, "- -o a.jsonl --dedupe"), &lines).expect(0);
    assert_eq!((sim.stats().calls, desk.ids("a.jsonl").len()), (10, 11));
}

#[test]
fn max_items_limits_sent_items_and_not_their_duplicates() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl", with_equals(20, 10));
    let words = "in.jsonl -o out.jsonl --dedupe --max-items 5";
    desk.run(&sim, words)
        .ends(0, "5 to send, 5 answered with equal ones");
    assert_eq!(
        (sim.stats().calls, desk.results("out.jsonl").len()),
        (5, 10)
    );
    desk.run(&sim, words).expect(0);
    assert_eq!(
        (sim.stats().calls, desk.ids("out.jsonl")),
        (10, all_ids(20))
    );
}

/// Three of ten prompts are duplicates; the run is killed repeatedly.
#[cfg(unix)]
fn killed(n: usize, kills: u64) {
    const CONCURRENCY: u64 = 4;
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().latency(std::time::Duration::from_millis(2)));
    let different = n * 7 / 10;
    desk.write("in.jsonl", with_equals(n, different));
    let words = format!("in.jsonl -o out.jsonl -j {CONCURRENCY} -q --dedupe");
    let mut lines = 0;
    for kill in 1..=kills {
        let until = different as u64 * kill / (kills + 1);
        let mut running = desk.start(&sim, &words);
        let child = &mut running.child;
        let ended = |stats: &batchwright_simulate::SimStats| {
            stats.calls > until || child.try_wait().unwrap().is_some()
        };
        assert!(sim.wait_until(ended, super::common::PATIENCE));
        running.signal("KILL");
        assert_eq!(
            running.wait().status.code(),
            None,
            "it ended before it was killed"
        );
        let whole = desk.read("out.jsonl").matches('\n').count();
        assert!(whole >= lines, "a written line is gone");
        lines = whole;
    }
    desk.run(&sim, &words).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(n));
    let stats = sim.stats();
    assert_eq!(stats.prompts, different as u64);
    assert!(stats.paid_twice <= kills * CONCURRENCY, "{stats:?}");
    assert_eq!(stats.calls, different as u64 + stats.paid_twice);
    println!(
        "{n} prompts, {kills} kills: {} calls, {} in flight when killed",
        stats.calls, stats.paid_twice
    );
    for line in desk.results("out.jsonl") {
        let number: usize = id(&line)["i-".len()..].parse().unwrap();
        let asks = if number < different {
            number
        } else {
            number * 7 % different
        };
        assert_eq!(line["text"], format!("echo: prompt {asks}"));
    }
}

#[cfg(unix)]
#[test]
fn a_resumed_run_answers_duplicates_from_the_output() {
    killed(300, 3);
}
