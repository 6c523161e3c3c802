//! Batches of which nobody knows whether they are there, or whose they are: created without a reply,
//! presumed by size and time, or listed late.

use std::sync::Arc;

use crate::base::cancel::Context;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::id::ProcessId;
use crate::llm::batch::{
    BatchClient, BatchInput, BatchIntent, BatchStage, BatchState, BatchStatus,
};
use crate::queue::store::JobStore;

use super::super::info::BatchInfo;
use super::fake_provider::{Client, seconds};
use super::harness::{Bench, Twisted, refused};

/// A creation without a reply that came to nothing, while another program has a batch of the same size.
fn lost_beside_anothers(bench: &Bench) -> (Arc<Twisted>, ProcessId) {
    bench.world.lock().uploads = false;
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let world = Client(bench.world.clone());
    *client.advance.lock() = Box::new(move |stage| {
        struct Theirs;
        impl BatchInput for Theirs {
            fn open(&mut self) -> Result<Box<dyn std::io::Read + Send + '_>, Error> {
                Ok(Box::new(&b"their-1 x\ntheir-2 y\n"[..]))
            }
        }
        let intent = BatchIntent {
            label: "their".to_owned(),
            model: None,
            items: 2,
            bytes: 0,
            begun: crate::base::clock::Timestamp(0),
        };
        let theirs = world.advance(&intent, stage, &mut Theirs, &Context::new());
        theirs.unwrap();
        let lost = Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe);
        Some(Err(lost))
    });
    (client, process)
}

fn presumed(bench: &Bench) -> Option<BatchInfo> {
    let batches = bench.store.batches(None).unwrap();
    let infos = batches
        .iter()
        .map(|batch| BatchInfo::new(batch, bench.clock.wall()));
    infos.into_iter().find(|info| info.state == "presumed")
}

#[test]
fn a_batch_that_may_be_another_programs_is_never_cancelled_nor_said_to_be_created() {
    let bench = Bench::new();
    let (_client, process) = lost_beside_anothers(&bench);
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || presumed(&bench).is_some()));
    let why = presumed(&bench).unwrap().problem.unwrap();
    assert!(why.contains("not cancelled"), "{why}");
    bench.store.cancel(process, bench.clock.wall()).unwrap();
    bench.control.wake();
    for _ in 0..400 {
        bench.turn(&mut poller);
    }
    let world = bench.world.lock();
    let theirs: Vec<_> = world.batches.iter().map(|batch| batch.cancelled).collect();
    assert_eq!(theirs, [None]);
    let created = &world.overview.created;
    assert_eq!(created.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_batch_that_turns_out_to_be_another_programs_is_let_go() {
    let bench = Bench::new();
    lost_beside_anothers(&bench);
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || presumed(&bench).is_some()));
    let id = presumed(&bench).unwrap().remote_id.unwrap();
    let left = || {
        let batches = bench.store.batches(None).unwrap();
        batches
            .iter()
            .any(|batch| batch.record.contains(&format!("\"not_ours\":[\"{id}\"]")))
    };
    assert!(
        bench.until(&mut poller, left),
        "{:?}",
        bench.store.batches(None)
    );
    assert_eq!((bench.bought("a"), bench.bought("b")), (0, 0));
}

#[test]
fn a_batch_that_expired_unanswered_is_not_taken_for_ours() {
    let bench = Bench::new();
    let (client, process) = lost_beside_anothers(&bench);
    bench.world.lock().expiring = 100;
    let world = Client(bench.world.clone());
    *client.status.lock() = Box::new(move |id| {
        let status = world.status(id, &Context::new());
        Some(status.map(|status| match status.state {
            BatchState::Expired => BatchStatus {
                expected: Some(0),
                ..status
            },
            _ => status,
        }))
    });
    *client.download.lock() = Box::new(|_| Some(Ok(String::new())));
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || presumed(&bench).is_some()));
    let held = || {
        let batches = bench.store.batches(None).unwrap();
        let infos = batches
            .iter()
            .map(|batch| BatchInfo::new(batch, bench.clock.wall()));
        infos.into_iter().any(|info| info.state == "held")
    };
    assert!(
        bench.until(&mut poller, held),
        "{:?}",
        bench.store.batches(None)
    );
    assert_eq!(bench.counts(process).failed, 0);
}

#[test]
fn a_cancelled_batch_that_is_not_known_yet_is_not_left_running() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || !bench.world.lock().batches.is_empty()));
    // What was created shows a moment later.
    let shows = bench.clock.now().after(seconds(30));
    let clock = bench.clock.clone();
    let hidden = move || (clock.now() < shows).then(|| Err(refused("no such batch", 404)));
    let also = hidden.clone();
    *client.status.lock() =
        Box::new(move |_| hidden().map(|hidden: Result<(), Error>| Err(hidden.unwrap_err())));
    *client.cancel.lock() = Box::new(move |_| also());
    bench.store.cancel(process, bench.clock.wall()).unwrap();
    bench.control.wake();
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!(bench.world.lock().alive(), 0, "it runs on, and is paid for");
}

#[test]
fn who_cancels_again_does_not_hurry_a_list_that_lags() {
    let bench = Bench::new();
    bench.world.lock().lag = seconds(250);
    let client = bench.client();
    let world = Client(bench.world.clone());
    *client.advance.lock() = Box::new(move |stage| {
        let BatchStage::Uploaded { file, .. } = stage else {
            return None;
        };
        let file = Some(file.clone());
        let intent = BatchIntent {
            label: "lost".to_owned(),
            model: None,
            items: 2,
            bytes: 0,
            begun: crate::base::clock::Timestamp(0),
        };
        let made = world.created(&intent, file, Vec::new());
        made.unwrap();
        let lost = Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe);
        Some(Err(lost))
    });
    let process = bench.enqueue(&["a", "b"]);
    let mut poller = bench.poller(bench.worker(), &[]);
    assert!(bench.until(&mut poller, || bench.world.lock().creates == 1));
    let again = || {
        bench.store.cancel(process, bench.clock.wall()).unwrap();
        bench.control.wake();
        bench.is_over(process)
    };
    assert!(bench.until(&mut poller, again));
    assert_eq!(bench.world.lock().alive(), 0, "it runs on, and is paid for");
}
