//! Batches whose API key was replaced: the present key of the same address collects those that the provider shows to
//! it, and nothing else is done with it.

use std::sync::Arc;

use super::harness::{Harness, ScriptedClient, lost};
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::BatchStage;
use crate::queue::store::StoredBatch;

fn rotated(harness: &Harness) -> Arc<ScriptedClient> {
    let client = Arc::new(ScriptedClient {
        credential: "new",
        ..ScriptedClient::of(&harness.fake)
    });
    harness.control.set_client(Some(client.clone()));
    client
}

/// Works with the first key until `holds` is true, and then leaves the batch without an owner.
fn left_when(harness: &Harness, mut holds: impl FnMut(&StoredBatch) -> bool) -> StoredBatch {
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    let the_one = || harness.store.batches(None).unwrap().into_iter().next();
    assert!(harness.until(&mut poller, || the_one().is_some_and(|batch| holds(&batch))));
    drop(poller);
    harness.retire(worker);
    the_one().unwrap()
}

/// Works for a while, and returns the reason why nothing progresses.
fn trouble(harness: &Harness) -> String {
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    for _ in 0..50 {
        harness.turn(&mut poller);
    }
    drop(poller);
    harness.retire(worker);
    harness.overview.trouble.lock().clone().unwrap()
}

#[test]
fn a_batch_is_collected_with_the_present_key_if_its_provider_shows_it() {
    let (harness, _old, process) = Harness::with(&["a", "b"]);
    let left = left_when(&harness, |batch| batch.record.contains("running"));
    let new = rotated(&harness);
    *new.status.lock() = Box::new(|_| {
        let not_shown = Error::new(ErrorKind::Invalid, "no such batch").with_status(404);
        Some(Err(not_shown))
    });
    let why = trouble(&harness);
    assert!(why.contains("wait for the API key that created"), "{why}");
    let now = harness.store.batches(None).unwrap().remove(0);
    assert_eq!((now.record, now.worker), (left.record, None), "it is held");

    *new.status.lock() = Box::new(|_| None);
    let mut poller = harness.poller(harness.worker(), &[]);
    let over = harness.until(&mut poller, || harness.is_over(process));
    assert!(over, "{:?}", harness.store.batches(None).unwrap());
    assert_eq!(harness.counts(process).completed, 2);
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
    assert_eq!(harness.fake.lock().creates, 1);
}

#[test]
fn a_batch_that_may_have_been_created_is_held_under_another_key() {
    let harness = Harness::new();
    let old = harness.client();
    harness.enqueue(&["a", "b"]);
    *old.advance.lock() = Box::new(move |stage| {
        let BatchStage::Uploaded { .. } = stage else {
            return None;
        };
        Some(Err(lost()))
    });
    let doubtful = |batch: &StoredBatch| batch.record.contains("it is not known whether");
    let left = left_when(&harness, doubtful);
    rotated(&harness);
    let why = trouble(&harness);
    assert!(why.contains("wait for the API key that created"), "{why}");
    let now = harness.store.batches(None).unwrap().remove(0);
    assert_eq!((now.record, now.worker), (left.record, None));
    assert_eq!(harness.fake.lock().creates, 0);
}
