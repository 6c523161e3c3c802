//! What a worker is given, and what becomes of it when the worker is gone.

use super::*;

pub(super) fn calls_that_take_several_jobs_are_filled(open: Open<'_>) {
    let db = open();
    let lanes = ["many", "one", "many", "one", "many", "many", "many", "one"];
    enqueue(db.store(), lanes.map(|lane| job(lane).lane(lane)).to_vec());
    let wanted = ClaimRequest {
        most: 3,
        idle: true,
        processes: &[],
        open: &mut |lane| match lane.name.as_deref() {
            Some("many") => (9, 3),
            _ => (9, 1),
        },
    };
    let claimed = db.store().claim(db.worker().id, wanted, T).unwrap();
    let expected = ["many", "one", "many", "one", "many"];
    assert_eq!(named(&claimed.jobs), expected, "three calls");
    assert!(claimed.next.is_none());
}

pub(super) fn what_was_enqueued_comes_with_claims_and_batches(open: Open<'_>) {
    let db = open();
    let process = ProcessId::new();
    let full = |name: &str| {
        let job = Job::raw("kind", json("[1, \"ä\"]")).item_id(name);
        let job = job.request_hash("h").lane("model");
        job.priority(9).max_retries(4)
    };
    let all = vec![full("i"), full("j"), Job::raw("kind", json("null"))];
    let ids = db.store().insert(process, all, true, at(3)).unwrap();
    let is_whole = |job: &ClaimedJob, tried: bool| {
        let known = (job.job_id, job.process_id, job.due_at);
        assert_eq!(known, (ids[0], process, at(3)));
        assert_eq!(job.payload.get(), "[1, \"ä\"]");
        let texts = (job.item_id.as_deref(), job.request_hash.as_deref());
        assert_eq!(texts, (Some("i"), Some("h")));
        assert_eq!((job.priority, job.max_retries), (9, Some(4)));
        assert_eq!(job.lane.name.as_deref(), Some("model"));
        let doubts = (job.crashes, job.lost, job.in_doubt);
        assert_eq!(doubts, (0, false, tried));
        let tries = if tried { (2, 1) } else { (0, 0) };
        assert_eq!((job.attempt, job.calls), tries);
        let history = job.history.as_deref().unwrap_or_default();
        assert_eq!(history.contains("reset"), tried);
    };
    let worker = Hand::new(&db.two);
    let given = worker.claim(9, at(4));
    is_whole(&given[0], false);
    let plain = &given[2];
    assert_eq!((&plain.item_id, plain.max_retries), (&None, None));
    assert_eq!(plain.lane.name, None);
    let seen = db.job(ids[0]);
    assert_eq!((&*seen.kind, seen.status), ("kind", InProgress));
    assert_eq!((seen.created_at, seen.due_at), (at(3), None));

    // A batch of those that are back.
    worker.settle_all(&given, [retry(at(3), 0), PLACE]);
    let lane = &given[0].lane;
    let batch = db.two.open_batch(worker.id, process, lane, "{}", T);
    let batch = batch.unwrap();
    worker.fill(batch, at(4));
    let inside = inside(&db.two, batch);
    assert_eq!(named(&inside), ["i", "j"]);
    is_whole(&inside[0], true);
    assert!(inside[0].receipt.claim > given[0].receipt.claim);
    let size = inside[0].payload.get().len();
    let first = Some(inside[0].receipt.job);
    for (after, bytes, jobs) in [(None, 0, 1), (None, 2 * size, 2), (first, 9 * size, 1)] {
        let read = db.two.batch_jobs(batch, after, 9, bytes).unwrap();
        assert_eq!(read.len(), jobs, "{bytes} bytes, and one at least");
    }
    worker.settle(inside[1].receipt, completed());
    let found = db.two.batch_jobs_by(batch, &[1, 77, 0]).unwrap();
    assert_eq!(named(&found), ["i"], "those that are still in it");
    assert!(db.two.batch_jobs_by(BatchNo(99), &[0]).unwrap().is_empty());

    let items = db.two.items(process, None, 9).unwrap();
    let told = items.iter().map(|item| item.item_id.as_deref());
    assert!(told.eq([Some("i"), Some("j"), None]));
    assert_eq!(items[0].request_hash.as_deref(), Some("h"));
    let payload = db.two.payload(ids[0]).unwrap().unwrap();
    assert_eq!(payload.get(), "[1, \"ä\"]");
    let other = foreign(ids[0]);
    assert!(db.two.job(other).unwrap().is_none());
    assert!(db.two.payload(other).unwrap().is_none());
}

pub(super) fn a_job_that_kills_its_workers_runs_alone_and_fails_at_the_fifth(open: Open<'_>) {
    let mut db = open();
    let all = vec![job("killer").priority(6), job("a"), job("b")];
    let process = enqueue(db.store(), all);
    for crashes in 0..MAX_CRASHES {
        let victim = Hand::new(db.one.as_deref().unwrap());
        let is_suspect = crashes >= SUSPECT_CRASHES;
        if crashes == SUSPECT_CRASHES {
            enqueue(&db.two, vec![job("first").priority(7)]);
            let busy = victim.ask(&[], 9, false);
            assert_eq!(named(&busy), ["first"], "so that the worker drains");
            victim.settle(busy[0].receipt, completed());
            assert!(victim.ask(&[], 9, false).is_empty());
        }
        let given = victim.claim(if is_suspect { 9 } else { 1 }, T);
        assert_eq!((named(&given), given[0].crashes), (vec!["killer"], crashes));
        db.one = None;
        assert_eq!(db.two.reclaim(T).unwrap(), 1);
        db.reopen();
    }
    let outcome = peek(&db.two, process).remove(0).result;
    assert_eq!(outcome.error.unwrap().kind(), ErrorKind::Crashed);
    let worker = Hand::new(&db.two);
    assert_eq!(named(&worker.claim(9, T)), ["a", "b"]);
    db.sound();
    assert_eq!(db.two.retry_failed(process, T).unwrap(), 1);
    assert_eq!(worker.one().crashes, 0);
}
