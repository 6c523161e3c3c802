//! Items that fail over to another provider report which one answered and why the earlier ones did not.

use batchwright::client::Sent;
use batchwright::{
    Bulk, Error, ErrorKind, Extract, Limits, LlmClient, Outcome, Request, RetryPolicy, Route,
    client_fn,
};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A client that fails every call in the same way, and counts them.
fn failing<'c>(error: &'c Error, calls: &'c AtomicUsize) -> impl LlmClient + 'c {
    client_fn(move |_: &Request, _: &_| {
        calls.fetch_add(1, Ordering::SeqCst);
        Err(error.clone())
    })
}

fn prompts(n: usize) -> Vec<Request> {
    let prompt = |i| Request::new(format!("prompt {i}")).with_id(format!("i-{i}"));
    (0..n).map(prompt).collect()
}

fn run(route: Route<'_>, n: usize, concurrency: usize) -> Vec<Outcome> {
    let route = route.retry(RetryPolicy::default().max_retries(0));
    let bulk = Bulk::new(route).concurrency(concurrency);
    bulk.collect(&prompts(n)).unwrap()
}

#[test]
fn the_result_names_every_provider_before_the_one_that_answered() {
    let calls = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let busy = Error::new(ErrorKind::Transient, "first: down").with_status(503);
    let wrong = Error::new(ErrorKind::Invalid, "second: too long").with_sent(Sent::Answered);
    let route = Route::new(failing(&busy, &calls[0]))
        .then(failing(&wrong, &calls[1]), Limits::default())
        .then(Extract, Limits::default());
    for outcome in run(route, 4, 2) {
        assert_eq!(outcome.result.as_ref().unwrap().provider, "extract");
        let why: Vec<_> = outcome.earlier.iter().map(|e| e.error.message()).collect();
        assert_eq!(why, ["first: down", "second: too long"]);
        assert_eq!(outcome.earlier[0].error.status(), Some(503));
        let line = serde_json::to_value(&outcome).unwrap();
        assert_eq!(line["earlier"][1]["error"]["kind"], "invalid");
        assert_eq!(line["earlier"][1]["provider"], "custom");
    }
}
