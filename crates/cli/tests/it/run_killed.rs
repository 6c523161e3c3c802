//! Killed runs in batches: the next run resumes, and nothing is billed twice.

use batchwright_simulate::BatchPoint;
use serde_json::json;

use super::batch_runs::*;
use super::common::*;

#[test]
fn a_run_killed_while_it_enqueues_adopts_the_queued_prompts() {
    const N: usize = 6000;
    let (desk, sim) = (Desk::with(N), taking(SHORT));
    let running = start(&desk, &sim, WORDS);
    let store = queue(&desk);
    let halfway = || {
        let now = store.open_processes().unwrap();
        now.first().is_some_and(|now| !now.sealed)
    };
    assert!(eventually(halfway));
    kill(running);
    let there = store.process(only_process(&desk)).unwrap().unwrap();
    drop(store);
    assert!(!there.sealed && there.counts.total >= 1000, "{there:?}");
    desk.input(prompt_lines(N).replace("\"prompt 7\"", "\"edited\""));
    let ended = run(&desk, &sim, "in.jsonl -o out.jsonl --json").expect(0);
    let told = ended.json();
    assert_eq!(told["attached"], there.counts.total - 1);
    assert_eq!(told["submitted"], N as u64 - there.counts.total + 1);
    whole(&desk, &sim, "out.jsonl", N);
}

/// Kills a run while the provider holds a request at this point, and runs it again.
fn killed_at(point: BatchPoint) {
    let (desk, sim) = (Desk::with(20), taking(SHORT));
    let pause = sim.pause_at(point, 1);
    let mut command = batch(&desk, &sim, WORDS);
    command.env("BATCHWRIGHT_BATCH_RECONCILE_WAIT", "300ms");
    let running = Running::start(&mut command);
    assert!(pause.wait(PATIENCE), "{point:?} never came");
    kill(running);
    pause.release();
    let ended = command.ended();
    assert_eq!(ended.status.code(), Some(0), "{point:?}: {}", ended.stderr);
    let stats = sim.batch_stats();
    assert_eq!(
        (stats.started, stats.items_accepted),
        (1, 20),
        "{point:?}: {stats:?}"
    );
    assert_eq!(desk.ids("out.jsonl"), all_ids(20), "{point:?}");
    clean(&desk);
}

#[test]
fn a_run_killed_while_it_submits_is_billed_once() {
    killed_at(BatchPoint::UploadDone);
    killed_at(BatchPoint::CreateArrived);
    killed_at(BatchPoint::CreateDone);
}

#[test]
fn a_run_killed_while_it_waits_or_downloads_collects_the_rest() {
    killed_at(BatchPoint::StatusArrived);
    killed_at(BatchPoint::DownloadHalf);
}

#[test]
fn a_result_saved_before_a_kill_is_not_saved_again() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let id = only_process(&desk);
    let mut worker = desk.command(["work", "--until-empty", "--queue", STORE]);
    worker
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", sim.base_url());
    worker
        .env("BATCHWRIGHT_PROVIDER", "openai")
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
    worker.ended().expect(0);
    // The file contains them, and the queue has not recorded that.
    desk.plain(&format!("results --queue {STORE} --keep -o out.jsonl"))
        .expect(0);
    let saved = desk.read("out.jsonl");
    assert_eq!(
        queue(&desk).process(id).unwrap().unwrap().counts.completed,
        3
    );
    let ended = run(&desk, &sim, &format!("{WORDS} --json")).expect(0);
    let told = ended.json();
    told.has(json!({"/summary/completed_before": 3, "/summary/completed": 3, "submitted": 0}));
    assert_eq!(desk.read("out.jsonl"), saved);
    clean(&desk);
}
