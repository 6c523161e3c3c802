//! Items that fail over to another provider report which one answered and why the earlier ones did not.

use batchwright::client::Sent;
use batchwright::{
    Bulk, Error, ErrorKind, ErrorPolicy, Extract, Limits, LlmClient, Outcome, Request, Response,
    ResponseFormat, RetryPolicy, Route, client_fn,
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

#[test]
fn a_failed_model_before_an_extract_without_json_is_reported() {
    let calls = AtomicUsize::new(0);
    let wrong = Error::new(ErrorKind::Invalid, "the model's own failure").with_status(400);
    let route = Route::new(failing(&wrong, &calls)).then(Extract, Limits::default());
    let mut request = Request::new("x");
    request.params.response_format = Some(ResponseFormat::JsonObject);
    let outcomes = Bulk::new(route).collect(&[request]).unwrap();
    let line = serde_json::to_value(&outcomes[0]).unwrap();
    assert_eq!(line["success"], false);
    let before = &line["earlier"][0]["error"];
    assert_eq!(before["message"], "the model's own failure");
}

#[test]
fn a_forbidden_prompt_fails_alone() {
    let client = client_fn(
        |request: &Request, _: &_| match &*request.messages[0].text() {
            "prompt 3" => Err(Error::new(ErrorKind::Auth, "forbidden").with_status(403)),
            text => Ok(Response::new("one", text)),
        },
    );
    let bulk = Bulk::new(Route::new(client).then(Extract, Limits::default()));
    let bulk = bulk
        .concurrency(1)
        .on_error(ErrorPolicy::StopOnCriticalError);
    let outcomes = bulk.collect(&prompts(10)).unwrap();
    for (i, outcome) in outcomes.iter().enumerate() {
        let provider = &outcome.result.as_ref().unwrap().provider;
        assert_eq!(provider, if i == 3 { "extract" } else { "one" });
    }
}

#[test]
fn the_last_failure_is_the_error_and_earlier_ones_are_listed() {
    let calls = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let one = Error::new(ErrorKind::Transient, "one");
    let two = Error::new(ErrorKind::Malformed, "two");
    let route =
        Route::new(failing(&one, &calls[0])).then(failing(&two, &calls[1]), Limits::default());
    for outcome in run(route, 2, 2) {
        assert_eq!(outcome.result.as_ref().unwrap_err().message(), "two");
        assert_eq!(outcome.earlier.len(), 1);
        assert_eq!(outcome.earlier[0].error.message(), "one");
    }
}
