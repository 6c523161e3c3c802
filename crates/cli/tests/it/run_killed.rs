//! Killed runs in batches: the next run resumes, and nothing is billed twice.

use batchwright_simulate::BatchPoint;

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
