//! Former bugs of the library's bulk calls.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

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

/// An event to wait for, with the time limit of a hanging test.
#[derive(Default)]
struct Event(Mutex<usize>, Condvar);

impl Event {
    fn happen(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }

    fn wait_for(&self, times: usize) {
        let reached = self.1.wait_while(self.0.lock().unwrap(), |n| *n < times);
        drop(reached.unwrap());
    }
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
    let ended = Arc::new(Event::default());
    let event = ended.clone();
    let _on_cancel = ctx.on_cancel(move || event.happen());
    ended.wait_for(1);
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
        let outcomes = ends(move || {
            Bulk::new(Fragile(what))
                .concurrency(2)
                .collect(&requests(10))
                .unwrap()
        });
        let good: Vec<bool> = outcomes.iter().map(Outcome::is_success).collect();
        assert_eq!(good.len(), 10, "{what}");
        assert!((0..10).all(|i| good[i] == (i != 5)), "{what}: {good:?}");
        let summary = ends(move || {
            let run = Bulk::new(Fragile(what)).concurrency(2);
            run.for_each(requests(10), go_on).unwrap()
        });
        assert_eq!((summary.completed, summary.failed), (9, 1), "{what}");
        let summary = ends(move || {
            let mut outcomes = Bulk::new(Fragile(what)).spawn(requests(10).into_iter());
            assert_eq!(outcomes.by_ref().count(), 10);
            outcomes.finish().unwrap()
        });
        assert_eq!(summary.completed, 9, "{what}");
        let answer = ends(move || {
            let route = Route::new(Fragile(what));
            route.complete(&Request::new("p"), &Context::new())
        });
        assert_eq!(answer.unwrap().text, "p", "{what}");
    }
}

#[test]
fn an_absurd_concurrency_is_misuse_wherever_it_is_given() {
    for calls in [0, 10_001, usize::MAX] {
        let misused = |reason: &StopReason| {
            assert!(matches!(reason, StopReason::Misuse(_)), "{calls}: {reason}");
        };
        let error = ends(move || {
            execute_bulk_sync(&Context::new(), &Extract, &requests(3), calls).unwrap_err()
        });
        misused(&error.reason);
        assert_eq!(error.outcomes.len(), 3);
        let error = ends(move || {
            let run = Bulk::new(Extract).concurrency(calls);
            run.for_each((0..).map(|i| Request::new(i.to_string())), go_on)
                .unwrap_err()
        });
        misused(&error.reason);
        let error = ends(move || {
            let items = (0..).map(|i| Request::new(i.to_string()));
            let run = Bulk::new(Extract).concurrency(calls).spawn(items);
            run.finish().unwrap_err()
        });
        misused(&error.reason);
    }
}

#[test]
fn after_a_break_every_item_that_was_read_is_returned() {
    for round in 0..60 {
        let (breaks_at, concurrency) = (1 + round % 30, 1 + round % 7);
        ends(move || {
            let pulled = Arc::new(AtomicUsize::new(0));
            let count = pulled.clone();
            let items = (0..30).map(move |i| {
                count.fetch_add(1, Ordering::SeqCst);
                Request::new(format!("p{i}"))
            });
            let mut seen = 0;
            let run = Bulk::new(echo()).concurrency(concurrency);
            let end = run.for_each(items, |_| {
                seen += 1;
                if seen == breaks_at {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert!(end.is_ok());
            assert!(seen >= breaks_at);
            assert_eq!(seen, pulled.load(Ordering::SeqCst));
        });
    }
}
