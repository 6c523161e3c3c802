//! Who may ask.

use batchwright::Secret;
use batchwright_server::Server;
use batchwright_simulate::SimConfig;

use super::common::{Answer, Desk};

fn with_headers(desk: &Desk, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = desk.agent().get(desk.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.call().unwrap())
}

#[test]
fn pages_of_other_sites_may_not_ask() {
    let desk = Desk::new();
    let port = desk.server().address().port();
    let ours = format!("127.0.0.1:{port}");
    let localhost = format!("localhost:{port}");
    let cases: [(u16, &[(&str, &str)]); 9] = [
        (200, &[]),
        (200, &[("host", &ours)]),
        (200, &[("host", &localhost)]),
        // A name of somebody else that was made to lead here.
        (421, &[("host", "evil.example")]),
        (421, &[("host", "127.0.0.1.evil.example")]),
        (200, &[("origin", &format!("http://{ours}"))]),
        (403, &[("origin", "https://evil.example")]),
        (403, &[("origin", "null")]),
        (403, &[("sec-fetch-site", "cross-site")]),
    ];
    for (status, headers) in cases {
        let answer = with_headers(&desk, "/healthz", headers);
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        if status != 200 {
            assert_eq!(answer.json()["status"], status, "{answer:?}");
            let kind = answer.header("content-type");
            assert_eq!(kind, Some("application/problem+json"));
        }
    }
}

#[test]
fn with_a_token_nobody_else_sees_anything() {
    let token = "correct horse battery staple";
    let desk = Desk::with(SimConfig::default(), |server| {
        server.token(Secret::new(token))
    });
    with_headers(&desk, "/healthz", &[]).is(200);
    for given in [
        None,
        Some("Bearer wrong"),
        Some("Basic correct horse battery staple"),
        Some("Bearer "),
        Some("correct horse battery staple"),
    ] {
        let headers: Vec<_> = given
            .map(|given| ("authorization", given))
            .into_iter()
            .collect();
        for path in ["/metrics", "/v1/models", "/api/v1/overview", "/nothing"] {
            let answer = with_headers(&desk, path, &headers).is(401);
            assert!(!answer.text.contains(token));
            assert!(answer.header("www-authenticate").is_some());
        }
    }
    let bearer = format!("bearer {token}");
    with_headers(&desk, "/metrics", &[("authorization", &bearer)]).is(200);
}

#[test]
fn another_address_needs_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let queue = batchwright::JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    let server = |queue: &batchwright::JobQueue| {
        let worker = batchwright::Worker::new(queue);
        Server::new(queue.clone(), worker).address(([0, 0, 0, 0], 0).into())
    };
    let error = server(&queue).start().unwrap_err();
    assert!(error.message().contains("token"), "{error}");
    let running = server(&queue).token(Secret::new("t")).start().unwrap();
    running.stop().unwrap();
}

#[test]
fn what_is_not_there_is_told_in_the_words_of_its_clients() {
    let desk = Desk::new();
    let problem = desk.get("/api/v1/nothing").is(404).json();
    assert_eq!(problem["type"], "urn:batchwright:problem:not_found");
    let error = desk.get("/v1/nothing").is(404).json();
    assert_eq!(error["error"]["type"], "invalid_request_error");
    let answer = desk.delete("/healthz").is(405);
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    for path in [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//",
        "/api//v1",
    ] {
        let answer = desk.get(path);
        assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
    }
}
