//! Processes whose jobs a job of another process waits for.

use crate::base::Usd;

use super::*;

/// Children of a job that runs.
fn children(store: &Store, parent: &ClaimedJob, names: &[&str]) -> ProcessId {
    described(store, &child_of(parent), names)
}

/// It looks again at this time.
fn waits(until: Timestamp) -> ClaimOutcome {
    ClaimOutcome::Snooze {
        due_at: Some(until),
    }
}

/// Carries out what was decided.
fn tidied(db: &Opened) {
    while db.two.maintain(T).unwrap() {}
}

fn used(tokens: u64, usd: f64) -> Option<Spent> {
    Some(Spent {
        input_tokens: tokens,
        output_tokens: 1,
        cost_usd: Usd::from_dollars(usd),
        unpriced: 0,
    })
}

fn bought(tokens: u64, usd: f64) -> ClaimOutcome {
    ClaimOutcome::Completed {
        result: json("\"yes\""),
        spent: used(tokens, usd),
    }
}

fn lost(tokens: u64, usd: f64) -> ClaimOutcome {
    ClaimOutcome::Failed {
        error: Error::new(ErrorKind::Invalid, "no"),
        result: None,
        spent: used(tokens, usd),
    }
}

pub(super) fn an_open_job_tells_where_its_children_stand(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["parent", "alone"]));
    let worker = db.worker();
    let (parent, alone) = (worker.one(), worker.one());
    let told = |job: &ClaimedJob| db.store().job(job.job_id).unwrap().unwrap().children;
    assert_eq!((told(&parent), told(&alone)), (None, None));
    // Of two stages.
    for names in [&["a", "b"][..], &["c"]] {
        children(db.store(), &parent, names);
    }
    worker.settle(parent.receipt, waits(at(1_000_000)));
    let all = worker.claim(9, T);
    assert_eq!(named(&all), ["a", "b", "c"]);
    worker.settle(all[0].receipt, failed());
    worker.settle(all[2].receipt, completed());
    let counts = told(&parent).unwrap();
    assert_eq!((counts.total, counts.in_progress), (3, 1));
    assert_eq!((counts.completed, counts.failed), (1, 1));
    assert_eq!(told(&alone), None);
    worker.settle(all[1].receipt, completed());
    let parent = worker.claim(1, at(1_000_000)).remove(0);
    assert_eq!(told(&parent).unwrap().finished(), 3);
    worker.settle(parent.receipt, completed());
    assert_eq!(told(&parent), None);
    assert_eq!(db.counts(process).completed, 1);
    db.sound();
}

pub(super) fn a_process_stands_for_those_below_it(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["parent"]));
    let other = enqueue(db.store(), jobs(&["other"]));
    let worker = db.worker();
    let claim = |processes: &[ProcessId]| worker.ask_for(processes, 9, true, T, |_| usize::MAX);
    let parent = claim(&[process]).jobs.remove(0);
    let below = children(db.store(), &parent, &["child"]);
    let child = claim(&[process]).jobs.remove(0);
    let deep = children(db.store(), &child, &["grandchild"]);
    let waiting = db.two.waiting_jobs("test", &[process], T).unwrap();
    let waiting: Vec<ProcessId> = waiting.iter().map(|group| group.process_id).collect();
    assert_eq!(waiting, [deep]);
    assert!(claim(&[below]).jobs.is_empty());
    let last = claim(&[deep]).jobs;
    assert_eq!(named(&last), ["grandchild"]);
    worker.settle(last[0].receipt, PLACE);
    // A thousand more: a list of processes may be long.
    let many: Vec<ProcessId> = (0..1_001)
        .map(|_| children(db.store(), &child, &["x"]))
        .collect();
    let last = worker
        .ask_for(&[process], 1_100, true, T, |_| usize::MAX)
        .jobs;
    assert_eq!(last.len(), 1_002);
    for job in &last[1..] {
        worker.settle(job.receipt, PLACE);
    }
    assert_eq!(claim(&many).jobs.len(), 9);
    let [first, ..] = &last[..] else { panic!() };
    worker.settle(first.receipt, PLACE);

    let batch = worker
        .store
        .open_batch(worker.id, deep, &first.lane, "{}", T)
        .unwrap();
    let ids = |found: Vec<StoredBatch>| found.iter().map(|batch| batch.no).collect::<Vec<_>>();
    assert_eq!(ids(db.two.batches(Some(process)).unwrap()), [batch]);
    assert_eq!(ids(db.two.batches(Some(other)).unwrap()), []);
    worker.store.unregister_worker(worker.id, T).unwrap();
    let heir = Hand::new(&db.two);
    let adopt = |of: ProcessId| heir.store.adopt_batches(heir.id, &mut |_| true, &[of]);
    assert_eq!(ids(adopt(other).unwrap()), []);
    assert_eq!(ids(adopt(process).unwrap()), [batch]);
    db.sound();
}

pub(super) fn children_are_enqueued_for_open_jobs_alone(open: Open<'_>) {
    let db = open();
    let worker = db.worker();
    let refused = |parent: &ClaimedJob| {
        let (info, jobs) = (child_of(parent), jobs(&["late"]));
        let error = db
            .two
            .insert_part(ProcessId::new(), Some(&info), jobs, true, None, T);
        let error = error.unwrap_err();
        assert!(error.is_claim_lost(), "{error}");
    };
    enqueue(db.store(), jobs(&["ended"]));
    let ended = worker.one();
    worker.settle(ended.receipt, completed());
    refused(&ended);
    let cancelled = enqueue(db.store(), jobs(&["cancelled"]));
    let running = worker.one();
    db.store().cancel(cancelled, T).unwrap();
    refused(&running);
    db.store().delete(cancelled, T).unwrap();
    refused(&running);

    // Nor is anything added to what is being enqueued when its parent is cancelled: a part would pass for all of it.
    let process = enqueue(db.store(), jobs(&["parent"]));
    let parent = worker.one();
    let (below, info) = (ProcessId::new(), child_of(&parent));
    let part = |names| {
        db.store()
            .insert_part(below, Some(&info), jobs(names), false, None, T)
    };
    part(&["a"]).unwrap();
    db.two.cancel(process, T).unwrap();
    assert!(part(&["b"]).unwrap_err().is_claim_lost());
    assert!(db.two.process(below).unwrap().is_none());
    db.sound();
}

pub(super) fn children_go_with_their_parent(open: Open<'_>) {
    let db = open();
    let worker = db.worker();
    let exists = |process: ProcessId| db.two.process(process).unwrap().is_some();
    let gone = |all: &[ProcessId]| !all.iter().any(|process| exists(*process));
    // A job with a child that is a parent itself, and has ended badly.
    let family = || {
        let process = enqueue(db.store(), jobs(&["parent"]));
        let parent = worker.one();
        let below = children(db.store(), &parent, &["child", "good"]);
        let both = worker.claim(2, T);
        let deep = children(db.store(), &both[0], &["grandchild"]);
        let last = worker.one();
        worker.settle(last.receipt, completed());
        worker.settle(both[0].receipt, failed());
        worker.settle(both[1].receipt, completed());
        assert!(
            exists(below) && exists(deep),
            "its child may be tried again"
        );
        (process, parent, [below, deep])
    };
    let (_, parent, below) = family();
    worker.settle(parent.receipt, completed());
    assert!(!exists(below[0]));
    tidied(&db);
    assert!(gone(&below));

    let (process, parent, below) = family();
    worker.settle(parent.receipt, failed());
    assert!(below.iter().all(|process| exists(*process)));
    let ended = receipts(&db.two, process);
    assert_eq!(db.store().ack(&ended, T).unwrap(), 1);
    tidied(&db);
    assert!(gone(&below) && !exists(process));

    let (process, _, below) = family();
    assert_eq!(db.store().delete(process, T).unwrap(), 1);
    assert!(gone(&below));
    db.sound();
}

pub(super) fn what_children_used_counts_for_their_root_too(open: Open<'_>) {
    let db = open();
    let worker = db.worker();
    let spent = |process: ProcessId| {
        let spent = db.two.process(process).unwrap().unwrap().spent;
        (spent.input_tokens, spent.output_tokens, spent.cost_usd)
    };
    let process = enqueue(db.store(), jobs(&["parent", "other"]));
    let parents = worker.claim(2, T);
    let below = children(db.store(), &parents[0], &["a", "b"]);
    let both = worker.claim(2, T);
    worker.settle(both[0].receipt, bought(10, 0.5));
    worker.settle(both[1].receipt, lost(20, 0.25));
    assert_eq!(spent(below), (30, 2, Usd::from_dollars(0.75)));
    assert_eq!(spent(process), (30, 2, Usd::from_dollars(0.75)));
    let changed = worker.settle(parents[0].receipt, lost(1, 0.0));
    let told = changed.iter().find(|state| state.process_id == process);
    assert_eq!(told.unwrap().spent.input_tokens, 31);
    assert_eq!(spent(process), (31, 3, Usd::from_dollars(0.75)));

    // What is used after it was put back is added, and nothing twice.
    assert_eq!(db.store().retry_failed(process, T).unwrap(), 1);
    let again = worker.claim(9, T);
    assert_eq!(named(&again), ["parent", "b"]);
    let deep = children(db.store(), &again[1], &["deep"]);
    worker.settle(worker.one().receipt, bought(9, 0.0));
    assert_eq!(spent(deep), (9, 1, Usd::from_dollars(0.0)));
    worker.settle(again[1].receipt, bought(40, 1.0));
    worker.settle(again[0].receipt, completed());
    assert_eq!(spent(process), (80, 5, Usd::from_dollars(1.75)));
    assert!(db.two.process(below).unwrap().is_none());

    // Of what is deleted as well.
    let below = children(db.store(), &parents[1], &["c"]);
    worker.settle(worker.one().receipt, bought(100, 0.0));
    db.store().delete(below, T).unwrap();
    assert_eq!(spent(process), (180, 6, Usd::from_dollars(1.75)));
    db.sound();
}

pub(super) fn children_are_cancelled_and_put_back_with_their_parent(open: Open<'_>) {
    let mut db = open();
    let worker = db.worker();
    let process = enqueue(db.store(), jobs(&["parent"]));
    let parent = worker.one();
    let below = children(db.store(), &parent, &["a", "b", "c", "child"]);
    let some = worker.claim(2, T);
    worker.settle(some[0].receipt, completed());
    worker.settle(some[1].receipt, failed());
    let two = worker.claim(2, T);
    worker.settle(two[0].receipt, PLACE);
    let deep = children(db.store(), &two[1], &["x", "y"]);
    worker.settle(two[1].receipt, waits(at(1_000_000)));
    worker.settle(parent.receipt, waits(at(1_000_000)));

    db.abandon_after(1);
    let cancelled = db.store().cancel(process, T);
    if db.abandons() {
        assert!(cancelled.is_err());
    } else {
        assert_eq!(cancelled.unwrap(), 1);
    }
    db.abandon_after(None);
    assert!(
        Hand::new(&db.two).claim(9, T).is_empty(),
        "all of it is cancelled from then on"
    );
    while db.two.maintain(T).unwrap() {}
    for process in [process, below, deep] {
        let state = db.two.process(process).unwrap().unwrap();
        assert!(state.cancelled && state.counts.is_finished(), "{state:?}");
    }
    assert_eq!(db.counts(below).completed, 1);

    // One that dies over it has put nobody back whose children were not.
    db.abandon_after(2);
    let _ = db.store().retry_failed(process, T);
    db.abandon_after(None);
    while db.two.maintain(T).unwrap() {}
    if db.abandons() {
        assert_eq!(db.counts(process).pending, 0);
    }
    db.reopen();
    db.store().retry_failed(process, T).unwrap();
    assert_eq!(db.counts(process).pending, 1);
    let counts = db.counts(below);
    assert_eq!(
        (counts.completed, counts.pending),
        (1, 3),
        "what was paid for stays"
    );
    assert_eq!(db.counts(deep).pending, 2);
    let state = db.two.process(deep).unwrap().unwrap();
    assert!(!state.cancelled);

    // Those of a parent that goes on are its own affair.
    let hand = Hand::new(&db.two);
    let all = hand.claim(9, T);
    assert_eq!(all.len(), 6);
    let x = all.iter().find(|job| job.item_id.as_deref() == Some("x"));
    hand.settle(x.unwrap().receipt, failed());
    assert_eq!(db.store().retry_failed(process, T).unwrap(), 0);
    assert_eq!(db.counts(deep).failed, 1);
    db.sound();
}

pub(super) fn what_children_came_to_is_collected_by_their_parent(open: Open<'_>) {
    let db = open();
    let worker = db.worker();
    enqueue(db.store(), jobs(&["parent"]));
    let parent = worker.one();
    let below = children(db.store(), &parent, &["a"]);
    worker.settle(worker.one().receipt, completed());
    let [delivery] = peek(&db.two, below).try_into().unwrap();
    is_refused(db.two.ack(&[delivery.receipt], T));
    assert_eq!(statuses(&db.two, below), [JobStatus::Completed]);
}
