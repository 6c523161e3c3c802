//! Answers of batches to requests that changed in the meantime: they were billed, so they are kept.

use std::time::Duration;

use batchwright_simulate::Simulator;
use serde_json::{Value, json};

use super::batch_runs::{bought, clean, command, run, submitted, taking};
use super::common::{Desk, Ended, Has, Running, all_ids, prompt_lines};

const ARCHIVE: &str = "out.jsonl.superseded.jsonl";

/// A run with the template `NAME:{{prompt}}`.
fn with_template(desk: &Desk, sim: &Simulator, name: &str, words: &str) -> Ended {
    run(desk, sim, &templated(name, words))
}

fn templated(name: &str, words: &str) -> String {
    format!("in.jsonl -o out.jsonl --template {name}:{{{{prompt}}}} {words}")
}

/// This number of items is at the provider, with the template `A`.
fn under_way(items: usize, duration: Duration) -> (Desk, Simulator) {
    let (desk, sim) = (Desk::with(items), taking(duration));
    with_template(&desk, &sim, "A", "--no-wait").expect(0);
    submitted(&desk, items as u64);
    (desk, sim)
}

fn texts(desk: &Desk, name: &str) -> Vec<String> {
    let lines = desk.results(name);
    let mut texts: Vec<String> = lines
        .iter()
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect();
    texts.sort();
    texts
}

fn answers(template: &str, items: usize) -> Vec<String> {
    let mut texts: Vec<String> = (0..items)
        .map(|i| format!("echo: {template}:prompt {i}"))
        .collect();
    texts.sort();
    texts
}

#[track_caller]
fn says_why(desk: &Desk, reason: &str) {
    for line in desk.results(ARCHIVE) {
        assert_eq!(line["superseded_reason"], reason, "{line}");
        assert!(line["superseded_at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(line["superseded"], Value::Null, "{line}");
    }
}

#[test]
fn answers_to_changed_requests_are_archived_and_can_be_restored() {
    let (desk, sim) = under_way(5, Duration::from_millis(400));
    let plan = with_template(&desk, &sim, "B", "--dry-run --json").expect(0);
    let told = plan.json();
    told.has(json!({"under_way_superseded": 5, "to_send": 5, "differing": 5}));

    with_template(&desk, &sim, "B", "")
        .ends(0, "5 earlier answers are superseded")
        .says("5 of 5 requests differ from those answered before;")
        .says("answers move to out.jsonl.superseded.jsonl when the run ends");
    assert_eq!(texts(&desk, "out.jsonl"), answers("B", 5));
    assert_eq!(texts(&desk, ARCHIVE), answers("A", 5));
    says_why(&desk, "request changed");
    bought(&sim, 10);

    with_template(&desk, &sim, "A", "").ends(0, "5 answers are taken back");
    assert_eq!(texts(&desk, "out.jsonl"), answers("A", 5));
    with_template(&desk, &sim, "B", "").expect(0);
    assert_eq!(texts(&desk, "out.jsonl"), answers("B", 5));
    bought(&sim, 10);
    clean(&desk);
}

#[test]
fn the_answer_to_an_edited_row_is_kept_also_if_the_run_continues_with_calls() {
    let (desk, sim) = under_way(3, Duration::from_millis(400));
    desk.write("in.jsonl", prompt_lines(3).replace("prompt 1", "another"));
    let sync = command(&desk, &sim, &templated("A", ""));
    Running::start(&mut { sync }).wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    assert_eq!(texts(&desk, ARCHIVE), ["echo: A:prompt 1"]);
    says_why(&desk, "request changed");
    assert_eq!(
        (sim.stats().calls, sim.batch_stats().items_accepted),
        (1, 3)
    );
    clean(&desk);
}
