//! Waiting for a server that is up but still loads its model, on a manual clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::client::Sent;
use batchwright::unstable::Clock;
use batchwright::{Bulk, Context, Error, ErrorKind, Outcome, Progress, Request, Route, StopReason};
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

/// Runs to the end. Each second of the manual clock passes as soon as its call has been made.
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
fn progress_reports_how_long_a_server_has_been_loading() {
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
