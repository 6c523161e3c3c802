//! Clients over real sockets, against a provider that delays, fails, throttles and hangs up.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use batchwright::client::Sent;
use batchwright::{
    Bulk, Client, Context, Error, ErrorKind, ErrorPolicy, LlmClient, LlmConfig, Request,
    RetryPolicy, Route, Secret, StopReason, execute_bulk_sync,
};
use batchwright_simulate::{SimConfig, Simulator, Trouble};

const PATIENCE: Duration = Duration::from_secs(20);

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

/// A server that reads one request whole and then does as told with the connection.
fn one_shot(answer: impl FnOnce(std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.ends_with(b"}") {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0);
            seen.extend_from_slice(&buffer[..n]);
        }
        answer(stream);
    });
    url
}

fn single(base_url: &str) -> Error {
    client(base_url)
        .complete(&Request::new("hello"), &Context::new())
        .unwrap_err()
}

#[test]
fn every_prompt_is_answered_once_over_kept_connections() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    let client = config(&sim.base_url()).concurrency(4).client().unwrap();
    let outcomes = execute_bulk_sync(&Context::new(), &client, &requests(200), 4).unwrap();
    for (i, outcome) in outcomes.iter().enumerate() {
        let answer = outcome.result.as_ref().unwrap();
        assert_eq!(answer.text, format!("echo: prompt {i}"));
        assert_eq!(answer.provider, "openai");
    }
    let stats = sim.stats();
    assert_eq!((stats.calls, stats.paid_twice), (200, 0));
    assert!(stats.connections <= 4, "{} connections", stats.connections);
}

#[test]
fn trouble_costs_what_it_must_and_no_more() {
    let sure = [
        Trouble::Error500,
        Trouble::RateLimit,
        Trouble::Drop,
        Trouble::BrokenJson,
        Trouble::Truncated,
        Trouble::Html502,
        Trouble::Empty,
        Trouble::BadRequest,
        Trouble::ContentFilter,
    ];
    let mut settings = SimConfig::default().retry_after(Duration::ZERO).seed(3);
    for trouble in sure {
        settings = settings.trouble(trouble, 0.05);
    }
    let sim = Simulator::start(settings).unwrap();
    let route = Route::new(client(&sim.base_url()))
        .retry(RetryPolicy::default().base_delay(Duration::from_millis(1)));
    let all = requests(400);
    let mut failed = Vec::new();
    let mut answered = 0;
    let named = all
        .iter()
        .enumerate()
        .map(|(i, r)| r.clone().with_id(i.to_string()));
    let summary = Bulk::new(route)
        .concurrency(16)
        .for_each(named.collect::<Vec<_>>(), |outcome| {
            match &outcome.result {
                Ok(_) => answered += 1,
                Err(error) => failed.push((outcome.id.clone().unwrap(), error.kind())),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    for (id, kind) in &failed {
        let prompt = format!("prompt {id}");
        match sim.config().plan(&prompt) {
            Some(Trouble::BadRequest) => assert_eq!(*kind, ErrorKind::Invalid),
            Some(Trouble::ContentFilter) => assert_eq!(*kind, ErrorKind::Blocked),
            // Paid for, and not asked for again.
            Some(Trouble::Empty) => assert_eq!(*kind, ErrorKind::Malformed),
            other => panic!("{prompt} failed as {kind} although its trouble was {other:?}"),
        }
    }
    let hopeless = |i: &usize| {
        matches!(
            sim.config().plan(&format!("prompt {i}")),
            Some(Trouble::BadRequest | Trouble::ContentFilter | Trouble::Empty)
        )
    };
    assert_eq!(failed.len(), (0..400).filter(hopeless).count());
    assert_eq!(answered + failed.len(), 400);
    let stats = sim.stats();
    assert_eq!(stats.calls, summary.calls);
    assert_eq!(stats.maybe_paid_resent, summary.possibly_paid_twice);
    assert!(summary.possibly_paid_twice > 0);
}

#[test]
fn a_cut_connection_tells_whether_the_request_had_gone_out() {
    let after_sending = single(&one_shot(drop));
    assert_eq!(after_sending.kind(), ErrorKind::Transient);
    assert_eq!(after_sending.sent(), Sent::Maybe);

    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = single(&format!("http://{nobody}/v1"));
    assert_eq!(
        (refused.kind(), refused.sent()),
        (ErrorKind::Transient, Sent::No)
    );
    assert!(refused.message().contains("cannot reach"), "{refused}");
}

#[test]
fn a_truncated_reply_is_transient_and_of_unknown_fate() {
    let error = single(&one_shot(|mut stream| {
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"choices\":[";
        stream.write_all(cut).unwrap();
    }));
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Transient, Sent::Maybe)
    );
}

#[test]
fn a_stalled_call_times_out_and_says_so() {
    let sim = Simulator::start(SimConfig::default().trouble(Trouble::Stall, 1.0)).unwrap();
    let client = config(&sim.base_url())
        .request_timeout(Duration::from_millis(100))
        .client()
        .unwrap();
    let error = client
        .complete(&Request::new("x"), &Context::new())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.timed_out() && error.sent() == Sent::Maybe);
}

#[test]
fn an_abort_wakes_calls_blocked_in_a_read() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    sim.hold();
    let client = client(&sim.base_url());
    let ctx = Context::new();
    let all = requests(8);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| execute_bulk_sync(&ctx, &client, &all, 8));
        assert!(sim.wait_until(|s| s.in_flight == 8, PATIENCE));
        let start = Instant::now();
        ctx.abort();
        let error = run.join().unwrap().unwrap_err();
        // Far below the five seconds of the request's own time-out.
        assert!(start.elapsed() < Duration::from_secs(3));
        assert!(error.outcomes.iter().all(|o| !o.is_success()));
    });
}

#[test]
fn an_abort_leaves_other_calls_of_the_client_alone() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    sim.hold();
    let client = client(&sim.base_url());
    let (stopped, other) = (Context::new(), Context::new());
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| client.complete(&Request::new("a"), &stopped));
        let goes_on = scope.spawn(|| client.complete(&Request::new("b"), &other));
        assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
        stopped.abort();
        assert_eq!(
            ended.join().unwrap().unwrap_err().kind(),
            ErrorKind::Cancelled
        );
        sim.release();
        assert_eq!(goes_on.join().unwrap().unwrap().text, "echo: b");
    });
}

#[test]
fn a_contexts_deadline_bounds_a_call() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    sim.hold();
    let ctx = Context::new().with_timeout(Duration::from_millis(50));
    let error = client(&sim.base_url())
        .complete(&Request::new("x"), &ctx)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}

#[test]
fn connections_that_the_server_gives_up_lose_no_item() {
    let settings = SimConfig::default().max_requests_per_connection(5);
    let sim = Simulator::start(settings).unwrap();
    let route = Route::new(client(&sim.base_url()))
        .retry(RetryPolicy::default().base_delay(Duration::from_millis(1)));
    let outcomes = Bulk::new(route)
        .concurrency(4)
        .collect(&requests(100))
        .unwrap();
    assert!(outcomes.iter().all(|o| o.is_success()));
    assert!(sim.stats().connections >= 20);
    assert_eq!(sim.stats().paid_twice, 0);
}

#[test]
fn a_refused_key_is_critical_and_never_shown() {
    let sim = Simulator::start(SimConfig::default().api_key("another")).unwrap();
    let error = single(&sim.base_url());
    assert_eq!(error.kind(), ErrorKind::Auth);
    let shown = format!(
        "{error} {error:?} {}",
        serde_json::to_string(&error).unwrap()
    );
    assert!(!shown.contains("sk-test-0123456789"), "{shown}");
    assert!(shown.contains("OPENAI_API_KEY"));
}

#[test]
fn a_server_that_echoes_the_key_does_not_get_it_shown() {
    let url = one_shot(|mut stream| {
        let body = r#"{"error":{"message":"bad key sk-test-0123456789","code":"invalid_api_key"}}"#;
        let head = format!("HTTP/1.1 401 No\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).unwrap();
    });
    let error = single(&url);
    assert!(error.message().contains("bad key ***"), "{error}");
    assert!(!format!("{error:?}{error}").contains("0123456789"));
}

#[test]
fn a_provider_that_cannot_be_reached_stops_the_run() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let retry = RetryPolicy::default()
        .base_delay(Duration::from_millis(1))
        .max_retries(1);
    let route = Route::new(client(&format!("http://{nobody}/v1"))).retry(retry);
    let error = Bulk::new(route)
        .concurrency(8)
        .on_error(ErrorPolicy::StopOnCriticalError)
        .collect(&requests(500))
        .unwrap_err();
    assert!(
        matches!(error.reason, StopReason::Unreachable(_)),
        "{error}"
    );
    let tried = error.outcomes.iter().filter(|o| o.attempts > 0).count();
    assert!(tried <= 16, "{tried} items were tried");
}

#[test]
fn an_unknown_provider_names_the_known_ones() {
    let error = LlmConfig::new("opnai").client().unwrap_err();
    assert!(
        error.message().contains("openai, gemini, mistral"),
        "{error}"
    );
}
