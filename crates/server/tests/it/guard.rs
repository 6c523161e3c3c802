//! Who may ask, and the page at `/` as it is served; what it does in a browser is tried in tests/dashboard.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use batchwright::Secret;
use batchwright_server::{Role, Server, new_token};
use batchwright_simulate::SimConfig;

use super::common::Desk;

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
        let answer = desk.send("GET", "/healthz", headers, ());
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        if status != 200 {
            assert_eq!(answer.json()["status"], status, "{answer:?}");
        }
    }
}

#[test]
fn with_a_token_nobody_else_sees_anything() {
    let token = "correct horse battery staple";
    let desk = Desk::with(SimConfig::default(), |server| {
        server.token(Secret::new(token))
    });
    desk.get("/healthz").is(200);
    for given in [
        "",
        "Bearer wrong",
        "Basic correct horse battery staple",
        "Bearer ",
        token,
    ] {
        let header = [("authorization", given)];
        let headers = if given.is_empty() { &[] } else { &header[..] };
        for path in ["/metrics", "/v1/models", "/api/v1/overview", "/nothing"] {
            let answer = desk.send("GET", path, headers, ()).is(401);
            assert!(!answer.text.contains(token));
            assert!(answer.header("www-authenticate").is_some());
        }
    }
    let bearer = format!("bearer {token}");
    desk.send("GET", "/metrics", &[("authorization", &bearer)], ())
        .is(200);
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

/// The page holds nothing but itself, so it asks for no token; what it fetches does.
#[test]
fn the_page_is_one_answer_that_browsers_may_trust() {
    let desk = Desk::with(SimConfig::default(), |server| {
        server.token(Secret::new("a token"))
    });
    let page = desk.get("/").is(200);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );
}

/// Replaces the file in one step, as only the server's user may read it.
fn write(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&new, path).unwrap();
}

/// A token and its line.
fn made(name: &str, role: Role) -> (String, String) {
    let (token, line) = new_token(name, role).unwrap();
    (token.expose().to_owned(), line + "\n")
}

#[test]
fn a_file_that_other_users_can_access_is_refused_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let (_, line) = made("a", Role::Read);
    let queue = batchwright::JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o602] {
        write(&path, &line, mode);
        let server = Server::new(queue.clone(), batchwright::Worker::new(&queue));
        let server = server.address(([127, 0, 0, 1], 0).into()).token_file(&path);
        let error = server.start().unwrap_err();
        let command = format!("chmod 600 {}", path.display());
        assert!(error.message().contains(&command), "{error}");
    }
}
