use super::*;
use crate::test_client::cases;

#[test]
fn broken_heads_are_refused() {
    let post = "POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\n";
    let long = format!("X: {}", "x".repeat(HEAD_LIMIT));
    for (start, rest, status) in [
        ("what?\r\n", "\r\n", 400),
        (post, "\r\n", 411),
        (post, "Transfer-Encoding: chunked\r\n\r\n", 411),
        (post, "Content-Length: +1\r\n\r\n", 400),
        (post, "Content-Length: 33554433\r\n\r\n", 413),
        (post, &long, 431),
    ] {
        let head = format!("{start}{rest}");
        match Reader::new(head.as_bytes()).next().unwrap_err() {
            Refusal::Told(found, _) => assert_eq!(found, status),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn addresses_are_found_wherever_vendors_have_them() {
    for (target, expected) in cases(
        "/openai/v1/chat/completions => /v1/chat/completions
        /api/v1/chat/completions => /v1/chat/completions
        /inference/v1/chat/completions => /v1/chat/completions
        /v1/openai/chat/completions => /v1/chat/completions
        /v1beta/models/m:sing?alt=json => /v1beta/models/m:sing?alt=json
        /openai => /openai
        /openai/deployments/d/chat/completions?api-version=1 => /v1/chat/completions
        /openai/batches?limit=3&api-version=1 => /v1/batches?limit=3",
    ) {
        let head = format!("GET {target} HTTP/1.1\r\nHost: sim\r\n\r\n");
        let request = Reader::new(head.as_bytes()).next().unwrap();
        let (path, query) = expected.split_once('?').unwrap_or((expected, ""));
        assert_eq!((&*request.path, &*request.query), (path, query), "{target}");
    }
}
