//! Calls that were billed without an answer: their cost is in the outcome of their item and in the summary.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use batchwright::{
    Bulk, BulkError, Context, Error, ErrorKind, FinishReason, Limits, Outcome, Request, Response,
    ResponseFormat, RetryPolicy, Route, StopReason, Summary, Usage, Usd, client_fn,
};
use serde_json::Value;

type Answer = Result<Response, Error>;

fn used(input_tokens: u64) -> Usage {
    Usage {
        input_tokens,
        output_tokens: 50,
        ..Usage::default()
    }
}

fn misfit() -> Answer {
    Ok(Response::new("a", "no json").with_usage(used(100)))
}

fn request() -> Request {
    Request::new("x").with_response_format(ResponseFormat::JsonObject)
}

/// A route whose first client gives `answer` to its nth call; the second, if any, always succeeds.
fn route<'a>(answer: impl Fn(u32) -> Answer + Send + Sync + 'a, fallback: bool) -> Route<'a> {
    let calls = AtomicU32::new(0);
    let first =
        client_fn(move |_: &Request, _: &Context| answer(calls.fetch_add(1, Ordering::SeqCst)));
    let second =
        client_fn(|_: &Request, _: &Context| Ok(Response::new("b", "{}").with_usage(used(1))));
    let route =
        Route::new(first).retry(RetryPolicy::default().base_delay(Duration::from_millis(1)));
    if fallback {
        return route.then(second, Limits::default());
    }
    route
}

/// The outcome of one item; its usage equals that of the summary.
fn one(answer: impl Fn(u32) -> Answer + Send + Sync, fallback: bool) -> (Outcome, Summary) {
    let mut outcome = None;
    let run = Bulk::new(route(answer, fallback)).concurrency(1);
    let summary = run.for_each([request()], |o| {
        outcome = Some(o);
        ControlFlow::Continue(())
    });
    let (outcome, summary) = (outcome.unwrap(), summary.unwrap());
    assert_eq!(outcome.usage().unwrap_or_default(), summary.usage);
    (outcome, summary)
}

#[test]
fn two_schema_mismatches_are_billed() {
    let (outcome, summary) = one(|_| misfit(), false);
    assert!(!outcome.is_success());
    assert_eq!(summary.usage.input_tokens, 200);
    assert_eq!(summary.cost_usd, None);
    let line = serde_json::to_value(&outcome).unwrap();
    assert_eq!(line["usage"]["output_tokens"], 100);
    assert_eq!(line["cost_usd"], Value::Null);
}

#[test]
fn schema_mismatches_before_a_fallback_are_billed() {
    let (outcome, summary) = one(|_| misfit(), true);
    assert_eq!(outcome.result.unwrap().usage.unwrap().input_tokens, 201);
    assert_eq!(summary.usage.input_tokens, 201);
}

#[test]
fn a_schema_mismatch_before_another_failure_is_billed() {
    let blocked = |n| match n {
        0 => misfit(),
        _ => Err(Error::new(ErrorKind::Blocked, "b")),
    };
    let (outcome, summary) = one(blocked, false);
    assert_eq!(outcome.result.unwrap_err().kind(), ErrorKind::Blocked);
    assert_eq!(summary.usage.input_tokens, 100);
}

#[test]
fn truncated_json_is_billed() {
    let cut = |_| {
        let mut response = Response::new("a", "{\"a\": ").with_usage(used(7));
        response.finish_reason = FinishReason::Length;
        response.cost_usd = Usd::from_dollars(0.5);
        Ok(response)
    };
    let (outcome, summary) = one(cut, false);
    assert_eq!(outcome.usage().unwrap().input_tokens, 7);
    assert_eq!(
        (outcome.cost_usd(), summary.cost_usd),
        (Usd::from_dollars(0.5), Usd::from_dollars(0.5))
    );
}

#[test]
fn a_cost_is_summed_over_failure_and_answer_and_a_free_failure_costs_nothing() {
    let paid =
        |n| match n {
            0 => Err(Error::new(ErrorKind::Malformed, "empty")
                .with_cost(Usd::from_picos(500_000_000_000))),
            1 => Err(Error::new(ErrorKind::Transient, "busy")),
            _ => {
                let mut response = Response::new("a", "{}");
                response.cost_usd = Usd::from_dollars(0.25);
                Ok(response)
            }
        };
    let (outcome, summary) = one(paid, false);
    assert_eq!(
        (outcome.cost_usd(), summary.cost_usd),
        (Usd::from_dollars(0.75), Usd::from_dollars(0.75))
    );
}

#[test]
fn the_outcome_of_a_stopped_item_has_its_cost() {
    let ctx = Context::new();
    let stop = ctx.clone();
    let client = client_fn(move |_: &Request, _: &Context| {
        stop.cancel();
        misfit()
    });
    let ended = Bulk::new(client)
        .concurrency(1)
        .context(&ctx)
        .collect(&[request()]);
    let Err(BulkError { reason, outcomes }) = ended else {
        panic!("{ended:?}");
    };
    assert!(matches!(reason, StopReason::Cancelled));
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(outcomes[0].usage().unwrap().input_tokens, 100);
}
