//! What a worker is given, in which order, and what becomes of it when the worker is gone.

use super::*;

pub(super) fn calls_that_take_several_jobs_are_filled(open: Open<'_>) {
    let db = open();
    let lanes = ["many", "one", "many", "one", "many", "many", "many", "one"];
    enqueue(db.store(), lanes.map(|lane| job(lane).lane(lane)).to_vec());
    let worker = db.worker();
    let wanted = ClaimRequest {
        most: 3,
        idle: true,
        processes: &[],
        open: &mut |lane| match lane.name.as_deref() {
            Some("many") => (9, 3),
            _ => (9, 1),
        },
    };
    let claimed = db.store().claim(worker.id, wanted, T).unwrap();
    let expected = ["many", "one", "many", "one", "many"];
    assert_eq!(named(&claimed.jobs), expected, "three calls");
    assert!(claimed.next.is_none());
}

pub(super) fn a_job_comes_with_all_that_was_enqueued(open: Open<'_>) {
    let db = open();
    let process = ProcessId::new();
    let full = Job::raw("kind", json("[1, \"ä\"]"))
        .item_id("i")
        .request_hash("h")
        .lane("model")
        .priority(9)
        .max_retries(4);
    let plain = Job::raw("kind", json("null"));
    let ids = db
        .store()
        .insert(process, vec![full, plain], true, at(3))
        .unwrap();
    let given = Hand::new(&db.two).claim(2, at(4));
    let job = &given[0];
    assert_eq!((job.job_id, job.process_id), (ids[0], process));
    assert_eq!(job.payload.get(), "[1, \"ä\"]");
    assert_eq!(
        (job.item_id.as_deref(), job.request_hash.as_deref()),
        (Some("i"), Some("h"))
    );
    assert_eq!(
        (job.priority, job.max_retries, job.due_at),
        (9, Some(4), at(3))
    );
    assert_eq!(
        (job.crashes, job.lost, job.in_doubt, job.attempt),
        (0, false, false, 0)
    );
    assert_eq!(
        (given[1].item_id.as_ref(), given[1].max_retries),
        (None, None)
    );
    assert_eq!(given[1].lane.name, None);
    let seen = db.store().job(ids[0]).unwrap().unwrap();
    assert_eq!(
        (seen.kind.as_str(), seen.status),
        ("kind", JobStatus::InProgress)
    );
    assert_eq!((seen.created_at, seen.due_at), (at(3), None));
    let mut other = ids[0].bytes();
    other[7] ^= 1;
    assert!(db.store().job(JobId::from_bytes(other)).unwrap().is_none());
}

pub(super) fn a_job_that_kills_its_workers_fails_at_the_fifth(open: Open<'_>) {
    let mut db = open();
    let process = enqueue(db.store(), jobs(&["killer"]));
    for crash in 1..=MAX_CRASHES {
        let victim = Hand::new(db.one.as_deref().unwrap());
        assert_eq!(victim.one().crashes, crash - 1);
        db.one = None;
        assert_eq!(db.two.reclaim(T).unwrap(), 1);
        db.reopen();
    }
    let outcome = peek(&db.two, process).remove(0).result;
    assert_eq!(outcome.status, JobStatus::Failed);
    assert_eq!(outcome.error.unwrap().kind(), ErrorKind::Crashed);
    db.sound();
    assert_eq!(db.two.retry_failed(process, T).unwrap(), 1);
    assert_eq!(Hand::new(&db.two).one().crashes, 0);
}

pub(super) fn a_suspect_runs_alone(open: Open<'_>) {
    let mut db = open();
    enqueue(
        db.store(),
        vec![job("suspect").priority(6), job("a"), job("b")],
    );
    for _ in 0..SUSPECT_CRASHES {
        let victim = Hand::new(db.one.as_deref().unwrap());
        assert_eq!(named(&[victim.one()]), ["suspect"]);
        db.one = None;
        db.two.reclaim(T).unwrap();
        db.reopen();
    }
    enqueue(&db.two, vec![job("first").priority(7)]);
    let worker = db.worker();
    let busy = worker.ask(9, false, T, |_| 9);
    assert_eq!(
        named(&busy.jobs),
        ["first"],
        "nothing behind it, so that the worker drains"
    );
    assert!(worker.ask(9, false, T, |_| 9).jobs.is_empty());
    let alone = worker.ask(9, true, T, |_| 9);
    assert_eq!(named(&alone.jobs), ["suspect"]);
    assert_eq!(named(&worker.claim(9, T)), ["a", "b"]);
    db.sound();
}

pub(super) fn a_claim_whose_reply_was_lost_is_given_with_the_next(open: Open<'_>) {
    let db = open();
    enqueue(db.store(), jobs(&["a", "b", "c"]));
    let worker = db.worker();
    let given = worker.ask(2, true, T, |_| usize::MAX);
    let ended = given.jobs[0].receipt;
    worker.settle(ended, completed());
    let mut lost = Some(given);
    let mut next = || {
        let wanted = ClaimRequest {
            most: 9,
            idle: true,
            processes: &[],
            open: &mut |_| (usize::MAX, 1),
        };
        let next = sql::claim::claim(db.store(), worker.id, 2, wanted, T, &mut lost);
        next.unwrap().jobs
    };
    assert_eq!(named(&next()), ["b"], "neither lost nor claimed again");
    assert_eq!(named(&next()), ["c"]);
    db.sound();
}

pub(super) fn living_workers_are_counted(open: Open<'_>) {
    let mut db = open();
    assert_eq!(db.two.workers().unwrap().live.len(), 0);
    enqueue(db.store(), jobs(&["a", "b", "c"]));
    let (busy, idle) = (db.worker(), Hand::new(&db.two));
    let idle_id = idle.id;
    busy.claim(2, T);
    assert_eq!(db.two.workers().unwrap().live.len(), 2);
    db.one = None;
    assert_eq!(db.two.workers().unwrap().live.len(), 1);
    db.two.reclaim(T).unwrap();
    db.two.unregister_worker(idle_id, T).unwrap();
    assert_eq!(db.two.workers().unwrap().live.len(), 0);
}
