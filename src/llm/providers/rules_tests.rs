//! Error bodies that vendors are known for, and the kind of each; further ones are among the recorded replies in
//! `tests/data/replies/`.

use std::time::Duration;

use serde_json::Value;

use crate::base::Sent;
use crate::base::error::ErrorKind::*;
use crate::llm::providers::dialect::testing::{decoded, failed, failed_with, kind};

fn openai(code: &str) -> String {
    format!(r#"{{"error":{{"message":"m","type":"t","param":null,"code":"{code}"}}}}"#)
}

fn spend(code: &str) -> String {
    format!(
        r#"{{"type":"error","error":{{"type":"rate_limit_error","message":"m","details":{{"error_code":"{code}"}}}}}}"#
    )
}

fn gemini(code: u16, status: &str, message: &str, details: &str) -> String {
    format!(
        r#"{{"error":{{"code":{code},"message":"{message}","status":"{status}","details":[{details}]}}}}"#
    )
}

const PER_DAY: &str = r#"{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}"#;
const PER_MINUTE: &str = r#"{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]},
    {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"57.238747106s"}"#;

#[test]
fn statuses_and_bodies_are_classified() {
    let cases = include_str!("rules_cases.json");
    let cases: Vec<(String, u16, Value, String)> = serde_json::from_str(cases).unwrap();
    for (name, status, body, expected) in cases {
        let body = body
            .as_str()
            .map_or_else(|| body.to_string(), str::to_owned);
        let kind = kind(&name, status, &body);
        assert_eq!(kind.as_str(), expected, "{name} {status} {body}");
    }
}

#[test]
fn unknown_errors_are_marked_as_unclassified() {
    let failed = |status, body: &str| failed("openai", status, body);
    for (status, body) in [
        (400, "{}".to_owned()),
        (422, openai("new")),
        (404, "{}".into()),
    ] {
        assert!(failed(status, &body).is_unclassified(), "{status} {body}");
    }
    for (status, body) in [
        (400, openai("context_length_exceeded")),
        (400, openai("content_filter")),
        (413, "<html>".to_owned()),
        (401, "{}".to_owned()),
        (500, "{}".to_owned()),
    ] {
        assert!(!failed(status, &body).is_unclassified(), "{status} {body}");
    }
    let retried = failed_with("openai", 400, &[("x-should-retry", "true")], "{}");
    assert!(!retried.is_unclassified());
    let inside = |error: &str| decoded("custom", &format!(r#"{{"error":{error}}}"#)).unwrap_err();
    assert!(inside(r#"{"message":"m","code":400}"#).is_unclassified());
    assert!(!inside(r#"{"message":"m","code":"context_length_exceeded"}"#).is_unclassified());
}

#[test]
fn messages_name_the_provider_and_its_status() {
    let body =
        r#"{"detail":[{"loc":["body","messages"],"msg":"Field required","type":"missing"}]}"#;
    assert_eq!(
        failed("mistral", 422, body).message(),
        "mistral answered 422: body.messages: Field required"
    );
    let message = |name, body: &str| failed(name, 429, body).message().to_owned();
    assert_eq!(
        message("anthropic", &spend("ramp_limit_exceeded")),
        "anthropic answered 429 (rate_limit_error): m"
    );
    assert_eq!(
        message("gemini", &gemini(429, "RESOURCE_EXHAUSTED", "m", PER_DAY)),
        "gemini answered 429 (RESOURCE_EXHAUSTED): m"
    );
}

#[test]
fn the_server_may_overrule_its_status() {
    let forced = |status, advice| {
        let headers = [("x-should-retry", advice)];
        failed_with("openai", status, &headers, "{}").kind()
    };
    assert_eq!(forced(400, "true"), Transient);
    assert_eq!(forced(500, "false"), Invalid);
}

#[test]
fn a_wait_named_in_the_body_is_obeyed() {
    let wait = |message: &str| {
        let body = format!(r#"{{"error":{{"message":"{message}"}}}}"#);
        failed("openai", 429, &body).retry_after()
    };
    let text = "Rate limit reached. Please try again in 388ms. Visit the docs.";
    assert_eq!(wait(text), Some(Duration::from_millis(388)));
    assert_eq!(
        wait("Please try again in 1m2s."),
        Some(Duration::from_secs(62))
    );
    assert_eq!(wait("Please try again in a while"), None);
    let body = gemini(429, "RESOURCE_EXHAUSTED", "m", PER_MINUTE);
    let asked = failed("gemini", 429, &body).retry_after().unwrap();
    assert!((asked.as_secs_f64() - 57.238_747_106).abs() < 1e-6);
}

#[test]
fn the_quota_of_a_model_is_distinguished_from_that_of_the_account() {
    let failed = |details| {
        failed(
            "gemini",
            429,
            &gemini(429, "RESOURCE_EXHAUSTED", "m", details),
        )
    };
    assert!(failed(PER_DAY).is_model_only());
    let account = PER_DAY.replace("PerModel", "");
    let error = failed(&account);
    assert_eq!((error.kind(), error.is_model_only()), (Quota, false));
}

#[test]
fn an_error_inside_a_success_reply_is_classified_by_its_codes() {
    let inside = |error: &str| {
        decoded("custom", &format!(r#"{{"error":{error}}}"#))
            .unwrap_err()
            .kind()
    };
    assert_eq!(
        inside(r#"{"message":"m","code":"insufficient_quota"}"#),
        Quota
    );
    assert_eq!(inside(r#"{"message":"m","code":429}"#), RateLimited);
    assert_eq!(inside(r#"{"message":"m","code":"whatever"}"#), Malformed);
    assert_eq!(inside(r#""text""#), Malformed);
}

#[test]
fn a_call_that_timed_out_at_a_gateway_may_be_billed() {
    assert_eq!(failed("openai", 504, "").sent(), Sent::Maybe);
    assert_eq!(failed("openai", 500, "").sent(), Sent::Answered);
}

#[test]
fn an_overload_waits_longer_unless_the_server_says_how_long() {
    let five = Some(Duration::from_secs(5));
    assert_eq!(failed("anthropic", 529, "{}").retry_after(), five);
    let headers = [("retry-after", "1")];
    let wait = failed_with("anthropic", 529, &headers, "{}").retry_after();
    assert_eq!(wait, Some(Duration::from_secs(1)));
}

#[test]
fn a_failure_keeps_the_request_id() {
    for (name, header) in [("openai", "x-request-id"), ("anthropic", "request-id")] {
        let failed = failed_with(name, 500, &[(header, "req_7")], "{}");
        assert_eq!(failed.request_id(), Some("req_7"));
        let empty = failed_with(name, 200, &[(header, "req_8")], "{}");
        assert_eq!(empty.request_id(), Some("req_8"));
    }
}

#[test]
fn a_wrong_path_is_distinguished_from_an_invalid_request() {
    let failed = |status, body| failed("openai", status, body);
    assert!(failed(404, "<html>").is_unreachable());
    assert!(failed(404, r#"{"error":{"message":"Invalid URL (POST /v2/x)"}}"#).is_unreachable());
    assert!(failed(407, "<html>").is_unreachable());
    assert!(!failed(400, "{}").is_unreachable());
    let model = failed(404, r#"{"error":{"message":"m","code":"model_not_found"}}"#);
    assert!(!model.is_unreachable());
}

#[test]
fn an_endless_message_is_cut_between_words() {
    let words = |word: &str| format!(r#"{{"error":{{"message":"{}"}}}}"#, word.repeat(10_000));
    let error = failed("openai", 400, &words("größe "));
    let message = error.message();
    assert!(message.ends_with("größe …") && message.len() < 17 * 1024);
    assert!(
        failed("openai", 400, &words("key-"))
            .message()
            .ends_with(": …")
    );
    // What decides is looked for in what is kept.
    let late = words("word ").replacen("word", "You used all available credits;", 1);
    assert_eq!(kind("xai", 403, &late), Quota);
}

#[test]
fn what_a_model_wrote_instead_of_json_is_kept() {
    let body = r#"{"error":{"message":"Failed to generate JSON","type":"invalid_request_error",
        "code":"json_validate_failed","failed_generation":"{\"a\": "}}"#;
    assert_eq!(failed("groq", 400, body).raw(), Some("{\"a\": "));
}
