//! Each API over the wire: a good call, and what is refused for its headers and its address.

use serde_json::{Value, json};

use super::SimConfig;
use super::test_client::{Has, cases, start};

#[test]
fn anthropic_wants_one_key_and_its_version() {
    let (sim, mut client) = start(SimConfig::default().api_key("k1"));
    let message = json!({"model": "claude-x", "max_tokens": 50, "system": "1234",
        "messages": [{"role": "user", "content": "hell"}]});
    for (headers, answer) in cases(
        "x-api-key: k1, anthropic-version: 2023-06-01 => 200
        Authorization: Bearer k1, anthropic-version: 2023-06-01 => 200
        x-api-key: k1, Authorization: Bearer k1, anthropic-version: 2023-06-01 => 400 invalid_request_error
        x-api-key: k1 => 400 invalid_request_error
        x-api-key: k1, anthropic-version: 1 => 400 invalid_request_error
        x-api-key: k2, anthropic-version: 2023-06-01 => 401 authentication_error
        anthropic-version: 2023-06-01 => 401 authentication_error",
    ) {
        let headers = headers.replace(", ", "\r\n") + "\r\n";
        let (status, kind) = answer.split_at(3);
        let reply = client.post("/v1/messages", &headers, &message);
        let reply = reply.is(status.parse().unwrap());
        if status != "200" {
            reply.json().has(json!({"type": "error", "/error/type": kind.trim(),
                "request_id": reply.header("request-id")}));
        }
    }
    let stats = sim.stats();
    assert_eq!((stats.calls, stats.answered, stats.malformed), (7, 2, 3));
}

#[test]
fn gemini_wants_its_key_in_its_own_header() {
    let (sim, mut client) = start(SimConfig::default().api_key("k1"));
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
    for (asked, code, status, reason) in [
        (" x-goog-api-key: k1", 200, "", Value::Null),
        (
            " x-goog-api-key: k2",
            400,
            "INVALID_ARGUMENT",
            "API_KEY_INVALID".into(),
        ),
        (
            " Authorization: Bearer k1",
            403,
            "PERMISSION_DENIED",
            Value::Null,
        ),
        (
            "?key=k1 x-goog-api-key: k1",
            400,
            "INVALID_ARGUMENT",
            Value::Null,
        ),
    ] {
        let (query, header) = asked.split_once(' ').unwrap();
        let path = format!("/v1beta/models/gemini-x:generateContent{query}");
        let reply = client
            .post(&path, &format!("{header}\r\n"), &contents)
            .is(code);
        if code != 200 {
            reply.json()["error"]
                .has(json!({"code": code, "status": status, "/details/0/reason": reason}));
        }
    }
    assert_eq!(sim.stats().malformed, 1);
}
