//! The dialect against recorded and invented replies.

use super::*;
use crate::llm::request::Message;

fn vendor(name: &str) -> &'static Vendor {
    Vendor::named(name).unwrap()
}

fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> HttpReply {
    HttpReply {
        status,
        headers: headers.iter().copied().collect(),
        body: body.as_bytes().to_vec(),
    }
}

fn decoded(name: &str, body: &str) -> Result<Response, Error> {
    decode(vendor(name), &reply(200, &[], body))
}

fn kind(name: &str, status: u16, body: &str) -> ErrorKind {
    decode(vendor(name), &reply(status, &[], body))
        .unwrap_err()
        .kind()
}

const GOOD: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,
    "model":"gpt-x-2026-01-01","choices":[{"index":0,"finish_reason":"stop",
    "message":{"role":"assistant","content":"Blue — and „deep“.","refusal":null}}],
    "usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,
    "prompt_tokens_details":{"cached_tokens":4},
    "completion_tokens_details":{"reasoning_tokens":2}}}"#;

#[test]
fn a_complete_reply_becomes_an_answer() {
    let answer = decoded("openai", GOOD).unwrap();
    assert_eq!(answer.text, "Blue — and „deep“.");
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    assert_eq!(answer.model.as_deref(), Some("gpt-x-2026-01-01"));
    let usage = answer.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.cached_input_tokens), (10, 4));
    assert_eq!((usage.output_tokens, usage.reasoning_tokens), (5, 2));
}

#[test]
fn every_prefix_of_a_reply_is_malformed_and_none_panics() {
    for end in 0..GOOD.len() {
        let cut = HttpReply {
            status: 200,
            headers: Headers::default(),
            body: GOOD.as_bytes()[..end].to_vec(),
        };
        let error = decode(vendor("openai"), &cut).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.sent(), Sent::Maybe);
        assert!(end == 0 || error.raw().is_some());
    }
}

#[test]
fn mutated_replies_never_panic() {
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut body = GOOD.as_bytes().to_vec();
        for _ in 0..3 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            let at = (seed >> 33) as usize % body.len();
            body[at] = (seed >> 20) as u8;
        }
        for status in [200, 429] {
            let reply = HttpReply {
                status,
                headers: Headers::default(),
                body: body.clone(),
            };
            let _ = decode(vendor("openai"), &reply);
        }
    }
}

#[test]
fn reasoning_counted_apart_is_added_to_the_output() {
    let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}],
        "usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,
        "completion_tokens_details":{"reasoning_tokens":7},"cost_in_usd_ticks":12345}}"#;
    let answer = decoded("xai", body).unwrap();
    assert_eq!(answer.usage.unwrap().output_tokens, 12);
    assert!((answer.cost_usd.unwrap() - 1.2345e-6).abs() < 1e-15);
}

#[test]
fn a_strange_usage_does_not_cost_the_answer() {
    for usage in ["null", "[]", "\"many\"", r#"{"prompt_tokens":"ten"}"#] {
        let body = format!(
            r#"{{"choices":[{{"finish_reason":"stop","message":{{"content":"x"}}}}],"usage":{usage}}}"#
        );
        assert_eq!(decoded("local", &body).unwrap().usage, None);
    }
}

#[test]
fn content_may_be_a_list_of_chunks() {
    let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":[
        {"type":"thinking","thinking":[{"type":"text","text":"hm"}]},
        {"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}"#;
    assert_eq!(decoded("mistral", body).unwrap().text, "ab");
}

#[test]
fn finish_reasons_lead_to_their_outcomes() {
    let with = |finish: &str, content: &str| {
        let body = format!(
            r#"{{"choices":[{{"finish_reason":{finish},"message":{{"content":{content}}}}}]}}"#
        );
        decoded("mistral", &body)
    };
    let ended = |finish| with(finish, "\"x\"").unwrap().finish_reason;
    assert_eq!(ended("\"stop\""), FinishReason::Stop);
    assert_eq!(ended("\"length\""), FinishReason::Length);
    assert_eq!(ended("\"model_length\""), FinishReason::Length);
    assert_eq!(ended("\"eos\""), FinishReason::Other("eos".into()));
    assert_eq!(ended("null"), FinishReason::Other(String::new()));
    let failed = |finish, content| with(finish, content).unwrap_err().kind();
    assert_eq!(failed("\"content_filter\"", "null"), ErrorKind::Blocked);
    assert_eq!(failed("\"tool_calls\"", "null"), ErrorKind::Invalid);
    assert_eq!(failed("\"error\"", "\"x\""), ErrorKind::Malformed);
    assert_eq!(failed("\"stop\"", "\"\""), ErrorKind::Malformed);
    assert_eq!(failed("\"length\"", "\"\""), ErrorKind::Invalid);
}

#[test]
fn a_refusal_is_blocked() {
    let body =
        r#"{"choices":[{"finish_reason":"stop","message":{"content":null,"refusal":"I can't"}}]}"#;
    let error = decoded("openai", body).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Blocked);
    assert!(error.message().contains("I can't"));
}

#[test]
fn an_error_inside_a_200_is_taken_for_what_it_says() {
    let body = r#"{"error":{"code":429,"message":"slow down"}}"#;
    assert_eq!(
        decoded("openai", body).unwrap_err().kind(),
        ErrorKind::RateLimited
    );
    assert_eq!(
        decoded("openai", "{}").unwrap_err().kind(),
        ErrorKind::Malformed
    );
}

#[test]
fn statuses_and_bodies_are_classified() {
    use ErrorKind::*;
    let object = |code: &str| {
        format!(r#"{{"error":{{"message":"m","type":"t","param":null,"code":"{code}"}}}}"#)
    };
    for (name, status, body, expected) in [
        ("openai", 400, object("context_length_exceeded"), Invalid),
        ("openai", 401, object("invalid_api_key"), Auth),
        ("openai", 403, object("x"), Auth),
        ("openai", 404, object("model_not_found"), UnknownModel),
        ("openai", 404, "<html>not here</html>".into(), Invalid),
        ("openai", 408, String::new(), Transient),
        ("openai", 409, String::new(), Transient),
        ("openai", 413, "<html>".into(), Invalid),
        ("openai", 422, String::new(), Invalid),
        ("openai", 429, object("rate_limit_exceeded"), RateLimited),
        ("openai", 429, object("insufficient_quota"), Quota),
        ("openai", 429, object("project_spend_limit_exceeded"), Quota),
        ("openai", 429, "busy".into(), RateLimited),
        ("openai", 500, object("server_error"), Transient),
        ("openai", 502, "<html>Bad Gateway</html>".into(), Transient),
        ("openai", 503, String::new(), Transient),
        ("openai", 302, String::new(), Invalid),
        ("groq", 498, object("capacity_exceeded"), Transient),
        ("openai", 498, String::new(), Invalid),
        ("groq", 400, r#"{"error":{"message":"m","failed_generation":"{"}}"#.into(), Malformed),
        ("xai", 400, r#"{"code":"c","error":"Incorrect API key provided: xa***"}"#.into(), Auth),
        ("xai", 400, r#"{"code":"c","error":"bad temperature"}"#.into(), Invalid),
        ("xai", 403, r#"{"code":"c","error":"Your team has used all available credits"}"#.into(), Quota),
        ("mistral", 422, r#"{"detail":[{"loc":["body","messages"],"msg":"Field required","type":"missing"}]}"#.into(), Invalid),
        ("local", 404, r#"{"error":{"message":"model 'x' not found, try pulling it first","type":"api_error"}}"#.into(), UnknownModel),
        ("local", 503, r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#.into(), Transient),
        ("local", 400, r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}"#.into(), Invalid),
        ("local", 401, r#"{"error":"Unauthorized"}"#.into(), Auth),
    ] {
        assert_eq!(kind(name, status, &body), expected, "{name} {status} {body}");
    }
}

#[test]
fn messages_say_who_answered_what() {
    let body =
        r#"{"detail":[{"loc":["body","messages"],"msg":"Field required","type":"missing"}]}"#;
    let error = decode(vendor("mistral"), &reply(422, &[], body)).unwrap_err();
    assert_eq!(
        error.message(),
        "mistral answered 422: body.messages: Field required"
    );
    let error = decode(vendor("openai"), &reply(401, &[], "")).unwrap_err();
    assert!(error.message().contains("OPENAI_API_KEY"));
}

#[test]
fn the_server_may_overrule_its_status() {
    let forced = |status, advice| {
        let reply = reply(status, &[("x-should-retry", advice)], "{}");
        decode(vendor("openai"), &reply).unwrap_err().kind()
    };
    assert_eq!(forced(400, "true"), ErrorKind::Transient);
    assert_eq!(forced(500, "false"), ErrorKind::Invalid);
}

#[test]
fn limits_are_read_from_headers() {
    let headers = [
        ("x-ratelimit-limit-requests", "600"),
        ("x-ratelimit-remaining-requests", "599"),
        ("x-ratelimit-reset-requests", "100ms"),
        ("x-ratelimit-limit-tokens", "90000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    let answer = decode(vendor("openai"), &reply(200, &headers, GOOD)).unwrap();
    let requests = answer.rate_hints().requests.unwrap();
    assert_eq!((requests.limit, requests.remaining), (600, Some(599)));
    assert_eq!(requests.period, Duration::from_secs(60));
    assert_eq!(requests.reset, Some(Duration::from_millis(100)));
    let groq = decode(vendor("groq"), &reply(200, &headers, GOOD)).unwrap();
    let hints = groq.rate_hints();
    assert_eq!(hints.requests.unwrap().period, Duration::from_secs(86_400));
    assert_eq!(hints.tokens.unwrap().period, Duration::from_secs(60));
    let error = decode(vendor("openai"), &reply(429, &headers, "{}")).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(360)));
}

#[test]
fn waits_are_read_in_every_form() {
    let now = httpdate::parse_http_date("Fri, 20 Nov 2026 08:00:00 GMT").unwrap();
    let wait = |headers: &[(&str, &str)]| {
        retry_after(vendor("openai"), &headers.iter().copied().collect(), now)
    };
    let seconds = |s| Some(Duration::from_secs_f64(s));
    assert_eq!(wait(&[("retry-after", "2")]), seconds(2.0));
    assert_eq!(wait(&[("Retry-After", "1.5")]), seconds(1.5));
    assert_eq!(
        wait(&[("retry-after", "7"), ("retry-after-ms", "250")]),
        seconds(0.25)
    );
    let date = "Fri, 20 Nov 2026 08:00:30 GMT";
    assert_eq!(wait(&[("retry-after", date)]), seconds(30.0));
    let past = "Fri, 20 Nov 2026 07:00:30 GMT";
    assert_eq!(wait(&[("retry-after", past)]), seconds(0.0));
    for bad in ["soon", "-1", "NaN", ""] {
        assert_eq!(wait(&[("retry-after", bad)]), None, "{bad}");
    }
    assert_eq!(wait(&[]), None);
}

#[test]
fn a_wait_named_in_the_message_is_obeyed() {
    let wait = |message: &str| {
        let body = format!(r#"{{"error":{{"message":"{message}"}}}}"#);
        let error = decode(vendor("openai"), &reply(429, &[], &body)).unwrap_err();
        error.retry_after()
    };
    let text = "Rate limit reached. Please try again in 388ms. Visit the docs.";
    assert_eq!(wait(text), Some(Duration::from_millis(388)));
    assert_eq!(
        wait("Please try again in 1m2s."),
        Some(Duration::from_secs(62))
    );
    assert_eq!(wait("Please try again in a while"), None);
}

#[test]
fn a_wrong_path_is_told_from_a_wrong_request() {
    let failed = |status, body| decode(vendor("openai"), &reply(status, &[], body)).unwrap_err();
    assert!(failed(404, "<html>").is_unreachable());
    assert!(failed(404, r#"{"error":{"message":"Invalid URL (POST /v2/x)"}}"#).is_unreachable());
    assert!(!failed(400, "{}").is_unreachable());
    let model = failed(404, r#"{"error":{"message":"m","code":"model_not_found"}}"#);
    assert!(!model.is_unreachable());
}

#[test]
fn go_durations_are_read() {
    for (text, seconds) in [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("7", 7.0),
        ("150µs", 0.000_15),
    ] {
        let read = go_duration(text).unwrap().as_secs_f64();
        assert!((read - seconds).abs() < 1e-9, "{text}: {read}");
    }
    for bad in ["", "s", "1x", "1m2", "-3s", "..s", "1e400"] {
        assert_eq!(go_duration(bad), None, "{bad}");
    }
}

#[test]
fn a_request_is_encoded_with_each_vendors_names() {
    let mut request = Request::chat(vec![Message::new(Role::User, "U")])
        .with_system("S")
        .with_max_tokens(9)
        .with_temperature(0.2)
        .with_extra("reasoning_effort", "low".into());
    request.params.seed = Some(7);
    request.params.stop = vec!["END".into()];
    let body = |name| -> Value {
        let bytes = encode(vendor(name), &request, Some("m")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    assert_eq!(
        body("openai"),
        serde_json::json!({
            "model": "m",
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
            "max_completion_tokens": 9, "temperature": 0.2, "seed": 7, "stop": ["END"],
            "reasoning_effort": "low",
        })
    );
    assert_eq!(body("mistral")["random_seed"], 7);
    assert_eq!(body("mistral")["max_tokens"], 9);
    assert_eq!(body("local")["max_tokens"], 9);
    assert!(body("local").get("max_completion_tokens").is_none());
}

#[test]
fn unset_fields_are_absent() {
    let bytes = encode(vendor("openai"), &Request::new("U"), Some("m")).unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["model", "messages"]);
}

#[test]
fn an_extra_field_cannot_override_a_checked_one() {
    let request = Request::new("U")
        .with_max_tokens(5)
        .with_extra("max_tokens", 9.into())
        .with_extra("stream", true.into())
        .with_extra("top_k", 3.into());
    let bytes = encode(vendor("local"), &request, Some("m")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("max_tokens").count(), 1, "{text}");
    assert!(!text.contains("stream") && text.contains("top_k"), "{text}");
}

#[test]
fn a_request_without_any_model_is_refused_before_it_is_sent() {
    let error = encode(vendor("openai"), &Request::new("U"), None).unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
}

use crate::llm::request::Role;
