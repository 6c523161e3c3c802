use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::spending::LONGEST_PAUSE;
use super::*;
use crate::base::{Clock, Time, Timestamp};
use crate::money::account::{LOOK_AGAIN, Period};
use crate::testing::ManualClock;

fn dollars(amount: f64) -> Usd {
    Usd::from_dollars(amount).unwrap()
}

const NOTHING: Amount = Amount::Usd(Usd::ZERO);

fn reserve(budget: &Budget, most: u64) -> Result<Reservation, Error> {
    budget.reserve(most, &Context::new())
}

#[test]
fn calls_within_the_limit_are_counted_by_what_they_cost() {
    let budget = Budget::tokens(100);
    let (one, two) = (reserve(&budget, 60).unwrap(), reserve(&budget, 40).unwrap());
    one.settle(10);
    two.settle(5);
    assert_eq!(budget.spent(), Amount::Tokens(15));
    reserve(&budget, 85).unwrap().settle(85);
    let error = reserve(&budget, 1).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
    assert_eq!(
        error.message(),
        "the budget of 100 tokens is used up: 100 tokens is spent, and the next call could cost 1 token"
    );
    // What costs nothing is always possible.
    reserve(&budget, 0).unwrap();
}

#[test]
fn a_call_waits_for_those_in_flight_and_gets_what_they_did_not_need() {
    let budget = Budget::tokens(100);
    let first = reserve(&budget, 80).unwrap();
    let second = thread::scope(|scope| {
        let second = scope.spawn(|| reserve(&budget, 50).map(|reserved| reserved.settle(50)));
        first.settle(50);
        second.join().unwrap()
    });
    second.unwrap();
    assert_eq!(budget.spent(), Amount::Tokens(100));
}

#[test]
fn a_call_that_waits_ends_with_its_context() {
    let budget = Budget::tokens(100);
    let _first = reserve(&budget, 80).unwrap();
    let ctx = Context::new();
    let error = thread::scope(|scope| {
        let second = scope.spawn(|| budget.reserve(50, &ctx).err().unwrap());
        ctx.abort();
        second.join().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

/// A cancelled run lets its calls in flight end, and sends no other one.
#[test]
fn a_call_that_waits_is_not_sent_after_its_run_was_cancelled() {
    let budget = Budget::tokens(100);
    let first = reserve(&budget, 80).unwrap();
    let run = Context::new();
    let ctx = run.for_calls().for_calls();
    let error = thread::scope(|scope| {
        let second = scope.spawn(|| budget.reserve(50, &ctx).err().unwrap());
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
    let budget = Budget::tokens(10)
        .recorded_in(&file, Amount::Tokens(7))
        .unwrap();
    assert!(reserve(&budget, 4).is_err());
    assert_eq!(budget.refused(), Some(Amount::Tokens(4)));
    // A call that costs more than was reserved is recorded at once.
    reserve(&budget, 1).unwrap().settle(50);
    let again = Budget::tokens(100)
        .recorded_in(&file, Amount::Tokens(0))
        .unwrap();
    assert!(again.spent() >= Amount::Tokens(57));
    let nowhere = folder.path().join("no/out.budget");
    let error = Budget::tokens(10)
        .recorded_in(&nowhere, Amount::Tokens(0))
        .unwrap_err();
    assert!(error.is_storage(), "{error}");
}

#[test]
fn a_call_without_a_known_end_counts_as_the_most_that_it_can_cost() {
    let budget = Budget::tokens(100);
    drop(reserve(&budget, 70).unwrap());
    assert_eq!(budget.spent(), Amount::Tokens(70));
}

#[test]
fn what_was_recorded_counts_in_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let budget = Budget::usd(dollars(1.0))
        .recorded_in(&file, NOTHING)
        .unwrap();
    let cent = dollars(0.01).picos();
    reserve(&budget, cent).unwrap().settle(cent / 2);
    budget.close().unwrap();
    let again = Budget::usd(dollars(2.0))
        .recorded_in(&file, NOTHING)
        .unwrap();
    assert_eq!(again.spent(), Amount::Usd(dollars(0.005)));
    // A killed program leaves what it had reserved, and not more than a slice.
    let killed = reserve(&again, cent).unwrap();
    let after = Budget::usd(dollars(2.0))
        .recorded_in(&file, NOTHING)
        .unwrap();
    let Amount::Usd(spent) = after.spent() else {
        panic!("{after:?}")
    };
    assert!(spent >= dollars(0.015), "{spent}");
    assert!(spent <= dollars(0.015 + 2.0 / 64.0), "{spent}");
    killed.settle(cent);
}

#[test]
fn a_record_of_another_unit_or_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let budget = Budget::tokens(10)
        .recorded_in(&file, Amount::Tokens(0))
        .unwrap();
    reserve(&budget, 5).unwrap().settle(5);
    let error = Budget::usd(dollars(1.0))
        .recorded_in(&file, NOTHING)
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("tokens, and the budget is $1.0000"),
        "{error}"
    );
    fs::write(&file, "{").unwrap();
    let error = Budget::tokens(10)
        .recorded_in(&file, Amount::Tokens(0))
        .unwrap_err();
    assert!(
        error.message().contains("delete it to start from zero"),
        "{error}"
    );
}

/// Threads that reserve and settle at random never exceed the limit at the most that their calls can cost, also not
/// after a crash at any moment: the record always covers it.
#[test]
fn the_limit_holds_for_many_threads_and_the_record_covers_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.budget");
    let budget = Budget::tokens(10_000)
        .recorded_in(&file, Amount::Tokens(0))
        .unwrap();
    thread::scope(|scope| {
        for seed in 0..4_u64 {
            let (budget, file) = (&budget, &file);
            scope.spawn(move || {
                let mut random = seed * 7_919 + 1;
                for _ in 0..200 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let most = random >> 58;
                    let Ok(reserved) = reserve(budget, most) else {
                        return;
                    };
                    let now = budget.0.spending.lock();
                    let recorded: Record =
                        serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
                    assert!(recorded.spent.number() >= now.spent + now.held);
                    assert!(now.spent + now.held <= 10_000);
                    drop(now);
                    reserved.settle(most / 2);
                }
            });
        }
    });
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Budgets of one account, as several programs have them. The clock begins on 1 January.
fn monthly<C: Clock + 'static>(folder: &tempfile::TempDir, clock: &Arc<C>, cents: u64) -> Budget {
    let file = folder.path().join("monthly_budget.json");
    let account = Account::new("the monthly budget", file, Period::Month, clock.clone());
    Budget::of_account(cent(cents), account)
}

fn cent(cents: u64) -> Usd {
    Usd::from_picos(cents * 10_000_000_000)
}

fn try_cents(budget: &Budget, cents: u64) -> Result<Reservation, Error> {
    reserve(budget, cent(cents).picos())
}

#[cfg(feature = "queue")]
#[test]
fn programs_share_the_limit_of_a_month_and_it_begins_anew_with_the_next_one() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let [one, two] = [(); 2].map(|()| monthly(&folder, &clock, 100));
    try_cents(&one, 40).unwrap().settle(cent(10).picos());
    let held = try_cents(&two, 60).unwrap();
    let error = try_cents(&one, 31).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
    assert_eq!(
        error.message(),
        "the monthly budget of $1.0000 is used up: $0.700000 is spent or reserved since 2020-01-01 (UTC), and the next \
         call could cost $0.310000"
    );
    assert!(one.used_up().is_some());
    held.settle(cent(50).picos());
    try_cents(&one, 40).unwrap().settle(cent(40).picos());
    assert!(try_cents(&two, 1).is_err());
    // A higher limit counts what was spent before.
    let higher = monthly(&folder, &clock, 120);
    try_cents(&higher, 20).unwrap().settle(cent(20).picos());
    assert!(try_cents(&higher, 1).is_err());

    clock.advance(31 * DAY);
    two.0.spending.lock().looked = None;
    assert!(two.used_up().is_none());
    try_cents(&two, 100).unwrap().settle(cent(100).picos());
    assert!(try_cents(&higher, 21).is_err());
}

#[test]
fn a_killed_program_leaves_what_it_had_reserved() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let killed = monthly(&folder, &clock, 100);
    let ended = try_cents(&killed, 20).unwrap();
    std::mem::forget(try_cents(&killed, 30).unwrap());
    ended.settle(cent(5).picos());
    std::mem::forget(killed);
    let next = monthly(&folder, &clock, 100);
    assert!(try_cents(&next, 66).is_err());
    // Of what the first call had reserved, at most the slice of calls in flight is lost.
    try_cents(&next, 48).unwrap().settle(0);
}

#[test]
fn calls_in_flight_at_the_end_of_a_month_count_in_the_next_one() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let [one, two] = [(); 2].map(|()| monthly(&folder, &clock, 100));
    let night = try_cents(&one, 60).unwrap();
    clock.advance(31 * DAY);
    let day = try_cents(&one, 30).unwrap();
    assert!(try_cents(&two, 11).is_err());
    night.settle(cent(60).picos());
    day.settle(cent(30).picos());
    assert!(try_cents(&two, 11).is_err());
    try_cents(&two, 10).unwrap();
}

/// The only call in flight ends in the next month, and nothing was reserved since.
#[test]
fn a_call_that_ends_in_the_next_month_counts_there() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let [one, two] = [(); 2].map(|()| monthly(&folder, &clock, 100));
    let night = try_cents(&one, 60).unwrap();
    clock.advance(31 * DAY);
    night.settle(cent(60).picos());
    assert!(try_cents(&two, 41).is_err());
    try_cents(&one, 40).unwrap().settle(0);
    // Of several calls, none is forgotten.
    let [first, second] = [(); 2].map(|()| try_cents(&one, 20).unwrap());
    clock.advance(29 * DAY);
    first.settle(cent(20).picos());
    second.settle(cent(20).picos());
    assert!(try_cents(&two, 61).is_err());
    try_cents(&two, 60).unwrap();
}

#[cfg(feature = "queue")]
fn counted(budget: &Budget) -> Usd {
    let Keeper::Account(account) = &budget.0.record else {
        panic!("{budget:?}")
    };
    Usd::from_picos(account.look().unwrap().total())
}

/// A call after a batch must not bring back what the batch did not need.
#[cfg(feature = "queue")]
#[test]
fn a_batch_counts_with_what_it_has_cost_once_it_has_ended() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let budget = monthly(&folder, &clock, 10_000);
    assert_eq!(
        budget.reserve_batch("one", cent(8_000).picos()).unwrap(),
        None
    );
    // Its input is written again.
    assert_eq!(
        budget.reserve_batch("one", cent(7_000).picos()).unwrap(),
        None
    );
    assert_eq!(counted(&budget), cent(7_000));
    let less = budget.reserve_batch("two", cent(4_000).picos()).unwrap();
    assert_eq!(less, Some(cent(3_000).picos()));
    budget.spend_batch("one", cent(500).picos());
    assert_eq!(counted(&budget), cent(7_000));
    budget.end_batch("one", false);
    assert_eq!(counted(&budget), cent(500));
    try_cents(&budget, 50).unwrap().settle(cent(5).picos());
    assert_eq!(counted(&budget), cent(505));
}

/// The limit was set, or the price changed, while the batch was at its provider.
#[cfg(feature = "queue")]
#[test]
fn a_batch_without_a_reservation_returns_nothing() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let budget = monthly(&folder, &clock, 100);
    try_cents(&budget, 50).unwrap().settle(cent(50).picos());
    budget.spend_batch("unknown", cent(20).picos());
    budget.end_batch("unknown", true);
    assert_eq!(counted(&budget), cent(70));
}

/// What could not be written at the end of a batch is counted with the next call.
#[cfg(feature = "queue")]
#[test]
fn the_cost_of_a_batch_is_counted_later_if_the_account_cannot_be_changed() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let budget = monthly(&folder, &clock, 100);
    let file = folder.path().join("monthly_budget.json");
    try_cents(&budget, 10).unwrap().settle(cent(10).picos());
    let text = fs::read(&file).unwrap();
    fs::write(&file, "[]").unwrap();
    budget.spend_batch("one", cent(60).picos());
    fs::write(&file, text).unwrap();
    assert!(try_cents(&budget, 31).is_err());
    try_cents(&budget, 30).unwrap().settle(0);
    assert_eq!(counted(&budget), cent(70));
}

#[test]
fn a_file_that_is_something_else_stops_spending() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let budget = monthly(&folder, &clock, 100);
    fs::write(folder.path().join("monthly_budget.json"), "[]").unwrap();
    let error = try_cents(&budget, 1).err().unwrap();
    assert!(error.is_storage(), "{error}");
    #[cfg(feature = "queue")]
    {
        let error = budget.used_up().unwrap();
        assert_ne!(error.kind(), ErrorKind::BudgetExceeded);
        let why = error.message();
        assert!(why.contains("cannot count the monthly budget in"), "{why}");
        assert!(why.contains("delete it to count from the ledger"), "{why}");
    }
}

#[cfg(feature = "queue")]
#[test]
fn a_call_above_the_whole_limit_of_a_month_is_refused_for_good_and_stops_no_other_one() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let budget = monthly(&folder, &clock, 100);
    let error = try_cents(&budget, 101).err().unwrap();
    assert!(error.is_marked(Mark::Unbounded));
    assert_eq!(
        error.message(),
        "the monthly budget of $1.0000 allows no call that could cost $1.0100: set a lower max_tokens, or raise the limit"
    );
    assert!(budget.used_up().is_none());
    try_cents(&budget, 80).unwrap().settle(cent(80).picos());
    assert!(
        !try_cents(&budget, 21)
            .err()
            .unwrap()
            .is_marked(Mark::Unbounded)
    );
}

#[cfg(feature = "queue")]
#[test]
fn one_large_call_that_does_not_fit_stops_no_smaller_ones() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let budget = monthly(&folder, &clock, 100);
    let other = monthly(&folder, &clock, 100);
    assert_eq!(other.reserve_batch("a", cent(50).picos()).unwrap(), None);
    try_cents(&budget, 30).unwrap().settle(cent(30).picos());
    assert!(try_cents(&budget, 60).is_err());
    assert!(try_cents(&budget, 30).is_err());
    assert!(try_cents(&budget, 40).is_err());
    assert_eq!(budget.refused(), Some(Amount::Usd(cent(30))));
    // Others are tried for a while, and then once in a while.
    let later = |after: Duration| {
        let mut spending = budget.0.spending.lock();
        let then = Instant::now().checked_sub(after);
        (spending.tried, spending.fitted) = (then, spending.fitted.and(then));
        spending.refused_since = spending.refused_since.and(then);
    };
    // A time to come is recent, even on a slow machine.
    let recently = || {
        let mut spending = budget.0.spending.lock();
        let now = Instant::now().checked_add(LONGEST_PAUSE);
        (spending.tried, spending.fitted) = (now, spending.fitted.and(now));
        spending.refused_since = spending.refused_since.and(now);
    };
    recently();
    assert!(budget.is_open() && !budget.is_closed());
    // While nothing fits and nothing changes, the tries are ever rarer.
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let pause = budget.0.spending.lock().pause;
        assert_eq!(pause, Duration::from_secs(seconds));
        later(pause);
        // A question is no try.
        assert!(budget.is_closed() && budget.is_open() && budget.is_open());
        assert!(try_cents(&budget, 40).is_err());
        budget.0.spending.lock().tried = Instant::now().checked_add(LONGEST_PAUSE);
        assert!(budget.is_closed() && !budget.is_open());
        // It belongs to the same try.
        assert!(try_cents(&budget, 40).is_err());
    }
    assert_eq!(other.reserve_batch("a", cent(51).picos()).unwrap(), None);
    budget.0.spending.lock().looked = None;
    budget.look_again();
    assert_eq!(budget.0.spending.lock().pause, LOOK_AGAIN);
    later(LOOK_AGAIN);
    assert!(budget.is_closed() && budget.is_open());
    try_cents(&budget, 1).unwrap().settle(cent(1).picos());
    assert!(budget.used_up().is_some());
    recently();
    assert!(budget.is_open() && !budget.is_closed());
    assert!(try_cents(&budget, 30).is_err());
    recently();
    assert!(budget.is_open() && !budget.is_closed());
    later(LOOK_AGAIN);
    assert!(budget.is_closed());
    // Another program returns something.
    other.end_batch("a", false);
    try_cents(&budget, 30).unwrap().settle(0);
    assert!(budget.used_up().is_none() && budget.is_open() && !budget.is_closed());
}

/// A refusal that is over says nothing about the next one.
#[cfg(feature = "queue")]
#[test]
fn what_an_own_batch_returns_is_seen_at_once_and_ends_the_refusal() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let budget = monthly(&folder, &clock, 100);
    assert_eq!(budget.reserve_batch("a", cent(90).picos()).unwrap(), None);
    assert!(try_cents(&budget, 20).is_err());
    {
        let mut spending = budget.0.spending.lock();
        // The account has just been read.
        spending.looked = Instant::now().checked_add(LONGEST_PAUSE);
        spending.refused_since = Instant::now().checked_sub(LOOK_AGAIN);
    }
    assert!(budget.used_up().is_some() && budget.is_closed());
    budget.end_batch("a", false);
    assert!(budget.used_up().is_none() && budget.is_open());
    let spending = budget.0.spending.lock();
    assert_eq!((spending.refused_since, spending.fitted), (None, None));
}

/// Another thread may be refused between the reading of the account and what follows from it.
#[cfg(feature = "queue")]
#[test]
fn a_call_that_does_not_fit_is_not_forgotten_by_a_look_that_began_before() {
    #[derive(Default)]
    struct Hooked(ManualClock, Mutex<Option<Box<dyn FnOnce() + Send>>>);

    impl Clock for Hooked {
        fn now(&self) -> Time {
            self.0.now()
        }

        fn wall(&self) -> Timestamp {
            let hook = self.1.lock().take();
            hook.into_iter().for_each(|hook| hook());
            self.0.wall()
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hooked::default());
    let budget = monthly(&folder, &clock, 100);
    let other = monthly(&folder, &clock, 100);
    other.reserve_batch("a", cent(90).picos()).unwrap();
    assert!(budget.try_reserve(cent(20).picos()).is_err());
    other.end_batch("a", false);
    budget.0.spending.lock().looked = None;

    let (sender, refused) = mpsc::channel();
    let refusing = budget.clone();
    *clock.1.lock() = Some(Box::new(move || {
        thread::spawn(move || {
            other.reserve_batch("b", cent(95).picos()).unwrap();
            let call = refusing.try_reserve(cent(20).picos());
            sender.send(call.map(drop).unwrap_err()).unwrap();
        });
        // It waits for the end of the look.
        thread::sleep(Duration::from_millis(100));
    }));
    budget.look_again();
    refused.recv().unwrap();
    assert!(budget.was_used_up().is_some());
}
