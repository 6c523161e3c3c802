//! Clients over real sockets, against a provider that delays, fails, throttles and closes connections.

use std::time::{Duration, Instant};

use batchwright::client::Sent;
use batchwright::provider::inspect;
use batchwright::unstable::{HttpRequest, ReplyShare};
use batchwright::{
    Client, Context, Error, ErrorKind, LlmClient, LlmConfig, Request, Secret, execute_bulk_sync,
};
use batchwright_simulate::{SimConfig, Trouble};

use super::common::{NOBODY, PATIENCE, simulator};

fn config(base_url: &str) -> LlmConfig {
    LlmConfig::new("openai")
        .base_url(base_url)
        .model("sim-1")
        .api_key(Secret::new("sk-test-0123456789"))
        .request_timeout(Duration::from_secs(5))
}

fn client(base_url: &str) -> Client {
    config(base_url).client().unwrap()
}

fn requests(n: usize) -> Vec<Request> {
    (0..n)
        .map(|i| Request::new(format!("prompt {i}")))
        .collect()
}

fn single(base_url: &str) -> Error {
    client(base_url)
        .complete(&Request::new("hello"), &Context::new())
        .unwrap_err()
}

#[test]
fn a_cut_connection_reports_whether_the_request_was_sent() {
    let sim = simulator(SimConfig::default().trouble(Trouble::Drop, 1.0));
    let after_sending = single(&sim.base_url());
    assert_eq!(after_sending.kind(), ErrorKind::Transient);
    assert_eq!(after_sending.sent(), Sent::Maybe);

    let refused = single(NOBODY);
    assert_eq!(
        (refused.kind(), refused.sent()),
        (ErrorKind::Transient, Sent::No)
    );
    assert!(refused.message().contains("cannot reach"), "{refused}");
}

#[test]
fn an_abort_wakes_calls_blocked_in_a_read_and_leaves_others_of_the_client_alone() {
    let sim = simulator(SimConfig::default());
    sim.hold();
    let config = config(&sim.base_url()).request_timeout(3 * PATIENCE);
    let client = config.client().unwrap();
    let (stopped, all) = (Context::new(), requests(8));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| execute_bulk_sync(&stopped, &client, &all, 8));
        let other = scope.spawn(|| client.complete(&Request::new("b"), &Context::new()));
        assert!(sim.wait_until(|s| s.in_flight == 9, PATIENCE));
        let start = Instant::now();
        stopped.abort();
        let error = run.join().unwrap().unwrap_err();
        // Far below the request's own time-out.
        assert!(start.elapsed() < PATIENCE);
        assert!(error.outcomes.iter().all(|o| !o.is_success()));
        sim.release();
        assert_eq!(other.join().unwrap().unwrap().text, "echo: b");
    });
}

#[test]
fn debug_output_contains_no_secret() {
    let url = "http://me:hunter2-password@127.0.0.1:9/v1";
    let config = LlmConfig::new("openai")
        .base_url(url)
        .model("m")
        .api_key(Secret::new("sk-secret-0123456789"));
    let headers = [(
        "authorization".into(),
        "Bearer sk-secret-0123456789".to_owned(),
    )];
    let request = HttpRequest {
        url,
        headers: &headers,
        body: Some(b"a private prompt"),
        timeout: Duration::from_secs(1),
        reply_limit: 1,
        memory: &ReplyShare::of_process(),
    };
    let status = inspect("openai", Some(url), Some("m"), false).unwrap();
    let client: Client = config.client().unwrap();
    for shown in [
        format!("{config:?} {config:#?}"),
        format!("{request:?} {request:#?}"),
        format!("{status:?} {status:#?}"),
        serde_json::to_string(&status).unwrap(),
        format!("{client:?} {client:#?}"),
    ] {
        for secret in ["hunter2", "sk-secret", "private"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    assert!(format!("{config:?}").contains("***@127.0.0.1:9"));
    // The masked value is still used.
    assert!(format!("{:?}", status.config()).contains("***@"));
}
