//! A batch is billed once, whatever happens between two runs of its output: following the advice of `status`, a
//! rename, another path, another data folder, another provider, another output in its place, or a kill. A run is two files.
//! If a user moves or copies both, the run is moved or copied, and nothing is billed twice.

use std::fs;

use batchwright_simulate::{BatchConfig, SimConfig, Vendor};

use super::batch_runs::{
    LONG, SHORT, STORE, WORDS, batch, bought, command, kill, left_alone, only_process, other, run,
    start, stores, submitted, taking, whole, worked,
};
use super::common::{Desk, Ended, RunToEnd, all_ids, simulator};

#[test]
fn following_the_advice_of_status_bills_the_batch_once() {
    let (desk, sim) = left_alone(5);
    let of_store =
        |words: &str, code| other(&desk, &sim, &format!("{words} --queue {STORE}")).expect(code);
    let belongs = |ended: Ended| {
        let output = desk.path("out.jsonl").canonicalize().unwrap();
        ended
            .says("belongs to a run of ")
            .says(&format!("its results go to {}, by:", output.display()))
            .says("--strategy batch in.jsonl -o out.jsonl")
    };
    belongs(of_store("status", 0)).hides("batchwright work");
    let told = of_store("status --json", 0).json()["processes"][0].take();
    assert_eq!(told["name"], "in.jsonl");
    assert!(told["output"].as_str().unwrap().ends_with("/out.jsonl"));
    belongs(worked(&desk, &sim)).hides("batchwright results");
    belongs(of_store("status", 0)).hides("batchwright results");
    for words in ["-o else.jsonl", "--take", "-o out.jsonl"] {
        belongs(of_store(&format!("results {words}"), 2)).tells("nothing was deleted");
    }
    assert!(!desk.exists("else.jsonl"));
    let shown = of_store("results", 0);
    assert_eq!(shown.stdout.lines().count(), 5);
    let shown = shown.says("to save them there: ");
    shown.tells("the queue keeps them");
    of_store("results -o copy.jsonl --keep", 0);
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
    let other = saved.replace("\"i-", "\"other-");
    for found in [Some(""), Some(&other), None] {
        match found {
            Some(text) => desk.write("out.jsonl", text),
            None => fs::remove_file(desk.path("out.jsonl")).unwrap(),
        }
        for words in [WORDS, "in.jsonl -o out.jsonl --dry-run"] {
            run(&desk, &sim, words)
                .ends(2, "belongs to another output")
                .says("--delete --queue ")
                .tells("nothing was sent");
        }
        command(&desk, &sim, WORDS).ended().expect(2);
        bought(&sim, 4);
    }
    desk.write("out.jsonl", &saved);
    // A link to the output leads to its store.
    std::os::unix::fs::symlink("out.jsonl", desk.path("link.jsonl")).unwrap();
    run(&desk, &sim, "in.jsonl -o link.jsonl").expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
}

#[test]
fn an_output_that_was_renamed_keeps_its_batch() {
    let (desk, sim) = left_alone(3);
    fs::rename(desk.path("out.jsonl"), desk.path("new.jsonl")).unwrap();
    let words = "in.jsonl -o new.jsonl --data-dir elsewhere";
    run(&desk, &sim, words).ends(2, "move its store with it");
    bought(&sim, 3);
    fs::rename(desk.path(STORE), desk.path("new.jsonl.batchwright")).unwrap();
    run(&desk, &sim, words).expect(0);
    whole(&desk, &sim, "new.jsonl", 3);
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

#[test]
fn a_run_with_another_provider_reports_where_the_items_are() {
    let batches = BatchConfig::default().duration(SHORT);
    let xai = simulator(SimConfig::default().vendor(Vendor::Xai).batches(batches));
    let (desk, openai) = (Desk::with(4), taking(LONG));
    run(&desk, &openai, &format!("{WORDS} --no-wait")).expect(0);
    let remote = openai.batch_stats().batches[0].id.clone();
    for words in ["--dry-run", "--no-wait", ""] {
        let words = format!("--provider xai {WORDS} {words}");
        let mut command = batch(&desk, &openai, &words);
        command
            .env("XAI_API_KEY", "x")
            .env("XAI_BASE_URL", xai.base_url());
        let ended = command.ended();
        let ended = ended.ends(0, &format!("batch {remote} at openai: "));
        ended.hides("prompts go to xai in batches");
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
        command(&desk, &sim, WORDS).ended().ends(1, STORE);
    }
    bought(&sim, 2);
    for log in ["-wal", "-shm"] {
        let _ = fs::remove_file(desk.path(&format!("{STORE}{log}")));
    }
    fs::write(desk.path(STORE), own).unwrap();
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 2);
}

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
