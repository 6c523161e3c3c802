use std::fs;
use std::thread;

use super::*;
use crate::engine::simulation::Random;

fn dollars(amount: f64) -> Usd {
    Usd::from_dollars(amount).unwrap()
}

/// In picodollars.
const MICRO: u64 = 1_000_000;

/// A budget of this many picodollars.
fn budget_of(picos: u64) -> Budget {
    Budget::usd(Usd::from_picos(picos))
}

fn reserve(budget: &Budget, most: u64) -> Result<Reservation, Error> {
    budget.reserve(most, &Context::new())
}

#[test]
fn calls_within_the_limit_are_counted_by_what_they_cost() {
    let budget = budget_of(100 * MICRO);
    let reserve = |micros| reserve(&budget, micros * MICRO);
    let (one, two) = (reserve(60).unwrap(), reserve(40).unwrap());
    one.settle(10 * MICRO);
    two.settle(5 * MICRO);
    assert_eq!(budget.spent(), dollars(0.000_015));
    reserve(85).unwrap().settle(85 * MICRO);
    let error = reserve(1).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
    assert_eq!(
        error.message(),
        "the budget of $0.000100 is used up: $0.000100 is spent, and the next call could cost $0.000001"
    );
    // What costs nothing is always possible.
    reserve(0).unwrap();
}

#[test]
fn a_call_waits_for_those_in_flight_and_gets_what_they_did_not_need() {
    let budget = budget_of(100);
    let first = reserve(&budget, 80).unwrap();
    let second = thread::scope(|scope| {
        let second = scope.spawn(|| reserve(&budget, 50).map(|reserved| reserved.settle(50)));
        first.settle(50);
        second.join().unwrap()
    });
    second.unwrap();
    assert_eq!(budget.spent(), Usd::from_picos(100));
}

/// A call that is woken for nothing waits again soon.
fn until_a_call_waits(budget: &Budget) {
    while budget.0.changed.notify_all() == 0 {
        thread::yield_now();
    }
    (0..1000).for_each(|_| thread::yield_now());
}

#[test]
fn a_call_that_waits_ends_with_its_context() {
    let budget = budget_of(100);
    let _first = reserve(&budget, 80).unwrap();
    let ctx = Context::new();
    let error = thread::scope(|scope| {
        let second = scope.spawn(|| budget.reserve(50, &ctx).err().unwrap());
        until_a_call_waits(&budget);
        ctx.abort();
        second.join().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

/// A cancelled run lets its calls in flight end, and sends no other one.
#[test]
fn a_call_that_waits_is_not_sent_after_its_run_was_cancelled() {
    let budget = budget_of(100);
    let first = reserve(&budget, 80).unwrap();
    let run = Context::new();
    let ctx = run.for_calls().for_calls();
    let error = thread::scope(|scope| {
        let second = scope.spawn(|| budget.reserve(50, &ctx).err().unwrap());
        until_a_call_waits(&budget);
        run.cancel();
        second.join().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!ctx.is_aborted());
    first.settle(1);
}

#[test]
fn what_was_spent_before_the_first_record_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let budget = budget_of(10)
        .recorded_in(&file, Usd::from_picos(7), 1)
        .unwrap();
    assert!(reserve(&budget, 4).is_err());
    let nowhere = folder.path().join("no/out.budget");
    let error = budget_of(10)
        .recorded_in(&nowhere, Usd::ZERO, 0)
        .unwrap_err();
    assert!(error.is_storage(), "{error}");
}

#[test]
fn a_call_without_a_known_end_counts_as_the_most_that_it_can_cost() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let open = || budget_of(100).recorded_in(&file, Usd::ZERO, 0).unwrap();
    let budget = open();
    drop(reserve(&budget, 70).unwrap());
    assert_eq!((budget.spent(), budget.lost().picos()), (Usd::ZERO, 70));
    let error = reserve(&budget, 31).err().unwrap();
    let expected = "$0 is spent, <$0.000001 is lost with calls";
    assert!(error.message().contains(expected), "{error}");
    budget.close().unwrap();
    assert_eq!(open().lost().picos(), 70);
}

#[test]
fn what_was_spent_counts_in_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let open = |before: f64, calls| {
        Budget::usd(dollars(2.0))
            .recorded_in(&file, dollars(before), calls)
            .unwrap()
    };
    let budget = open(0.0, 0);
    let cent = dollars(0.01).picos();
    reserve(&budget, cent).unwrap().settle(cent / 2);
    budget.close().unwrap();
    assert_eq!(open(0.0, 0).spent(), dollars(0.005));
    // Results that were saved after the last record was written.
    assert_eq!(open(0.007, 2).spent(), dollars(0.007));
}

/// The advice after a crash must not count the calls in flight as if each had the longest answer.
#[test]
fn calls_of_a_killed_program_are_lost_at_their_mean() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let open = |before: u64, calls| {
        let before = Usd::from_picos(before);
        budget_of(1_000).recorded_in(&file, before, calls).unwrap()
    };
    let lost = |budget: &Budget| budget.lost().picos();
    let killed = open(0, 0);
    let held = [50, 70, 60].map(|most| reserve(&killed, most).unwrap());
    // Without a result, each counts as the dearest; four may have been in flight.
    let again = open(0, 0);
    assert_eq!(lost(&again), 4 * 70);
    // A clean start, and no call.
    assert_eq!(lost(&open(0, 0)), 4 * 70);
    let more = [10, 10].map(|most| reserve(&again, most).unwrap());
    assert_eq!(lost(&open(30, 10)), 4 * 70 + 2 * 3);
    held.into_iter().chain(more).for_each(|call| call.settle(1));
    // A clean end knows them.
    again.close().unwrap();
    assert_eq!(lost(&open(40, 10)), 4 * 70);
}

#[test]
fn a_record_that_is_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    fs::write(&file, "{").unwrap();
    let error = budget_of(10).recorded_in(&file, Usd::ZERO, 0).unwrap_err();
    let expected = "delete it to start from zero";
    assert!(error.message().contains(expected), "{error}");
}

/// Threads that reserve and settle at random never exceed the limit at the most that their calls can cost, also not
/// after a crash at any moment: the record always covers it.
#[test]
fn the_limit_holds_for_many_threads_and_the_record_covers_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let budget = budget_of(10_000).recorded_in(&file, Usd::ZERO, 0).unwrap();
    thread::scope(|scope| {
        for seed in 0..4_u64 {
            let (budget, file) = (&budget, &file);
            scope.spawn(move || {
                let mut random = Random::warm(seed);
                for _ in 0..200 {
                    let most = random.below(64);
                    let Ok(reserved) = reserve(budget, most) else {
                        return;
                    };
                    let now = budget.0.spending.lock();
                    let recorded: Spending =
                        serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
                    assert!(recorded.recorded >= now.calls);
                    assert!(now.spent + now.held <= 10_000);
                    drop(now);
                    reserved.settle(most / 2);
                }
            });
        }
    });
}
