//! Former bugs of the library's bulk calls.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use batchwright::client::QuotaKey;
use batchwright::{
    Bulk, Context, Error, ErrorKind, Extract, LlmClient, Outcome, Request, Response, Route,
    StopReason, client_fn, execute_bulk_sync,
};

use super::hang::{caught, ends, words};

pub fn requests(n: usize) -> Vec<Request> {
    (0..n)
        .map(|i| Request::new(format!("p{i}")).with_id(format!("id-{i}")))
        .collect()
}

fn echo() -> impl LlmClient {
    client_fn(|request: &Request, _: &Context| Ok(Response::new("own", request.messages[0].text())))
}

fn go_on(_: Outcome) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_panicking_sink_ends_a_run_with_calls_in_flight() {
    let panic = caught(|| {
        let client = client_fn(|request: &Request, ctx: &Context| {
            if request.messages[0].text() == "p0" {
                return Ok(Response::new("own", "first"));
            }
            until_ended(ctx)
        });
        let sink = |_| -> ControlFlow<()> { panic!("the sink broke") };
        Bulk::new(client)
            .concurrency(4)
            .for_each(requests(50), sink)
    });
    assert_eq!(words(&*panic.unwrap_err()), "the sink broke");
}

/// Blocks until the call is ended from outside.
fn until_ended(ctx: &Context) -> Result<Response, Error> {
    let (ended, end) = channel();
    let _on_cancel = ctx.on_cancel(move || {
        let _ = ended.send(());
    });
    let _ = end.recv();
    ctx.check()?;
    Ok(Response::new("own", "late"))
}

/// Answers every prompt, but panics at one other query.
struct Fragile(&'static str);

impl Fragile {
    fn asked(&self, what: &str) {
        assert!(self.0 != what, "{what} broke");
    }
}

impl LlmClient for Fragile {
    fn complete(&self, request: &Request, _: &Context) -> Result<Response, Error> {
        match request.messages[0].text().as_str() {
            "p5" => Err(Error::new(ErrorKind::Invalid, "no")),
            text => Ok(Response::new("own", text)),
        }
    }
    fn quota(&self, _: &Request) -> QuotaKey {
        self.asked("quota");
        QuotaKey::none()
    }
    fn provider(&self) -> &str {
        self.asked("provider");
        "fragile"
    }
    fn model_for(&self, request: &Request) -> Option<String> {
        self.asked("model_for");
        request.model.clone()
    }
}

#[test]
fn a_client_that_panics_outside_of_calls_loses_no_outcome() {
    for what in ["quota", "provider", "model_for"] {
        ends(move || {
            let run = || Bulk::new(Fragile(what)).concurrency(2);
            let outcomes = run().collect(&requests(10)).unwrap();
            let good = outcomes.iter().map(Outcome::is_success);
            assert!(good.eq((0..10).map(|i| i != 5)), "{what}: {outcomes:?}");
            let summary = run().for_each(requests(10), go_on).unwrap();
            assert_eq!((summary.completed, summary.failed), (9, 1), "{what}");
            let mut outcomes = run().spawn(requests(10).into_iter());
            assert_eq!(outcomes.by_ref().count(), 10);
            assert_eq!(outcomes.finish().unwrap().completed, 9, "{what}");
            let route = Route::new(Fragile(what));
            let answer = route.complete(&Request::new("p"), &Context::new());
            assert_eq!(answer.unwrap().text, "p", "{what}");
        });
    }
}

#[test]
fn an_absurd_concurrency_is_misuse_wherever_it_is_given() {
    for calls in [0, 10_001, usize::MAX] {
        let endless = || (0..).map(|i: usize| Request::new(i.to_string()));
        let run = move || Bulk::new(Extract).concurrency(calls);
        let reasons = ends(move || {
            let list = execute_bulk_sync(&Context::new(), &Extract, &requests(3), calls);
            let list = list.unwrap_err();
            assert_eq!(list.outcomes.len(), 3);
            let each = run().for_each(endless(), go_on).unwrap_err();
            let stream = run().spawn(endless()).finish().unwrap_err();
            [list.reason, each.reason, stream.reason]
        });
        for reason in reasons {
            assert!(matches!(reason, StopReason::Misuse(_)), "{calls}: {reason}");
        }
    }
}

#[test]
fn after_a_break_every_item_that_was_read_is_returned() {
    for round in 0..60 {
        let (breaks_at, concurrency) = (1 + round % 30, 1 + round % 7);
        ends(move || {
            let (pulled, mut seen) = (Arc::new(AtomicUsize::new(0)), 0);
            let count = pulled.clone();
            let items = requests(30).into_iter().inspect(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            });
            let run = Bulk::new(echo()).concurrency(concurrency);
            let end = run.for_each(items, |_| {
                seen += 1;
                if seen == breaks_at {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert!(end.is_ok() && seen >= breaks_at);
            assert_eq!(seen, pulled.load(Ordering::SeqCst));
        });
    }
}
