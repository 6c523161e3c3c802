//! The dialect against recorded and invented replies.

use super::*;
use crate::base::error::{ErrorKind, Sent};
use crate::llm::providers::dialect::encode;
use crate::llm::providers::dialect::testing::{self, decoded, encoded, vendor};
use crate::llm::request::{Message as Turn, Role};
use crate::llm::response::FinishReason;
use serde_json::json;

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
fn strange_details_cost_no_other_count() {
    let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}],
        "usage":{"prompt_tokens":7,"completion_tokens":1,"completion_tokens_details":"n/a",
        "prompt_tokens_details":{"cached_tokens":3}}}"#;
    let usage = decoded("openai", body).unwrap().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.cached_input_tokens), (7, 3));
    assert_eq!((usage.output_tokens, usage.reasoning_tokens), (1, 0));
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
fn a_request_is_encoded_with_each_vendors_names() {
    let mut request = Request::chat(vec![Turn::new(Role::User, "U")])
        .with_system("S")
        .with_max_tokens(9)
        .with_temperature(0.2)
        .with_extra("reasoning_effort", "low".into());
    request.params.seed = Some(7);
    request.params.stop = vec!["END".into()];
    let body = |name| -> Value { encoded(name, &request).1 };
    assert_eq!(
        body("openai"),
        json!({
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
fn roles_and_names_are_said_as_each_vendor_takes_them() {
    let mut request = Request::chat(vec![
        Turn::new(Role::Developer, "S"),
        Turn::new(Role::User, "U"),
    ]);
    request.messages[1]
        .extra
        .insert("name".into(), "ann".into());
    let turns = |name| encoded(name, &request).1["messages"].clone();
    assert_eq!(turns("openai")[0]["role"], "developer");
    assert_eq!(turns("openai")[1]["name"], "ann");
    assert_eq!(turns("mistral")[0]["role"], "system");
    assert!(turns("mistral")[1].get("name").is_none());
    assert_eq!(turns("local")[0]["role"], "system");
}

#[test]
fn unset_fields_are_absent() {
    let (_, body) = encoded("openai", &Request::new("U"));
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
    let text = encoded("local", &request).1.to_string();
    assert_eq!(text.matches("max_tokens").count(), 1, "{text}");
    assert!(!text.contains("stream") && text.contains("top_k"), "{text}");
}

#[test]
fn a_request_without_any_model_is_refused_before_it_is_sent() {
    let error = encode(vendor("openai"), &Request::new("U"), None)
        .err()
        .unwrap();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
}

#[test]
fn json_mode_is_named_in_the_system_text_where_nobody_does() {
    let asking = |mut request: Request| {
        request.params.response_format = Some(ResponseFormat::JsonObject);
        encoded("openai", &request).1["messages"].take()
    };
    let user = json!({"role": "user", "content": "U"});
    let system = |content: Value| json!({"role": "system", "content": content});
    assert_eq!(
        asking(Request::new("U")),
        json!([system(JSON_MODE.into()), user])
    );
    let joined = format!("S\n\n{JSON_MODE}");
    assert_eq!(
        asking(Request::new("U").with_system("S")),
        json!([system(joined.into()), user])
    );
    let part = json!({"type": "text", "text": "S"});
    let mut lead = Turn::new(Role::Developer, "");
    lead.content = json!([part]);
    let turns = vec![lead, Turn::new(Role::User, "U")];
    assert_eq!(
        asking(Request::chat(turns)),
        json!([{"role": "developer", "content": [part, {"type": "text", "text": JSON_MODE}]}, user])
    );
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,json"}});
    let mut shown = Turn::new(Role::User, "");
    shown.content = json!([image]);
    assert_eq!(
        asking(Request::chat(vec![shown])).as_array().unwrap().len(),
        2
    );
    for error_body in [
        Request::new("as Json"),
        Request::new("U").with_system("In JSON."),
    ] {
        let messages = asking(error_body.clone());
        assert_eq!(messages, encoded("openai", &error_body).1["messages"]);
    }
}

#[test]
fn parts_that_a_vendor_has_no_place_for_are_refused_before_they_are_sent() {
    let sound = json!({"type": "input_audio", "input_audio": {"format": "wav", "data": "UklG"}});
    let file =
        json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0x"}});
    for part in [&sound, &file] {
        let request = testing::with_parts([part.clone()]);
        for name in ["openai", "local", "custom"] {
            let (_, body) = encoded(name, &request);
            assert_eq!(body["messages"][0]["content"], json!([part]), "{name}");
        }
        for name in ["xai", "groq", "mistral"] {
            let error = encode(vendor(name), &request, Some("m")).err().unwrap();
            assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
            let words = format!(
                "{name} takes no content part of the type `{}`",
                part["type"].as_str().unwrap()
            );
            assert!(error.message().contains(&words), "{error}");
        }
    }
    // In a vendor's own shape they are its own matter.
    let own = json!({"type": "input_audio", "input_audio": "UklG"});
    let (_, body) = encoded("mistral", &testing::with_parts([own.clone()]));
    assert_eq!(body["messages"][0]["content"], json!([own]));
}
