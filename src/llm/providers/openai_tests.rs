//! The dialect against recorded and invented replies.

use super::*;
use crate::base::{ErrorKind, Sent};
use crate::llm::providers::dialect::decode;
use crate::llm::providers::dialect::testing::{
    self, decoded, encoded, failed, line, reply, vendor,
};
use crate::llm::request::{Message as Turn, Request, Role};
use crate::llm::response::FinishReason;
use serde_json::json;
use std::time::Duration;

/// A number that is taken for zero would let the call cost nothing but its input.
#[test]
fn output_tokens_that_are_not_stated_are_the_rest_of_the_total_or_unknown() {
    let strange = ["null", "-1", "\"1,000\"", "5.5", "1000000000000000000"];
    let stated = strange.map(|count| format!(r#","completion_tokens":{count}"#));
    for output in stated.into_iter().chain([String::new()]) {
        let usage = |total: &str| {
            let usage = format!(r#"{{"prompt_tokens":10{output}{total}}}"#);
            let answer = counted(&serde_json::from_str(&usage).unwrap());
            let usage = answer.usage;
            usage.map(|usage| (usage.input_tokens, usage.output_tokens))
        };
        assert_eq!(usage(r#","total_tokens":1010"#), Some((10, 1000)));
        assert_eq!(usage(r#","total_tokens":10"#), Some((10, 0)));
        assert_eq!(usage(r#","total_tokens":9"#), None, "{output}");
        assert_eq!(usage(r#","total_tokens":null"#), None, "{output}");
        assert_eq!(usage(""), None, "{output}");
    }
}

#[test]
fn half_an_answer_is_kept_with_its_failure_and_its_usage() {
    let body = |choice: Value| {
        json!({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})
            .to_string()
    };
    let message = json!({"content": "Half an ans"});
    let at = "insufficient_system_resource";
    for choice in [
        json!({"finish_reason": at, "message": message}),
        json!({"finish_reason": "error", "message": message}),
        json!({"finish_reason": "error", "message": message,
            "error": {"code": 502, "message": "upstream is gone"}}),
        json!({"finish_reason": "stop", "message": message, "native_finish_reason": at}),
        json!({"finish_reason": "stop", "message": message,
            "provider_specific_fields": {"native_finish_reason": at}}),
    ] {
        let error = decoded("deepseek", &body(choice.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{choice}");
        assert!(error.raw().unwrap().contains("Half an ans"), "{choice}");
        assert!(!error.is_unusable_reply(), "{choice}");
        let usage = error.usage().unwrap();
        assert_eq!(
            (usage.input_tokens, usage.output_tokens),
            (9, 4),
            "{choice}"
        );
    }
    // An end that the provider did not name says nothing of a good text.
    for (content, good) in [("All of it.", true), ("", false)] {
        let unnamed = json!({"finish_reason": "stop", "message": {"content": content},
            "native_finish_reason": "FINISH_REASON_UNSPECIFIED"});
        let read = decoded("openrouter", &body(unnamed));
        assert_eq!(read.is_ok(), good, "{read:?}");
        if let Err(error) = read {
            assert!(error.message().contains("UNSPECIFIED"), "{error}");
        }
    }
    // What was begun is paid for, and is not bought again as often as what was refused.
    let refused = json!({"finish_reason": "error", "message": message,
        "error": {"code": 429, "message": "Please try again in 2s."}});
    let error = decoded("openrouter", &body(refused)).unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Transient, Sent::Maybe)
    );
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert!(error.raw().unwrap().contains("Half an ans") && error.usage().is_some());
    // Otherwise what OpenRouter says of the failure decides.
    let refused = json!({"choices": [{"finish_reason": "error", "message": {"content": ""},
        "error": {"code": 429, "message": "slow down"}}]});
    let error = decoded("openrouter", &refused.to_string()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
}

#[test]
fn thoughts_that_anthropic_signed_go_through_a_gateway_and_back() {
    let blocks = json!([{"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "redacted_thinking", "data": "R"}]);
    let message = json!({"content": "7", "reasoning_content": "hm", "thinking_blocks": blocks});
    let answer = said("custom", &message, &json!({}));
    let reasoning = line(&answer)["reasoning"].clone();
    assert_eq!(reasoning, json!({"text": "hm", "details": blocks}));
    // As the result line has it, and as the provider had it.
    for (field, value) in [("reasoning", &reasoning), ("thinking_blocks", &blocks)] {
        let mut turn = Turn::new(Role::Assistant, "7");
        turn.extra.insert(field.to_owned(), value.clone());
        let request = Request::chat(vec![turn]);
        let (_, body) = encoded("custom", &request);
        let sent = &body["messages"][0];
        assert_eq!(sent["thinking_blocks"], blocks, "{field}");
        assert_eq!(sent.get("reasoning"), None);
    }
    let request = Request::chat(vec![answer.message()]);
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(body["messages"][0]["content"][0], blocks[0]);
    let (_, body) = encoded("openai", &request);
    assert_eq!(body["messages"][0].get("thinking_blocks"), None);
    let text = message.as_object().unwrap().iter();
    let text: serde_json::Map<_, _> = text
        .filter(|(name, _)| *name != "reasoning_content")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let answer = said("custom", &text.into(), &json!({}));
    assert_eq!(line(&answer)["reasoning"]["text"], "hm");
}

/// api-docs.deepseek.com, "Rate Limit": blank lines come as long as the server is busy.
#[test]
fn blank_lines_before_a_reply_are_passed_over_and_what_came_from_the_cache_is_counted() {
    let answer = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}],"usage":
        {"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"prompt_cache_hit_tokens":4,
        "prompt_cache_miss_tokens":6}}"#;
    let answer = decoded("deepseek", &format!("\n\n\n{answer}")).unwrap();
    assert_eq!(answer.warning, None);
    assert_eq!(answer.usage.unwrap().cached_input_tokens, 4);
    let broke = r#"{"error":{"message":"Insufficient Balance","type":"unknown_error"}}"#;
    let error = failed("deepseek", 402, &format!("\n\n{broke}"));
    assert_eq!(error.kind(), ErrorKind::Quota);
    assert!(error.message().contains("Insufficient Balance"), "{error}");
}

/// NVIDIA's gateway answers so when a model takes long.
#[test]
fn a_reply_that_promises_an_answer_for_later_is_not_asked_for_again() {
    let later = reply(202, &[("nvcf-reqid", "r-1")], "{\"requestId\":\"r-1\"}");
    let error = decode(vendor("nvidia"), &later, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("nvidia answered 202"), "{error}");
    assert!(error.is_unusable_reply());
    let now = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}"#;
    assert_eq!(
        decode(vendor("custom"), &reply(202, &[], now), false)
            .unwrap()
            .text,
        "x"
    );
}

/// openrouter.ai, "Errors and Debugging".
#[test]
fn what_stands_behind_openrouter_is_heard() {
    let raw = r#"{"error":{"code":502,"message":"Provider returned error","metadata":
        {"raw":"{\"error\":\"overloaded\"}","provider_name":"Somebody"}}}"#;
    for error in [
        failed("openrouter", 502, raw),
        decoded("openrouter", raw).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Transient);
        let said = "Provider returned error (Somebody): {\"error\":\"overloaded\"}";
        assert!(error.message().ends_with(said), "{error}");
    }
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

fn said(name: &str, message: &Value, more: &Value) -> Response {
    let mut body =
        json!({"id": "chatcmpl-1", "choices": [{"message": message, "finish_reason": "stop"}]});
    for (field, value) in more.as_object().unwrap() {
        match field.as_str() {
            "finish_reason" | "logprobs" => body["choices"][0][field] = value.clone(),
            _ => body[field] = value.clone(),
        }
    }
    decoded(name, &body.to_string()).unwrap()
}

/// From the documentation of function calling, and of custom tools.
#[test]
fn a_reply_with_tool_calls_is_an_answer() {
    let calls = json!([
        {"id": "call_1", "type": "function",
         "function": {"name": "get_weather", "arguments": "{\"city\":\"Oslo\"}"}},
        {"id": "call_2", "type": "function", "function": {"name": "get_time", "arguments": ""}},
        {"id": "call_3", "type": "function", "function": {"name": "broken", "arguments": "{\"a\":"}},
        {"id": "call_4", "type": "custom", "custom": {"name": "calculate", "input": "17"}},
    ]);
    let message =
        json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": calls});
    // Some say that they stopped, xAI nothing.
    for finish in ["tool_calls", "stop", ""] {
        let answer = said("xai", &message, &json!({"finish_reason": finish}));
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls, "{finish}");
        let line = line(&answer);
        assert_eq!(line["text"], Value::Null);
        assert_eq!(
            line["tool_calls"],
            json!([
                {"id": "call_1", "name": "get_weather", "arguments": {"city": "Oslo"}},
                {"id": "call_2", "name": "get_time", "arguments": {}},
                {"id": "call_3", "name": "broken", "arguments": "{\"a\":"},
                {"id": "call_4", "name": "calculate", "arguments": "17"},
            ])
        );
    }
    let cut = said("openai", &message, &json!({"finish_reason": "length"}));
    assert_eq!(cut.finish_reason, FinishReason::Length);
    assert_eq!(cut.details().tool_calls.len(), 4);
    let beside = json!({"content": "I look.", "tool_calls": calls});
    let answer = said("openai", &beside, &json!({"finish_reason": "tool_calls"}));
    assert_eq!((&*answer.text, answer.warning), ("I look.", None));
    let older = json!({"content": null, "function_call": {"name": "f", "arguments": "{}"}});
    let answer = said("openai", &older, &json!({"finish_reason": "function_call"}));
    assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    let call = &answer.details().tool_calls[0];
    assert_eq!((&*call.name, call.id.len()), ("f", 9));
}

#[test]
fn reasoning_is_kept_wherever_it_stands() {
    let details = json!([{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}]);
    let thinking = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "x"}]);
    for (message, details) in [
        (json!({"content": "x", "reasoning": "hm"}), None),
        (json!({"content": "x", "reasoning_content": "hm"}), None),
        (
            json!({"content": "x", "reasoning": "hm", "reasoning_content": "hm"}),
            None,
        ),
        (json!({"content": thinking}), None),
        (
            json!({"content": "x", "reasoning_details": details}),
            Some(&details),
        ),
    ] {
        let answer = said("local", &message, &json!({}));
        let mut expected = json!({"text": "hm"});
        if let Some(details) = details {
            expected["details"] = details.clone();
        }
        assert_eq!(answer.text, "x");
        assert_eq!(line(&answer)["reasoning"], expected, "{message}");
    }
    for message in [
        json!({"content": "x", "reasoning": ""}),
        json!({"content": "x", "reasoning": 5}),
    ] {
        assert_eq!(
            line(&said("local", &message, &json!({}))).get("reasoning"),
            None
        );
    }
}

#[test]
fn citations_and_probabilities_are_kept_whatever_their_number() {
    let cited =
        json!({"type": "url_citation", "url_citation": {"url": "https://a", "start_index": 0}});
    let message = json!({"content": "x", "annotations": [cited]});
    // More values than any other field may hold.
    let each = json!({"token": "a", "logprob": -0.1, "bytes": [1, 2, 3], "top_logprobs": []});
    let logprobs = json!({"content": vec![each; 20_000], "refusal": null});
    let more = json!({"citations": ["https://b"], "logprobs": logprobs, "service_tier": "flex"});
    let answer = said("xai", &message, &more);
    let line = line(&answer);
    assert_eq!(line["citations"], json!([cited, "https://b"]));
    assert_eq!(line["logprobs"], logprobs);
    assert_eq!(line["service_tier"], "flex");
    let none = json!({"citations": null, "logprobs": null, "service_tier": null});
    let message = json!({"content": "x", "annotations": [], "tool_calls": []});
    assert_eq!(
        said("xai", &message, &none).details(),
        &ReplyDetails::default()
    );
}

fn counted(usage: &Value) -> Response {
    let body = json!({"choices": [{"finish_reason": "stop", "message": {"content": "x"}}], "usage": usage});
    decoded("custom", &body.to_string()).unwrap()
}

#[test]
fn usage_tells_what_is_charged_apart() {
    let usage = counted(&json!({"prompt_tokens": 100, "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 30, "audio_tokens": 7,
            "image_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 9},
        "server_tool_use": {"web_search_requests": 3}, "num_sources_used": 4}))
    .usage
    .unwrap();
    let expected = json!({"input_tokens": 100, "cached_input_tokens": 5, "output_tokens": 20,
        "reasoning_tokens": 2, "cache_write_tokens": 30, "input_audio_tokens": 7,
        "input_image_tokens": 8, "output_audio_tokens": 9, "server_tool_calls": 3,
        "web_search_calls": 3, "sources_used": 4});
    assert_eq!(serde_json::to_value(usage).unwrap(), expected);
    let usage = counted(&json!({"prompt_tokens": 100, "completion_tokens": 0, "cache_creation_input_tokens": 30,
        "prompt_tokens_details": {"cache_creation_token_details":
            {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}},
        "num_server_side_tools_used": 3,
        "server_side_tool_usage_details": {"web_search_calls": 1, "x_search_calls": 2, "x_posts_fetched": 40}}))
    .usage
    .unwrap();
    assert_eq!(
        (
            usage.cache_write_tokens,
            usage.cache_write_5m_tokens,
            usage.cache_write_1h_tokens
        ),
        (30, 10, 20)
    );
    assert_eq!((usage.server_tool_calls, usage.web_search_calls), (3, 1));
}

#[test]
fn the_price_that_a_gateway_states_is_the_price() {
    let cost = |more: Value| {
        let mut usage = json!({"prompt_tokens": 1});
        usage
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        counted(&usage).cost_usd
    };
    let upstream = json!({"upstream_inference_cost": 19.0});
    assert_eq!(cost(json!({"cost": 0.95})), Usd::from_dollars(0.95));
    assert_eq!(
        cost(json!({"cost": 0.95, "cost_details": upstream, "is_byok": false})),
        Usd::from_dollars(0.95)
    );
    assert_eq!(
        cost(json!({"cost": 0.95, "cost_details": upstream, "is_byok": true})),
        Usd::from_dollars(19.95)
    );
    // With a key of one's own and nothing said of what its provider takes, the price is not known.
    assert_eq!(cost(json!({"cost": 0.0, "is_byok": true})), None);
    assert_eq!(
        cost(json!({"cost": {"total_cost": 0.25}})),
        Usd::from_dollars(0.25)
    );
    assert_eq!(cost(json!({"cost": "much"})), None);
    assert_eq!(cost(json!({"cost": -1})), None);
    let body = r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1}}"#;
    for (header, expected) in [
        ("0.00042", Usd::from_dollars(0.00042)),
        ("NaN", None),
        ("None", None),
    ] {
        let reply = testing::reply(200, &[("x-litellm-response-cost", header)], body);
        let answer = decode(vendor("custom"), &reply, false).unwrap();
        assert_eq!(answer.cost_usd, expected, "{header}");
        let refused = r#"{"choices":[{"message":{"refusal":"no"}}]}"#;
        let reply = testing::reply(200, &[("x-litellm-response-cost", header)], refused);
        let error = decode(vendor("custom"), &reply, false).unwrap_err();
        assert_eq!(error.cost_usd(), expected, "{header}");
    }
}

#[test]
fn arguments_keep_every_digit() {
    for (written, read) in [
        (r#"{"id":18446744073709551615}"#, json!({"id": u64::MAX})),
        (
            r#"{"kg":5.972e24,"m":1e20}"#,
            json!({"kg": 5.972e24, "m": 1e20}),
        ),
        (r#"{"x":0.1}"#, json!({"x": 0.1})),
        (
            r#"{"ids":[{"id":18446744073709551616}]}"#,
            json!(r#"{"ids":[{"id":18446744073709551616}]}"#),
        ),
        (
            r#"{"id":-9223372036854775809}"#,
            json!(r#"{"id":-9223372036854775809}"#),
        ),
    ] {
        let call = json!({"id": "c", "function": {"name": "f", "arguments": written}});
        let answer = said("openai", &json!({"tool_calls": [call]}), &json!({}));
        assert_eq!(answer.details().tool_calls[0].arguments, read);
    }
}

/// A message of the assistant as a result has it goes back in the shape of each server.
#[test]
fn a_conversation_continues_with_all_parts_of_a_reply() {
    let mut answer = said(
        "custom",
        &json!({"content": null, "reasoning_content": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"},
             "extra_content": {"google": {"thought_signature": "S"}}},
            {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "ls"}}]}),
        &json!({}),
    );
    let custom = json!([{"type": "custom", "custom": {"name": "run"}}]);
    let request = Request::chat(vec![answer.message(), Turn::tool_result("c1", "7")])
        .with_extra("tools", custom);
    let turn = |name: &str| encoded(name, &request).1["messages"][0].clone();
    let mut expected = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
        {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "ls"}}]});
    for name in ["openai", "groq"] {
        assert_eq!(turn(name), expected, "{name}");
    }
    // These read the thoughts of a turn that called tools, and the last may be Gemini's gateway.
    expected["reasoning_content"] = "hm".into();
    for name in ["xai", "deepseek"] {
        assert_eq!(turn(name), expected, "{name}");
    }
    let signature = json!({"google": {"thought_signature": "S"}});
    expected["tool_calls"][0]["extra_content"] = signature;
    assert_eq!(turn("custom"), expected);
    let (_, body) = encoded("openai", &request);
    let result = json!({"role": "tool", "content": "7", "tool_call_id": "c1"});
    assert_eq!(body["messages"][1], result);
    let details = json!([{"type": "reasoning.encrypted", "data": "x"}]);
    let reasoning = answer.details_mut().reasoning.as_mut().unwrap();
    reasoning.details = details.as_array().unwrap().clone();
    let request = Request::chat(vec![answer.message()]);
    let (_, body) = encoded("openrouter", &request);
    assert_eq!(body["messages"][0]["reasoning_details"], details);
    assert_eq!(body["messages"][0].get("reasoning_content"), None);
}
