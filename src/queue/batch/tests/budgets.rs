//! What batches reserve, release and keep of the budget of their process.

use crate::base::{Error, ErrorKind, ProcessId, Sent, Usd};
use crate::llm::batch::{BatchState, BatchStatus};
use crate::llm::prices::Prices;
use crate::llm::providers::extract::Extract;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::queue::info::ProcessBudget;

use super::harness::{Harness, in_state, refused};

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
fn a_cancelled_batch_counts_as_spent_if_it_is_not_found_and_costs_nothing_if_it_was_not_sent() {
    for is_sent in [true, false] {
        let harness = Harness::new();
        let client = harness.client();
        if !is_sent {
            let error = Error::new(ErrorKind::Transient, "no route").with_sent(Sent::No);
            client.advance.fail(error.with_unreachable());
        }
        let process = limited(&harness, &["a", "b"], 10_000);
        let mut poller = harness.new_poller();
        let begun = |h: &Harness| {
            used(h, process) > 0 && h.fake.lock().batches.len() == usize::from(is_sent)
        };
        harness.until(&mut poller, || begun(&harness));
        let reserved = used(&harness, process);
        assert!(reserved >= 200);
        let gone = || refused("no such batch", 404);
        client.status.fail(gone());
        client.cancel.fail(gone());
        harness.cancel(process);
        harness.until_over(&mut poller, process);
        harness.ended(process, [0, 0, 2, 0]);
        assert_eq!(used(&harness, process), if is_sent { reserved } else { 0 });
    }
}

#[test]
fn requests_that_an_expired_batch_never_reached_release_what_was_reserved() {
    let harness = Harness::new();
    harness.client().status.set(|_| {
        Some(Ok(BatchStatus {
            expected: Some(0),
            ..in_state(BatchState::Expired)
        }))
    });
    let process = limited(&harness, &["a", "b"], 10_000);
    let mut poller = harness.new_poller();
    harness.until_created(&mut poller, 1);
    let reserved = used(&harness, process);
    harness.until_created(&mut poller, 2);
    assert_eq!(used(&harness, process), reserved);
}

#[test]
fn a_batch_takes_what_is_affordable_and_waits_for_the_rest() {
    let harness = Harness::new();
    harness.client();
    let process = limited(&harness, &["a", "b"], 10_000);
    let mut poller = harness.new_poller();
    harness.until(&mut poller, || used(&harness, process) > 0);
    let one = used(&harness, process) / 2;
    drop(poller);

    let harness = Harness::new();
    harness.client();
    // More than two, and less than three.
    let process = limited(&harness, &["a", "b", "c"], 2 * one + one / 2);
    let mut poller = harness.new_poller();
    let is_paused = || budget(&harness, process).needed.is_some() && harness.infos().is_empty();
    harness.until(&mut poller, || harness.is_over(process) || is_paused());
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
    let known = budget(&harness, process);
    assert!(known.used <= known.limit, "{known:?}");
    if harness.bought("c") == 0 {
        assert_eq!(known.needed, Some(micros(one)));
        let more = micros(10 * one);
        harness.store.set_budget(process, more).unwrap();
        harness.control.wake();
        harness.until_over(&mut poller, process);
    }
    assert_eq!(harness.bought("c"), 1);
}
