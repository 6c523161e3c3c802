//! Finding jobs, requeueing single ones, and pausing work.

use super::*;

/// The item ids of all jobs that the filter selects, read in pages of this size.
fn found(store: &dyn JobStore, filter: &JobFilter, most: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.find(filter, after, most).unwrap();
        assert!(page.jobs.len() <= most);
        for job in page.jobs {
            // The same as the job by its id, except for the parts that a search does not read.
            let one = store.job(job.job_id).unwrap().unwrap();
            assert_eq!(
                (
                    one.status,
                    one.at_provider,
                    &one.lane,
                    one.process_id,
                    one.created_at
                ),
                (
                    job.status,
                    job.at_provider,
                    &job.lane,
                    job.process_id,
                    job.created_at
                )
            );
            assert_eq!(one.error.is_some(), job.error.is_some());
            names.push(job.item_id.unwrap_or_default());
        }
        match page.next {
            None => return names,
            next => after = next,
        }
    }
}

pub(super) fn jobs_are_found_by_their_properties(open: Open<'_>) {
    let db = open();
    let store = db.store();
    let old = enqueue(store, jobs(&["old-1", "old-2", "old-3"]));
    let mixed = vec![
        job("Red").lane("x"),
        Job::raw("other", json("2")).item_id("red \u{e4}"),
        job("blue").lane("x"),
        job("away"),
    ];
    let new = ProcessId::new();
    store.insert(new, mixed, true, at(1_000)).unwrap();
    let worker = db.worker();
    let given = worker.claim(3, T);
    let limited = Error::new(ErrorKind::RateLimited, "Slow \"down\", please").with_status(429);
    let fails = |error| ClaimOutcome::Failed {
        error,
        result: None,
        spent: None,
    };
    worker.settle_all(&given, [fails(limited), completed(), failed()]);
    let second = &worker.claim(1, at(1_000))[0];
    assert_eq!(second.item_id.as_deref(), Some("Red"));
    let taken = worker.begin(new);
    db.two
        .fill_batch(worker.id, taken, None, 1, 99, at(1_000))
        .unwrap();
    let find = |filter: JobFilter| {
        let names = found(&*db.two, &filter, 9);
        assert_eq!(found(&*db.two, &filter, 1), names, "in pages of one job");
        names
    };
    let all = JobFilter::default;
    let blue = ["away", "blue", "red \u{e4}", "Red"];
    let every: Vec<&str> = blue
        .into_iter()
        .chain(["old-3", "old-2", "old-1"])
        .collect();
    assert_eq!(find(all()), every);
    let of = |process| JobFilter {
        process: Some(process),
        ..all()
    };
    assert_eq!(find(of(old)), ["old-1", "old-2", "old-3"]);
    assert!(find(of(ProcessId::new())).is_empty());
    let is = |status| JobFilter {
        status: Some(status),
        ..all()
    };
    use JobStatus::{Cancelled, Completed, Failed, InProgress, Pending};
    assert_eq!(find(is(Failed)), ["old-3", "old-1"]);
    assert_eq!(find(is(Completed)), ["old-2"]);
    assert_eq!(find(is(InProgress)).len(), 2);
    assert_eq!(find(is(Pending)).len(), 2);
    assert!(find(is(Cancelled)).is_empty());
    let running = JobFilter {
        at_provider: Some(false),
        ..is(InProgress)
    };
    assert_eq!(find(running), ["Red"]);
    let away = JobFilter {
        at_provider: Some(true),
        ..all()
    };
    assert_eq!(find(away).len(), 1);
    let with_error = |text: &str| JobFilter {
        error: Some(text.to_owned()),
        ..all()
    };
    for text in ["slow \"DOWN\"", "rate_limited", "429"] {
        assert_eq!(find(with_error(text)), ["old-1"], "{text}");
    }
    // The name of a field, and of an escape, are in the stored error, but not in its text.
    for text in ["message", "\\"] {
        assert!(find(with_error(text)).is_empty(), "{text}");
    }
    let failed_of = JobFilter {
        status: Some(Failed),
        ..of(old)
    };
    assert_eq!(find(failed_of), ["old-1", "old-3"]);
    let text = |text: &str| Some(text.to_owned());
    let (kind, lane) = (text("other"), text("x"));
    assert_eq!(find(JobFilter { kind, ..all() }), ["red \u{e4}"]);
    assert_eq!(find(JobFilter { lane, ..all() }), ["blue", "Red"]);
    let item_id = text("RED");
    assert_eq!(find(JobFilter { item_id, ..all() }), ["red \u{e4}", "Red"]);
    let created_from = Some(at(1_000));
    assert_eq!(
        find(JobFilter {
            created_from,
            ..all()
        }),
        blue
    );
    let created_before = Some(at(1_000));
    let early = find(JobFilter {
        created_before,
        ..all()
    });
    assert_eq!(early, ["old-3", "old-2", "old-1"]);
    let payload = db.two.payload(second.job_id).unwrap();
    assert_eq!(payload.unwrap().get(), "{\"a\": 1}");
    let mut foreign = second.job_id.bytes();
    foreign[7] ^= 1;
    assert!(
        db.two
            .payload(JobId::from_bytes(foreign))
            .unwrap()
            .is_none()
    );
    // Of a process that is being deleted nothing is found.
    db.abandon_after(0);
    db.is_abandoned(store.delete(new, T));
    assert_eq!(find(all()), ["old-3", "old-2", "old-1"]);
}

pub(super) fn a_search_stops_after_some_jobs_and_continues(open: Open<'_>) {
    let db = open();
    let named = |name: &str| -> Vec<Job> { (0..150).map(|_| job(name)).collect() };
    let old = enqueue(db.store(), vec![job("needle")]);
    enqueue(db.store(), named("hay"));
    let new = enqueue(db.store(), named("hay"));
    let filter = JobFilter {
        item_id: Some("needle".to_owned()),
        ..JobFilter::default()
    };
    assert_eq!(found(&*db.two, &filter, 9), ["needle"]);
    let page = db.two.find(&filter, None, 9).unwrap();
    assert_eq!(page.next.is_some(), db.abandons(), "chunks of two jobs");
    // Processes without such jobs are skipped.
    db.store().cancel(old, T).unwrap();
    let cancelled = JobFilter {
        status: Some(JobStatus::Cancelled),
        ..JobFilter::default()
    };
    let page = db.two.find(&cancelled, None, 9).unwrap();
    assert_eq!((page.jobs.len(), page.next), (1, None));
    let none = JobFilter {
        process: Some(new),
        ..cancelled
    };
    assert!(found(&*db.two, &none, 9).is_empty());
}

pub(super) fn single_jobs_are_requeued_after_they_failed(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c", "d", "waits"]));
    let worker = db.worker();
    let given = worker.claim(4, T);
    worker.settle(given[0].receipt, retry(T, 1));
    let again = worker.claim(1, T).remove(0);
    worker.settle_all(&[again], [failed()]);
    worker.settle_all(&given[1..], [failed(), completed(), failed()]);
    let ids: Vec<JobId> = given.iter().map(|job| job.job_id).collect();
    let mut foreign = ids[1].bytes();
    foreign[7] ^= 1;
    let wanted = [ids[0], ids[2], ids[3], JobId::from_bytes(foreign)];
    assert_eq!(db.store().retry_jobs(&wanted, at(5)).unwrap(), 2);
    assert_eq!(db.store().retry_jobs(&wanted, at(5)).unwrap(), 0);
    let counts = db.counts(process);
    assert_eq!((counts.pending, counts.failed, counts.completed), (3, 1, 1));
    let job = db.two.job(ids[0]).unwrap().unwrap();
    assert_eq!(
        (job.status, job.step, job.errors.len()),
        (JobStatus::Pending, 0, 0)
    );
    assert!(job.error.is_none());
    assert_eq!(named(&worker.claim(9, at(5))), ["waits", "a", "d"]);
    // A cancelled process stays cancelled.
    db.store().cancel(process, at(6)).unwrap();
    assert_eq!(db.store().retry_jobs(&ids, at(7)).unwrap(), 0);
    db.sound();
}

pub(super) fn what_is_paused_is_not_started(open: Open<'_>) {
    let mut db = open();
    let in_lane = vec![job("x1").lane("x"), job("y1").lane("y")];
    let lanes = enqueue(db.store(), in_lane);
    let held = enqueue(db.store(), jobs(&["h1", "h2", "h3", "h4", "h5"]));
    let first = db.worker().claim(1, T);
    assert_eq!(named(&first), ["x1"]);
    db.worker().settle(first[0].receipt, PLACE);
    let two = db.two.clone();
    let waiting = || two.waiting_jobs("test", &[], T).unwrap().len();
    let due = || {
        let lanes = two.due_lanes(T).unwrap().into_iter();
        let mut names: Vec<Option<String>> = lanes.map(|lane| lane.name.clone()).collect();
        names.sort();
        names
    };
    let [x, y] = ["x", "y"].map(|name| Some(name.to_owned()));
    assert_eq!(waiting(), 3);
    assert_eq!(due(), [None, x, y.clone()]);
    assert!(db.two.pause(&Pause::Queue).unwrap());
    assert!(db.two.pause(&Pause::Queue).unwrap(), "again");
    assert!(!db.two.pause(&Pause::Process(ProcessId::new())).unwrap());
    // It outlives the program that paused it.
    db.reopen();
    let none = db.worker().ask(9, true, T, |_| usize::MAX);
    assert!(none.jobs.is_empty() && !none.more);
    assert_eq!((waiting(), due().len()), (0, 0));
    assert!(db.two.pause(&Pause::Lane(Some("x".to_owned()))).unwrap());
    assert!(db.two.pause(&Pause::Process(held)).unwrap());
    assert_eq!(db.two.pauses().unwrap().len(), 3);
    let (_wake, woken) = count_wakes(&*db.two);
    db.two.resume(&Pause::Queue, T).unwrap();
    assert!(woken.load(Ordering::SeqCst) > 0);
    assert_eq!((waiting(), due()), (1, vec![y]));
    let worker = Hand::new(db.store());
    let running = worker.claim(9, T);
    assert_eq!(named(&running), ["y1"]);
    assert_eq!(due(), [Some("y".to_owned())], "it runs");
    worker.settle_all(&running, [completed()]);
    assert!(due().is_empty());
    // Jobs that a paused process gets meanwhile wait too.
    db.two.insert(held, jobs(&["h6"]), true, T).unwrap();
    assert!(worker.claim(9, T).is_empty());
    let counts = db.counts(held);
    assert_eq!((counts.pending, counts.total), (6, 6));
    db.sound();
    // If the program that resumes it dies, another one finishes.
    db.abandon_after(1);
    db.is_abandoned(db.store().resume(&Pause::Process(held), T));
    while db.two.maintain(T).unwrap() {}
    let other = Hand::new(&*db.two);
    assert_eq!(
        named(&other.claim(9, T)),
        ["h1", "h2", "h3", "h4", "h5", "h6"]
    );
    // Scheduled jobs are not due.
    db.two
        .insert(held, vec![job("z").lane("z")], true, at(9))
        .unwrap();
    assert_eq!(due(), [None], "only what runs");
    let x = Pause::Lane(Some("x".to_owned()));
    assert_eq!(db.two.pauses().unwrap(), std::slice::from_ref(&x));
    db.two.resume(&x, T).unwrap();
    assert_eq!(named(&other.claim(9, T)), ["x1"]);
    // A pause ends with its process.
    db.two.pause(&Pause::Process(lanes)).unwrap();
    db.two.delete(lanes, T).unwrap();
    assert!(db.two.pauses().unwrap().is_empty());
    db.sound();
}

pub(super) fn due_jobs_are_found_behind_those_of_paused_processes(open: Open<'_>) {
    let db = open();
    let due = || {
        let lanes = db.two.due_lanes(T).unwrap().into_iter();
        Vec::from_iter(lanes.map(|lane| lane.kind.clone()))
    };
    let [many, other] = [(); 2].map(|()| ProcessId::new());
    // Each comes due at another time.
    for n in 1..=70 {
        db.two
            .insert(many, jobs(&["a", "b"]), true, at(-n))
            .unwrap();
    }
    assert_eq!(due(), ["test"]);
    db.two.pause(&Pause::Process(many)).unwrap();
    assert!(due().is_empty());
    db.two.insert(other, jobs(&["c"]), true, at(-35)).unwrap();
    assert_eq!(due(), ["test"]);
    db.two.pause(&Pause::Process(other)).unwrap();
    assert!(due().is_empty());
    db.two
        .insert(ProcessId::new(), jobs(&["d"]), true, T)
        .unwrap();
    assert_eq!(due(), ["test"]);
    db.sound();
}
