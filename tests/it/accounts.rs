//! Calls that were billed without an answer: their cost is in the outcome of their item and in the summary.

use std::ops::ControlFlow;
use std::time::Duration;

use batchwright::{
    Bulk, BulkError, Context, Error, ErrorKind, FinishReason, Outcome, Request, Response,
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

/// The outcome of one item; its usage equals that of the summary.
fn one(answer: impl Fn() -> Answer + Send + Sync) -> (Outcome, Summary) {
    let mut outcome = None;
    let client = client_fn(|_: &Request, _: &Context| answer());
    let retry = RetryPolicy::default().base_delay(Duration::from_millis(1));
    let run = Bulk::new(Route::new(client).retry(retry)).concurrency(1);
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
    let (outcome, summary) = one(misfit);
    assert!(!outcome.is_success());
    assert_eq!(summary.usage.input_tokens, 200);
    assert_eq!(summary.cost_usd, None);
    let line = serde_json::to_value(&outcome).unwrap();
    assert_eq!(line["usage"]["output_tokens"], 100);
    assert_eq!(line["cost_usd"], Value::Null);
}

#[test]
fn truncated_json_is_billed() {
    let cut = || {
        let mut response = Response::new("a", "{\"a\": ").with_usage(used(7));
        response.finish_reason = FinishReason::Length;
        response.cost_usd = Usd::from_dollars(0.5);
        Ok(response)
    };
    let (outcome, summary) = one(cut);
    assert_eq!(outcome.usage().unwrap().input_tokens, 7);
    assert_eq!(
        (outcome.cost_usd(), summary.cost_usd),
        (Usd::from_dollars(0.5), Usd::from_dollars(0.5))
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
