//! What a batch is billed is booked once if its process was deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{Charge, ChargeSum, Clock, Context, Error, ErrorKind, ProcessId, Usage};
use crate::llm::batch::{BatchClient, BatchLine, BatchLineResult};
use crate::llm::response::Response;
use crate::queue::store::{
    BatchStore, ClaimStore, EnqueueStore, ResultStore, StoreDatabase, WorkerId,
};

use super::fake_provider::FakeClient;
use super::harness::{Harness, ScriptedClient};
use super::shared_budgets::{counted, limit, requests};

const PRICES: &str = r#"{"providers": {"fake": {"models": [{"models": ["m"], "prices": [
    {"input": 1, "output": 2}, {"tier": "batch", "input": 1, "output": 2}]}]}}}"#;

/// What each request costs, in picodollars: 10 input and 5 output tokens for $1 and $2 per million.
const COST: u64 = 20_000_000;

/// A provider that reports usage, and names this number of files with results.
fn provider(harness: &Harness, files: usize) -> Arc<ScriptedClient> {
    limit(harness, u64::MAX, PRICES);
    let client = harness.client();
    *client.read.lock() = Box::new(|line| {
        let line = String::from_utf8(line.to_vec()).unwrap();
        let (key, _) = line.trim_end().split_once(' ').unwrap();
        let usage = Usage {
            input_tokens: 10,
            output_tokens: 5,
            ..Usage::default()
        };
        Some(Ok(BatchLine {
            key: key.to_owned(),
            result: BatchLineResult::Answered(Box::new(Ok(
                Response::new("fake", "a").with_usage(usage)
            ))),
        }))
    });
    let fake = harness.fake.clone();
    *client.status.lock() = Box::new(move |id| {
        let status = FakeClient(fake.clone()).status(id, &Context::new());
        Some(status.map(|mut status| {
            (status.counts, status.expected) = (None, None);
            if status.state.is_final() {
                let names = (0..files).map(|file| format!("file {file}"));
                status.results = names.collect();
            }
            status
        }))
    });
    client
}

fn booked(harness: &Harness) -> ChargeSum {
    let mut sum = ChargeSum::default();
    let mut add = |charge: Charge| sum += charge.sum;
    harness.store.charges(None, None, &mut add).unwrap();
    sum
}

fn delete(harness: &Harness, process: ProcessId) {
    let wall = harness.clock.wall();
    harness.store.delete(process, wall).unwrap();
}

/// The worker ends, and one on another machine collects the batch.
fn collect_elsewhere(harness: &Harness, worker: WorkerId) {
    let wall = harness.clock.wall();
    harness.store.unregister_worker(worker, wall).unwrap();
    for file in std::fs::read_dir(harness.store.folder()).unwrap() {
        let _ = std::fs::remove_file(file.unwrap().path());
    }
    let mut poller = harness.poller(harness.worker(), &[]);
    let is_closed = || harness.store.batches(None).unwrap().is_empty();
    assert!(harness.until(&mut poller, is_closed));
}

fn disk_full() -> Error {
    Error::new(ErrorKind::Transient, "the disk is full")
}

#[test]
fn a_download_that_fails_does_not_keep_a_later_collection_from_booking() {
    let harness = Harness::new();
    let client = provider(&harness, 2);
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    *client.download.lock() = Box::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => None,
        1 => Some(Err(Error::new(ErrorKind::Transient, "no connection"))),
        _ => Some(Ok(String::new())),
    });
    let process = harness.enqueue_requests(requests(&["a", "b"]));
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || asked.load(Ordering::SeqCst) == 2));
    delete(&harness, process);
    let is_closed = || harness.store.batches(None).unwrap().is_empty();
    assert!(harness.until(&mut poller, is_closed));
    let booked = booked(&harness);
    assert_eq!((booked.calls, booked.cost_usd.picos()), (2, 2 * COST));
    // The shared budget counts it, and the rest of the reservation is released.
    let counted = counted(&harness);
    assert_eq!((counted.spent, counted.batches.len()), (2 * COST, 0));
}

#[test]
fn results_that_were_stored_before_their_process_was_deleted_are_not_booked_again() {
    let harness = Harness::new();
    let client = provider(&harness, 2);
    let (fake, asked) = (harness.fake.clone(), Arc::new(AtomicU64::new(0)));
    let count = asked.clone();
    // One line in each file.
    *client.download.lock() = Box::new(move |id| {
        let at = count.fetch_add(1, Ordering::SeqCst) % 2;
        let fake = fake.lock();
        let remote = fake.batches.iter().find(|remote| remote.id == *id)?;
        let (key, prompt) = remote.items.get(usize::try_from(at).ok()?)?;
        Some(Ok(format!("{key} +{prompt}\n")))
    });
    let process = harness.enqueue_requests(requests(&["a", "b"]));
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    assert!(harness.until(&mut poller, || !harness.fake.lock().batches.is_empty()));
    let reserved = counted(&harness).total();
    // The record and the first result are stored, and the second result is not.
    let (writes, count) = (AtomicU64::new(0), asked.clone());
    *harness.store.unwritable.lock() = Some(Box::new(move || {
        let is_collecting = count.load(Ordering::SeqCst) >= 2;
        (is_collecting && writes.fetch_add(1, Ordering::SeqCst) >= 2).then(disk_full)
    }));
    assert!(harness.until(&mut poller, || harness.counts(process).completed == 1));
    drop(poller);
    *harness.store.unwritable.lock() = None;
    delete(&harness, process);
    collect_elsewhere(&harness, worker);
    assert_eq!(booked(&harness).calls, 1);
    // It is unknown what the other one has cost.
    let counted = counted(&harness);
    assert_eq!((counted.spent, counted.batches.len()), (reserved, 0));
}

#[test]
fn a_batch_that_cannot_be_closed_is_booked_once() {
    let harness = Harness::new();
    let client = provider(&harness, 1);
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    *client.download.lock() = Box::new(move |_| {
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then(|| Err(Error::new(ErrorKind::Transient, "no connection")))
    });
    let process = harness.enqueue_requests(requests(&["a", "b"]));
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    assert!(harness.until(&mut poller, || asked.load(Ordering::SeqCst) == 1));
    delete(&harness, process);
    // The charges are stored, and nothing after them.
    let (writes, count) = (AtomicU64::new(0), asked.clone());
    *harness.store.unwritable.lock() = Some(Box::new(move || {
        let is_read = count.load(Ordering::SeqCst) == 2;
        (is_read && writes.fetch_add(1, Ordering::SeqCst) >= 1).then(disk_full)
    }));
    assert!(harness.until(&mut poller, || asked.load(Ordering::SeqCst) == 2));
    drop(poller);
    *harness.store.unwritable.lock() = None;
    let first = booked(&harness);
    assert_eq!((first.calls, first.cost_usd.picos()), (2, 2 * COST));
    assert_eq!(harness.store.batches(None).unwrap().len(), 1);
    collect_elsewhere(&harness, worker);
    assert_eq!(booked(&harness), first);
}
