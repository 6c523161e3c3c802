//! A batch is billed once, whatever happens between two runs of its output: following the advice of `status`, a
//! rename, another path, another data folder, another provider, another output in its place, or a kill.

use std::fs;
use std::process::Command;

use batchwright_simulate::{BatchConfig, SimConfig, Simulator, Vendor};

use super::batch_runs::{
    LONG, SHORT, STORE, WORDS, batch, bought, command, left_alone, only_process, other, renamed,
    run, taking, whole, worked,
};
use super::common::{Desk, Ended, RunToEnd, simulator};

#[test]
fn following_the_advice_of_status_bills_the_batch_once() {
    let (desk, sim) = left_alone(5);
    let belongs = |ended: Ended| {
        let output = desk.path("out.jsonl").canonicalize().unwrap();
        ended
            .says("belongs to a run of ")
            .says(&format!("its results go to {}, by:", output.display()))
            .says("--strategy batch in.jsonl -o out.jsonl")
    };
    let status = format!("status --queue {STORE}");
    let ended = belongs(other(&desk, &sim, &status).expect(0));
    ended.hides("batchwright work");
    let told = other(&desk, &sim, &format!("{status} --json"))
        .expect(0)
        .json();
    let told = &told["processes"][0];
    assert_eq!(told["name"], "in.jsonl");
    assert!(told["output"].as_str().unwrap().ends_with("/out.jsonl"));
    let (_, ended) = worked(&desk, &sim);
    ended.hides("batchwright results");
    belongs(ended);
    let ended = belongs(other(&desk, &sim, &status).expect(0));
    ended.hides("batchwright results");
    for words in ["-o else.jsonl", "--take", "-o out.jsonl"] {
        let words = format!("results --queue {STORE} {words}");
        belongs(other(&desk, &sim, &words).expect(2)).says("nothing was deleted");
    }
    assert!(!desk.exists("else.jsonl"));
    let shown = other(&desk, &sim, &format!("results --queue {STORE}")).expect(0);
    assert_eq!(shown.stdout.lines().count(), 5);
    shown
        .says("to save them there: ")
        .says("the queue keeps them");
    other(
        &desk,
        &sim,
        &format!("results --queue {STORE} -o copy.jsonl --keep"),
    )
    .expect(0);
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 5);
}

#[test]
fn an_output_without_saved_results_is_rejected() {
    let (desk, sim) = left_alone(3);
    worked(&desk, &sim);
    desk.prompts("in.jsonl", 4);
    // Three are saved, and the fourth is in progress.
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let saved = desk.read("out.jsonl");
    assert_eq!(saved.lines().count(), 3);
    let refused = || {
        for words in [WORDS, "in.jsonl -o out.jsonl --dry-run"] {
            run(&desk, &sim, words)
                .ends(2, "belongs to another output")
                .says("--delete --queue ")
                .says("nothing was sent");
        }
        let mut sync = command(&desk, &sim, WORDS);
        sync.ended().expect(2);
        bought(&sim, 4);
    };
    desk.write("out.jsonl", "");
    refused();
    desk.write("out.jsonl", saved.replace("\"i-", "\"other-"));
    refused();
    fs::remove_file(desk.path("out.jsonl")).unwrap();
    refused();
    desk.write("out.jsonl", &saved);
    // A link to the output leads to its store.
    std::os::unix::fs::symlink("out.jsonl", desk.path("link.jsonl")).unwrap();
    run(&desk, &sim, "in.jsonl -o link.jsonl").expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
}

#[test]
fn an_output_that_was_renamed_keeps_its_batch() {
    let renamed_to = |to: &str, with_store: bool, data: &str| {
        let (desk, sim) = left_alone(3);
        fs::create_dir(desk.path("there")).unwrap();
        renamed(&desk, to, with_store);
        let words = format!("in.jsonl -o {to} {data}");
        if !with_store {
            run(&desk, &sim, &words).ends(2, "move its store with it");
            bought(&sim, 3);
            fs::rename(desk.path(STORE), desk.path(&format!("{to}.batchwright"))).unwrap();
        }
        run(&desk, &sim, &words).expect(0);
        whole(&desk, &sim, to, 3);
        assert!(!desk.exists("there/new.jsonl.batchwright"));
    };
    // Both wait for their batches.
    std::thread::scope(|scope| {
        scope.spawn(|| renamed_to("there/new.jsonl", true, ""));
        scope.spawn(|| renamed_to("new.jsonl", false, "--data-dir elsewhere"));
    });
}

#[test]
fn a_missing_output_is_reported_before_its_items_are_sent_again() {
    let (desk, sim) = left_alone(3);
    let id = only_process(&desk);
    fs::remove_file(desk.path("out.jsonl")).unwrap();
    run(&desk, &sim, "in.jsonl -o new.jsonl")
        .ends(2, "no longer there")
        .says(&format!("batchwright cancel {id} --delete --queue "));
    bought(&sim, 3);
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

fn xai() -> Simulator {
    let batches = BatchConfig::default().duration(SHORT);
    simulator(SimConfig::default().vendor(Vendor::Xai).batches(batches))
}

/// The same prompts for another provider.
fn with_xai(desk: &Desk, openai: &Simulator, xai: &Simulator, words: &str) -> Command {
    let mut command = batch(desk, openai, &format!("--provider xai {words}"));
    command
        .env("XAI_API_KEY", "x")
        .env("XAI_BASE_URL", xai.base_url());
    command
}

#[test]
fn a_run_with_another_provider_reports_where_the_items_are() {
    let (desk, openai, xai) = (Desk::new(), taking(LONG), xai());
    desk.prompts("in.jsonl", 4);
    run(&desk, &openai, &format!("{WORDS} --no-wait")).expect(0);
    let remote = openai.batch_stats().batches[0].id.clone();
    let told = |ended: Ended| {
        let ended = ended.expect(0);
        ended.tells(&format!("batch {remote} at openai: "));
        ended.hides("prompts go to xai in batches");
    };
    for words in ["--dry-run", "--no-wait", ""] {
        let words = format!("{WORDS} {words}");
        told(with_xai(&desk, &openai, &xai, &words).ended());
    }
    whole(&desk, &openai, "out.jsonl", 4);
    bought(&xai, 0);
}

#[test]
fn a_store_of_another_program_stops_the_run() {
    let (desk, sim) = left_alone(2);
    let own = fs::read(desk.path(STORE)).unwrap();
    let diary = "dear diary".repeat(1000);
    for written in [diary.as_bytes(), &own[..own.len() / 2]] {
        fs::write(desk.path(STORE), written).unwrap();
        run(&desk, &sim, WORDS).ends(1, STORE);
        let mut sync = command(&desk, &sim, WORDS);
        sync.ended().ends(1, STORE);
    }
    bought(&sim, 2);
    for log in ["-wal", "-shm"] {
        let _ = fs::remove_file(desk.path(&format!("{STORE}{log}")));
    }
    fs::write(desk.path(STORE), own).unwrap();
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 2);
}
