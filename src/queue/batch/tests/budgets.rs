//! What batches reserve, release and keep of the budget of their process.

use crate::base::{Error, ErrorKind, ProcessId, Sent, Usd};
use crate::llm::batch::{BatchState, BatchStatus};
use crate::llm::prices::Prices;
use crate::llm::providers::extract::Extract;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::queue::budget::ProcessBudget;

use super::harness::{Harness, refused};

/// A token costs a microdollar.
const PRICES: &str = r#"{"providers": {"fake": {"models": [{"models": ["m"], "prices": [{"input": 1, "output": 1}]}]}}}"#;

fn micros(number: u64) -> Usd {
    Usd::from_picos(number * 1_000_000)
}

/// A process of prompts that have a limit of microdollars.
fn limited(harness: &Harness, prompts: &[&str], limit: u64) -> ProcessId {
    let prices = Prices::none().overridden("test", PRICES).unwrap();
    let route = Route::new(Extract).clock(harness.clock.clone());
    harness.kinds.set_prompts(route.prices(prices));
    let requests = prompts.iter().map(|prompt| Request {
        model: Some("m".to_owned()),
        ..Request::new(*prompt).with_id(*prompt).with_max_tokens(100)
    });
    let process = harness.enqueue_requests(requests);
    harness.store.set_budget(process, micros(limit)).unwrap();
    process
}

fn budget(harness: &Harness, process: ProcessId) -> ProcessBudget {
    let state = harness.store.process(process).unwrap().unwrap();
    state.budget.unwrap()
}

fn used(harness: &Harness, process: ProcessId) -> u64 {
    budget(harness, process).used.picos() / 1_000_000
}

#[test]
fn a_cancelled_batch_that_the_provider_does_not_find_counts_as_spent() {
    let harness = Harness::new();
    let client = harness.client();
    let process = limited(&harness, &["a", "b"], 10_000);
    let mut poller = harness.poller(harness.worker(), &[]);
    let there = || !harness.fake.lock().batches.is_empty();
    assert!(harness.until(&mut poller, there));
    let reserved = used(&harness, process);
    assert!(reserved >= 200);
    let gone = || Some(Err(refused("no such batch", 404)));
    *client.status.lock() = Box::new(move |_| gone());
    *client.cancel.lock() = Box::new(|_| Some(Err(refused("no such batch", 404))));
    harness.cancel(process);
    let over = || harness.store.batches(None).unwrap().is_empty();
    if !harness.until(&mut poller, over) {
        panic!("{:?}", harness.store.batches(None).unwrap());
    }
    assert_eq!(harness.counts(process).cancelled, 2);
    assert_eq!(used(&harness, process), reserved);
}

#[test]
fn a_batch_that_was_not_sent_costs_nothing() {
    let harness = Harness::new();
    let client = harness.client();
    *client.advance.lock() = Box::new(|_| {
        let error = Error::new(ErrorKind::Transient, "no route").with_sent(Sent::No);
        Some(Err(error.with_unreachable()))
    });
    let process = limited(&harness, &["a", "b"], 10_000);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || used(&harness, process) > 0));
    harness.cancel(process);
    harness.until_over(&mut poller, process);
    assert_eq!(harness.counts(process).cancelled, 2);
    assert_eq!(used(&harness, process), 0);
}

#[test]
fn requests_that_an_expired_batch_never_reached_release_what_was_reserved() {
    let harness = Harness::new();
    let client = harness.client();
    *client.status.lock() = Box::new(|_| {
        Some(Ok(BatchStatus {
            state: BatchState::Expired,
            counts: None,
            results: Vec::new(),
            expected: Some(0),
            poll_after: None,
        }))
    });
    let process = limited(&harness, &["a", "b"], 10_000);
    let mut poller = harness.poller(harness.worker(), &[]);
    let creates = || harness.fake.lock().creates;
    assert!(harness.until(&mut poller, || creates() == 1));
    let reserved = used(&harness, process);
    assert!(harness.until(&mut poller, || creates() == 2));
    assert_eq!(used(&harness, process), reserved);
}

#[test]
fn a_batch_takes_what_is_affordable_and_waits_for_the_rest() {
    let harness = Harness::new();
    harness.client();
    let process = limited(&harness, &["a", "b"], 10_000);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || used(&harness, process) > 0));
    let one = used(&harness, process) / 2;
    drop(poller);

    let harness = Harness::new();
    harness.client();
    // More than two, and less than three.
    let process = limited(&harness, &["a", "b", "c"], 2 * one + one / 2);
    let mut poller = harness.poller(harness.worker(), &[]);
    let paused = || {
        budget(&harness, process).needed.is_some() && {
            harness.store.batches(None).unwrap().is_empty()
        }
    };
    if !harness.until(&mut poller, || harness.is_over(process) || paused()) {
        panic!("{:?}", harness.counts(process));
    }
    let [a, b, c] = ["a", "b", "c"].map(|prompt| harness.bought(prompt));
    assert_eq!((a, b), (1, 1));
    let known = budget(&harness, process);
    assert!(known.used <= known.limit, "{known:?}");
    if c == 0 {
        assert_eq!(known.needed, Some(micros(one)));
        let more = micros(10 * one);
        harness.store.set_budget(process, more).unwrap();
        harness.control.wake();
        harness.until_over(&mut poller, process);
    }
    assert_eq!(harness.bought("c"), 1);
}
