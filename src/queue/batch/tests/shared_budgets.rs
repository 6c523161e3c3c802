//! What batches reserve and spend of a budget that several OS processes share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::{Clock, Error, ErrorKind, ProcessId, Sent, Time, Timestamp, Usd};
use crate::config::choices::OnUnknown;
use crate::llm::batch::BatchStage;
use crate::llm::providers::extract::Extract;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::money::account::{Account, Counted, Period};
use crate::money::budget::Budget;
use crate::money::prices::Prices;
use crate::queue::store::{ClaimStore, StoreDatabase};

use super::super::settings::BatchSettings;
use super::harness::{Harness, refused};

const PRICES: &str = r#"{"providers": {"fake": {"models": [
    {"models": ["m"], "prices": [{"input": 1, "output": 2}]}]}}}"#;

fn file(harness: &Harness) -> PathBuf {
    harness.folder.path().join("monthly_budget.json")
}

fn account(harness: &Harness) -> Account {
    let (file, clock) = (file(harness), harness.clock.clone());
    Account::new("the monthly budget", file, Period::Month, clock)
}

pub(super) fn counted(harness: &Harness) -> Counted {
    account(harness).look().unwrap()
}

/// Sets the budget of the route, in picodollars, with these prices.
pub(super) fn limit(harness: &Harness, picos: u64, prices: &str) {
    let budget = Budget::of_account(Usd::from_picos(picos), account(harness));
    limit_by(harness, &budget, prices);
}

fn limit_by(harness: &Harness, budget: &Budget, prices: &str) {
    let prices = Prices::none().overridden("test", prices).unwrap();
    let route = Route::new(Extract).clock(harness.clock.clone());
    harness
        .kinds
        .set_prompts(route.prices(prices).budget(budget));
}

pub(super) fn requests(prompts: &[&'static str]) -> Vec<Request> {
    let request = |prompt: &&'static str| Request {
        model: Some("m".to_owned()),
        ..Request::new(*prompt).with_id(*prompt).with_max_tokens(100)
    };
    prompts.iter().map(request).collect()
}

/// What each of these requests can cost. The fake provider reports no cost, so it is also what each of them costs.
fn most_of_one() -> u64 {
    let harness = Harness::new();
    limit(&harness, u64::MAX, PRICES);
    let _client = harness.client();
    harness.enqueue_requests(requests(&["a"]));
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || !harness.fake.lock().batches.is_empty()));
    counted(&harness).total()
}

const PROMPTS: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn a_batch_that_is_written_again_or_divided_is_reserved_once() {
    let one = most_of_one();
    assert!(one > 0);
    let harness = Harness::new();
    limit(&harness, 4 * one, PRICES);
    let client = harness.client();
    let process = harness.enqueue_requests(requests(&PROMPTS));
    // The input disappears before it is sent, then the provider wants smaller batches, and then it accepts them.
    let (mut answers, spool) = (0, harness.store.folder());
    *client.advance.lock() = Box::new(move |stage| {
        answers += u32::from(*stage == BatchStage::Ready);
        match answers {
            1 => {
                std::fs::remove_dir_all(&spool).unwrap();
                let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
                Some(Err(busy.with_sent(Sent::Answered)))
            }
            2 => Some(Err(refused("too large", 413))),
            _ => None,
        }
    });
    let mut poller = harness.poller(harness.worker(), &[]);
    let both = || harness.fake.lock().batches.len() == 2;
    assert!(harness.until(&mut poller, both));
    assert_eq!(counted(&harness).batches.len(), 2);
    assert_eq!(counted(&harness).total(), 4 * one);
    harness.until_over(&mut poller, process);
    assert_eq!(harness.counts(process).completed, 4);
    let now = counted(&harness);
    assert_eq!((now.spent, now.batches.len()), (4 * one, 0));
}

/// The program is killed after it has written the input. Another one uploads it, and writes it again if it is gone.
#[test]
fn the_next_program_takes_over_what_a_killed_one_has_reserved() {
    let one = most_of_one();
    let harness = Harness::new();
    limit(&harness, 5 * one, PRICES);
    let client = harness.client();
    let process = harness.enqueue_requests(requests(&PROMPTS));
    *client.advance.lock() = Box::new(|_| {
        let busy = Error::new(ErrorKind::RateLimited, "busy").with_status(429);
        Some(Err(busy.with_sent(Sent::Answered)))
    });
    let worker = harness.worker();
    {
        let mut poller = harness.poller(worker, &[]);
        assert!(harness.until(&mut poller, || counted(&harness).total() == 4 * one));
    }
    let wall = harness.clock.wall();
    harness.store.unregister_worker(worker, wall).unwrap();
    *client.advance.lock() = Box::new(|_| None);
    let mut poller = harness.poller(harness.worker(), &[]);
    std::fs::remove_dir_all(harness.store.folder()).unwrap();
    harness.until_over(&mut poller, process);
    let now = counted(&harness);
    assert_eq!((now.spent, now.batches.len()), (4 * one, 0));
}

#[test]
fn a_batch_contains_what_the_budget_allows() {
    let one = most_of_one();
    let harness = Harness::new();
    limit(&harness, 3 * one + one / 2, PRICES);
    let _client = harness.client();
    let process = harness.enqueue_requests(requests(&PROMPTS));
    let mut poller = harness.poller(harness.worker(), &[]);
    let three = || harness.counts(process).completed == 3;
    assert!(harness.until(&mut poller, three));
    for _ in 0..20 {
        harness.turn(&mut poller);
    }
    assert_eq!(harness.fake.lock().bought.len(), 3);
    assert_eq!(counted(&harness).total(), 3 * one);
}

/// A clock of the account that compares it with the store whenever it is used.
struct Witness {
    harness: Arc<Harness>,
    process: ProcessId,
    one: u64,
}

impl Clock for Witness {
    fn now(&self) -> Time {
        self.harness.clock.now()
    }

    fn wall(&self) -> Timestamp {
        let text = std::fs::read(file(&self.harness)).unwrap_or_default();
        let counted: Counted = serde_json::from_slice(&text).unwrap_or_default();
        let ended = self.harness.counts(self.process).completed;
        assert!(counted.spent >= ended * self.one, "{ended}: {counted:?}");
        self.harness.clock.wall()
    }
}

/// At each moment, the account has counted at least what the ends in the store have cost: the program can be killed then.
#[test]
fn results_are_counted_before_they_are_recorded() {
    let one = most_of_one();
    let harness = Arc::new(Harness::new());
    let _client = harness.client();
    let process = harness.enqueue_requests(requests(&PROMPTS));
    let witness = Witness {
        harness: harness.clone(),
        process,
        one,
    };
    let account = Account::new(
        "the monthly budget",
        file(&harness),
        Period::Month,
        Arc::new(witness),
    );
    let budget = Budget::of_account(Usd::from_picos(100 * one), account);
    limit_by(&harness, &budget, PRICES);
    let mut poller = harness.poller(harness.worker(), &[]);
    harness.until_over(&mut poller, process);
    let now = counted(&harness);
    assert_eq!((now.spent, now.batches.len()), (4 * one, 0));
}

/// The program is killed when it has counted the results and not recorded them. If the store only fails, nothing counts
/// twice.
#[test]
fn results_that_are_read_again_count_twice_only_after_a_kill() {
    let one = most_of_one();
    for is_kill in [false, true] {
        let harness = Harness::new();
        limit(&harness, 100 * one, PRICES);
        let _client = harness.client();
        let process = harness.enqueue_requests(requests(&PROMPTS));
        let worker = harness.worker();
        let path = file(&harness);
        let killed = Arc::new(AtomicBool::new(false));
        let (mut left, kill) = (1, killed.clone());
        *harness.store.unwritable.lock() = Some(Box::new(move || {
            let text = std::fs::read(&path).unwrap_or_default();
            let counted: Counted = serde_json::from_slice(&text).unwrap_or_default();
            if counted.spent == 0 || std::mem::take(&mut left) == 0 {
                return None;
            }
            kill.store(is_kill, Ordering::SeqCst);
            assert!(!is_kill, "killed");
            Some(Error::new(ErrorKind::Transient, "not now"))
        }));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut poller = harness.poller(worker, &[]);
            let is_killed = || killed.load(Ordering::SeqCst);
            assert!(harness.until(&mut poller, || is_killed() || harness.is_over(process)));
        }));
        assert_eq!(killed.load(Ordering::SeqCst), is_kill);
        assert!(ended.is_ok() || is_kill);
        if is_kill {
            let wall = harness.clock.wall();
            harness.store.unregister_worker(worker, wall).unwrap();
            let mut poller = harness.poller(harness.worker(), &[]);
            harness.until_over(&mut poller, process);
        }
        assert_eq!(harness.counts(process).completed, 4);
        let now = counted(&harness);
        let times = if is_kill { 2 } else { 1 };
        assert_eq!((now.spent, now.batches.len()), (times * 4 * one, 0));
    }
}

/// It waits until more is left.
#[test]
fn a_large_request_keeps_no_smaller_ones_from_a_batch() {
    let one = most_of_one();
    let harness = Harness::new();
    limit(&harness, 20 * one, PRICES);
    account(&harness)
        .change(|counted| counted.spent += 17 * one)
        .unwrap();
    let _client = harness.client();
    let mut all = requests(&["large", "a", "b", "another"]);
    for at in [0, 3] {
        all[at] = all[at].clone().with_max_tokens(1_000);
    }
    let process = harness.enqueue_requests(all);
    let mut poller = harness.poller(harness.worker(), &[]);
    let two = || harness.counts(process).completed == 2;
    assert!(harness.until(&mut poller, two));
    for _ in 0..20 {
        harness.turn(&mut poller);
    }
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
    assert_eq!(
        (harness.bought("large"), harness.counts(process).pending),
        (0, 2)
    );
    assert_eq!(counted(&harness).total(), 19 * one);
}

/// The price was unknown when the batch was sent, or the budget was set later: nothing was reserved for it.
#[test]
fn a_batch_without_a_reservation_returns_nothing_at_new_prices() {
    let one = most_of_one();
    let harness = Harness::new();
    let _client = harness.client();
    let process = harness.enqueue_requests(requests(&PROMPTS));
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || !harness.fake.lock().batches.is_empty()));
    limit(&harness, 100 * one, PRICES);
    account(&harness)
        .change(|counted| counted.spent += 50 * one)
        .unwrap();
    harness.until_over(&mut poller, process);
    assert_eq!(counted(&harness).total(), 54 * one);
}

#[test]
fn jobs_that_no_budget_can_allow_fail_and_the_others_are_sent() {
    let one = most_of_one();
    let harness = Harness::new();
    limit(&harness, 100 * one, PRICES);
    let _client = harness.client();
    let mut all = requests(&["a", "b"]);
    all.push(Request {
        params: Default::default(),
        ..requests(&["c"]).remove(0)
    });
    // It could cost more than the whole budget.
    all.push(requests(&["d"]).remove(0).with_max_tokens(1_000_000_000));
    let process = harness.enqueue_requests(all);
    let mut poller = harness.poller(harness.worker(), &[]);
    harness.until_over(&mut poller, process);
    let counts = harness.counts(process);
    assert_eq!((counts.completed, counts.failed), (2, 2));
    assert_eq!((harness.bought("c"), harness.bought("d")), (0, 0));
    assert_eq!(counted(&harness).total(), 2 * one);
}

/// The reply to the creation was lost, and the provider does not list the batch. The requests are sent again, because the
/// user wants that.
#[test]
fn a_batch_that_may_exist_counts_as_the_most_that_it_can_cost() {
    let one = most_of_one();
    let harness = Harness::new();
    limit(&harness, 100 * one, PRICES);
    let client = harness.client();
    harness.fake.lock().uploads = false;
    let again = BatchSettings::default().on_unknown(Some(OnUnknown::Resubmit));
    harness.control.set(again);
    let process = harness.enqueue_requests(requests(&PROMPTS));
    let mut first = true;
    *client.advance.lock() = Box::new(move |_| {
        let lost = || Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe);
        std::mem::take(&mut first).then(|| Err(lost()))
    });
    let mut poller = harness.poller(harness.worker(), &[]);
    harness.until_over(&mut poller, process);
    assert_eq!(harness.counts(process).completed, 4);
    let now = counted(&harness);
    assert_eq!((now.spent, now.batches.len()), (8 * one, 0));
}
