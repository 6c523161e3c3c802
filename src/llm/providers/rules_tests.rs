//! Error bodies that vendors are known for, and the kind of each; further ones are among the recorded replies in
//! `tests/data/replies/`.

use std::time::Duration;

use crate::base::error::ErrorKind::*;
use crate::base::error::Sent;
use crate::llm::providers::dialect::testing::{decoded, failed, failed_with, kind};

fn openai(code: &str) -> String {
    format!(r#"{{"error":{{"message":"m","type":"t","param":null,"code":"{code}"}}}}"#)
}

fn xai(text: &str) -> String {
    format!(r#"{{"code":"c","error":"{text}"}}"#)
}

fn anthropic(kind: &str, message: &str) -> String {
    format!(
        r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"req_1"}}"#
    )
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

const BAD_KEY: &str =
    r#"{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}"#;
const PER_DAY: &str = r#"{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}"#;
const PER_MINUTE: &str = r#"{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]},
    {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"57.238747106s"}"#;

#[test]
#[rustfmt::skip]
fn statuses_and_bodies_are_classified() {
    let html = || "<html>".to_owned();
    let rows = [
        ("local", 500, r#"{"error":{"code":500,"message":"input (4001 tokens) is too large to process. increase the physical batch size (current batch size: 512)","type":"server_error"}}"#.into(), Invalid),
        ("local", 500, r#"{"error":{"code":500,"message":"m","type":"server_error"}}"#.into(), Transient),
        ("openai", 400, openai("content_policy_violation"), Blocked),
        ("openai", 404, "<html>not here</html>".into(), Invalid),
        ("openai", 408, String::new(), Transient),
        ("openai", 409, String::new(), Transient),
        ("openai", 422, String::new(), Invalid),
        ("openai", 429, r#"{"error":{"message":"Request too large for m on tokens per min (TPM): Limit 40000, Requested 131072. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#.into(), Invalid),
        ("openai", 429, r#"{"error":{"message":"m","type":"insufficient_quota","code":null}}"#.into(), Quota),
        ("openai", 429, openai("billing_not_active"), Quota),
        ("openai", 400, openai("invalid_prompt"), Blocked),
        ("custom", 403, r#"{"error":{"code":403,"message":"x requires moderation on y. Your input was flagged"}}"#.into(), Blocked),
        ("openai", 429, "busy".into(), RateLimited),
        ("openai", 498, String::new(), Invalid),
        ("openai", 500, openai("server_error"), Transient),
        ("openai", 502, "<html>Bad Gateway</html>".into(), Transient),
        ("openai", 302, String::new(), Invalid),

        ("groq", 400, r#"{"error":{"message":"m","failed_generation":"{"}}"#.into(), Malformed),
        ("groq", 400, openai("blocked_api_access"), Quota),
        ("groq", 400, openai("model_decommissioned"), UnknownModel),
        ("groq", 400, openai("bad"), Invalid),
        ("groq", 413, openai("request_too_large"), Invalid),
        ("groq", 422, openai("x"), Invalid),
        ("groq", 424, openai("x"), Invalid),

        ("xai", 400, xai("Incorrect API key provided: xa***"), Auth),
        ("xai", 400, xai("bad temperature"), Invalid),
        ("xai", 401, xai("no header"), Auth),
        ("xai", 403, xai("Your team has used all available credits"), Quota),
        ("xai", 403, xai("team is blocked"), Auth),
        ("xai", 403, xai("Content violates usage guidelines. Team: t, API key ID: k"), Blocked),
        ("xai", 400, xai("Content violates usage guidelines. Team: t, API key ID: k"), Blocked),
        ("xai", 404, xai("The model x does not exist"), UnknownModel),
        ("xai", 422, xai("schema"), Invalid),
        ("xai", 429, xai("Too many requests: tokens per minute 10/5"), RateLimited),
        ("xai", 429, xai("reached its monthly spending limit"), Quota),

        ("mistral", 400, r#"{"object":"error","message":"Invalid model: x","type":"invalid_model","code":"1500"}"#.into(), UnknownModel),
        ("mistral", 401, r#"{"message":"Unauthorized"}"#.into(), Auth),
        ("mistral", 402, r#"{"message":"no credit"}"#.into(), Quota),
        ("mistral", 422, r#"{"detail":[{"loc":["body","messages"],"msg":"Field required","type":"missing"}]}"#.into(), Invalid),
        ("mistral", 429, r#"{"message":"Requests rate limit exceeded"}"#.into(), RateLimited),
        ("mistral", 503, String::new(), Transient),

        ("openrouter", 402, r#"{"error":{"code":402,"message":"Insufficient credits","metadata":{"limit_source":"openrouter_credits"}}}"#.into(), Quota),
        ("openrouter", 402, r#"{"error":{"code":402,"message":"m","metadata":{"limit_source":"openrouter_in_flight_budget"}}}"#.into(), RateLimited),
        ("openrouter", 400, r#"{"error":{"code":400,"message":"x is not a valid model ID"}}"#.into(), UnknownModel),
        ("openrouter", 403, r#"{"error":{"code":403,"message":"m","metadata":{"error_type":"content_policy_violation"}}}"#.into(), Blocked),
        ("openrouter", 400, r#"{"error":{"code":400,"message":"m","metadata":{"error_type":"context_length_exceeded"}}}"#.into(), Invalid),
        ("deepseek", 400, r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#.into(), UnknownModel),
        ("deepseek", 402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#.into(), Quota),
        ("deepseek", 422, openai("invalid_request_error"), Invalid),
        ("deepseek", 503, String::new(), Transient),
        ("together", 402, openai("payment_required"), Quota),
        ("together", 404, openai("model_not_available"), UnknownModel),
        ("fireworks", 412, r#"{"error":{"object":"error","type":"invalid_request_error","message":"Account suspended"}}"#.into(), Quota),
        ("fireworks", 404, r#"{"error":{"object":"error","code":"NOT_FOUND","message":"Model not found, inaccessible, and/or not deployed"}}"#.into(), UnknownModel),
        ("deepinfra", 422, r#"{"detail":[{"loc":["body","seed"],"msg":"Input should be a valid integer","type":"int_parsing"}]}"#.into(), Invalid),
        ("cerebras", 404, r#"{"message":"Model x does not exist or you do not have access to it.","type":"not_found_error","param":"model","code":"model_not_found"}"#.into(), UnknownModel),
        ("cerebras", 429, r#"{"message":"Requests per minute limit exceeded - too many requests sent.","type":"too_many_requests_error","param":"quota","code":"request_quota_exceeded"}"#.into(), RateLimited),
        ("nvidia", 404, r#"{"status":404,"title":"Not Found","detail":"Function 'f-1': Not found for account 'a'"}"#.into(), UnknownModel),
        ("nvidia", 401, r#"{"status":401,"title":"Unauthorized","detail":"Authentication failed"}"#.into(), Auth),

        ("anthropic", 400, anthropic("invalid_request_error", "temperature: Extra inputs are not permitted"), Invalid),
        ("anthropic", 400, anthropic("invalid_request_error", "Your credit balance is too low"), Quota),
        ("anthropic", 400, anthropic("invalid_request_error", "Output blocked by content filtering policy"), Blocked),
        ("anthropic", 400, anthropic("invalid_request_error", "organization_on_hold"), Quota),
        ("anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), Auth),
        ("anthropic", 404, anthropic("not_found_error", "model: claude-x"), UnknownModel),
        ("anthropic", 404, anthropic("not_found_error", "no such path"), Invalid),
        ("anthropic", 503, anthropic("api_error", "cmek_unavailable"), Transient),

        ("gemini", 400, gemini(400, "INVALID_ARGUMENT", "m", BAD_KEY), Auth),
        ("gemini", 400, gemini(400, "INVALID_ARGUMENT", "API key not valid.", ""), Auth),
        ("gemini", 400, gemini(400, "FAILED_PRECONDITION", "User location", ""), Auth),
        ("gemini", 400, gemini(400, "FAILED_PRECONDITION", "The File abc is not in an ACTIVE state", ""), Invalid),
        ("gemini", 403, gemini(403, "PERMISSION_DENIED", "You do not have permission to access the File abc or it may not exist.", ""), Invalid),
        ("gemini", 403, gemini(403, "PERMISSION_DENIED", "m", ""), Auth),
        ("gemini", 404, gemini(404, "NOT_FOUND", "models/x is not found for API version v1beta", ""), UnknownModel),
        ("gemini", 404, html(), Invalid),
        ("gemini", 429, gemini(429, "RESOURCE_EXHAUSTED", "m", PER_MINUTE), RateLimited),
        ("gemini", 429, gemini(429, "RESOURCE_EXHAUSTED", "m", PER_DAY), Quota),
        ("gemini", 429, format!("[{}]", gemini(429, "RESOURCE_EXHAUSTED", "m", PER_DAY)), Quota),

        ("local", 404, r#"{"error":{"message":"model 'x' not found, try pulling it first","type":"api_error"}}"#.into(), UnknownModel),
        ("local", 503, r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#.into(), Transient),
        ("local", 400, r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}"#.into(), Invalid),
        ("local", 401, r#"{"error":"Unauthorized"}"#.into(), Auth),
        ("local", 401, r#"{"error":{"code":401,"message":"Invalid API Key","type":"authentication_error"}}"#.into(), Auth),
        ("local", 404, r#"{"error":"model 'x' not found"}"#.into(), UnknownModel),
        ("local", 404, r#"{"error":{"message":"model 'x' not found","type":"not_found_error","param":null,"code":null}}"#.into(), UnknownModel),
        ("local", 404, r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}"#.into(), UnknownModel),
        ("local", 404, r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","param":null,"code":404}"#.into(), UnknownModel),
        ("local", 404, r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#.into(), Invalid),
        ("local", 400, r#"{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}"#.into(), Invalid),
        ("local", 400, r#"{"object":"error","message":"This model's maximum context length is 2048 tokens.","type":"BadRequestError","param":null,"code":400}"#.into(), Invalid),
        ("local", 422, r#"{"error":{"message":"m","type":"UnprocessableEntityError","param":null,"code":422}}"#.into(), Invalid),
        ("local", 500, r#"{"error":"llama runner process has terminated"}"#.into(), Transient),
        ("local", 500, r#"{"error":{"code":500,"message":"m","type":"server_error"}}"#.into(), Transient),
        ("local", 500, r#"{"error":{"message":"m","type":"InternalServerError","param":null,"code":500}}"#.into(), Transient),
        ("local", 501, r#"{"error":{"code":501,"message":"This server does not support embeddings.","type":"not_supported_error"}}"#.into(), Invalid),
        ("local", 501, r#"{"error":{"message":"m","type":"NotImplementedError","param":null,"code":501}}"#.into(), Invalid),
        ("local", 503, r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#.into(), RateLimited),
        ("local", 503, r#"{"error":{"message":"server busy, please try again.  maximum pending requests exceeded","type":"api_error","param":null,"code":null}}"#.into(), RateLimited),
        ("local", 503, String::new(), Transient),
        ("custom", 429, openai("rate_limit_exceeded"), RateLimited),
    ];
    for (name, status, body, expected) in rows {
        assert_eq!(kind(name, status, &body), expected, "{name} {status} {body}");
    }
}

#[test]
fn what_no_row_knows_says_so() {
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
fn messages_say_who_answered_what() {
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
fn a_models_allowance_is_told_from_the_accounts() {
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
fn an_error_inside_a_success_is_known_by_its_words_too() {
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
fn a_gateway_that_ran_out_of_time_may_have_paid() {
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
fn a_failure_keeps_the_providers_name_for_the_call() {
    for (name, header) in [("openai", "x-request-id"), ("anthropic", "request-id")] {
        let failed = failed_with(name, 500, &[(header, "req_7")], "{}");
        assert_eq!(failed.request_id(), Some("req_7"));
        let empty = failed_with(name, 200, &[(header, "req_8")], "{}");
        assert_eq!(empty.request_id(), Some("req_8"));
    }
}

#[test]
fn a_wrong_path_is_told_from_a_wrong_request() {
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
