//! What waits, what a process holds, and jobs that are cancelled one by one.

use super::batches::lane;
use super::*;

pub(super) fn what_waits_is_told_in_the_order_of_claims(open: Open<'_>) {
    let db = open();
    let store = db.store();
    let insert = |process, jobs: Vec<Job>, sealed, now| {
        store.insert(process, jobs, sealed, now).unwrap();
        process
    };
    let low = insert(ProcessId::new(), jobs(&["a"]), true, at(1));
    let mixed = vec![
        job("b").lane("x"),
        job("c").priority(9),
        job("d").lane("x"),
        Job::raw("other", json("1")),
    ];
    let high = insert(ProcessId::new(), mixed, true, at(2));
    let late = insert(ProcessId::new(), jobs(&["e"]), true, at(9));
    insert(ProcessId::new(), jobs(&["held"]), false, T);
    let told = |kind, only: &[ProcessId], now| -> Vec<_> {
        let waiting = db.two.waiting_jobs(kind, only, now).unwrap();
        waiting
            .into_iter()
            .map(|of| (of.process_id, of.lane.name.clone(), of.due, of.next))
            .collect()
    };
    let x = Some("x".to_owned());
    let expected = [
        (high, None, 1, None),
        (low, None, 1, None),
        (high, x.clone(), 2, None),
        (late, None, 0, Some(at(9))),
    ];
    assert_eq!(told("test", &[], at(5)), expected);
    assert_eq!(told("test", &[low, late], at(5)).len(), 2);
    assert!(told("test", &[ProcessId::new()], at(5)).is_empty());
    assert_eq!(told("other", &[], at(5)), [(high, None, 1, None)]);
    let lengths = || db.two.waiting_by_priority().unwrap();
    assert_eq!(lengths(), [(9, 1), (5, 5)]);
    // Those that run, that are in batches, or that have left the first step are none of them.
    let worker = db.worker();
    let first = worker.claim(1, at(5)).remove(0);
    worker.settle(first.receipt, retry(at(5), 1));
    let taken = worker.begin(low);
    worker.fill(taken, at(5));
    let later = JobLane { name: x, ..lane() };
    let half = store.open_batch(worker.id, high, &later, "", T).unwrap();
    let one = store
        .fill_batch(worker.id, half, None, 1, 9_999, at(5))
        .unwrap();
    assert_eq!(one.jobs, 1);
    // A job that waits for another try waits to be started all the same.
    assert_eq!(lengths(), [(9, 1), (5, 3)]);
    let expected = [
        (high, Some("x".to_owned()), 1, None),
        (late, None, 0, Some(at(9))),
    ];
    assert_eq!(told("test", &[], at(5)), expected);
    db.two.cancel(late, T).unwrap();
    db.abandon_after(0);
    db.is_abandoned(store.cancel(high, T));
    assert!(told("test", &[], at(5)).is_empty());
    let none = store.fill_batch(worker.id, half, None, 9, 9_999, at(5));
    assert_eq!(none.unwrap(), BatchFill::default(), "what is decided holds");
}

pub(super) fn what_a_process_holds_is_told_job_by_job(open: Open<'_>) {
    let db = open();
    let first = vec![
        job("a").request_hash("1"),
        job("b"),
        Job::raw("test", json("1")),
    ];
    let process = enqueue(db.store(), first);
    enqueue(db.store(), jobs(&["of another"]));
    db.two.insert(process, jobs(&["d"]), false, T).unwrap();
    let worker = db.worker();
    let done = worker.one();
    worker.settle(done.receipt, completed());
    let no = worker.begin(process);
    let put = db.two.fill_batch(worker.id, no, None, 1, 99, T).unwrap();
    assert_eq!(put.jobs, 1);
    let items = db.two.items(process, None, 9).unwrap();
    let told: Vec<_> = items
        .iter()
        .map(|item| (item.item_id.as_deref(), item.status, item.at_provider))
        .collect();
    use JobStatus::{Completed, InProgress, Pending};
    let expected = [
        (Some("a"), Completed, false),
        (Some("b"), InProgress, true),
        (None, Pending, false),
        (Some("d"), Pending, false),
    ];
    assert_eq!(told, expected);
    assert_eq!(items[0].job_id, done.job_id);
    assert_eq!(items[0].request_hash.as_deref(), Some("1"));
    let rest = db.two.items(process, Some(items[1].job_id), 1).unwrap();
    assert_eq!(rest, items[2..3]);
    db.two.ack(&receipts(&db.two, process), T).unwrap();
    assert_eq!(db.two.items(process, None, 9).unwrap(), items[1..]);
    assert!(db.two.items(ProcessId::new(), None, 9).unwrap().is_empty());
}
