//! A run is two files: whoever moves or copies both moves or copies the run, and nothing is bought twice.

use std::fs;

use serde_json::Value;

use super::batch_runs::{
    STORE, WORDS, bought, left_alone, only_process, other, run, stores, whole,
};
use super::common::{HOME, all_ids};

#[test]
fn a_copy_of_both_files_buys_nothing_again() {
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
fn both_files_moved_make_room_for_another_run() {
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
fn status_shows_a_run_whose_store_the_data_folder_has_heard_of() {
    let (desk, sim) = left_alone(2);
    let store = desk.path("").canonicalize().unwrap().join(STORE);
    let id = only_process(&desk).to_string();
    let shown = |words: &str| {
        let ended = other(&desk, &sim, &format!("status --json {words}")).expect(0);
        let told: Value = serde_json::from_str(&ended.stdout).unwrap();
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
    // What is gone is dropped.
    assert!(shown("").is_empty());
    assert_eq!(listed(), 0);
    for words in ["cancel", "retry", "results", "status", "work"] {
        let ended = other(&desk, &sim, &format!("{words} --queue {STORE}"));
        let ended = ended.says("there is no such file");
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
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    let [row] = &told["processes"].as_array().unwrap()[..] else {
        panic!("{told}")
    };
    assert_eq!(row["at_provider"], 2);
    ended.says("more-out.jsonl.batchwright");
}
