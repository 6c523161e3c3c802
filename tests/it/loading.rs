//! A server that is up but still loads its model: waited for, on a clock moved by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::client::{QuotaKey, Sent};
use batchwright::unstable::Clock;
use batchwright::{
    Bulk, Context, Error, ErrorKind, ErrorPolicy, LlmClient, Outcome, Progress, Request, Response,
    Route, StopReason,
};
use batchwright::{testing::ManualClock, testing::ScriptedClient};

use super::hang::ends;

fn loading() -> Error {
    Error::new(ErrorKind::Transient, "the model is loading")
        .with_status(503)
        .with_sent(Sent::Answered)
        .with_not_ready()
}

fn requests(n: usize) -> Vec<Request> {
    (0..n).map(|i| Request::new(format!("p{i}"))).collect()
}

/// Runs to the end while time passes by the second, as soon as each has brought its call.
fn hurried(client: ScriptedClient, n: usize) -> (Vec<Outcome>, Duration) {
    ends(move || {
        let clock = Arc::new(ManualClock::new());
        let route = Route::new(&client).clock(clock.clone());
        let start = clock.now();
        let outcomes = std::thread::scope(|scope| {
            let run = scope.spawn(|| Bulk::new(route).concurrency(2).collect(&requests(n)));
            while !run.is_finished() {
                let before = client.calls().len();
                clock.advance(Duration::from_secs(1));
                let late = Instant::now() + Duration::from_millis(20);
                while client.calls().len() == before && Instant::now() < late {
                    std::thread::yield_now();
                }
            }
            run.join().unwrap().unwrap()
        });
        (outcomes, clock.now().since(start))
    })
}

#[test]
fn waiting_for_a_model_uses_up_no_attempt() {
    let client = ScriptedClient::new();
    for i in 0..6 {
        (0..5).for_each(|_| client.fail(&format!("p{i}"), loading()));
    }
    let (outcomes, _) = hurried(client, 6);
    for outcome in outcomes {
        assert!(outcome.is_success(), "{:?}", outcome.result);
        assert_eq!(outcome.attempts, 1);
    }
}

#[test]
fn a_model_that_never_loads_fails_its_item_after_ten_minutes() {
    let client = ScriptedClient::new();
    (0..1000).for_each(|_| client.fail("p0", loading()));
    let (outcomes, passed) = hurried(client, 1);
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert!(error.is_not_ready() && error.status() == Some(503));
    assert_eq!(outcomes[0].attempts, 1);
    assert!(error.is_unreachable());
    assert!(passed >= Duration::from_secs(600), "{passed:?}");
}

/// A client whose model never loads.
fn unready() -> ScriptedClient {
    let client = ScriptedClient::new();
    (0..1000).for_each(|_| client.fail("p0", loading()));
    client
}

#[test]
fn a_cancel_ends_the_wait_at_once() {
    let error = ends(|| {
        let (client, ctx) = (unready(), Context::new());
        // On a clock that stands still, nothing but the cancel ends it.
        let route = Route::new(&client).clock(Arc::new(ManualClock::new()));
        std::thread::scope(|scope| {
            let run = Bulk::new(route).context(&ctx);
            let run = scope.spawn(|| run.collect(&requests(1)));
            assert!(client.wait_for_calls(1));
            ctx.cancel();
            run.join().unwrap().unwrap_err()
        })
    });
    assert!(matches!(error.reason, StopReason::Cancelled), "{error}");
    assert_eq!(error.outcomes[0].attempts, 0);
}

#[test]
fn a_deadline_ends_the_wait_of_a_run_and_of_a_single_call() {
    let ctx = || Context::new().with_timeout(Duration::from_millis(100));
    let error = ends(move || {
        let client = unready();
        let run = Bulk::new(&client).context(&ctx());
        run.collect(&requests(1)).unwrap_err()
    });
    assert!(matches!(error.reason, StopReason::DeadlineExceeded));
    let error = ends(move || {
        let client = unready();
        let request = Request::new("p0");
        Route::new(&client).complete(&request, &ctx()).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}

#[test]
fn progress_tells_for_how_long_a_server_loads() {
    let seen = ends(|| {
        let client = ScriptedClient::new();
        client.fail("p0", loading());
        let seen = parking_lot::Mutex::new(Vec::new());
        let note = |progress: &Progress| {
            let loading = progress.loading.map(|_| progress.trouble.clone());
            seen.lock().push((progress.phase, loading));
        };
        let run = Bulk::new(&client).notifier(Arc::new(note));
        run.collect(&requests(1)).unwrap();
        seen.into_inner()
    });
    let words = Some("the model is loading".to_owned());
    assert!(
        seen.iter()
            .any(|(_, loading)| *loading == Some(words.clone()))
    );
    assert_eq!(seen.last().map(|(_, loading)| loading), Some(&None));
}

/// Like a local server: all its calls share one quota.
struct OneQuota(ScriptedClient);

impl LlmClient for OneQuota {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        self.0.complete(request, ctx)
    }
    fn quota(&self, _: &Request) -> QuotaKey {
        QuotaKey::new(&["local"])
    }
}

#[test]
fn a_model_that_never_loads_ends_the_run_after_ten_minutes() {
    let (error, passed) = ends(|| {
        let client = ScriptedClient::new();
        for i in 0..40 {
            (0..1000).for_each(|_| client.fail(&format!("p{i}"), loading()));
        }
        let client = OneQuota(client);
        let clock = Arc::new(ManualClock::new());
        let route = Route::new(&client).clock(clock.clone());
        let run = Bulk::new(route).on_error(ErrorPolicy::StopOnCriticalError);
        let run = run.concurrency(2);
        let ended = std::thread::scope(|scope| {
            let run = scope.spawn(|| run.collect(&requests(40)));
            while !run.is_finished() {
                let before = client.0.calls().len();
                // Little by little: a call that is in the air meanwhile makes such a step one in vain.
                clock.advance(Duration::from_secs(2));
                let late = Instant::now() + Duration::from_millis(20);
                while client.0.calls().len() == before && Instant::now() < late {
                    std::thread::yield_now();
                }
            }
            run.join().unwrap()
        });
        (ended.unwrap_err(), clock.now().as_nanos() / 1_000_000_000)
    });
    assert!(matches!(error.reason, StopReason::Unreachable(_)));
    let words = error.to_string();
    assert!(words.contains("loading after ten minutes"), "{words}");
    assert!((600..660).contains(&passed), "{passed} s");
}
