use serde_json::json;

use super::*;
use crate::base::ErrorKind;
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
fn a_complete_reply_is_read() {
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
fn calls_for_the_caller_are_an_answer() {
    let custom = json!({"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_1",
        "name": "code_exec", "input": "{\"a\": 1}", "status": "completed"});
    let shell = json!({"type": "local_shell_call", "id": "lsh_1", "call_id": "call_2",
        "status": "in_progress", "action": {"type": "exec", "command": ["ls"], "env": {}}});
    let patch = json!({"type": "apply_patch_call", "id": "apc_1", "call_id": "call_3",
        "status": "completed", "operation": {"type": "delete_file", "path": "a"}});
    let approval = json!({"type": "mcp_approval_request", "id": "mcpr_1", "name": "roll",
        "server_label": "dice", "arguments": "{\"sides\":6}"});
    let cases = [
        (custom, json!(["call_1", "code_exec", "{\"a\": 1}"])),
        (
            shell,
            json!(["call_2", "local_shell",
                {"action": {"type": "exec", "command": ["ls"], "env": {}}}]),
        ),
        (
            patch,
            json!(["call_3", "apply_patch",
                {"operation": {"type": "delete_file", "path": "a"}}]),
        ),
        (approval, json!(["mcpr_1", "roll", {"sides": 6}])),
    ];
    for (item, expected) in cases {
        let thought = json!({"type": "reasoning", "id": "rs_1", "summary": []});
        let answer = decoded("openai", &reply(json!([thought, item])).to_string()).unwrap();
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls, "{item}");
        let call = &answer.details().tool_calls[0];
        assert_eq!(json!([call.id, call.name, call.arguments]), expected);
        assert_eq!(answer.usage.unwrap().server_tool_calls, 0);
    }
}

#[test]
fn calls_that_openai_executes_are_counted() {
    let output = json!([
        {"type": "web_search_call", "id": "ws_1", "status": "completed",
         "action": {"type": "search", "query": "beds"}},
        {"type": "web_search_call", "id": "ws_2", "status": "completed",
         "action": {"type": "open_page", "url": "https://example.org"}},
        {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["beds"]},
        {"type": "shell_call", "id": "sh_1", "call_id": "call_1", "status": "completed",
         "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "id": "sho_1", "call_id": "call_1", "output": []},
        message(json!([text("Beds.")])),
    ]);
    let answer = decoded("openai", &reply(output).to_string()).unwrap();
    assert_eq!(
        (&*answer.text, answer.details().tool_calls.len()),
        ("Beds.", 0)
    );
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    let usage = answer.usage.unwrap();
    assert_eq!((usage.server_tool_calls, usage.web_search_calls), (4, 1));
}

#[test]
fn probabilities_are_kept_however_many_there_are() {
    let token = json!({"token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs":
        (0..20).map(|_| json!({"token": "a", "bytes": [97, 98], "logprob": -1.5}))
            .collect::<Vec<_>>()});
    let part = |tokens: usize| {
        json!({"type": "output_text", "text": "a", "annotations": [],
            "logprobs": vec![token.clone(); tokens]})
    };
    let body = reply(json!([message(json!([part(500), part(0), part(1)]))]));
    let answer = decoded("openai", &body.to_string()).unwrap();
    assert_eq!(answer.text, "aaa");
    let logprobs = answer.details().logprobs.as_ref().unwrap();
    assert_eq!(
        logprobs.parse::<Value>().unwrap(),
        json!(vec![token.clone(); 501])
    );
    let none = reply(json!([message(json!([part(0)]))]));
    let answer = decoded("openai", &none.to_string()).unwrap();
    assert_eq!(answer.details().logprobs, None);
}

#[test]
fn an_item_that_is_too_large_does_not_lose_the_answer() {
    let tools = json!({"type": "mcp_list_tools", "tools": vec![json!({}); 60_000]});
    let output = json!([tools, message(json!([text("Beds.")])), tools]);
    let answer = decoded("openai", &reply(output).to_string()).unwrap();
    assert_eq!(answer.text, "Beds.");
    assert!(answer.usage.is_some());
    let error = decoded("openai", &reply(json!([tools])).to_string()).unwrap_err();
    assert!(error.is_unusable_reply() && error.usage().is_some());
    assert!(error.message().contains("more than is read"), "{error}");
}

#[test]
fn malformed_items_do_not_lose_the_answer() {
    let odd = json!([7, null, "x", [], {}, {"type": 7}, {"type": "new_kind", "x": [{}]},
        {"type": "message", "content": 7}, {"type": "message", "content": [7, {}, text("yes")]}]);
    let answer = decoded("openai", &reply(odd).to_string()).unwrap();
    assert_eq!((&*answer.text, &answer.warning), ("yes", &None));
}

#[test]
fn a_reply_without_an_answer_names_the_reason() {
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
fn a_native_body_is_sent_unchanged_only_to_its_provider() {
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

#[test]
fn samples_of_a_native_body_have_different_seeds() {
    for config in ["generationConfig", "generation_config"] {
        let body = json!({"contents": [{"parts": [{"text": "hi"}]}],
            config: {"seed": 7, "temperature": 0.7}});
        let request = Request::from_native(NativeFormat::GeminiContent, body.clone()).unwrap();
        for (sample, seed) in [(0, 7), (1, 7), (2, 8), (3, 9)] {
            let request = request.clone().with_sample(sample);
            let call = encode(vendor("gemini"), &request, Some("m")).unwrap();
            let sent: Value = serde_json::from_slice(&call.body).unwrap();
            let mut expected = body.clone();
            expected[config]["seed"] = seed.into();
            assert_eq!(sent, expected);
        }
    }
}

#[test]
fn a_stream_is_joined_into_a_reply() {
    let item = message(json!([text("Beds.")]));
    let whole = reply(json!([item]));
    let event = |kind: &str, field: &str, value: &Value| {
        let mut event = json!({"type": kind});
        event[field] = value.clone();
        format!("event: {kind}\ndata: {event}\n\n")
    };
    let begun = event("response.created", "response", &json!({"output": []}));
    let said = event("response.output_text.delta", "delta", &json!("Beds."));
    let done = event("response.output_item.done", "item", &item);
    for output in [json!([item]), json!([])] {
        let mut last = whole.clone();
        last["output"] = output;
        let end = event("response.completed", "response", &last);
        let answer = decoded("openai", &format!("{begun}{said}{done}{end}")).unwrap();
        assert_eq!(answer, decoded("openai", &whole.to_string()).unwrap());
    }
    let cut = decoded("openai", &format!("{begun}{said}{done}")).unwrap_err();
    assert!(!cut.is_unusable_reply() && cut.message().contains("the stream ends before"));
}

#[test]
fn output_tokens_that_are_not_stated_are_the_rest_of_the_total_or_unknown() {
    let counted = |more: &str| {
        let body = format!(
            r#"{{"status":"completed","output":[{{"type":"message","content":[{{"type":"output_text","text":"x"}}]}}],
            "usage":{{"input_tokens":10{more}}}}}"#
        );
        decoded("openai", &body).unwrap().usage
    };
    assert_eq!(
        counted(r#","total_tokens":1010"#).unwrap().output_tokens,
        1000
    );
    assert_eq!(counted(r#","output_tokens":null"#), None);
}
