//! The page at `/`, as it is served; what it does in a browser is tried in tests/dashboard.

use batchwright::Secret;
use batchwright_simulate::SimConfig;

use super::common::{Answer, Desk};

/// The page holds nothing but itself, so it asks for no token; what it fetches does.
#[test]
fn the_page_is_one_answer_that_browsers_may_trust() {
    let desk = Desk::with(SimConfig::default(), |server| {
        server.token(Secret::new("a token"))
    });
    let page = desk.get("/").is(200);
    assert!(page.text.len() < 100_000);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );
}

#[test]
fn a_page_that_is_known_is_not_sent_again() {
    let desk = Desk::new();
    let etag = desk.get("/").is(200).header("etag").unwrap().to_owned();
    let ask = |known: &str| {
        let request = desk.agent().get(desk.url("/"));
        Answer::of(request.header("if-none-match", known).call().unwrap())
    };
    for known in [etag.clone(), format!("\"another\", W/{etag}")] {
        let answer = ask(&known).is(304);
        assert!(answer.text.is_empty());
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
    }
    ask("\"another\"").is(200);
}
