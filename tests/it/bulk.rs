//! Bulk calls of the library with custom clients.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use batchwright::{
    Bulk, BulkError, Context, Error, ErrorKind, Outcome, Request, Response, RetryPolicy, Route,
    StopReason, client_fn, execute_bulk_sync,
};
use batchwright::{testing::ManualClock, testing::ScriptedClient};

use super::regress_bulk::requests;

fn transient() -> Error {
    Error::new(ErrorKind::Transient, "try again")
}

#[test]
fn a_failure_and_a_panic_cost_one_item_each() {
    let client =
        client_fn(
            |request: &Request, _: &Context| match request.messages[0].text().as_str() {
                "p3" => Err(Error::new(ErrorKind::Invalid, "no")),
                "p4" => panic!("boom"),
                text => Ok(Response::new("own", text)),
            },
        );
    let outcomes = execute_bulk_sync(&Context::new(), &client, &requests(10), 3).unwrap();
    let kinds: Vec<_> = outcomes
        .iter()
        .filter_map(|o| Some(o.result.as_ref().err()?.kind()))
        .collect();
    assert_eq!(kinds, [ErrorKind::Invalid, ErrorKind::Panic]);
    let panicked = outcomes[4].result.as_ref().unwrap_err();
    assert!(panicked.message().contains("boom"));
}

#[test]
fn a_cancelled_run_returns_finished_outcomes() {
    let client = ScriptedClient::new();
    client.hold();
    let ctx = Context::new();
    let all = requests(20);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| execute_bulk_sync(&ctx, &client, &all, 4));
        assert!(client.wait_for_in_flight(4));
        ctx.cancel();
        client.release();
        let error = run.join().unwrap().unwrap_err();
        assert!(matches!(error.reason, StopReason::Cancelled));
        assert_eq!(error.outcomes.len(), 20);
        let answered = error.outcomes.iter().filter(|o| o.is_success()).count();
        assert_eq!(answered, 4, "the calls in flight had their grace");
        for outcome in error.outcomes.iter().filter(|o| !o.is_success()) {
            assert_eq!(
                outcome.result.as_ref().unwrap_err().kind(),
                ErrorKind::Cancelled
            );
            assert_eq!(outcome.attempts, 0);
        }
    });
    assert_eq!(client.calls().len(), 4);
}

#[test]
fn streaming_reads_only_as_far_as_the_channel_holds() {
    let pulled = Arc::new(AtomicUsize::new(0));
    let taken = AtomicUsize::new(0);
    let count = pulled.clone();
    let items = (0..500).map(move |i| {
        count.fetch_add(1, Ordering::SeqCst);
        Request::new(format!("p{i}"))
    });
    let client = ScriptedClient::new();
    let summary = Bulk::new(&client)
        .concurrency(4)
        .for_each(items, |outcome| {
            assert!(outcome.is_success());
            let taken = taken.fetch_add(1, Ordering::SeqCst);
            let ahead = pulled.load(Ordering::SeqCst) - taken;
            assert!(ahead <= 4 + 8 + 4, "{ahead} requests read ahead");
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((summary.completed, summary.total), (500, 500));
}

#[test]
fn finishing_a_background_run_starts_no_further_call_and_loses_no_answer() {
    let client = Arc::new(ScriptedClient::new());
    let requests = |n: usize| (0..n).map(|i| Request::new(format!("p{i}")));
    for items in [1_000, usize::MAX] {
        let before = client.calls().len();
        let mut outcomes = Bulk::new(client.clone())
            .concurrency(4)
            .spawn(requests(items));
        let taken = outcomes.by_ref().take(10).count();
        let error = outcomes.finish().unwrap_err();
        assert!(matches!(error.reason, StopReason::SinkClosed));
        let answered = error.outcomes.iter().filter(|o| o.is_success()).count();
        let calls = client.calls().len() - before;
        assert_eq!(taken + answered, calls, "every answer is somewhere");
        // The items in the channel, those in flight, and one more of each.
        assert!(calls < 40, "{calls}");
    }
}

#[test]
fn dropping_a_background_run_cancels_and_joins_it_alone() {
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let ctx = Context::new();
    let items = (0..).map(|i| Request::new(format!("p{i}")));
    let outcomes = Bulk::new(client.clone())
        .context(&ctx)
        .concurrency(2)
        .spawn(items);
    assert!(client.wait_for_in_flight(2));
    drop(outcomes);
    assert_eq!(Arc::strong_count(&client), 1, "its threads are gone");
    assert!(!ctx.is_cancelled(), "the caller's context is the caller's");
}

#[test]
fn a_single_call_ends_with_its_context() {
    let client = ScriptedClient::new();
    client.fail("p", transient());
    let route =
        Route::new(&client).retry(RetryPolicy::default().base_delay(Duration::from_secs(3600)));
    let ctx = Context::new();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| route.complete(&Request::new("p"), &ctx));
        assert!(client.wait_for_calls(1));
        ctx.cancel();
        assert_eq!(
            call.join().unwrap().unwrap_err().kind(),
            ErrorKind::Cancelled
        );
    });
}

/// How long the deadline of [`manual_deadline`] is away.
pub(super) const HOUR: Duration = Duration::from_secs(3_600);

/// A clock that only the test advances, and a deadline an hour after its origin: it is over when the test says so,
/// whatever the load of the machine.
pub(super) fn manual_deadline() -> (Arc<ManualClock>, SystemTime) {
    let clock = Arc::new(ManualClock::new());
    let origin = UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    (clock, origin + HOUR)
}

/// Runs with one call at a time; the deadline passes during the first one. Returns the end and the number of calls.
fn overrun<R: Send>(
    run: impl FnOnce(Bulk<'_>) -> Result<R, BulkError> + Send,
) -> (BulkError, usize) {
    let client = ScriptedClient::new();
    client.hold();
    let (clock, deadline) = manual_deadline();
    let error = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let route = Route::new(&client).clock(clock.clone());
            run(Bulk::new(route).concurrency(1).deadline(deadline)).err()
        });
        assert!(client.wait_for_calls(1));
        clock.advance(HOUR);
        client.release();
        run.join().unwrap().unwrap()
    });
    assert!(matches!(error.reason, StopReason::DeadlineExceeded));
    (error, client.calls().len())
}

#[test]
fn no_call_starts_after_a_deadline_and_those_in_flight_end() {
    let requests = requests(3);
    let (error, calls) = overrun(|run| run.collect(&requests));
    assert_eq!(calls, 1);
    assert!(error.outcomes[0].is_success(), "it was in flight");
    error.outcomes[1..].iter().for_each(was_not_sent);
}

fn was_not_sent(outcome: &Outcome) {
    let error = outcome.result.as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(error.message(), "the deadline came before it was sent");
    assert_eq!((outcome.attempts, outcome.usage()), (0, None));
}

#[test]
fn a_stream_names_what_was_not_sent_before_its_deadline() {
    let mut sent = 0;
    let (error, calls) = overrun(|run| {
        run.for_each(requests(9), |outcome| {
            assert!(outcome.is_success());
            sent += 1;
            ControlFlow::Continue(())
        })
    });
    assert_eq!((sent, calls), (1, 1));
    assert!(!error.outcomes.is_empty());
    error.outcomes.iter().for_each(was_not_sent);
}
