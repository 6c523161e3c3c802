//! A worker that is killed before and after every step of a batch, lost replies, delayed batches and lists that lag
//! behind: in all cases each needed batch is billed once.

#![cfg(unix)]

use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchPoint, BatchStats};
use rusqlite::{Connection, TransactionBehavior};

use super::batch_site::{Dialect, GEMINI, KINDS, Site, XAI};
use super::common::{HOME, PATIENCE, Running, each, eventually};

const ITEMS: usize = 12;

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn quick() -> BatchConfig {
    BatchConfig::default().duration(millis(100))
}

fn filed() -> Vec<&'static Dialect> {
    KINDS.into_iter().filter(|at| at.files).collect()
}

/// Killed at the first request that reaches this point; the request takes effect anyway.
fn killed_at(at: &'static Dialect, point: BatchPoint) {
    let site = Site::new(at, quick(), ITEMS);
    site.kill_at(point, || {});
    site.finish(0);
    site.bought_once();
    let stats = site.sim.batch_stats();
    assert_eq!(stats.started, 1, "{} {point:?} {stats:?}", at.name);
    // The name of an upload without a reply is unknown, unless we choose it.
    let uploading = matches!(point, BatchPoint::UploadArrived | BatchPoint::UploadDone);
    let orphans = u64::from(uploading && at.name != GEMINI.name);
    assert_eq!(stats.files_left, orphans, "{} {point:?}", at.name);
}

#[test]
fn killed_at_any_step() {
    use BatchPoint::*;
    let points = [
        UploadArrived,
        UploadDone,
        CreateArrived,
        CreateDone,
        StatusArrived,
        DownloadHalf,
        DeleteArrived,
        DeleteDone,
    ];
    let has = |at: &Dialect, point| {
        at.files
            || !matches!(
                point,
                UploadArrived | UploadDone | DeleteArrived | DeleteDone
            )
    };
    let all = points
        .into_iter()
        .flat_map(|point| KINDS.map(|at| (at, point)));
    let all: Vec<_> = all.filter(|(at, point)| has(at, *point)).collect();
    for some in all.chunks(15) {
        each(some, |(at, point)| killed_at(at, *point));
    }
}

#[test]
fn killed_before_anything_was_sent() {
    // Killed long before it submits its batch, while the worker waits for more jobs.
    each(&KINDS, |at| {
        let site = Site::new(at, quick(), ITEMS);
        let worker = site.start();
        assert!(eventually(|| worker.said().contains("strategy batch")));
        drop(worker);
        let worker = site.start();
        let begun = || !site.queue.batches(None).unwrap().is_empty();
        assert!(eventually(begun));
        drop(worker);
        site.finish(0);
        site.bought_once();
        // If it is killed during an upload, it leaves a file that no record names.
        assert_eq!(site.sim.batch_stats().started, 1, "{}", at.name);
    });
}

/// The creation has not taken effect yet when its input file is deleted, and then fails.
#[test]
fn a_creation_after_its_file_was_deleted_is_not_billed() {
    for point in [BatchPoint::DeleteArrived, BatchPoint::DeleteDone] {
        each(&filed(), |at| {
            let site = Site::new(at, quick(), ITEMS);
            let create = site.sim.pause_at(BatchPoint::CreateArrived, 1);
            let worker = site.start();
            assert!(create.wait(PATIENCE), "{}", at.name);
            drop(worker);
            // Killed once more, while the input file is being deleted.
            site.kill_at(point, || {});
            assert!(
                site.sim
                    .wait_for_batches(|s| s.files_deleted == 1, PATIENCE)
            );
            create.release();
            site.finish(0);
            site.bought_once();
            site.took(1);
        });
    }
}

/// Some of the results are stored, each in a transaction, when the worker is killed.
#[test]
fn killed_with_half_of_the_results_stored() {
    each(&KINDS, |at| {
        let site = Site::new(at, quick(), 2000);
        let worker = site.start();
        // Before that, it must record the batch, so the test must not hold the lock yet.
        assert!(site.sim.wait_for_batches(|s| s.ended == 1, PATIENCE));
        let mut lock = Connection::open(site.desk.path(HOME).join("llm_jobs.db")).unwrap();
        lock.busy_timeout(PATIENCE).unwrap();
        let mut stored = 0;
        let some = eventually(|| {
            // Nothing can be stored between the check and the kill.
            let held = lock.transaction_with_behavior(TransactionBehavior::Immediate);
            let _held = held.unwrap();
            stored = site.counts().completed;
            if stored > 0 {
                worker.signal("KILL");
            }
            stored > 0
        });
        assert!(some && stored < 2000, "{} {stored}", at.name);
        worker.wait();
        assert_eq!(site.counts().completed, stored);
        site.finish(0);
        site.bought_once();
        site.took(1);
    });
}

/// A submitter is suspended for longer than its batch is searched, while it creates the batch: it keeps the batch.
#[test]
fn a_suspended_submitter_keeps_its_batch() {
    for point in [BatchPoint::CreateArrived, BatchPoint::CreateDone] {
        each(&KINDS, |at| {
            let mut site = Site::new(at, quick(), ITEMS);
            site.pace.reconcile = "300ms";
            let create = site.sim.pause_at(point, 1);
            let sleeper = site.start();
            assert!(create.wait(PATIENCE), "{}", at.name);
            sleeper.signal("STOP");
            let other = Running::start(&mut site.command("work --log-level info"));
            other.hears("in batches");
            // Longer than searching, deleting the file and submitting again take.
            std::thread::sleep(millis(1200));
            create.release();
            std::thread::sleep(millis(600));
            let stats = site.sim.batch_stats();
            assert_eq!((stats.lists, stats.files_deleted), (0, 0), "{}", at.name);
            assert_eq!(stats.creates, 1, "{}", at.name);
            assert_eq!(site.counts().at_provider, ITEMS as u64, "{}", at.name);
            sleeper.signal("CONT");
            sleeper.wait().expect(0);
            drop(other);
            site.bought_once();
            site.took(1);
        });
    }
}

/// Killed after half of a paged result.
#[test]
fn killed_between_pages_of_results() {
    let site = Site::new(&XAI, quick(), 250);
    let pause = site.sim.pause_at(BatchPoint::DownloadHalf, 2);
    let worker = site.start();
    assert!(pause.wait(PATIENCE), "{}", worker.said());
    drop(worker);
    drop(pause);
    site.finish(0);
    site.bought_once();
    site.took(1);
}

/// The batch is cancelled, whenever the worker is killed: results that were finished by then are kept.
#[test]
fn killed_while_it_cancels() {
    for point in [BatchPoint::CancelArrived, BatchPoint::CancelDone] {
        each(&KINDS, |at| {
            let slow = BatchConfig::default().duration(millis(4000));
            let site = Site::new(at, slow, ITEMS);
            let cancel = site.sim.pause_at(point, 1);
            let worker = site.start();
            let some = |s: &BatchStats| s.statuses > 0 && s.items_finished > 0;
            assert!(site.sim.wait_for_batches(some, PATIENCE), "{}", at.name);
            site.queue.cancel(site.process).unwrap();
            assert!(cancel.wait(PATIENCE), "{}: {}", at.name, worker.said());
            drop(worker);
            cancel.release();
            site.finish(0);
            let (counts, stats) = (site.counts(), site.sim.batch_stats());
            assert_eq!(stats.cancelled, 1, "{} {stats:?}", at.name);
            let rest = ITEMS as u64 - stats.items_finished;
            if at.name == GEMINI.name {
                // It returns no results of a cancelled batch.
                assert_eq!(counts.cancelled, ITEMS as u64);
            } else {
                assert_eq!(counts.cancelled, rest, "{} {stats:?}", at.name);
                assert_eq!(counts.completed, stats.items_finished, "{}", at.name);
            }
            site.paid_once();
            site.took(1);
        });
    }
}
