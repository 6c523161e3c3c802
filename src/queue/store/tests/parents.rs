//! Processes whose jobs a job of another process waits for.

use crate::base::{Mark, Usd};

use super::*;

/// Children of a job that runs.
fn children(store: &Store, parent: &ClaimedJob, names: &[&str]) -> ProcessId {
    described(store, &child_of(parent), names)
}

/// It looks again much later.
const WAITS: ClaimOutcome = ClaimOutcome::Snooze {
    due_at: Some(Timestamp(T.0 + 1_000_000)),
};

/// A call with this number of tokens, at a dollar each.
fn used(tokens: u32) -> Option<Spent> {
    Some(Spent {
        input_tokens: tokens.into(),
        output_tokens: 1,
        cost_usd: Usd::from_dollars(tokens.into()),
        unpriced: 0,
    })
}

fn bought(tokens: u32) -> ClaimOutcome {
    ClaimOutcome::Completed {
        result: json("\"yes\""),
        spent: used(tokens),
    }
}

fn lost(tokens: u32) -> ClaimOutcome {
    ClaimOutcome::Failed {
        error: Error::new(ErrorKind::Invalid, "no"),
        result: None,
        spent: used(tokens),
    }
}

pub(super) fn an_open_job_tells_where_its_children_stand(open: Open<'_>) {
    let db = open();
    let process = db.enqueue(&["parent", "alone"]);
    let worker = db.worker();
    let (parent, alone) = (worker.one(), worker.one());
    let told = |job: &ClaimedJob| db.job(job.job_id).children;
    assert_eq!((told(&parent), told(&alone)), (None, None));
    // Of two stages.
    for names in [&["a", "b"][..], &["c"]] {
        children(db.store(), &parent, names);
    }
    worker.settle(parent.receipt, WAITS);
    let all = worker.claim(9, T);
    assert_eq!(named(&all), ["a", "b", "c"]);
    worker.settle(all[0].receipt, failed());
    worker.settle(all[2].receipt, completed());
    let counts = told(&parent).unwrap();
    assert_eq!((counts.total, counts.in_progress), (3, 1));
    assert_eq!((counts.completed, counts.failed), (1, 1));
    assert_eq!(told(&alone), None);
    let parent = worker.claim(1, at(1_000_000)).remove(0);
    worker.settle(parent.receipt, completed());
    assert_eq!(told(&parent), None);
    assert_eq!(db.counts(process).completed, 1);
    db.sound();
}

pub(super) fn a_process_stands_for_those_below_it(open: Open<'_>) {
    let db = open();
    let (process, other) = (db.enqueue(&["parent"]), db.enqueue(&["other"]));
    let worker = db.worker();
    let claim = |of: &[ProcessId], most| worker.ask(of, most, true);
    let parent = claim(&[process], 9).remove(0);
    let below = children(db.store(), &parent, &["child"]);
    let child = claim(&[process], 9).remove(0);
    let deep = children(db.store(), &child, &["grandchild"]);
    let waiting = db.two.waiting_jobs("test", &[process], T).unwrap();
    assert_eq!((waiting.len(), waiting[0].process_id), (1, deep));
    assert!(claim(&[below], 9).is_empty());
    let last = claim(&[deep], 9).remove(0);
    assert_eq!(named(&[last]), ["grandchild"]);
    // A thousand more: a list of processes may be long.
    let more = (0..1_001).map(|_| children(db.store(), &child, &["x"]));
    let more: Vec<ProcessId> = more.collect();
    assert_eq!(claim(&more, 9).len(), 9);
    assert_eq!(claim(&[process], 1_100).len(), 992);

    let batch = worker.begin(deep);
    let ids = |found: Result<Vec<StoredBatch>, Error>| -> Vec<BatchNo> {
        found.unwrap().iter().map(|batch| batch.no).collect()
    };
    assert_eq!(ids(db.two.batches(Some(process))), [batch]);
    assert_eq!(ids(db.two.batches(Some(other))), []);
    db.store().unregister_worker(worker.id, T).unwrap();
    let heir = Hand::new(&db.two);
    let adopt = |of| db.two.adopt_batches(heir.id, &mut |_| true, &[of]);
    assert_eq!(ids(adopt(other)), []);
    assert_eq!(ids(adopt(process)), [batch]);
    db.sound();
}

pub(super) fn children_are_enqueued_for_open_jobs_alone(open: Open<'_>) {
    let db = open();
    let worker = db.worker();
    let part = |id, parent: &ClaimedJob| {
        let info = child_of(parent);
        db.store()
            .insert_part(id, Some(&info), jobs(&["x"]), false, None, T)
    };
    let refused = |id, parent: &ClaimedJob| {
        let error = part(id, parent).unwrap_err();
        assert!(error.is_marked(Mark::ClaimLost), "{error}");
        assert!(db.two.process(id).unwrap().is_none());
    };
    db.enqueue(&["ended"]);
    let ended = worker.one();
    worker.settle(ended.receipt, completed());
    refused(ProcessId::new(), &ended);
    // Nor is anything added to what is being enqueued when its parent is cancelled: a part would pass for all of it.
    let (process, below) = (db.enqueue(&["parent"]), ProcessId::new());
    let parent = worker.one();
    part(below, &parent).unwrap();
    db.two.cancel(process, T).unwrap();
    refused(below, &parent);
    refused(ProcessId::new(), &parent);
    db.store().delete(process, T).unwrap();
    refused(ProcessId::new(), &parent);
    db.sound();
}

pub(super) fn children_go_with_their_parent(open: Open<'_>) {
    let db = open();
    let worker = db.worker();
    let there = |all: &[ProcessId]| -> Vec<bool> {
        let exists = |process: &ProcessId| db.two.process(*process).unwrap().is_some();
        all.iter().map(exists).collect()
    };
    // A job with a child that is a parent itself, and has ended badly: it may be tried again.
    let family = || {
        let process = db.enqueue(&["parent"]);
        let parent = worker.one();
        let below = children(db.store(), &parent, &["child", "good"]);
        let both = worker.claim(2, T);
        let deep = children(db.store(), &both[0], &["grandchild"]);
        worker.settle(worker.one().receipt, completed());
        worker.settle_all(&both, [failed(), completed()]);
        assert_eq!(there(&[below, deep]), [true; 2]);
        (process, parent, [below, deep])
    };
    let (_, parent, below) = family();
    worker.settle(parent.receipt, completed());
    assert_eq!(there(&below[..1]), [false]);
    db.carry_out();
    assert_eq!(there(&below), [false; 2]);

    let (process, parent, below) = family();
    worker.settle(parent.receipt, failed());
    assert_eq!(there(&below), [true; 2]);
    // What they came to is collected by their parent.
    is_refused(db.two.ack(&receipts(&db.two, below[0]), T));
    assert_eq!(statuses(&db.two, below[0]), [Failed, Completed]);
    let ended = receipts(&db.two, process);
    assert_eq!(db.store().ack(&ended, T).unwrap(), 1);
    db.carry_out();
    assert_eq!(there(&[process, below[0], below[1]]), [false; 3]);

    let (process, _, below) = family();
    assert_eq!(db.store().delete(process, T).unwrap(), 1);
    assert_eq!(there(&below), [false; 2]);
    db.sound();
}

pub(super) fn what_children_used_counts_for_their_root_too(open: Open<'_>) {
    let db = open();
    let worker = db.worker();
    let is_spent = |process: ProcessId, tokens: u32, calls| {
        let spent = db.state(process).spent;
        let dollars = Usd::from_dollars(tokens.into());
        let seen = (spent.input_tokens, spent.output_tokens, spent.cost_usd);
        assert_eq!(seen, (u64::from(tokens), calls, dollars));
    };
    let process = db.enqueue(&["parent", "other"]);
    let parents = worker.claim(2, T);
    let below = children(db.store(), &parents[0], &["a", "b"]);
    worker.settle_all(&worker.claim(2, T), [bought(10), lost(20)]);
    is_spent(below, 30, 2);
    is_spent(process, 30, 2);
    let changed = worker.settle(parents[0].receipt, lost(1));
    let told = changed.iter().find(|state| state.process_id == process);
    assert_eq!(told.unwrap().spent.input_tokens, 31);

    // What is used after it was put back is added, and nothing twice.
    assert_eq!(db.store().retry_failed(process, T).unwrap(), 1);
    let again = worker.claim(9, T);
    assert_eq!(named(&again), ["parent", "b"]);
    let deep = children(db.store(), &again[1], &["deep"]);
    worker.settle(worker.one().receipt, bought(9));
    is_spent(deep, 9, 1);
    worker.settle_all(&again, [completed(), bought(40)]);
    is_spent(process, 80, 5);
    assert!(db.two.process(below).unwrap().is_none());

    // Of what is deleted as well.
    let below = children(db.store(), &parents[1], &["c"]);
    worker.settle(worker.one().receipt, bought(100));
    db.store().delete(below, T).unwrap();
    is_spent(process, 180, 6);
    db.sound();
}

pub(super) fn children_are_cancelled_and_put_back_with_their_parent(open: Open<'_>) {
    let mut db = open();
    let worker = db.worker();
    let process = db.enqueue(&["parent"]);
    let parent = worker.one();
    let below = children(db.store(), &parent, &["a", "b", "c", "child"]);
    worker.settle_all(&worker.claim(2, T), [completed(), failed()]);
    let two = worker.claim(2, T);
    let deep = children(db.store(), &two[1], &["x", "y"]);
    worker.settle_all(&two, [PLACE, WAITS]);
    worker.settle(parent.receipt, WAITS);

    db.abandon_after(1);
    db.store().cancel(process, T).unwrap_err();
    db.abandon_after(None);
    assert!(Hand::new(&db.two).claim(9, T).is_empty());
    db.carry_out();
    for process in [process, below, deep] {
        let state = db.state(process);
        assert!(state.cancelled && state.counts.is_finished(), "{state:?}");
    }
    assert_eq!(db.counts(below).completed, 1);

    // One that dies over it has put nobody back whose children were not.
    db.abandon_after(2);
    let _ = db.store().retry_failed(process, T);
    db.abandon_after(None);
    db.carry_out();
    assert_eq!(db.counts(process).pending, 0);
    db.reopen();
    db.store().retry_failed(process, T).unwrap();
    assert_eq!(db.counts(process).pending, 1);
    let counts = db.counts(below);
    assert_eq!((counts.completed, counts.pending), (1, 3));
    assert_eq!(
        (db.counts(deep).pending, db.state(deep).cancelled),
        (2, false)
    );

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
