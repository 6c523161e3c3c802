//! What becomes of batches when the store cannot be written for a while: they stay with their worker,
//! nothing is lost or bought twice, and whoever ends when all is done does not end.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::random::Random;
use crate::base::{Clock, Error, ErrorKind};
use crate::queue::store::WorkerId;

use super::fake_provider::seconds;
use super::harness::Harness;

/// As long as there are batches, they are this worker's, and it does not end.
fn is_attended(harness: &Harness, worker: WorkerId) {
    let batches = harness.store.batches(None).unwrap();
    assert!(batches.iter().all(|batch| batch.worker == Some(worker)));
    assert!(
        batches.is_empty() || harness.overview.open(false),
        "it ends"
    );
}

#[test]
fn a_store_that_cannot_be_written_for_whatever_reason_costs_nothing_but_time() {
    for &kind in ErrorKind::ALL {
        for uploads in [true, false] {
            let harness = Harness::new();
            let _client = harness.client();
            harness.fake.lock().uploads = uploads;
            let process = harness.enqueue(&["a", "bad", "c"]);
            let worker = harness.worker();
            let mut fate = Random(kind as u64);
            *harness.store.unwritable.lock() = Some(Box::new(move || {
                fate.chance(70).then(|| Error::new(kind, "not now"))
            }));
            let mut poller = harness.poller(worker, &[]);
            let over = harness.until(&mut poller, || {
                is_attended(&harness, worker);
                harness.is_over(process)
            });
            assert!(over, "{kind}: {:?}", harness.store.batches(None).unwrap());
            let counts = harness.counts(process);
            assert_eq!((counts.completed, counts.failed), (2, 1), "{kind}");
            assert_eq!((harness.bought("a"), harness.bought("c")), (1, 1), "{kind}");
            assert_eq!(harness.fake.lock().creates, 1, "{kind}");
        }
    }
}

#[test]
fn a_database_that_is_moved_away_and_back_has_its_batch_polled_on() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    let worker = harness.worker();
    let (path, away) = (
        harness.folder.path().join("jobs.db"),
        harness.folder.path().join("moved.db"),
    );
    let polls = Arc::new(AtomicU64::new(0));
    let (from, to, count) = (path.clone(), away.clone(), polls.clone());
    // Gone before what the first look at the batch shows can be written down.
    *client.status.lock() = Box::new(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            fs::rename(&from, &to).unwrap();
        }
        None
    });
    let mut poller = harness.poller(worker, &[]);
    assert!(harness.until(&mut poller, || polls.load(Ordering::SeqCst) == 1));
    let back = harness.clock.now().after(seconds(3600));
    while harness.clock.now() < back {
        harness.turn(&mut poller);
        is_attended(&harness, worker);
        let trouble = harness.overview.trouble.lock().clone().unwrap();
        assert!(trouble.contains("removed while it was open"), "{trouble}");
    }
    assert_eq!(polls.load(Ordering::SeqCst), 1, "no step before it is said");
    fs::rename(&away, &path).unwrap();
    assert!(harness.until(&mut poller, || harness.is_over(process)));
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
}

#[test]
fn a_batch_that_another_worker_was_given_is_left_to_it() {
    let (harness, _client, process) = Harness::with(&["a", "b"]);
    let first = harness.worker();
    let mut taken_for_dead = harness.poller(first, &[]);
    let created = || !harness.fake.lock().batches.is_empty();
    assert!(harness.until(&mut taken_for_dead, created));
    harness.retire(first);
    let mut poller = harness.poller(harness.worker(), &[]);
    poller.turn();
    assert_eq!(poller.batches.len(), 1);
    // It finds out when it writes.
    for _ in 0..100 {
        harness.turn(&mut taken_for_dead);
    }
    assert!(taken_for_dead.batches.is_empty(), "it goes on");
    assert!(harness.until(&mut poller, || harness.is_over(process)));
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
}
