//! How trips of jobs end, and what becomes of outcomes.

use super::*;

pub(super) fn single_jobs_are_requeued_after_they_failed(open: Open<'_>) {
    let db = open();
    let process = db.enqueue(&["a", "b", "c", "d", "waits"]);
    let worker = db.worker();
    let given = worker.claim(4, T);
    let ids: Vec<JobId> = given.iter().map(|job| job.job_id).collect();
    worker.settle(given[0].receipt, retry(T, 1));
    let waiting = db.job(ids[0]);
    assert_eq!((waiting.status, waiting.due_at), (Pending, Some(T)));
    assert_eq!((waiting.step, waiting.attempts), (1, 1));
    assert_eq!(waiting.errors[0].error.message(), "reset");
    worker.settle(worker.one().receipt, failed());
    let ended = db.job(ids[0]);
    let known = (ended.errors.len(), ended.error.unwrap());
    assert_eq!((known.0, known.1.message()), (1, "no"));
    worker.settle_all(&given[1..], [failed(), completed(), failed()]);
    let wanted = [ids[0], ids[2], ids[3], foreign(ids[1])];
    let retry = |at| wanted.map(|id| db.store().retry_job(id, at).unwrap());
    assert_eq!(retry(at(5)), [true, false, true, false]);
    assert_eq!(retry(at(5)), [false; 4]);
    let counts = db.counts(process);
    assert_eq!((counts.pending, counts.failed, counts.completed), (3, 1, 1));
    let job = db.job(ids[0]);
    assert_eq!((job.status, job.step), (Pending, 0));
    assert!(job.errors.is_empty() && job.error.is_none());
    assert_eq!(named(&worker.claim(9, at(5))), ["waits", "a", "d"]);
    // A cancelled process stays cancelled.
    db.store().cancel(process, at(6)).unwrap();
    assert_eq!(retry(at(7)), [false; 4]);
    db.sound();
}

pub(super) fn outcomes_are_read_in_order_and_deleted_when_acknowledged(open: Open<'_>) {
    let db = open();
    let process = db.enqueue(&["a", "b", "c", "d"]);
    let worker = db.worker();
    let given = worker.claim(4, T);
    for job in [&given[2], &given[0], &given[3]] {
        worker.settle(job.receipt, completed());
    }
    let read = |after, most, bytes| db.two.peek(process, after, most, bytes).unwrap();
    let names = |page: &[DeliveredResult]| -> String {
        let names = page.iter().map(|one| one.result.item_id.clone().unwrap());
        names.collect()
    };
    let page = read(None, 2, usize::MAX);
    assert_eq!(names(&page), "ac");
    let last = Some(page[1].result.job_id);
    assert_eq!(names(&read(last, 9, usize::MAX)), "d");
    assert_eq!(read(None, 9, 0).len(), 1, "one at least");
    assert_eq!(read(None, 9, 11).len(), 2, "of five bytes each");
    let first = [0, 1].map(|at| page[at].receipt);
    assert_eq!(
        db.job(given[1].job_id).receipt,
        None,
        "it has no outcome yet"
    );
    assert_eq!(db.job(given[0].job_id).receipt, Some(first[0]));
    assert_eq!(db.two.ack(&first, T).unwrap(), 2);
    assert_eq!(db.two.ack(&first, T).unwrap(), 0);
    assert_eq!(names(&read(last, 9, usize::MAX)), "d");
    let counts = db.counts(process);
    assert_eq!((counts.total, counts.completed, counts.consumed), (4, 3, 2));
    assert_eq!(db.store().ack(&[given[1].receipt], T).unwrap(), 0);
    worker.settle(given[1].receipt, failed());
    db.sound();
    assert_eq!(db.two.ack(&receipts(&db.two, process), T).unwrap(), 2);
    assert!(db.two.process(process).unwrap().is_none());
    db.sound();
}

/// A job that runs again and fails again during the retry of a large process stays failed.
pub(super) fn a_retry_takes_each_job_once_and_only_if_it_had_failed_before_it_began(
    open: Open<'_>,
) {
    let db = open();
    db.enqueue(&["a", "b"]);
    let (worker, store) = (db.worker(), db.store());
    let fail = |most| -> Vec<JobReceipt> {
        let given = worker.claim(most, T);
        worker.settle_all(&given, [failed(), failed()]);
        given.iter().map(|job| job.receipt).collect()
    };
    let before = fail(2);
    let again = |jobs: &[JobReceipt]| {
        let no = rows::process_of(before[0].job);
        let done = store.write(|tx| store.requeue(tx, no, jobs, T));
        done.unwrap()
    };
    assert_eq!(again(&before[..1]), 1);
    assert_eq!(fail(1).len(), 1);
    assert_eq!(again(&before), 1);
    assert_eq!(again(&before), 0);
}
