//! A run is two files. If a user moves or copies both, the run is moved or copied, and nothing is billed twice.

use std::fs;

use batchwright_simulate::Simulator;

use super::batch_runs::{
    LONG, SHORT, STORE, WORDS, batch, bought, kill, left_alone, only_process, other, run, start,
    stores, submitted, taking, whole,
};
use super::common::{Desk, HOME, RunToEnd, all_ids};

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

#[test]
fn after_moving_both_files_another_run_can_use_the_path() {
    let (desk, sim) = left_alone(5);
    fs::create_dir(desk.path("arch")).unwrap();
    for file in ["out.jsonl", STORE] {
        fs::rename(desk.path(file), desk.path(&format!("arch/{file}"))).unwrap();
    }
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    bought(&sim, 10);
    run(&desk, &sim, WORDS).expect(0);
    run(&desk, &sim, "in.jsonl -o arch/out.jsonl").expect(0);
    bought(&sim, 10);
    assert_eq!(desk.ids("out.jsonl"), desk.ids("arch/out.jsonl"));
    assert!(stores(&desk).is_empty() && !desk.exists(&format!("arch/{STORE}")));
}

#[test]
fn status_shows_a_run_listed_in_the_data_folder() {
    let (desk, sim) = left_alone(2);
    let store = desk.path("").canonicalize().unwrap().join(STORE);
    let id = only_process(&desk).to_string();
    let shown = |words: &str| {
        let told = other(&desk, &sim, &format!("status --json {words}"))
            .expect(0)
            .json();
        told["processes"].as_array().unwrap().clone()
    };
    for words in ["", &id, &id[28..], &format!("--queue {STORE}")] {
        let [row] = shown(words).try_into().unwrap();
        assert_eq!(row["process_id"], *id, "{words}");
        assert_eq!(row["at_provider"], 2);
        let named = words.is_empty().then(|| store.to_str().unwrap());
        assert!(named.is_none_or(|named| row["queue"] == named));
    }
    let listed = || fs::read_dir(desk.path(HOME).join("runs")).unwrap().count();
    assert_eq!(listed(), 1);
    run(&desk, &sim, WORDS).expect(0);
    // Deleted stores are dropped from the list.
    assert!(shown("").is_empty());
    assert_eq!(listed(), 0);
    for words in ["cancel", "retry", "results", "status", "work"] {
        let ended = other(&desk, &sim, &format!("{words} --queue {STORE}"));
        let ended = ended.says("the file does not exist");
        assert!([1, 2].contains(&ended.status.code().unwrap()));
    }
    assert!(!desk.exists(STORE));
}

#[test]
fn status_shows_the_other_runs_when_the_store_of_one_is_damaged() {
    let (desk, sim) = left_alone(2);
    fs::write(
        desk.path("more.jsonl"),
        "{\"id\":\"m\",\"prompt\":\"more\"}\n",
    )
    .unwrap();
    run(&desk, &sim, "more.jsonl -o more-out.jsonl --no-wait").expect(0);
    fs::write(desk.path("more-out.jsonl.batchwright"), "dear diary").unwrap();
    let ended = other(&desk, &sim, "status --json").expect(0);
    let told = ended.json();
    let [row] = &told["processes"].as_array().unwrap()[..] else {
        panic!("{told}")
    };
    assert_eq!(row["at_provider"], 2);
    ended.says("more-out.jsonl.batchwright");
}

/// A run that was killed while its batch was at the provider.
fn killed() -> (Desk, Simulator) {
    let (desk, sim) = (Desk::with(3), taking(LONG));
    let running = start(&desk, &sim, WORDS);
    submitted(&desk, 3);
    kill(running);
    fs::create_dir(desk.path("arch")).unwrap();
    (desk, sim)
}

fn moved(desk: &Desk, file: &str) {
    fs::rename(desk.path(file), desk.path(&format!("arch/{file}"))).unwrap();
}

#[test]
fn a_moved_killed_run_resumes_only_with_its_log() {
    let (desk, sim) = killed();
    let log = format!("{STORE}-wal");
    // Showing it does not move the log.
    other(&desk, &sim, "status").expect(0);
    assert!(desk.exists(&log));
    moved(&desk, "out.jsonl");
    moved(&desk, STORE);
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
    moved(&desk, &log);
    run(&desk, &sim, "in.jsonl -o arch/out.jsonl").expect(0);
    assert_eq!(desk.ids("arch/out.jsonl"), all_ids(3));
    bought(&sim, 3);
}

#[test]
fn files_in_a_folder_named_runs_outside_a_data_folder_are_not_touched() {
    let (desk, sim) = (Desk::with(1), taking(SHORT));
    fs::create_dir(desk.path("runs")).unwrap();
    let own = "runs/0190f5fe-7c00-7a00-8000-000000000000";
    desk.write(own, "mine");
    let mut command = batch(&desk, &sim, WORDS);
    for name in ["HOME", "XDG_DATA_HOME", "BATCHWRIGHT_HOME"] {
        command.env_remove(name);
    }
    command.ended().expect(0);
    assert_eq!(desk.read(own), "mine");
    assert_eq!(fs::read_dir(desk.path("runs")).unwrap().count(), 1);
}

#[test]
fn a_process_of_a_run_is_named_with_its_queue() {
    let (desk, sim) = left_alone(1);
    let id = only_process(&desk).to_string();
    for words in ["cancel", "results", "retry"] {
        other(&desk, &sim, &format!("{words} {id}"))
            .ends(2, "--queue ")
            .says(STORE);
    }
}
