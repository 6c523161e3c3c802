//! What is done to all jobs of a process, also when its caller dies halfway, and who hears of it.

use super::batches::{batch, inside};
use super::*;

pub(super) fn processes_are_shown_a_page_at_a_time(open: Open<'_>) {
    let db = open();
    let made = ["a", "b", "c", "d"].map(|name| db.enqueue(&[name, "x"]));
    let worker = db.worker();
    for job in worker.claim(3, T) {
        worker.settle(job.receipt, completed());
    }
    let page = |before, finished, most| -> (Vec<u64>, Vec<ProcessId>) {
        let page = db.two.newest_processes(before, finished, most).unwrap();
        let page = page.into_iter();
        page.map(|(no, process)| (no, process.process_id)).unzip()
    };
    let (numbers, first) = page(None, None, 3);
    assert_eq!(first, [made[3], made[2], made[1]]);
    // What has gone meanwhile is left out, and nothing comes twice.
    db.store().delete(made[1], T).unwrap();
    assert_eq!(page(Some(numbers[2]), None, 9).1, [made[0]]);
    // Those of a state, however many others there are between them; one that is not sealed is open.
    let unsealed = ProcessId::new();
    let part = db.store().insert(unsealed, jobs(&["a"]), false, T);
    part.unwrap();
    assert_eq!(page(None, Some(true), 9).1, [made[0]]);
    assert_eq!(page(None, Some(false), 9).1, [unsealed, made[3], made[2]]);
    let totals = db.two.totals().unwrap();
    assert_eq!((totals.processes, totals.open), (4, 3));
    // The steps of a job are shown with it.
    described(db.store(), &child_of(&worker.one()), &["step"]);
    assert_eq!(page(None, None, 1).1, [unsealed]);
}

/// The one that decided dies after this many pieces of two jobs, and another one carries out the rest.
pub(super) fn a_decision_holds_before_it_is_carried_out(open: Open<'_>) {
    for (pieces, deletes) in [(0, false), (1, false), (2, false), (0, true), (3, true)] {
        let db = open();
        let process = db.enqueue(&["runs", "sent", "a", "b"]);
        let part = db.store().insert(process, jobs(&["c", "d", "e"]), false, T);
        part.unwrap();
        db.enqueue(&["other"]);
        let (worker, heir) = (db.worker(), Hand::new(&db.two));
        let (runs, no) = (worker.one(), worker.begin(process));
        let fill = || db.two.fill_batch(worker.id, no, None, 1, 99, T).unwrap();
        assert_eq!(fill().jobs, 1);
        db.abandon_after(pieces);
        let decided = if deletes {
            db.store().delete(process, T)
        } else {
            db.store().cancel(process, T)
        };
        decided.unwrap_err();
        db.abandon_after(None);
        assert_eq!(named(&heir.claim(9, at(1))), ["other"]);
        let waiting = db.two.waiting_jobs("test", &[process], T).unwrap();
        assert!(waiting.is_empty());
        assert_eq!(fill(), BatchFill::default());
        db.two
            .insert(process, jobs(&["late"]), true, T)
            .unwrap_err();
        let seen = batch(&db.two, no);
        assert_eq!(seen.process_id, (!deletes).then_some(process));
        assert_eq!(
            (seen.jobs, seen.stopped_at.is_some()),
            (u64::from(!deletes), true)
        );
        assert_eq!(inside(&db.two, no).len() as u64, seen.jobs);
        assert_eq!(db.two.process(process).unwrap().is_none(), deletes);
        assert_eq!(db.two.job(runs.job_id).unwrap().is_none(), deletes);
        let of = JobFilter {
            process: Some(process),
            ..JobFilter::default()
        };
        assert_eq!(db.two.find(&of, None, 9).unwrap().jobs.is_empty(), deletes);
        db.carry_out();
        if deletes {
            assert!(worker.settle(runs.receipt, completed()).is_empty());
            assert_eq!(db.two.delete(process, T).unwrap(), 0);
            db.two.insert(process, jobs(&["anew"]), true, T).unwrap();
            assert_eq!(db.counts(process).total, 1);
        } else {
            assert_eq!(statuses(&db.two, process), [Cancelled; 5]);
        }
        db.sound();
    }
}

pub(super) fn who_waits_for_work_is_woken(open: Open<'_>) {
    let db = open();
    let (wake, woken) = count_wakes(db.store());
    let since = || woken.swap(0, Ordering::Relaxed) > 0;
    let (process, store) = (ProcessId::new(), db.store());
    store.insert(process, jobs(&["a"]), false, T).unwrap();
    assert!(!since(), "nothing can be claimed yet");
    store.seal(process, T).unwrap();
    assert!(since());
    store.insert(process, jobs(&["b"]), true, T).unwrap();
    assert!(since());
    let worker = db.worker();
    let batch = worker.batch(process);
    assert!(!since());
    store.give_back(worker.id, batch, None, T).unwrap();
    assert!(since());
    store.cancel(process, T).unwrap();
    assert!(!since());
    store.retry_failed(process, T).unwrap();
    assert!(since());
    drop(wake);
    db.enqueue(&["c"]);
    assert!(!since());
    let before = store.version().unwrap();
    assert_eq!(store.version().unwrap(), before);
    enqueue(&db.two, jobs(&["of others"]));
    assert_ne!(store.version().unwrap(), before);
}

pub(super) fn a_hundred_threads_enqueue_and_each_gets_its_own(open: Open<'_>) {
    let db = open();
    let (process, cancelled) = (db.enqueue(&["first"]), db.enqueue(&["x"]));
    let store = db.store();
    store.cancel(cancelled, T).unwrap();
    let insert = move |n| {
        // One in ten is refused, which concerns no other.
        let target = if n % 10 == 0 { cancelled } else { process };
        store.insert(target, jobs(&["one"]), true, T)
    };
    let mut ids: Vec<JobId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100).map(|n| scope.spawn(move || insert(n))).collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap());
        done.flatten().flatten().collect()
    });
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 90);
    assert_eq!(db.counts(process).pending, 91);
    assert_eq!(db.counts(cancelled).total, 1);
    db.sound();
}

pub(super) fn what_waits_too_long_is_made_due(open: Open<'_>) {
    const HOUR: Duration = Duration::from_secs(3600);
    let then = T.after(3 * HOUR);
    let db = open();
    let worker = db.worker();
    let insert = |process, names: &[&str], sealed, now| {
        let ids = db.store().insert(process, jobs(names), sealed, now);
        ids.unwrap()
    };
    let (process, unsealed) = (ProcessId::new(), ProcessId::new());
    let ids = insert(process, &["a", "b"], true, T);
    worker.settle_all(&worker.claim(2, T), [retry(at(5_000), 0), retry(then, 0)]);
    // The clock was ahead for a while.
    let new = insert(process, &["c"], true, T.after(HOUR / 2))[0];
    let held = insert(unsealed, &["d"], false, then)[0];
    let due =
        |ids: &[JobId]| -> Vec<_> { ids.iter().map(|id| db.job(*id).due_at.unwrap()).collect() };
    // At the start of a worker: what waits longer than any job, and what is said to have been enqueued later.
    assert_eq!(db.two.make_due(HOUR, T).unwrap(), 2);
    assert_eq!(due(&[ids[0], ids[1], new]), [at(5_000), T, T]);
    assert_eq!(db.two.make_due(HOUR, T).unwrap(), 0);
    // After a correction that a worker has noticed: everything.
    assert_eq!(db.two.make_due(Duration::ZERO, T).unwrap(), 1);
    // Held jobs come due when their process is sealed.
    db.store().seal(unsealed, T).unwrap();
    assert_eq!(due(&[ids[0], held]), [T, T]);
    assert_eq!(worker.claim(9, T).len(), 4);
    db.sound();
}

pub(super) fn a_request_is_inserted_once(open: Open<'_>) {
    let db = open();
    let process = ProcessId::new();
    let insert = |store: &Store, process, names: &[&str], (request, first): (&str, u64), now| {
        let part = Part {
            request: request.to_owned(),
            first,
        };
        let added = store.insert_part(process, None, jobs(names), false, Some(part), now);
        added.map(|added| added.len()).map_err(|error| error.kind())
    };
    let one = |names: &[&str], part, now| insert(db.store(), process, names, part, now);
    // By another program, which groups them otherwise.
    let two = |names: &[&str], part, now| insert(&db.two, process, names, part, now);
    assert_eq!(one(&["a", "b"], ("r", 0), T), Ok(2));
    assert_eq!(two(&["a"], ("r", 0), T), Ok(0));
    assert_eq!(two(&["b", "c"], ("r", 1), T), Ok(1));
    assert_eq!(one(&["c"], ("r", 2), T), Ok(0));
    assert_eq!(one(&["d"], ("other", 3), T), Err(ErrorKind::Changed));
    db.store().seal(process, T).unwrap();
    assert_eq!(db.counts(process).total, 3);
    db.store().cancel(process, T).unwrap();
    assert_eq!(two(&["a", "b", "c"], ("r", 0), T), Ok(0));
    db.store().delete(process, T).unwrap();
    assert_eq!(two(&["a"], ("r", 0), T), Err(ErrorKind::NotFound));
    assert_eq!(two(&["a"], ("s", 0), T), Err(ErrorKind::Changed));
    // After a day it is a new request, and not by a clock that is ahead.
    for (hours, known) in [
        (1_000, Err(ErrorKind::Changed)),
        (12, Err(ErrorKind::Changed)),
        (25, Ok(1)),
    ] {
        let now = T.after(Duration::from_secs(hours * 3600));
        assert_eq!(
            insert(db.store(), ProcessId::new(), &["a"], ("r", 0), now),
            Ok(1)
        );
        assert_eq!(two(&["a"], ("s", 0), now), known);
    }
}

pub(super) fn a_paused_queue_starts_nothing(open: Open<'_>) {
    let mut db = open();
    db.enqueue(&["a", "b"]);
    let first = db.worker().one();
    let two = db.two.clone();
    let waiting = || {
        (
            two.waiting_jobs("test", &[], T).unwrap().len(),
            two.is_paused().unwrap(),
        )
    };
    assert_eq!(waiting(), (1, false));
    two.set_paused(true).unwrap();
    two.set_paused(true).unwrap();
    // What runs ends.
    assert_eq!(db.worker().settle(first.receipt, completed()).len(), 1);
    // It outlives the program that paused it.
    db.reopen();
    assert!(db.worker().claim(9, T).is_empty());
    assert_eq!(waiting(), (0, true));
    let (_wake, woken) = count_wakes(&two);
    two.set_paused(false).unwrap();
    assert!(woken.load(Ordering::SeqCst) > 0);
    assert_eq!(waiting(), (1, false));
    assert_eq!(named(&db.worker().claim(9, T)), ["b"]);
    db.sound();
}
