//! Budgets of processes.

use crate::base::Usd;
use crate::queue::budget::{BudgetPause, ProcessBudget};

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
    let state = db.two.process(process).unwrap().unwrap();
    state.budget.unwrap()
}

fn used(db: &Opened, process: ProcessId) -> u64 {
    budget(db, process).used.picos()
}

fn draw(store: &dyn JobStore, of: JobBudget, has: u64, needs: u64) -> BudgetDraw {
    store.draw_budget(of, has, needs, T).unwrap()
}

fn spent(cost: u64) -> Option<Spent> {
    Some(Spent {
        cost_usd: Some(picos(cost)),
        ..Spent::default()
    })
}

fn answered(cost: u64) -> ClaimOutcome {
    ClaimOutcome::Completed {
        result: json("1"),
        spent: spent(cost),
    }
}

fn ended(job: &ClaimedJob, outcome: ClaimOutcome, budget: BudgetEnd) -> Settlement {
    Settlement {
        budget,
        ..Settlement::new(job.receipt, 1, outcome)
    }
}

pub(super) fn a_process_whose_budget_is_drawn_waits_until_enough_comes_back(open: Open<'_>) {
    let db = open();
    let process = process(&db, &["a", "b", "c"], 640);
    let worker = db.worker();
    let job = worker.one();
    let of = job.budget.unwrap();
    let store = db.store();
    // A small need draws a 64th; a larger one as much as it needs.
    assert_eq!(draw(store, of, 0, 1), BudgetDraw::Drawn(10));
    assert_eq!(draw(store, of, 5, 600), BudgetDraw::Drawn(600));
    assert_eq!(used(&db, process), 605);
    // What is left is less than a slice.
    db.two.return_budget(of, -31, T).unwrap();
    assert_eq!(draw(store, of, 0, 4), BudgetDraw::Drawn(4));
    assert_eq!(draw(store, of, 4, 50), BudgetDraw::Paused);
    // Refused before the pause stopped it: the process waits for the smaller amount.
    assert_eq!(draw(store, of, 0, 60), BudgetDraw::Paused);
    store.stop_budget(of, "without a bound").unwrap();
    let known = budget(&db, process);
    assert_eq!(known.pause, Some(BudgetPause::UsedUp(picos(50))));
    assert_eq!(db.two.budget_pauses().unwrap(), [(process, known)]);
    assert!(!db.two.is_paused().unwrap());
    assert!(worker.claim(9, T).is_empty());
    // Not enough.
    store.return_budget(of, 45, T).unwrap();
    assert!(worker.claim(9, T).is_empty());
    store.return_budget(of, 1, T).unwrap();
    assert_eq!(named(&worker.claim(9, T)), ["b", "c"]);
    assert!(db.two.budget_pauses().unwrap().is_empty());
    assert_eq!(draw(store, of, 0, 50), BudgetDraw::Drawn(50));
    assert_eq!(used(&db, process), 640);
    // Nothing limits what belongs to no process.
    let gone = JobBudget { no: 99 };
    assert_eq!(draw(store, gone, 0, 9), BudgetDraw::Unlimited);
    db.sound();
}

pub(super) fn a_new_limit_resumes_its_process_whatever_stopped_it(open: Open<'_>) {
    let db = open();
    let process = process(&db, &["a", "b"], 10);
    let worker = db.worker();
    let of = worker.one().budget.unwrap();
    let store = db.store();
    store.stop_budget(of, "the answer has no limit").unwrap();
    let why = BudgetPause::Unbounded("the answer has no limit".to_owned());
    assert_eq!(draw(store, of, 0, 11), BudgetDraw::Paused);
    assert_eq!(budget(&db, process).pause, Some(why));
    assert!(worker.claim(9, T).is_empty());
    // Money does not help, and the pause of the queue is another one.
    store.return_budget(of, 0, T).unwrap();
    store.resume_budgets(T).unwrap();
    db.two.set_paused(false).unwrap();
    assert!(worker.claim(9, T).is_empty());
    db.two.set_paused(true).unwrap();
    store.set_budget(process, picos(10), T).unwrap();
    assert_eq!(budget(&db, process).pause, None);
    assert!(worker.claim(9, T).is_empty());
    db.two.set_paused(false).unwrap();
    assert_eq!(worker.claim(9, T).len(), 1);

    // What was spent stays.
    store.return_budget(of, -7, T).unwrap();
    store.set_budget(process, picos(20), T).unwrap();
    let known = budget(&db, process);
    assert_eq!((known.limit, known.used), (picos(20), picos(7)));
    is_refused(store.set_budget(ProcessId::new(), picos(1), T));
    db.sound();
}

pub(super) fn a_budget_that_comes_later_counts_what_was_spent_before(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c"]));
    let worker = db.worker();
    let claimed = worker.claim(2, T);
    worker.settle(claimed[0].receipt, answered(5));
    db.store().set_budget(process, picos(100), T).unwrap();
    assert_eq!(used(&db, process), 5);
    // This call was in flight.
    worker.settle(claimed[1].receipt, answered(6));
    assert_eq!(used(&db, process), 11);
    // What a worker drew was counted when it was drawn.
    let third = worker.one();
    let of = third.budget.unwrap();
    db.store().draw_budget(of, 0, 7, T).unwrap();
    let end = ended(&third, answered(3), BudgetEnd::Drawn);
    db.store().settle(&[end], T).unwrap();
    assert_eq!(used(&db, process), 18);
    db.sound();
}

pub(super) fn the_first_budget_counts_what_child_processes_have_spent(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a"]));
    let worker = db.worker();
    let parent = worker.one();
    // A child has no budget of its own.
    let info = child_of(&parent).budget(ProcessBudget::of(picos(3)));
    let store = db.store();
    described(store, &info, &["b", "c"]);
    let first = worker.one();
    assert_eq!(first.budget, None);
    worker.settle(first.receipt, answered(30));
    store.set_budget(process, picos(100), T).unwrap();
    assert_eq!(used(&db, process), 30);
    let second = worker.one();
    assert!(second.budget.is_some());
    worker.settle(second.receipt, answered(4));
    assert_eq!(used(&db, process), 34);
    db.sound();
}

pub(super) fn a_batch_releases_once_what_its_jobs_did_not_spend(open: Open<'_>) {
    let db = open();
    let names = ["a", "b", "c", "d", "e", "f"];
    let process = process(&db, &names, 100);
    let worker = db.worker();
    let store = db.store();
    let batch = worker.batch(process);
    let jobs = inside(store, batch);
    let of = jobs[0].budget.unwrap();
    let most: Vec<(JobReceipt, u64)> = jobs.iter().map(|job| (job.receipt, 18)).collect();
    let reserve = || store.reserve_jobs(worker.id, batch, of, &most, T).unwrap();
    // Again changes nothing.
    assert_eq!((reserve(), reserve()), (5, 5));
    assert_eq!(used(&db, process), 90);
    assert_eq!(draw(store, of, 0, 20), BudgetDraw::Paused);
    // What does not fit goes back; so does a job that was not sent, and its part is enough to continue.
    let after = jobs[3].receipt.job;
    store
        .give_back(worker.id, batch, Some(after), None, T)
        .unwrap();
    assert_eq!(used(&db, process), 72);
    assert_eq!(budget(&db, process).pause, None);
    let other = most[0..1].iter().map(|(job, _)| (*job, 200));
    let other: Vec<(JobReceipt, u64)> = other.collect();
    assert_eq!(
        store.reserve_jobs(worker.id, batch, of, &other, T).unwrap(),
        0
    );
    let pause = Some(BudgetPause::UsedUp(picos(200)));
    assert_eq!(budget(&db, process).pause, pause);
    store.set_budget(process, picos(100), T).unwrap();
    assert_eq!(reserve(), 5);

    let ends = [
        ended(&jobs[0], answered(4), BudgetEnd::Spent),
        ended(&jobs[1], failed(), BudgetEnd::Unbilled),
        // It is unknown what this one has cost.
        ended(&jobs[2], failed(), BudgetEnd::Spent),
    ];
    for _ in 0..2 {
        db.two.settle(&ends, T).unwrap();
        // 4, 18 for the unknown one, 18 for the one at the provider, and 18 for one that is not in the batch any more.
        assert_eq!(used(&db, process), 4 + 18 + 18 + 18);
    }
    // The provider does not know the batch any more: its job counts as the most that it can cost.
    store.close_batch(worker.id, batch, T).unwrap();
    assert_eq!(used(&db, process), 58);
    db.sound();
}

/// The job of an earlier claim is in a batch meanwhile, whose reservation stays until the end of that batch.
pub(super) fn a_late_result_releases_no_reservation_of_a_later_claim(open: Open<'_>) {
    let db = open();
    let process = process(&db, &["a"], 100);
    let worker = db.worker();
    let store = db.store();
    let first = worker.one();
    let back = ClaimOutcome::Snooze { due_at: None };
    let back = ended(&first, back, BudgetEnd::Drawn);
    store.settle(&[back], T).unwrap();
    let batch = worker.batch(process);
    let jobs = inside(store, batch);
    let of = jobs[0].budget.unwrap();
    let most = [(jobs[0].receipt, 18)];
    assert_eq!(
        store.reserve_jobs(worker.id, batch, of, &most, T).unwrap(),
        1
    );
    // It was in an earlier batch, whose results come late.
    let late = ended(&first, answered(4), BudgetEnd::Spent);
    db.two.settle(&[late], T).unwrap();
    assert_eq!(used(&db, process), 18 + 4);
    let own = ended(&jobs[0], failed(), BudgetEnd::Unbilled);
    for _ in 0..2 {
        db.two.settle(std::slice::from_ref(&own), T).unwrap();
        assert_eq!(used(&db, process), 4);
    }
    db.sound();
}

pub(super) fn a_process_and_its_children_share_a_budget(open: Open<'_>) {
    let db = open();
    let process = process(&db, &["a"], 100);
    let worker = db.worker();
    let parent = worker.one();
    let store = db.store();
    let child = described(store, &child_of(&parent), &["b", "c"]);
    is_refused(store.set_budget(child, picos(5), T));
    let first = worker.one();
    assert_eq!(first.budget, parent.budget);
    worker.settle(first.receipt, answered(30));
    assert_eq!(used(&db, process), 30);
    let of = parent.budget.unwrap();
    assert_eq!(draw(store, of, 0, 71), BudgetDraw::Paused);
    assert!(worker.claim(9, T).is_empty());
    store.set_budget(process, picos(101), T).unwrap();
    assert_eq!(named(&worker.claim(9, T)), ["c"]);
    db.sound();
}
