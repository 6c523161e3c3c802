//! Each API over the wire: a good call, and what is refused for its headers and its address.

use serde_json::{Value, json};

use super::SimConfig;
use super::test_client::{Has, start};

const GEMINI: &str = "x-goog-api-key: k1\r\n";
const GENERATE: &str = "/v1beta/models/gemini-x:generateContent";

fn message() -> Value {
    json!({"model": "claude-x", "max_tokens": 50, "system": "1234",
        "messages": [{"role": "user", "content": "hell"}]})
}

fn contents() -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]})
}

#[test]
fn anthropic_wants_one_key_and_its_version() {
    let (sim, mut client) = start(SimConfig::default().api_key("k1"));
    let version = "anthropic-version: 2026-10-21\r\n";
    let bearer = "Authorization: Bearer k1\r\n";
    let bad = "invalid_request_error";
    let cases = [
        (format!("x-api-key: k1\r\n{version}"), 200, ""),
        (format!("{bearer}{version}"), 200, ""),
        (format!("x-api-key: k1\r\n{bearer}{version}"), 400, bad),
        ("x-api-key: k1\r\n".to_owned(), 400, bad),
        (
            "x-api-key: k1\r\nanthropic-version: 1\r\n".to_owned(),
            400,
            bad,
        ),
        (
            format!("x-api-key: k2\r\n{version}"),
            401,
            "authentication_error",
        ),
        (version.to_owned(), 401, "authentication_error"),
    ];
    for (headers, status, kind) in cases {
        let reply = client.post("/v1/messages", &headers, &message()).is(status);
        let value = reply.json();
        if status != 200 {
            value.has(json!({"type": "error", "/error/type": kind}));
            let id = value["request_id"].as_str();
            assert_eq!(id, reply.header("request-id"));
        }
    }
    let stats = sim.stats();
    assert_eq!((stats.calls, stats.answered, stats.malformed), (7, 2, 3));
}

#[test]
fn gemini_wants_its_key_in_its_own_header() {
    let (sim, mut client) = start(SimConfig::default().api_key("k1"));
    let leak = format!("{GENERATE}?key=k1");
    let cases = [
        (GENERATE, GEMINI, 200, "", Value::Null),
        (
            GENERATE,
            "x-goog-api-key: k2\r\n",
            400,
            "INVALID_ARGUMENT",
            "API_KEY_INVALID".into(),
        ),
        (
            GENERATE,
            "Authorization: Bearer k1\r\n",
            403,
            "PERMISSION_DENIED",
            Value::Null,
        ),
        (&leak, GEMINI, 400, "INVALID_ARGUMENT", Value::Null),
    ];
    for (path, headers, code, status, reason) in cases {
        let reply = client.post(path, headers, &contents()).is(code);
        let error = &reply.json()["error"];
        if code != 200 {
            error.has(json!({"code": code, "status": status, "/details/0/reason": reason}));
        }
    }
    assert_eq!(sim.stats().malformed, 1);
}
