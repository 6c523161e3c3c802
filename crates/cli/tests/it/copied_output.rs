//! A run is two files. If a user moves or copies both, the run is moved or copied, and nothing is billed twice.

use std::fs;

use super::batch_runs::{
    LONG, STORE, WORDS, bought, kill, left_alone, other, run, start, stores, submitted, taking,
    whole,
};
use super::common::{Desk, all_ids};

#[test]
fn a_copy_of_both_files_resends_nothing() {
    let (desk, sim) = left_alone(5);
    fs::create_dir(desk.path("bak")).unwrap();
    for file in ["out.jsonl", STORE] {
        fs::copy(desk.path(file), desk.path(&format!("bak/{file}"))).unwrap();
    }
    run(&desk, &sim, "in.jsonl -o bak/out.jsonl").expect(0);
    assert_eq!(desk.ids("bak/out.jsonl"), all_ids(5));
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 5);
}

fn moved(desk: &Desk, files: &[&str], to: &str) {
    for file in files {
        fs::rename(desk.path(file), desk.path(&format!("{to}/{file}"))).unwrap();
    }
}

#[test]
fn after_moving_both_files_another_run_can_use_the_path() {
    let (desk, sim) = left_alone(5);
    fs::create_dir(desk.path("arch")).unwrap();
    moved(&desk, &["out.jsonl", STORE], "arch");
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    bought(&sim, 10);
    run(&desk, &sim, WORDS).expect(0);
    run(&desk, &sim, "in.jsonl -o arch/out.jsonl").expect(0);
    bought(&sim, 10);
    assert_eq!(desk.ids("out.jsonl"), desk.ids("arch/out.jsonl"));
    assert!(stores(&desk).is_empty() && !desk.exists(&format!("arch/{STORE}")));
}

#[test]
fn a_moved_killed_run_resumes_only_with_its_log() {
    let (desk, sim) = (Desk::with(3), taking(LONG));
    let running = start(&desk, &sim, WORDS);
    submitted(&desk, 3);
    kill(running);
    fs::create_dir(desk.path("arch")).unwrap();
    let log = format!("{STORE}-wal");
    // Showing it does not move the log.
    other(&desk, &sim, "status").expect(0);
    assert!(desk.exists(&log));
    moved(&desk, &["out.jsonl", STORE], "arch");
    let both = [
        "run --strategy batch in.jsonl -o arch/out.jsonl",
        "work --queue arch/out.jsonl.batchwright",
    ];
    for words in both {
        other(&desk, &sim, words).says("one of them is missing");
    }
    // Its log is where the next store would be.
    run(&desk, &sim, WORDS).ends(1, "one of them is missing");
    bought(&sim, 3);
    moved(&desk, &[&log], "arch");
    run(&desk, &sim, "in.jsonl -o arch/out.jsonl").expect(0);
    assert_eq!(desk.ids("arch/out.jsonl"), all_ids(3));
    bought(&sim, 3);
}
