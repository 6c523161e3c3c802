//! A worker that is killed before and after every step of a batch, replies that are lost, batches that
//! come late and lists that lag: whatever happens, each batch that is needed is bought once.

#![cfg(unix)]

use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchPoint, BatchStats};
use rusqlite::{Connection, TransactionBehavior};

use super::batch_site::{ALL, ANTHROPIC, Dialect, GEMINI, OPENAI, Site, XAI, each};
use super::common::{HOME, PATIENCE, Running, eventually};

const ITEMS: usize = 12;

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn quick() -> BatchConfig {
    BatchConfig::default().duration(millis(100))
}

/// Killed at the first request that comes to this point, which then has its effect all the same.
fn killed_at(at: &'static Dialect, point: BatchPoint) {
    let site = Site::new(at, quick(), ITEMS);
    site.kill_at(point, || {});
    site.finish(0);
    site.bought_once();
    let stats = site.sim.batch_stats();
    assert_eq!(stats.started, 1, "{} {point:?} {stats:?}", at.name);
    // The name of an upload that was never answered is not known, unless it is ours to choose.
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
        .flat_map(|point| ALL.map(|at| (at, point)));
    let all: Vec<_> = all.filter(|(at, point)| has(at, *point)).collect();
    for some in all.chunks(15) {
        each(some, |(at, point)| killed_at(at, *point));
    }
}

/// Some of the results are stored, in a transaction each, when the worker is killed.
#[test]
fn killed_with_half_of_the_results_stored() {
    each(&[&OPENAI, &ANTHROPIC], |at| {
        let site = Site::new(at, quick(), 2000);
        let worker = site.start();
        let mut lock = Connection::open(site.desk.path(HOME).join("llm_jobs.db")).unwrap();
        lock.busy_timeout(PATIENCE).unwrap();
        let mut stored = 0;
        let some = eventually(|| {
            // Nobody stores anything between the look and the kill.
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

/// The reply to a creation is lost, which takes effect at once, late or later than anybody waits for, or is listed late.
/// If the input file is deleted by then, the late creation never takes effect and the batch is created again.
#[test]
fn a_creation_whose_reply_is_lost_buys_one_batch() {
    let lost = || quick().lost_creates(1);
    for (batches, creates_with_files) in [
        (lost(), 1),
        (lost().late_creates(millis(500)), 1),
        (lost().listing_lag(millis(700)), 1),
        (lost().late_creates(millis(2500)), 2),
    ] {
        each(&ALL, |at| {
            let site = Site::new(at, batches.clone(), ITEMS);
            site.finish(0);
            site.bought_once();
            site.took(1);
            let creates = if at.files { creates_with_files } else { 1 };
            assert_eq!(site.sim.batch_stats().creates, creates, "{}", at.name);
        });
    }
}

/// A submitter that sleeps for longer than its batch is looked for, with its creation under way: the
/// batch stays its own.
#[test]
fn a_sleeping_submitter_keeps_its_batch() {
    for point in [BatchPoint::CreateArrived, BatchPoint::CreateDone] {
        each(&[&OPENAI, &ANTHROPIC], |at| {
            let mut site = Site::new(at, quick(), ITEMS);
            site.pace.reconcile = "300ms";
            let create = site.sim.pause_at(point, 1);
            let sleeper = site.start();
            assert!(create.wait(PATIENCE), "{}", at.name);
            sleeper.signal("STOP");
            let other = Running::start(&mut site.command("work -v"));
            other.hears("in batches");
            // Longer than it takes to look, to fence and to send again.
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

/// Killed behind half of a result that comes in pages.
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

/// Cancelled for good, whenever the worker dies: what was finished by then is kept.
#[test]
fn killed_while_it_cancels() {
    for point in [BatchPoint::CancelArrived, BatchPoint::CancelDone] {
        each(&ALL, |at| {
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
                // It gives no results of what was cancelled.
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
