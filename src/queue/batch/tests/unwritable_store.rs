//! What becomes of batches when the store cannot be written for a while: they stay with their worker,
//! nothing is lost or bought twice, and whoever ends when all is done does not end.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind};
use crate::engine::jitter::Jitter;
use crate::queue::store::{JobStore, WorkerId};

use super::fake_provider::{Random, seconds};
use super::harness::Bench;

/// As long as there are batches, they are this worker's, and it does not end.
fn is_attended(bench: &Bench, worker: WorkerId) {
    let batches = bench.store.batches(None).unwrap();
    assert!(batches.iter().all(|batch| batch.worker == Some(worker)));
    assert!(batches.is_empty() || bench.overview.open(false), "it ends");
}

#[test]
fn a_store_that_cannot_be_written_for_whatever_reason_costs_nothing_but_time() {
    for kind in ErrorKind::ALL {
        for uploads in [true, false] {
            let bench = Bench::new();
            let _client = bench.client();
            bench.world.lock().uploads = uploads;
            let process = bench.enqueue(&["a", "bad", "c"]);
            let worker = bench.worker();
            let mut fate = Random(Jitter(kind as u64));
            *bench.store.unwritable.lock() = Some(Box::new(move || {
                fate.chance(70).then(|| Error::new(kind, "not now"))
            }));
            let mut poller = bench.poller(worker, &[]);
            let over = bench.until(&mut poller, || {
                is_attended(&bench, worker);
                bench.is_over(process)
            });
            assert!(over, "{kind}: {:?}", bench.store.batches(None).unwrap());
            let counts = bench.counts(process);
            assert_eq!((counts.completed, counts.failed), (2, 1), "{kind}");
            assert_eq!((bench.bought("a"), bench.bought("c")), (1, 1), "{kind}");
            assert_eq!(bench.world.lock().creates, 1, "{kind}");
        }
    }
}

#[test]
fn a_database_that_is_moved_away_and_back_has_its_batch_polled_on() {
    let bench = Bench::new();
    let client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let worker = bench.worker();
    let (path, away) = (
        bench.folder.path().join("jobs.db"),
        bench.folder.path().join("moved.db"),
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
    let mut poller = bench.poller(worker, &[]);
    assert!(bench.until(&mut poller, || polls.load(Ordering::SeqCst) == 1));
    let back = bench.clock.now().after(seconds(3600));
    while bench.clock.now() < back {
        bench.turn(&mut poller);
        is_attended(&bench, worker);
        let trouble = bench.overview.trouble.lock().clone().unwrap();
        assert!(trouble.contains("removed while it was open"), "{trouble}");
    }
    assert_eq!(polls.load(Ordering::SeqCst), 1, "no step before it is said");
    fs::rename(&away, &path).unwrap();
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!((bench.bought("a"), bench.bought("b")), (1, 1));
}

#[test]
fn a_batch_that_another_worker_was_given_is_left_to_it() {
    let bench = Bench::new();
    let _client = bench.client();
    let process = bench.enqueue(&["a", "b"]);
    let first = bench.worker();
    let mut taken_for_dead = bench.poller(first, &[]);
    let created = || !bench.world.lock().batches.is_empty();
    assert!(bench.until(&mut taken_for_dead, created));
    bench
        .store
        .unregister_worker(first, bench.clock.wall())
        .unwrap();
    let mut poller = bench.poller(bench.worker(), &[]);
    poller.turn();
    assert_eq!(poller.open.len(), 1);
    // It finds out when it writes.
    for _ in 0..100 {
        bench.turn(&mut taken_for_dead);
    }
    assert!(taken_for_dead.open.is_empty(), "it goes on");
    assert!(bench.until(&mut poller, || bench.is_over(process)));
    assert_eq!((bench.bought("a"), bench.bought("b")), (1, 1));
}
