//! Finding jobs, requeueing single ones, and pausing work.

use super::*;

/// The item ids of all jobs that the filter selects, read in pages of this size.
fn found(store: &Store, filter: &JobFilter, most: usize) -> Vec<String> {
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

pub(super) fn jobs_are_found_by_process_state_and_kind(open: Open<'_>) {
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
    worker.settle_all(&given, [failed(), completed(), failed()]);
    let second = &worker.claim(1, at(1_000))[0];
    assert_eq!(second.item_id.as_deref(), Some("Red"));
    let taken = worker.begin(new);
    db.two
        .fill_batch(worker.id, taken, None, 1, 99, at(1_000))
        .unwrap();
    let find = |filter: JobFilter| {
        let names = found(&db.two, &filter, 9);
        assert_eq!(found(&db.two, &filter, 1), names, "in pages of one job");
        names
    };
    let all = JobFilter::default;
    let names = [
        "away",
        "blue",
        "red \u{e4}",
        "Red",
        "old-3",
        "old-2",
        "old-1",
    ];
    assert_eq!(find(all()), names);
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
    let failed_of = JobFilter {
        status: Some(Failed),
        ..of(old)
    };
    assert_eq!(find(failed_of), ["old-1", "old-3"]);
    let kind = Some("other".to_owned());
    assert_eq!(find(JobFilter { kind, ..all() }), ["red \u{e4}"]);
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
    let many = || -> Vec<Job> { (0..150).map(|_| job("hay")).collect() };
    let old = enqueue(
        db.store(),
        vec![Job::raw("needle", json("1")).item_id("needle")],
    );
    enqueue(db.store(), many());
    let new = enqueue(db.store(), many());
    let filter = JobFilter {
        kind: Some("needle".to_owned()),
        ..JobFilter::default()
    };
    assert_eq!(found(&db.two, &filter, 9), ["needle"]);
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
    assert!(found(&db.two, &none, 9).is_empty());
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
    let retry = |at| wanted.map(|id| db.store().retry_job(id, at).unwrap());
    assert_eq!(retry(at(5)), [true, false, true, false]);
    assert_eq!(retry(at(5)), [false; 4]);
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
    assert_eq!(retry(at(7)), [false; 4]);
    db.sound();
}

pub(super) fn a_paused_queue_starts_nothing(open: Open<'_>) {
    let mut db = open();
    let process = enqueue(db.store(), jobs(&["a", "b"]));
    let first = db.worker().claim(1, T);
    let two = db.two.clone();
    let waiting = || two.waiting_jobs("test", &[], T).unwrap().len();
    assert_eq!((waiting(), two.is_paused().unwrap()), (1, false));
    db.two.set_paused(true).unwrap();
    db.two.set_paused(true).unwrap();
    // What runs ends.
    db.worker().settle(first[0].receipt, completed());
    // It outlives the program that paused it.
    db.reopen();
    let none = db.worker().ask(9, true, T, |_| usize::MAX);
    assert!(none.jobs.is_empty());
    assert_eq!((waiting(), db.two.is_paused().unwrap()), (0, true));
    let (_wake, woken) = count_wakes(&db.two);
    db.two.set_paused(false).unwrap();
    assert!(woken.load(Ordering::SeqCst) > 0);
    assert_eq!((waiting(), db.two.is_paused().unwrap()), (1, false));
    assert_eq!(named(&Hand::new(db.store()).claim(9, T)), ["b"]);
    assert_eq!(db.counts(process).completed, 1);
    db.sound();
}
