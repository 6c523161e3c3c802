//! Waiting for a server that is up but still loads its model.

use std::sync::Arc;
use std::time::Duration;

use batchwright::client::Sent;
use batchwright::testing::ScriptedClient;
use batchwright::{Bulk, Context, Error, ErrorKind, Progress, Request, Route, StopReason};

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
