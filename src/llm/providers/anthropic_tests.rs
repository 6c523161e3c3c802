//! The dialect against replies of every shape that is known.

use super::*;
use crate::base::ErrorKind;
use crate::llm::providers::dialect::testing::{decoded, encoded, line};
use crate::llm::request::{Message, Role};
use crate::llm::response::FinishReason;

fn reply(stop_reason: &str, content: &str) -> String {
    format!(
        r#"{{"id":"msg_1","type":"message","role":"assistant","model":"claude-x-20260101",
        "content":{content},"stop_reason":"{stop_reason}","stop_sequence":null,
        "usage":{{"input_tokens":10,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,
        "output_tokens":5,"output_tokens_details":{{"thinking_tokens":2}},"service_tier":"standard"}}}}"#
    )
}

#[test]
fn stop_details_count_only_for_refusals() {
    let body = reply("end_turn", r#"[{"type":"text","text":"ab"}]"#).replace(
        r#""stop_sequence""#,
        r#""stop_details":{"type":"note","explanation":"e"},"stop_sequence""#,
    );
    assert_eq!(decoded("anthropic", &body).unwrap().text, "ab");
}

#[test]
fn a_tool_result_without_its_call_is_refused() {
    let request = Request::chat(vec![Message::new(Role::Tool, "x")]);
    let error = message(vendor(), &request, "m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

fn vendor() -> &'static Vendor {
    Vendor::named("anthropic").unwrap()
}

#[test]
fn a_message_without_a_text_is_refused_before_it_is_sent() {
    let mut request = Request::chat(vec![Message::new(Role::Assistant, "")]);
    request.messages[0].content = Value::Null;
    let error = message(vendor(), &request, "m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_usage_without_output_tokens_is_unknown() {
    let body = |output: &str| {
        format!(
            r#"{{"type":"message","model":"m","stop_reason":"end_turn","content":[{{"type":"text","text":"x"}}],
            "usage":{{"input_tokens":10{output}}}}}"#
        )
    };
    let usage = |output: &str| decoded("anthropic", &body(output)).unwrap().usage;
    assert_eq!(usage(r#","output_tokens":2"#).unwrap().output_tokens, 2);
    for strange in ["", r#","output_tokens":null"#, r#","output_tokens":-1"#] {
        assert_eq!(usage(strange), None, "{strange}");
    }
}

/// From the documentation of tool use and of extended thinking.
#[test]
fn a_reply_with_tool_calls_is_an_answer_with_all_its_parts() {
    let content = r#"[
        {"type":"thinking","thinking":"I need the weather.","signature":"EqQB"},
        {"type":"redacted_thinking","data":"EmwK"},
        {"type":"text","text":"Let me look.","citations":[
            {"type":"web_search_result_location","url":"https://a","cited_text":"b"}]},
        {"type":"tool_use","id":"toolu_1","name":"get_weather","input":{"city":"Oslo"}},
        {"type":"tool_use","id":"toolu_2","name":"get_time","input":{}}]"#;
    let answer = decoded("anthropic", &reply("tool_use", content)).unwrap();
    assert_eq!(answer.text, "Let me look.");
    assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    let line = line(&answer);
    assert_eq!(
        line["tool_calls"],
        json!([{"id": "toolu_1", "name": "get_weather", "arguments": {"city": "Oslo"}},
            {"id": "toolu_2", "name": "get_time", "arguments": {}}])
    );
    assert_eq!(
        line["reasoning"],
        json!({"text": "I need the weather.", "details": [
            {"type": "thinking", "thinking": "I need the weather.", "signature": "EqQB"},
            {"type": "redacted_thinking", "data": "EmwK"}]})
    );
    assert_eq!(line["citations"][0]["url"], "https://a");
    assert_eq!(line["service_tier"], "standard");
}

#[test]
fn usage_distinguishes_cache_writes_and_searches() {
    let usage = |more: &str| {
        let body = format!(
            r#"{{"type":"message","content":[{{"type":"text","text":"x"}}],"stop_reason":"end_turn",
            "usage":{{"input_tokens":10,"output_tokens":5,"cache_read_input_tokens":4{more}}}}}"#
        );
        serde_json::to_value(decoded("anthropic", &body).unwrap().usage).unwrap()
    };
    let plain = json!({"input_tokens": 14, "cached_input_tokens": 4, "output_tokens": 5,
        "reasoning_tokens": 0});
    assert_eq!(usage(""), plain);
    let summed = usage(r#","cache_creation_input_tokens":7"#);
    assert_eq!(
        (&summed["cache_write_tokens"], &summed["input_tokens"]),
        (&json!(7), &json!(21))
    );
    assert_eq!(summed.get("cache_write_5m_tokens"), None);
    let apart = usage(
        r#","cache_creation_input_tokens":248,
        "cache_creation":{"ephemeral_5m_input_tokens":148,"ephemeral_1h_input_tokens":100},
        "server_tool_use":{"web_search_requests":2,"web_fetch_requests":1}"#,
    );
    for (name, count) in [
        ("input_tokens", 262),
        ("cache_write_tokens", 248),
        ("cache_write_5m_tokens", 148),
        ("cache_write_1h_tokens", 100),
        ("server_tool_calls", 3),
        ("web_search_calls", 2),
    ] {
        assert_eq!(apart[name], count, "{name}");
    }
}

/// What a reply held goes back as it came: without the signatures the API refuses it.
#[test]
fn a_conversation_continues_with_all_parts_of_a_reply() {
    let content = json!([
        {"type": "thinking", "thinking": "I need the weather.", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "EmwK"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}},
    ]);
    let answer = decoded("anthropic", &reply("tool_use", &content.to_string())).unwrap();
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}]);
    let mut result = Message::tool_result("toolu_1", "");
    result.content = image;
    let turns = vec![
        Message::new(Role::User, "weather?"),
        answer.message(),
        result,
    ];
    let (_, body) = encoded("anthropic", &Request::chat(turns));
    assert_eq!(
        body["messages"][1],
        json!({"role": "assistant", "content": content})
    );
    let came = &body["messages"][2]["content"][0];
    assert_eq!(
        (&came["tool_use_id"], &came["content"][0]["type"]),
        (&json!("toolu_1"), &json!("image"))
    );
    // What another provider thought is not Anthropic's.
    let mut other = answer;
    other.details_mut().reasoning.as_mut().unwrap().details =
        vec![json!({"thoughtSignature": "S"})];
    let (_, body) = encoded("anthropic", &Request::chat(vec![other.message()]));
    assert_eq!(body["messages"][0]["content"][0]["type"], "text");
}
