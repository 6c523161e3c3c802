//! What is done to all jobs of a process, also when who began it dies halfway.

use super::*;

pub(super) fn processes_are_shown_a_page_at_a_time(open: Open<'_>) {
    let db = open();
    let made = ["a", "b", "c", "d"].map(|name| enqueue(db.store(), jobs(&[name, "x"])));
    let worker = db.worker();
    for job in worker.claim(3, T) {
        worker.settle(job.receipt, completed());
    }
    let (first, rest) = {
        let ids = |page: &[(u64, ProcessState)]| -> Vec<ProcessId> {
            page.iter().map(|(_, process)| process.process_id).collect()
        };
        let first = db.two.newest_processes(None, None, 3).unwrap();
        // What has gone meanwhile is left out, and nothing comes twice.
        db.store().delete(first[2].1.process_id, T).unwrap();
        let rest = db.two.newest_processes(Some(first[2].0), None, 9).unwrap();
        (ids(&first), ids(&rest))
    };
    assert_eq!(first, [made[3], made[2], made[1]]);
    assert_eq!(rest, [made[0]]);
    let totals = db.two.totals().unwrap();
    let processes = db.two.processes().unwrap();
    let numbers: [fn(&JobCounts) -> u64; 8] = [
        |jobs| jobs.total,
        |jobs| jobs.pending,
        |jobs| jobs.in_progress,
        |jobs| jobs.at_provider,
        |jobs| jobs.completed,
        |jobs| jobs.failed,
        |jobs| jobs.cancelled,
        |jobs| jobs.consumed,
    ];
    for number in numbers {
        let sum: u64 = processes
            .iter()
            .map(|process| number(&process.counts))
            .sum();
        assert_eq!(number(&totals.jobs), sum);
    }
    assert_eq!((totals.processes, totals.open), (3, 2));
    // Those of a state, however many others there are between them; one that is not sealed is open.
    let unsealed = ProcessId::new();
    let ended = jobs(&["a"]);
    db.store().insert(unsealed, ended, false, T).unwrap();
    let in_state = |finished| -> Vec<ProcessId> {
        let page = db.two.newest_processes(None, Some(finished), 9).unwrap();
        page.iter().map(|(_, process)| process.process_id).collect()
    };
    assert_eq!(in_state(true), [made[0]]);
    assert_eq!(in_state(false), [unsealed, made[3], made[2]]);
    db.store().delete(unsealed, T).unwrap();
    assert_eq!((totals.jobs.total, totals.jobs.completed), (6, 2));
    db.sound();
}

pub(super) fn what_has_changed_is_told(open: Open<'_>) {
    let db = open();
    let old = enqueue(db.store(), jobs(&["a"]));
    let process = ProcessId::new();
    let store = db.store();
    let told = |since: i64| -> bool {
        let mut changed = Vec::new();
        let each = &mut |process| changed.push(process);
        db.two.changed_processes(at(since), each).unwrap();
        changed.iter().any(|one| one.process_id == process)
    };
    store
        .insert(process, jobs(&["b", "c"]), false, at(10))
        .unwrap();
    assert!(told(10));
    store.seal(process, at(20)).unwrap();
    assert!(told(20));
    let worker = db.worker();
    let given = worker.claim(9, at(30));
    assert!(told(30));
    for job in given.iter().filter(|job| job.process_id == process) {
        worker.settle(job.receipt, failed());
    }
    store.retry_failed(process, at(50)).unwrap();
    assert!(told(50));
    store.cancel(process, at(60)).unwrap();
    assert!(told(60));
    let ids = db.two.process_ids().unwrap();
    assert_eq!(ids, [old, process].into());
    store.delete(process, at(70)).unwrap();
    assert!(!told(0));
    assert_eq!(db.two.process_ids().unwrap(), [old].into());
    db.sound();
}

pub(super) fn a_cancellation_holds_from_its_decision_on(open: Open<'_>) {
    for chunks in 0..3 {
        let db = open();
        let process = ProcessId::new();
        let store = db.store();
        store.insert(process, jobs(&["a", "b"]), true, T).unwrap();
        store
            .insert(process, jobs(&["c", "d", "e"]), false, T)
            .unwrap();
        let other = enqueue(store, jobs(&["other"]));
        db.abandon_after(chunks);
        db.is_abandoned(store.cancel(process, T));
        let worker = Hand::new(&db.two);
        assert_eq!(named(&worker.claim(9, at(1))), ["other"]);
        while db.two.maintain(T).unwrap() {}
        assert_eq!(statuses(&db.two, process), [JobStatus::Cancelled; 5]);
        assert_eq!(db.counts(other).in_progress, 1);
        db.sound();
    }
}

pub(super) fn what_is_behind_many_cancelled_jobs_waits_for_the_chore(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["cancelled"; 1_000]));
    enqueue(db.store(), jobs(&["other"]));
    db.abandon_after(0);
    db.is_abandoned(db.store().cancel(process, T));
    let worker = Hand::new(&db.two);
    let none = worker.ask(9, true, at(1), |_| usize::MAX);
    assert!(none.jobs.is_empty() && none.next > Some(at(1)), "{none:?}");
    while db.two.maintain(T).unwrap() {}
    assert_eq!(named(&worker.claim(9, at(2))), ["other"]);
}

pub(super) fn failed_and_cancelled_jobs_can_be_put_back(open: Open<'_>) {
    for chunks in 0..2 {
        let db = open();
        let process = enqueue(db.store(), jobs(&["ok", "bad", "tried", "waits", "w2"]));
        let worker = db.worker();
        let given = worker.claim(3, T);
        worker.settle_all(&given, [completed(), failed(), retry(T, 1)]);
        let tried = worker.one();
        assert_eq!(named(std::slice::from_ref(&tried)), ["tried"]);
        worker.settle(tried.receipt, failed());
        db.store().cancel(process, T).unwrap();
        let old = receipts(&db.two, process);
        db.abandon_after(chunks);
        db.is_abandoned(db.store().retry_failed(process, at(1)));
        // Whoever began it repeats it.
        db.two.retry_failed(process, at(1)).unwrap();
        let again = Hand::new(&db.two).claim(9, at(2));
        assert_eq!(named(&again), ["bad", "tried", "waits", "w2"]);
        assert!(
            again
                .iter()
                .all(|job| job.history.is_none() && job.lane.step == 0)
        );
        assert_eq!(again[1].attempt, 0);
        let untouched = db.two.ack(&old, T).unwrap();
        assert_eq!(untouched, 1, "only what nothing happened to");
        assert!(!db.two.process(process).unwrap().unwrap().cancelled);
        db.sound();
    }
}

pub(super) fn a_deleted_process_leaves_nothing(open: Open<'_>) {
    for chunks in [0, 1, 2, 9] {
        let db = open();
        let process = enqueue(db.store(), jobs(&["a", "b", "c", "d", "e"]));
        let worker = Hand::new(&db.two);
        let given = worker.claim(2, T);
        worker.settle(given[0].receipt, completed());
        db.abandon_after(chunks);
        let deleted = db.store().delete(process, T);
        let whole = chunks == 9 || !db.abandons();
        assert_eq!(deleted.is_ok(), whole);
        assert!(!whole || deleted.unwrap() == 5);
        assert!(db.two.process(process).unwrap().is_none());
        assert!(db.two.processes().unwrap().is_empty());
        assert!(db.two.job(given[0].job_id).unwrap().is_none());
        assert!(peek(&db.two, process).is_empty());
        assert!(worker.claim(9, T).is_empty());
        if !whole {
            db.two.insert(process, jobs(&["f"]), true, T).unwrap_err();
        }
        assert!(worker.settle(given[1].receipt, completed()).is_empty());
        while db.two.maintain(T).unwrap() {}
        assert_eq!(db.two.delete(process, T).unwrap(), 0);
        db.two.insert(process, jobs(&["anew"]), true, T).unwrap();
        assert_eq!(db.counts(process).total, 1);
        assert!(worker.settle(given[1].receipt, completed()).is_empty());
        assert_eq!(named(&worker.claim(9, T)), ["anew"]);
        db.sound();
    }
}

pub(super) fn who_waits_for_work_is_woken(open: Open<'_>) {
    let db = open();
    let (wake, woken) = count_wakes(db.store());
    let since = || woken.swap(0, Ordering::Relaxed) > 0;
    let process = ProcessId::new();
    db.store().insert(process, jobs(&["a"]), false, T).unwrap();
    assert!(!since(), "nothing can be claimed yet");
    db.store().seal(process, T).unwrap();
    assert!(since());
    db.store().insert(process, jobs(&["b"]), true, T).unwrap();
    assert!(since());
    db.store().cancel(process, T).unwrap();
    assert!(!since());
    db.store().retry_failed(process, T).unwrap();
    assert!(since());
    drop(wake);
    enqueue(db.store(), jobs(&["c"]));
    assert!(!since());
}

pub(super) fn the_version_tells_of_others_writes(open: Open<'_>) {
    let db = open();
    let before = db.store().version().unwrap();
    assert_eq!(db.store().version().unwrap(), before);
    enqueue(&db.two, jobs(&["a"]));
    assert_ne!(db.store().version().unwrap(), before);
}

pub(super) fn a_hundred_threads_enqueue_and_each_gets_its_own(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["first"]));
    let cancelled = enqueue(db.store(), jobs(&["x"]));
    db.store().cancel(cancelled, T).unwrap();
    let store = db.one.clone().unwrap();
    let mut ids: Vec<JobId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|n| {
                let store = &store;
                scope.spawn(move || {
                    // One in ten is refused, which concerns no other.
                    let target = if n % 10 == 0 { cancelled } else { process };
                    store.insert(target, jobs(&["one"]), true, T)
                })
            })
            .collect();
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

pub(super) fn a_check_agrees_with_jobs_in_all_states(open: Open<'_>) {
    let db = open();
    let store = db.store();
    store
        .insert(ProcessId::new(), jobs(&["a"]), false, T)
        .unwrap();
    enqueue(store, jobs(&["b", "c", "d"]));
    let worker = db.worker();
    worker.settle_all(&worker.claim(2, T), [completed()]);
    let found = db.two.check().unwrap();
    let of = |what: &str| found.iter().find(|finding| finding.what == what).unwrap();
    let agree = "those of all processes agree with their jobs";
    assert_eq!(of("counters").seen, agree);
    for good in ["schema", "counters"] {
        assert_eq!(of(good).verdict, Severity::Good);
    }
}

pub(super) fn what_waits_too_long_is_made_due(open: Open<'_>) {
    const HOUR: Duration = Duration::from_secs(3600);
    let then = T.after(3 * HOUR);
    let db = open();
    let worker = db.worker();
    let due = |id| db.two.job(id).unwrap().unwrap().due_at;
    let process = ProcessId::new();
    let ids = db.store().insert(process, jobs(&["a", "b"]), true, T);
    let ids = ids.unwrap();
    let claimed = worker.claim(2, T);
    worker.settle(claimed[0].receipt, retry(at(5_000), 0));
    worker.settle(claimed[1].receipt, retry(then, 0));
    // The clock was ahead for a while.
    let new = db
        .store()
        .insert(process, jobs(&["c"]), true, T.after(HOUR / 2));
    let new = new.unwrap();
    let unsealed = ProcessId::new();
    let held = db.store().insert(unsealed, jobs(&["d"]), false, then);
    let held = held.unwrap();
    // At the start of a worker: what waits longer than any job, and what is said to have been enqueued later.
    assert_eq!(db.two.make_due(HOUR, T).unwrap(), 2);
    assert_eq!((due(ids[0]), due(ids[1])), (Some(at(5_000)), Some(T)));
    assert_eq!(due(new[0]), Some(T));
    assert_eq!(db.two.make_due(HOUR, T).unwrap(), 0);
    // After a correction that a worker has noticed: everything.
    assert_eq!(db.two.make_due(Duration::ZERO, T).unwrap(), 1);
    assert_eq!(due(ids[0]), Some(T));
    // Held jobs come due when their process is sealed.
    db.store().seal(unsealed, T).unwrap();
    assert_eq!(due(held[0]), Some(T));
    let last = worker.claim(9, T);
    let mut names = named(&last);
    names.sort();
    assert_eq!(names, ["a", "b", "c", "d"]);
    db.sound();
}

pub(super) fn a_request_is_inserted_once(open: Open<'_>) {
    let db = open();
    let [process, other] = [ProcessId::new(), ProcessId::new()];
    let insert = |store: &Store, names: &[&str], first, request: &str, now| {
        let part = Part {
            request: request.to_owned(),
            first,
        };
        let added = store.insert_part(process, None, jobs(names), false, Some(part), now);
        added.map(|added| added.len()).map_err(|error| error.kind())
    };
    assert_eq!(insert(db.store(), &["a", "b"], 0, "r", T), Ok(2));
    // By another program, which groups them otherwise.
    assert_eq!(insert(&db.two, &["a"], 0, "r", T), Ok(0));
    assert_eq!(insert(&db.two, &["b", "c"], 1, "r", T), Ok(1));
    assert_eq!(insert(db.store(), &["c"], 2, "r", T), Ok(0));
    assert_eq!(
        insert(db.store(), &["d"], 3, "other", T),
        Err(ErrorKind::Changed)
    );
    db.store().seal(process, T).unwrap();
    assert_eq!(db.two.process(process).unwrap().unwrap().counts.total, 3);
    db.store().cancel(process, T).unwrap();
    assert_eq!(insert(&db.two, &["a", "b", "c"], 0, "r", T), Ok(0));
    db.store().delete(process, T).unwrap();
    assert_eq!(insert(&db.two, &["a"], 0, "r", T), Err(ErrorKind::NotFound));
    assert_eq!(insert(&db.two, &["a"], 0, "s", T), Err(ErrorKind::Changed));
    // After a day it is a new request.
    let later = T.after(Duration::from_secs(24 * 3600 + 1));
    let part = |request: &str| Part {
        request: request.to_owned(),
        first: 0,
    };
    let add = |now| {
        let part = Some(part("r"));
        db.store()
            .insert_part(other, None, jobs(&["a"]), true, part, now)
    };
    assert_eq!(add(later).unwrap().len(), 1);
    assert_eq!(insert(&db.two, &["a"], 0, "s", later), Ok(1));
}
