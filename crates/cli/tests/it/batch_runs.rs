//! Helpers for tests of runs in batches: a provider with a Batch API, runs, and the state of their queue.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use batchwright::{JobQueue, ProcessId};
use batchwright_simulate::{BatchConfig, SimConfig, Simulator};

use super::common::{Desk, Ended, HOME, RunToEnd, Running, all_ids, eventually, simulator};

pub fn taking(duration: Duration) -> Simulator {
    with(BatchConfig::default().duration(duration))
}

pub fn with(batches: BatchConfig) -> Simulator {
    simulator(SimConfig::default().batches(batches))
}

pub const SHORT: Duration = Duration::from_millis(100);

/// Long enough to be seen in progress.
pub const LONG: Duration = Duration::from_secs(4);

/// `run` with these words against a provider with a Batch API, or without one.
pub fn command(desk: &Desk, sim: &Simulator, words: &str) -> Command {
    let words = ["run"].into_iter().chain(words.split_whitespace());
    with_provider(desk.command(words), sim)
}

/// The program with this provider in its environment.
pub fn with_provider(mut command: Command, sim: &Simulator) -> Command {
    command
        .env("BATCHWRIGHT_PROVIDER", "openai")
        .env("BATCHWRIGHT_MODEL", "m")
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", sim.base_url())
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
    command
}

/// The same with the batch strategy.
pub fn batch(desk: &Desk, sim: &Simulator, words: &str) -> Command {
    command(desk, sim, &format!("--strategy batch {words}"))
}

pub fn start(desk: &Desk, sim: &Simulator, words: &str) -> Running {
    Running::start(&mut batch(desk, sim, words))
}

pub fn run(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    start(desk, sim, words).wait()
}

pub const WORDS: &str = "in.jsonl -o out.jsonl";

/// The store of the run with the output `out.jsonl`, once it exists.
#[track_caller]
pub fn queue(desk: &Desk) -> JobQueue {
    assert!(eventually(|| desk.exists(STORE)));
    JobQueue::open(&desk.path(STORE)).unwrap()
}

/// The queue in the data folder.
pub fn home_queue(desk: &Desk) -> JobQueue {
    JobQueue::open(&desk.path(HOME).join("llm_jobs.db")).unwrap()
}

/// Asserts that no store or log is left.
#[track_caller]
pub fn clean(desk: &Desk) {
    assert_eq!(stores(desk), Vec::<PathBuf>::new());
    if desk.path(HOME).join("llm_jobs.db").exists() {
        assert!(home_queue(desk).open_processes().unwrap().is_empty());
        assert!(home_queue(desk).batches(None).unwrap().is_empty());
    }
}

/// Waits until the queue has recorded that this number of items is at the provider.
#[track_caller]
pub fn submitted(desk: &Desk, items: u64) {
    let queue = queue(desk);
    let there = || {
        let batches = queue.batches(None).unwrap();
        let known = batches.iter().filter(|batch| batch.remote_id.is_some());
        known.map(|batch| batch.total).sum::<u64>() == items
    };
    assert!(eventually(there), "{:?}", queue.batches(None).unwrap());
}

pub fn kill(mut running: Running) {
    running.child.kill().unwrap();
    running.child.wait().unwrap();
}

pub const STORE: &str = "out.jsonl.batchwright";

/// Runs the program with these words and this provider.
pub fn other(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    let command = desk.command(words.split_whitespace());
    with_provider(command, sim).ended()
}

/// A run that has left this number of items at the provider and ended.
pub fn left_alone(items: usize) -> (Desk, Simulator) {
    // The batch must not end before the run does.
    let (desk, sim) = (Desk::with(items), taking(Duration::from_secs(3)));
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    submitted(&desk, items as u64);
    (desk, sim)
}

#[track_caller]
pub fn bought(sim: &Simulator, items: u64) {
    let stats = sim.batch_stats();
    let sent = (stats.items_accepted, sim.stats().calls);
    assert_eq!(sent, (items, 0), "{stats:?}");
}

/// All results are in the output and billed once, and no work is left.
#[track_caller]
pub fn whole(desk: &Desk, sim: &Simulator, output: &str, items: usize) {
    assert_eq!(desk.ids(output), all_ids(items));
    bought(sim, items as u64);
    clean(desk);
}

/// The stores of runs, and the files next to them.
pub fn stores(desk: &Desk) -> Vec<PathBuf> {
    let entries = fs::read_dir(desk.path("")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.to_string_lossy().contains(".batchwright");
    paths.filter(named).collect()
}

pub fn only_process(desk: &Desk) -> ProcessId {
    let [process] = queue(desk).open_processes().unwrap().try_into().unwrap();
    process.process_id
}

/// A worker collects the items into the queue.
pub fn worked(desk: &Desk, sim: &Simulator) -> Ended {
    let words = format!("work --strategy batch --until-empty --queue {STORE}");
    other(desk, sim, &words).expect(0)
}
