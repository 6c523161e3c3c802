//! A batch is bought once, too, where an output was copied with its sidecar, or has taken the place of one
//! that moved away.

use std::fs;

use super::batch_runs::{WORDS, run};
use super::batch_runs::{bought, left_alone};

const SIDECAR: &str = "out.jsonl.batchwright";

#[test]
fn a_copy_of_an_output_and_its_sidecar_takes_nothing_over() {
    let (desk, sim) = left_alone(5);
    fs::create_dir(desk.path("bak")).unwrap();
    for file in ["out.jsonl", SIDECAR] {
        fs::copy(desk.path(file), desk.path(&format!("bak/{file}"))).unwrap();
    }
    let words = WORDS.replace("-o out.jsonl", "-o bak/out.jsonl");
    assert_ne!(words, WORDS);
    let refused = || {
        run(&desk, &sim, &words)
            .expect(2)
            .says("looks like a copy of")
            .says("nothing was sent");
        assert!(desk.exists(&format!("bak/{SIDECAR}")));
    };
    refused();
    run(&desk, &sim, WORDS).expect(0);
    // What the original has by now is not bought for the copy.
    refused();
    bought(&sim, 5);
}

#[test]
fn a_queue_with_a_process_of_the_same_id_is_not_taken_for_the_recorded_one() {
    let (desk, sim) = left_alone(5);
    fs::create_dir(desk.path("arch")).unwrap();
    for file in ["out.jsonl", SIDECAR] {
        fs::rename(desk.path(file), desk.path(&format!("arch/{file}"))).unwrap();
    }
    // Another output in its place, in another data folder: a process of the same id.
    let elsewhere = format!("{WORDS} --no-wait --data-dir other");
    run(&desk, &sim, &elsewhere).expect(0);
    bought(&sim, 10);
    run(&desk, &sim, WORDS)
        .expect(0)
        .says("used the data folder")
        .says("this run goes on there");
    let archived = WORDS.replace("-o out.jsonl", "-o arch/out.jsonl");
    run(&desk, &sim, &archived).expect(0);
    bought(&sim, 10);
    assert_eq!(desk.ids("out.jsonl"), desk.ids("arch/out.jsonl"));
    assert!(!desk.exists(SIDECAR) && !desk.exists(&format!("arch/{SIDECAR}")));
}
