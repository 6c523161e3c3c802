//! The output of a run through the queue: bad rows, answers to outdated requests, and what happens if another
//! program removes the file.

use super::batch_runs::{LONG, SHORT, accepted, clean, run, start, submitted, taking, whole};
use super::common::{Desk, Ended, all_ids, id};

#[test]
fn bad_rows_fail_unsent_in_batches_too() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write("in.csv", "id,prompt\na,one\nb,\nc,three\n");
    let words = "in.csv -o out.jsonl --bad-rows skip --json";
    let ended = run(&desk, &sim, words).expect(3);
    let numbers = |ended: &Ended| {
        let summary = ended.json();
        ["total", "completed", "failed", "pending"]
            .map(|name| summary["summary"][name].as_u64().unwrap())
    };
    assert_eq!(numbers(&ended), [3, 2, 1, 0]);
    assert_eq!(sim.batch_stats().items_accepted, 2);
    let before = desk.read("out.jsonl");
    let lines = desk.results("out.jsonl");
    let failed: Vec<String> = lines
        .iter()
        .filter(|line| line["error"]["kind"] == "invalid")
        .map(id)
        .collect();
    assert_eq!((lines.len(), failed), (3, vec!["b".to_owned()]));
    clean(&desk);
    assert_eq!(numbers(&run(&desk, &sim, words).expect(3)), [3, 2, 1, 0]);
    assert_eq!(desk.read("out.jsonl"), before);
    assert_eq!(sim.batch_stats().items_accepted, 2);
}

#[test]
fn outdated_answers_are_marked_while_a_batch_creates_new_ones() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    let words = |name: &str| format!("in.jsonl -o out.jsonl --template {name}:{{{{prompt}}}}");
    run(&desk, &sim, &words("A")).expect(0);
    run(&desk, &sim, &format!("{} --no-wait", words("B")))
        .ends(0, "3 earlier answers are superseded");
    let lines = desk.results("out.jsonl");
    let marked = lines.iter().filter(|line| line["superseded"] == true);
    let of_a = lines
        .iter()
        .filter(|line| line["text"].as_str().unwrap().contains("A:"));
    assert_eq!((marked.count(), of_a.count()), (3, 3));
    run(&desk, &sim, &words("B")).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    assert!(!desk.read("out.jsonl").contains("superseded"));
    assert_eq!(sim.batch_stats().items_accepted, 6);
    clean(&desk);
}

#[test]
fn results_of_a_batch_stay_in_the_queue_if_their_file_is_removed() {
    let (desk, sim) = (Desk::with(4), taking(LONG));
    let running = start(&desk, &sim, "in.jsonl -o out.jsonl");
    accepted(&sim, 4);
    submitted(&desk, 4);
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    running.wait().ends(4, "removed or replaced");
    assert!(!desk.exists("out.jsonl"));
    run(&desk, &sim, "in.jsonl -o out.jsonl").expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
}
