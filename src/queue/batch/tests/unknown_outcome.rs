//! Batches of which nobody knows whether they are there, or whose they are: created without a reply,
//! presumed by size and time, or listed late.

use std::sync::Arc;

use crate::base::{Clock, Context, Error, ProcessId};
use crate::llm::batch::{BatchClient, BatchInput, BatchStage, BatchState, BatchStatus};

use super::super::info::BatchInfo;
use super::fake_provider::{FakeClient, seconds};
use super::harness::{Harness, ScriptedClient, intent, lost, refused};

/// A creation without a reply that came to nothing, while another program has a batch of the same size.
fn lost_beside_anothers(harness: &Harness) -> (Arc<ScriptedClient>, ProcessId) {
    harness.fake.lock().uploads = false;
    let client = harness.client();
    let process = harness.enqueue(&["a", "b"]);
    let fake = FakeClient(harness.fake.clone());
    *client.advance.lock() = Box::new(move |stage| {
        struct Theirs;
        impl BatchInput for Theirs {
            fn open(&mut self) -> Result<Box<dyn std::io::Read + Send + '_>, Error> {
                Ok(Box::new(&b"their-1 x\ntheir-2 y\n"[..]))
            }
        }
        let intent = intent("their");
        let theirs = fake.advance(&intent, stage, &mut Theirs, &Context::new());
        theirs.unwrap();
        Some(Err(lost()))
    });
    (client, process)
}

fn presumed(harness: &Harness) -> Option<BatchInfo> {
    let mut infos = harness.infos().into_iter();
    infos.find(|info| info.state == "presumed")
}

#[test]
fn a_batch_that_may_be_another_programs_is_never_cancelled_nor_said_to_be_created() {
    let harness = Harness::new();
    let (_client, process) = lost_beside_anothers(&harness);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || presumed(&harness).is_some()));
    let why = presumed(&harness).unwrap().problem.unwrap();
    assert!(why.contains("not cancelled"), "{why}");
    harness.cancel(process);
    for _ in 0..400 {
        harness.turn(&mut poller);
    }
    let fake = harness.fake.lock();
    let theirs: Vec<_> = fake.batches.iter().map(|batch| batch.cancelled).collect();
    assert_eq!(theirs, [None]);
    let created = &fake.overview.created;
    assert_eq!(created.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_batch_that_turns_out_to_be_another_programs_is_let_go() {
    let harness = Harness::new();
    lost_beside_anothers(&harness);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || presumed(&harness).is_some()));
    let id = presumed(&harness).unwrap().remote_id.unwrap();
    let left = || {
        let batches = harness.store.batches(None).unwrap();
        batches
            .iter()
            .any(|batch| batch.record.contains(&format!("\"not_ours\":[\"{id}\"]")))
    };
    assert!(
        harness.until(&mut poller, left),
        "{:?}",
        harness.store.batches(None)
    );
    assert_eq!((harness.bought("a"), harness.bought("b")), (0, 0));
}

#[test]
fn a_batch_that_expired_unanswered_is_not_taken_for_ours() {
    let harness = Harness::new();
    let (client, process) = lost_beside_anothers(&harness);
    harness.fake.lock().expiring = 100;
    let fake = FakeClient(harness.fake.clone());
    *client.status.lock() = Box::new(move |id| {
        let status = fake.status(id, &Context::new());
        Some(status.map(|status| match status.state {
            BatchState::Expired => BatchStatus {
                expected: Some(0),
                ..status
            },
            _ => status,
        }))
    });
    *client.download.lock() = Box::new(|_| Some(Ok(String::new())));
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || presumed(&harness).is_some()));
    let held = || harness.infos().iter().any(|info| info.state == "held");
    assert!(
        harness.until(&mut poller, held),
        "{:?}",
        harness.store.batches(None)
    );
    assert_eq!(harness.counts(process).failed, 0);
}

#[test]
fn a_cancelled_batch_that_is_not_known_yet_is_not_left_running() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || !harness.fake.lock().batches.is_empty()));
    // What was created shows a moment later.
    let shows = harness.clock.now().after(seconds(30));
    let clock = harness.clock.clone();
    let hidden = move || (clock.now() < shows).then(|| Err(refused("no such batch", 404)));
    let also = hidden.clone();
    *client.status.lock() =
        Box::new(move |_| hidden().map(|hidden: Result<(), Error>| Err(hidden.unwrap_err())));
    *client.cancel.lock() = Box::new(move |_| also());
    harness.cancel(process);
    assert!(harness.until(&mut poller, || harness.is_over(process)));
    assert_eq!(
        harness.fake.lock().alive(),
        0,
        "it runs on, and is paid for"
    );
}

#[test]
fn who_cancels_again_does_not_hurry_a_list_that_lags() {
    let harness = Harness::new();
    harness.fake.lock().lag = seconds(250);
    let client = harness.client();
    let fake = FakeClient(harness.fake.clone());
    *client.advance.lock() = Box::new(move |stage| {
        let BatchStage::Uploaded { file, .. } = stage else {
            return None;
        };
        let file = Some(file.clone());
        let intent = intent("lost");
        let made = fake.created(&intent, file, Vec::new());
        made.unwrap();
        Some(Err(lost()))
    });
    let process = harness.enqueue(&["a", "b"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || harness.fake.lock().creates == 1));
    let again = || {
        harness.cancel(process);
        harness.is_over(process)
    };
    assert!(harness.until(&mut poller, again));
    assert_eq!(
        harness.fake.lock().alive(),
        0,
        "it runs on, and is paid for"
    );
}
