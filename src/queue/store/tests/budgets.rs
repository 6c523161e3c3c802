//! Budgets of processes.

use crate::base::Usd;
use crate::queue::info::ProcessBudget;

use super::*;

fn picos(number: u64) -> Usd {
    Usd::from_picos(number)
}

/// A process of prompts with a budget of this many picodollars.
fn process(db: &Opened, names: &[&str], limit: u64) -> ProcessId {
    let info = ProcessInfo::new().budget(ProcessBudget::new(picos(limit), picos(0)));
    described(db.store(), &info, names)
}

fn budget(db: &Opened, process: ProcessId) -> ProcessBudget {
    db.state(process).budget.unwrap()
}

fn used(db: &Opened, process: ProcessId) -> u64 {
    budget(db, process).used.picos()
}

fn answered(cost: u64) -> ClaimOutcome {
    let spent = Spent {
        cost_usd: Some(picos(cost)),
        ..Spent::default()
    };
    ClaimOutcome::Completed {
        result: json("1"),
        spent: Some(spent),
    }
}

fn refuse(db: &Opened, process: ProcessId, most: u64) {
    db.store().note_refused(process, most).unwrap();
}

pub(super) fn a_closed_process_opens_by_itself_or_with_a_higher_limit(open: Open<'_>) {
    let db = open();
    let process = process(&db, &["a", "b", "c", "d"], 100);
    let other = enqueue(db.store(), jobs(&["x"]));
    let (worker, store) = (db.worker(), db.store());
    let first = worker.one();
    let of = first.budget.unwrap();
    let amounts = (of.process, of.limit, of.used, of.held);
    assert_eq!(amounts, (process, 100, 0, 0));
    worker.settle(first.receipt, answered(60));
    // A call that does not fit closes it, and the least of several counts.
    refuse(&db, process, 50);
    refuse(&db, process, 41);
    let known = budget(&db, process);
    assert_eq!((known.used, known.needed), (picos(60), Some(picos(41))));
    assert_eq!(db.two.closed_processes().unwrap(), [(process, known)]);
    let rest = db.two.waiting_jobs("test", &[], T).unwrap();
    assert_eq!((rest.len(), rest[0].process_id), (1, other));
    assert_eq!(named(&worker.claim(9, T)), ["x"]);
    // Its limit is one update.
    store.set_budget(process, picos(101)).unwrap();
    assert!(db.two.closed_processes().unwrap().is_empty());
    let two = worker.claim(2, T);
    assert_eq!(named(&two), ["b", "c"]);
    assert_eq!(two[0].budget.unwrap().used, 60);

    // Calls of other workers may exceed the limit. A lower limit closes it too.
    worker.settle_all(&two, [answered(25), answered(25)]);
    assert_eq!(budget(&db, process).needed, Some(picos(0)));
    assert!(worker.claim(9, T).is_empty());
    store.set_budget(process, picos(111)).unwrap();
    assert_eq!(named(&worker.claim(9, T)), ["d"]);
    is_refused(store.set_budget(ProcessId::new(), picos(1)));
    db.sound();
}

pub(super) fn a_budget_that_comes_later_counts_what_was_spent_before(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c"]));
    let worker = db.worker();
    let claimed = worker.claim(2, T);
    worker.settle(claimed[0].receipt, answered(5));
    db.store().set_budget(process, picos(100)).unwrap();
    assert_eq!(used(&db, process), 5);
    // This call was in flight.
    worker.settle(claimed[1].receipt, answered(6));
    assert_eq!(used(&db, process), 11);
    // Of this one it is unknown what it has cost; its job ended only once.
    let third = worker.one();
    let end = Settlement {
        lost: 7,
        ..Settlement::new(third.receipt, 1, failed())
    };
    for _ in 0..2 {
        db.store().settle(std::slice::from_ref(&end), T).unwrap();
        assert_eq!(used(&db, process), 18);
    }
    db.sound();
}

pub(super) fn a_process_and_its_children_share_a_budget(open: Open<'_>) {
    let db = open();
    let process = process(&db, &["a"], 100);
    let (worker, store) = (db.worker(), db.store());
    let parent = worker.one();
    // A child has no budget of its own.
    let info = child_of(&parent).budget(ProcessBudget::of(picos(3)));
    let child = described(store, &info, &["b", "c"]);
    is_refused(store.set_budget(child, picos(5)));
    let first = worker.one();
    assert_eq!(first.budget, parent.budget);
    let end = Settlement::new(first.receipt, 1, answered(30));
    let changed = store.settle(&[end], T).unwrap();
    let seen = changed.iter().find(|state| state.process_id == process);
    assert_eq!(seen.unwrap().budget.as_ref().unwrap().used, picos(30));
    assert_eq!(used(&db, process), 30);
    refuse(&db, process, 71);
    assert!(worker.claim(9, T).is_empty());
    store.set_budget(process, picos(101)).unwrap();
    assert_eq!(named(&worker.claim(9, T)), ["c"]);
    db.sound();
}

/// A worker that dies may have bought the answer of each of its jobs.
pub(super) fn jobs_of_a_dead_worker_count_as_the_mean_or_the_worst_case(open: Open<'_>) {
    let mut db = open();
    let process = process(&db, &["a", "b", "c", "d"], 1_000);
    let die = |db: &mut Opened| {
        db.one = None;
        assert_eq!(db.two.reclaim(T).unwrap(), 2);
        db.reopen();
    };
    assert_eq!(db.worker().claim(2, T).len(), 2);
    // No job has ended yet: what a call can cost at most.
    db.store().note_most(process, 64).unwrap();
    db.store().note_most(process, 32).unwrap();
    die(&mut db);
    assert_eq!(used(&db, process), 128);
    let worker = db.worker();
    let jobs = worker.claim(4, T);
    assert_eq!(jobs[0].budget.unwrap().most, 64);
    worker.settle_all(&jobs, [answered(10), answered(20)]);
    die(&mut db);
    assert_eq!(used(&db, process), 128 + 30 + 2 * 15);
    // A worker that ends has started none of its jobs.
    let last = db.worker();
    assert!(!last.claim(9, T).is_empty());
    db.store().unregister_worker(last.id, T).unwrap();
    assert_eq!(used(&db, process), 188);
    db.sound();
}

pub(super) fn what_batches_can_cost_is_checked_together_and_released(open: Open<'_>) {
    let db = open();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let process = process(&db, &names, 100);
    let (worker, store) = (db.worker(), db.store());
    let batch = worker.batch(process);
    let hold = |batch, before, amounts: &[u64]| {
        store.hold_batch(worker.id, batch, before, amounts).unwrap()
    };
    // Again changes nothing.
    for _ in 0..2 {
        assert_eq!(hold(batch, (0, 0), &[18, 18]), 2);
        assert_eq!(hold(batch, (36, 2), &[18, 18]), 2);
        assert_eq!(used(&db, process), 72);
        assert_eq!(budget(&db, process).held, picos(72));
    }
    // The next one is smaller, because both count; and an empty one closes the process.
    let second = worker.begin(process);
    assert_eq!(hold(second, (0, 0), &[18, 18]), 1);
    assert_eq!(hold(second, (0, 0), &[29, 1]), 0);
    assert_eq!(budget(&db, process).needed, Some(picos(29)));
    assert_eq!(used(&db, process), 72);
    store.close_batch(worker.id, second, T).unwrap();
    store.set_budget(process, picos(100)).unwrap();

    store.give_back(worker.id, batch, None, T).unwrap();
    store.close_batch(worker.id, batch, T).unwrap();
    assert_eq!(used(&db, process), 0);
    db.sound();
}

/// If the provider does not know a batch any more, the jobs without a result may have been billed.
pub(super) fn jobs_without_a_result_keep_their_part_of_a_batch(open: Open<'_>) {
    let db = open();
    let process = process(&db, &["a", "b", "c", "d"], 1_000);
    let (worker, store) = (db.worker(), db.store());
    let batch = worker.batch(process);
    let jobs = inside(store, batch);
    let amounts = vec![30; jobs.len()];
    let all = 30 * jobs.len() as u64;
    let held = store.hold_batch(worker.id, batch, (0, 0), &amounts);
    assert_eq!(held.unwrap(), jobs.len());
    worker.settle(jobs[0].receipt, answered(4));
    assert_eq!(used(&db, process), 4 + all);
    store.close_batch(worker.id, batch, T).unwrap();
    assert_eq!(used(&db, process), 4 + all - 30);
    assert_eq!(budget(&db, process).held, picos(0));
    db.sound();
}
