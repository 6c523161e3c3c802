use serde_json::json;

use super::*;
use crate::base::error::ErrorKind;
use crate::llm::native::NativeFormat;
use crate::llm::providers::dialect::encode;
use crate::llm::providers::dialect::testing::{decoded, vendor};
use crate::llm::request::Request;
use crate::llm::response::FinishReason;

/// As in OpenAI's reference, "Create a model response", shortened.
fn reply(output: Value) -> Value {
    json!({
        "id": "resp_67ccd2bed1ec8190b14f964abc054267", "object": "response",
        "created_at": 1741476542, "status": "completed", "error": null,
        "incomplete_details": null, "instructions": null, "max_output_tokens": null,
        "model": "gpt-4.1-2025-04-14", "output": output, "parallel_tool_calls": true,
        "previous_response_id": null, "service_tier": "default", "store": true,
        "usage": {
            "input_tokens": 36, "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 87, "output_tokens_details": {"reasoning_tokens": 7},
            "total_tokens": 123}})
}

fn message(content: Value) -> Value {
    json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
        "content": content})
}

fn text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

#[test]
fn a_reply_is_read_whole() {
    let thought = json!({"type": "reasoning", "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Let me think."}]});
    let cited = json!({"type": "output_text", "text": " beds.",
        "annotations": [{"type": "url_citation", "url": "https://example.org"}]});
    let body = reply(json!([thought, message(json!([text("In"), cited]))]));
    let answer = decoded("openai", &body.to_string()).unwrap();
    assert_eq!(answer.text, "In beds.");
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    assert_eq!(answer.model.as_deref(), Some("gpt-4.1-2025-04-14"));
    let usage = answer.usage.unwrap();
    let counts = (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
    );
    assert_eq!((counts, usage.reasoning_tokens), ((36, 4, 87), 7));
    let details = answer.details();
    assert_eq!(details.service_tier.as_deref(), Some("default"));
    assert_eq!(details.citations.len(), 1);
    assert!(details.reasoning.is_some());
}

#[test]
fn calls_of_tools_are_an_answer() {
    let call = json!({"type": "function_call", "id": "fc_1", "call_id": "call_1",
        "name": "weather", "arguments": "{\"city\":\"Oslo\"}", "status": "completed"});
    let answer = decoded("openai", &reply(json!([call])).to_string()).unwrap();
    assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    let calls = &answer.details().tool_calls;
    assert_eq!((&*calls[0].id, &*calls[0].name), ("call_1", "weather"));
    assert_eq!(calls[0].arguments, json!({"city": "Oslo"}));
}

#[test]
fn what_is_no_answer_says_why() {
    let refused = message(json!([{"type": "refusal", "refusal": "I cannot."}]));
    let error = decoded("openai", &reply(json!([refused])).to_string()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Blocked);
    let mut cut = reply(json!([message(json!([text("Once")]))]));
    cut["status"] = "incomplete".into();
    cut["incomplete_details"] = json!({"reason": "max_output_tokens"});
    let answer = decoded("openai", &cut.to_string()).unwrap();
    assert_eq!(answer.finish_reason, FinishReason::Length);
    cut["incomplete_details"] = json!({"reason": "content_filter"});
    let error = decoded("openai", &cut.to_string()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Blocked);
    let mut failed = reply(json!([]));
    failed["status"] = "failed".into();
    failed["error"] = json!({"code": "server_error", "message": "The model failed."});
    let error = decoded("openai", &failed.to_string()).unwrap_err();
    assert!(error.message().contains("The model failed."), "{error}");
    let error = decoded("openai", &reply(json!([])).to_string()).unwrap_err();
    assert!(error.is_unusable_reply(), "{error}");
}

#[test]
fn a_native_body_goes_out_as_it_stands_to_its_own_provider_alone() {
    let cases = [
        (
            NativeFormat::OpenAiResponses,
            json!({"model": "x", "input": "hi", "store": false}),
            "openai",
            "/responses",
        ),
        (
            NativeFormat::AnthropicMessages,
            json!({"model": "x", "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}], "thinking": {"type": "adaptive"}}),
            "anthropic",
            "/messages",
        ),
        (
            NativeFormat::GeminiContent,
            json!({"contents": [{"parts": [{"text": "hi"}]}],
            "generation_config": {"temperature": 0.7}}),
            "gemini",
            "/models/m:generateContent",
        ),
    ];
    for (format, body, own, path) in cases {
        let request = Request::from_native(format, body.clone()).unwrap();
        let call = encode(vendor(own), &request, Some("m")).unwrap();
        assert_eq!(call.path, path);
        let sent: Value = serde_json::from_slice(&call.body).unwrap();
        let mut expected = body;
        if own != "gemini" {
            expected["model"] = "m".into();
        }
        assert_eq!(sent, expected);
    }
    let plain = json!({"input": "hi", "max_output_tokens": 20});
    let plain = Request::from_native(NativeFormat::OpenAiResponses, plain).unwrap();
    let call = encode(vendor("anthropic"), &plain, Some("m")).unwrap();
    let sent: Value = serde_json::from_slice(&call.body).unwrap();
    let messages = json!([{"role": "user", "content": "hi"}]);
    assert_eq!(
        sent,
        json!({"model": "m", "max_tokens": 20, "messages": messages})
    );
    for (body, field) in [
        (json!({"input": "hi", "truncation": "auto"}), "truncation"),
        (json!({"input": "hi", "store": true}), "store"),
    ] {
        let request = Request::from_native(NativeFormat::OpenAiResponses, body).unwrap();
        let error = encode(vendor("anthropic"), &request, Some("m"))
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(field), "{error}");
    }
}
