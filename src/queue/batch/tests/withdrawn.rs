//! Batches that are withdrawn, so that their jobs can be sent in another way: never before the provider has confirmed
//! that it will not process them, and never if it may have answered them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::base::{Error, ErrorKind, ProcessId};
use crate::llm::batch::{BatchCounts, BatchState, BatchStatus};

use super::super::poller::Poller;
use super::fake_provider::seconds;
use super::harness::{Harness, ScriptedClient, in_state};

/// A provider whose batches run until they are cancelled, and the batches that were cancelled.
fn endless(
    harness: &Harness,
    counts: Option<BatchCounts>,
) -> (Arc<ScriptedClient>, Arc<Mutex<HashSet<String>>>) {
    let client = harness.client();
    let cancelled = Arc::new(Mutex::new(HashSet::new()));
    let known = cancelled.clone();
    *client.status.lock() = Box::new(move |id| {
        let state = if known.lock().contains(id) {
            BatchState::Cancelled
        } else {
            BatchState::Running
        };
        Some(Ok(BatchStatus {
            counts,
            ..in_state(state)
        }))
    });
    let known = cancelled.clone();
    *client.cancel.lock() = Box::new(move |id| {
        known.lock().insert(id.clone());
        Some(Ok(()))
    });
    (client, cancelled)
}

/// Withdraws all batches when this number of them is at the provider. New ones are not formed.
fn withdrawn(harness: &Harness, poller: &mut Poller<'_>, batches: usize) {
    let sent = || {
        let own = harness.overview.own.lock();
        own.len() == batches && own.iter().all(|batch| batch.is_sent)
    };
    let created = || harness.fake.lock().creates == batches as u64;
    assert!(harness.until(poller, || created() && sent()));
    harness.control.set_client(None);
    let own: Vec<_> = harness
        .overview
        .own
        .lock()
        .iter()
        .map(|batch| batch.no)
        .collect();
    harness.control.withdraw(own);
}

fn counted(completed: u64) -> Option<BatchCounts> {
    Some(BatchCounts {
        total: 2,
        completed,
        failed: 0,
    })
}

fn two(harness: &Harness) -> ProcessId {
    harness.enqueue(&["a", "b"])
}

#[test]
fn jobs_return_untried_when_the_provider_confirms_that_it_answered_nothing() {
    let harness = Harness::new();
    let (_client, cancelled) = endless(&harness, counted(0));
    let process = two(&harness);
    let mut poller = harness.poller(harness.worker(), &[]);
    withdrawn(&harness, &mut poller, 1);
    assert_eq!(harness.counts(process).at_provider, 2, "not confirmed yet");
    assert!(harness.until(&mut poller, || harness.counts(process).pending == 2));
    assert_eq!(cancelled.lock().len(), 1);
    assert_eq!(harness.fake.lock().creates, 1);
}

#[test]
fn jobs_that_may_have_been_answered_are_on_hold_if_results_are_dropped() {
    for counts in [counted(1), None] {
        let harness = Harness::new();
        let (_client, cancelled) = endless(&harness, counts);
        let process = two(&harness);
        let mut poller = harness.poller(harness.worker(), &[]);
        withdrawn(&harness, &mut poller, 1);
        let stuck = || {
            harness
                .overview
                .own
                .lock()
                .iter()
                .any(|batch| batch.is_stuck)
        };
        assert!(harness.until(&mut poller, stuck), "{counts:?}");
        for _ in 0..50 {
            harness.turn(&mut poller);
        }
        let now = harness.counts(process);
        assert_eq!(
            (now.at_provider, now.pending, now.failed),
            (2, 0, 0),
            "{counts:?}"
        );
        assert_eq!(cancelled.lock().len(), 1);
    }
}

#[test]
fn a_batch_that_cannot_be_cancelled_does_not_stop_the_others() {
    let harness = Harness::new();
    let (client, cancelled) = endless(&harness, counted(0));
    let first = two(&harness);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || harness.fake.lock().creates == 1));
    let second = harness.enqueue(&["c", "d"]);
    let refusal = Mutex::new(None);
    *client.cancel.lock() = Box::new(move |id| {
        let mut stubborn = refusal.lock();
        if *stubborn.get_or_insert_with(|| id.clone()) == *id {
            let busy = Error::new(ErrorKind::Transient, "busy").with_status(500);
            return Some(Err(busy));
        }
        cancelled.lock().insert(id.clone());
        Some(Ok(()))
    });
    withdrawn(&harness, &mut poller, 2);
    let pending = |process| harness.counts(process).pending;
    assert!(harness.until(&mut poller, || pending(first) + pending(second) == 2));
    harness.clock.advance(seconds(600));
    harness.turn(&mut poller);
    assert_eq!(
        pending(first) + pending(second),
        2,
        "the other is not confirmed"
    );
}

/// The last poll may be minutes old, so its counts do not show that nothing is lost.
#[test]
fn a_batch_whose_answers_would_be_lost_is_not_cancelled() {
    for (counts, expected) in [(counted(1), 0), (None, 0), (counted(0), 1)] {
        let harness = Harness::new();
        let (client, cancelled) = endless(&harness, counts);
        client.drops_results.store(true, Ordering::SeqCst);
        let process = two(&harness);
        let mut poller = harness.poller(harness.worker(), &[]);
        withdrawn(&harness, &mut poller, 1);
        for _ in 0..50 {
            harness.turn(&mut poller);
        }
        assert_eq!(cancelled.lock().len(), expected, "{counts:?}");
        if expected == 0 {
            let own = harness.overview.own.lock();
            assert_eq!(own[0].withdrawn, None, "{counts:?}");
            assert!(!own[0].may_be_cancelled, "{counts:?}");
            assert_eq!(harness.counts(process).at_provider, 2);
        }
    }
}

#[test]
fn a_batch_that_was_taken_over_is_not_taken_to_keep_its_answers() {
    let harness = Harness::new();
    let (client, _) = endless(&harness, counted(1));
    client.drops_results.store(true, Ordering::SeqCst);
    two(&harness);
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    let has_answers = || {
        let own = harness.overview.own.lock();
        own.first().is_some_and(|batch| batch.answered == Some(1))
    };
    assert!(harness.until(&mut poller, has_answers));
    drop(poller);
    harness.overview.own.lock().clear();
    // Its first poll is not due yet.
    let mut next = harness.poller(worker, &[]);
    next.scan_store();
    let own = harness.overview.own.lock();
    assert_eq!(
        (own.len(), own[0].may_be_cancelled, own[0].every),
        (1, false, None)
    );
}
