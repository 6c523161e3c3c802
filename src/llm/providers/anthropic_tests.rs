//! The dialect against replies of every shape that is known.

use super::*;
use crate::base::error::{ErrorKind, Sent};
use crate::llm::providers::dialect::encode;
use crate::llm::providers::dialect::testing::{self, decoded, encoded, line};
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

const TEXT: &str = r#"[{"type":"thinking","thinking":"hm"},{"type":"text","text":"a"},{"type":"text","text":"b"}]"#;

#[test]
fn stop_reasons_lead_to_their_outcomes() {
    let ended = |reason| decoded("anthropic", &reply(reason, TEXT)).map(|a| a.finish_reason);
    assert_eq!(ended("stop_sequence").unwrap(), FinishReason::Stop);
    assert_eq!(ended("max_tokens").unwrap(), FinishReason::Length);
    assert_eq!(
        ended("model_context_window_exceeded").unwrap(),
        FinishReason::Length
    );
    assert_eq!(
        ended("new_word").unwrap(),
        FinishReason::Other("new_word".into())
    );
    assert_eq!(
        ended("tool_use").unwrap(),
        FinishReason::Other("tool_use".into())
    );
    let none = decoded("anthropic", &reply("tool_use", "[]")).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Invalid);
    let empty = decoded("anthropic", &reply("end_turn", "[]")).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Malformed);
}

#[test]
fn a_refusal_is_blocked_and_says_what_about() {
    let body = reply("refusal", TEXT).replace(
        r#""stop_sequence""#,
        r#""stop_details":{"type":"refusal","category":"bio","explanation":"no"},"stop_sequence""#,
    );
    let error = decoded("anthropic", &body).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Blocked);
    assert_eq!(error.category(), Some("bio"));
    assert_eq!(error.message(), "the model refused (bio): no");
    assert_eq!(error.refusal(), Some("no"));
    assert_eq!(error.raw(), Some("ab"));
    let bare = decoded("anthropic", &reply("refusal", "[]")).unwrap_err();
    assert_eq!((bare.kind(), bare.category()), (ErrorKind::Blocked, None));
}

#[test]
fn a_request_is_said_in_the_dialects_words() {
    let mut request = Request::chat(vec![
        Message::new(Role::User, "one"),
        Message::new(Role::Assistant, "two"),
        Message::new(Role::User, "three"),
    ])
    .with_system("S")
    .with_max_tokens(9)
    .with_extra("reasoning_effort", "low".into())
    .with_extra("frequency_penalty", 1.into())
    .with_extra("metadata", json!({"user_id": "u"}));
    request.params.seed = Some(7);
    request.params.stop = vec!["END".into()];
    request.params.response_format = Some(ResponseFormat::JsonSchema {
        name: "row".into(),
        schema: json!({"properties": {"a": {"type": "null"}}}),
        strict: true,
    });
    let (path, body) = encoded("anthropic", &request);
    assert_eq!(path, "/messages");
    assert_eq!(
        body,
        json!({
            "model": "m", "max_tokens": 9, "system": "S", "stop_sequences": ["END"],
            "messages": [
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"},
                {"role": "user", "content": "three"},
            ],
            "output_config": {
                "effort": "low",
                "format": {"type": "json_schema", "schema": {"type": "object",
                    "properties": {"a": {"type": "null"}}, "additionalProperties": false}},
            },
            "metadata": {"user_id": "u"},
        })
    );
}

#[test]
fn a_schema_that_cannot_be_enforced_is_asked_for_in_words() {
    let mut request = Request::new("U").with_system("S");
    request.params.response_format = Some(ResponseFormat::JsonSchema {
        name: "row".into(),
        schema: json!({"type": "object"}),
        strict: false,
    });
    let (_, body) = encoded("anthropic", &request);
    let wanted = format!("S\n\n{}", content::in_words(&json!({"type": "object"})));
    assert_eq!(body["system"], wanted);
    assert!(body.get("output_config").is_none(), "{body}");
}

#[test]
fn what_is_not_set_is_absent_but_for_the_cap() {
    let (_, body) = encoded("anthropic", &Request::new("U"));
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["model", "max_tokens", "messages"]);
    assert_eq!(body["max_tokens"], DEFAULT_MAX_TOKENS);
}

#[test]
fn instructions_inside_the_conversation_are_moved_out_of_it() {
    let request = Request::chat(vec![
        Message::new(Role::System, "S1"),
        Message::new(Role::User, "U"),
        Message::new(Role::Developer, "S2"),
    ]);
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(body["system"], "S1\n\nS2");
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    let request = Request::chat(vec![Message::new(Role::Tool, "x")]);
    let error = message(vendor(), &request, "m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

fn vendor() -> &'static Vendor {
    Vendor::named("anthropic").unwrap()
}

#[test]
fn json_mode_is_an_instruction() {
    let mut request = Request::new("U").with_system("S");
    request.params.response_format = Some(ResponseFormat::JsonObject);
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(body["system"], format!("S\n\n{JSON_MODE}"));
}

#[test]
fn pictures_are_said_in_the_dialects_words() {
    let mut request = Request::new("");
    request.messages[0].content = json!([
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": "https://example.org/a.png"},
        {"type": "document", "source": {}},
    ]);
    request.messages[0]
        .extra
        .insert("name".into(), "ann".into());
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(
        body["messages"][0],
        json!({"role": "user", "content": [
            {"type": "text", "text": "what?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            {"type": "document", "source": {}},
        ]})
    );
}

#[test]
fn marks_on_texts_survive() {
    let text = |text: &str| json!([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]);
    let error_body = |role, content| Message {
        content,
        ..Message::new(role, "")
    };
    let request = Request::chat(vec![
        error_body(Role::System, text("S")),
        error_body(Role::User, text("U")),
    ]);
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(body["system"], text("S"));
    assert_eq!(body["messages"][0]["content"], text("U"));
    let mut request = request;
    request.params.response_format = Some(ResponseFormat::JsonObject);
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(
        body["system"][1],
        json!({"type": "text", "text": JSON_MODE})
    );
}

#[test]
fn an_empty_system_text_is_left_out() {
    for system in [
        json!(""),
        json!(" \n"),
        json!([{"type": "text", "text": ""}]),
    ] {
        let mut request = Request::chat(vec![
            Message::new(Role::System, ""),
            Message::new(Role::User, "U"),
        ]);
        request.messages[0].content = system;
        let (_, body) = encoded("anthropic", &request);
        assert!(body.get("system").is_none(), "{body}");
    }
}

#[test]
fn the_default_cap_leaves_room_beside_the_thoughts() {
    let thinking = json!({"type": "enabled", "budget_tokens": 10_000});
    let request = Request::new("U").with_extra("thinking", thinking);
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(body["max_tokens"], 10_000 + DEFAULT_MAX_TOKENS);
    let (_, body) = encoded("anthropic", &request.with_max_tokens(12_000));
    assert_eq!(body["max_tokens"], 12_000);
}

#[test]
fn output_settings_in_the_dialects_own_words_stay() {
    let mut request = Request::new("U").with_extra("output_config", json!({"effort": "max"}));
    request.params.response_format = Some(ResponseFormat::JsonSchema {
        name: "row".into(),
        schema: json!({"type": "object", "properties": {"a": {"type": "string"}}}),
        strict: false,
    });
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(body["output_config"]["effort"], "max");
    assert_eq!(body["output_config"]["format"]["type"], "json_schema");
}

#[test]
fn a_message_without_a_text_is_refused_before_it_is_sent() {
    let mut request = Request::chat(vec![Message::new(Role::Assistant, "")]);
    request.messages[0].content = Value::Null;
    let error = message(vendor(), &request, "m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn details_of_a_stop_count_for_refusals_alone() {
    let body = reply("end_turn", TEXT).replace(
        r#""stop_sequence""#,
        r#""stop_details":{"type":"note","explanation":"e"},"stop_sequence""#,
    );
    assert_eq!(decoded("anthropic", &body).unwrap().text, "ab");
}

#[test]
fn strange_details_cost_no_usage() {
    let body = reply("end_turn", TEXT).replace(r#"{"thinking_tokens":2}"#, "\"n/a\"");
    let usage = decoded("anthropic", &body).unwrap().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.reasoning_tokens), (17, 0));
}

#[test]
fn tool_calls_of_a_conversation_are_told_as_blocks() {
    let request = testing::after_tool_calls();
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "c2", "name": "get_time", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "{\"c\":3}"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "noon"},
            ]},
            {"role": "user", "content": "and now?"},
        ])
    );
    // Without tools such a conversation is refused; they are there only for that.
    let names = json!(["get_weather", "get_time"]);
    let named: Value = body["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].clone())
        .collect();
    assert_eq!(
        (named, &body["tool_choice"]),
        (names, &json!({"type": "none"}))
    );
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tool = json!({"name": "get_weather", "description": "d", "parameters": parameters});
    let request = request
        .with_extra("tools", json!([{"type": "function", "function": tool}]))
        .with_extra("tool_choice", json!("required"));
    let (_, body) = encoded("anthropic", &request);
    let own = json!([{"name": "get_weather", "description": "d", "input_schema": parameters}]);
    assert_eq!(
        (&body["tools"], &body["tool_choice"]),
        (&own, &json!({"type": "any"}))
    );
    assert!(vendor().fields.left_out(&request).is_empty());
}

#[test]
fn files_become_documents_and_what_has_no_place_is_refused() {
    let pdf = json!({"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0x"});
    let text = json!({"filename": "a.txt", "file_data": "data:text/plain;base64,aGVsbG8="});
    let (_, body) = encoded(
        "anthropic",
        &testing::with_parts([
            json!({"type": "file", "file": pdf}),
            json!({"type": "file", "file": text}),
        ]),
    );
    assert_eq!(
        body["messages"][0]["content"],
        json!([
            {"type": "document", "title": "a.pdf",
             "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}},
            {"type": "document", "title": "a.txt",
             "source": {"type": "text", "media_type": "text/plain", "data": "hello"}},
        ])
    );
    for (part, why) in [
        (
            json!({"type": "input_audio", "input_audio": {"format": "wav", "data": "UklG"}}),
            "input_audio",
        ),
        (
            json!({"type": "file", "file": {"file_id": "file-1"}}),
            "file-1",
        ),
        (
            json!({"type": "file", "file": {"file_data": "data:application/zip;base64,UEs="}}),
            "zip",
        ),
        (
            json!({"type": "file", "file": {"file_data": "UEs="}}),
            "base64",
        ),
    ] {
        let error = encode(vendor(), &testing::with_parts([part]), Some("m"))
            .err()
            .unwrap();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
        assert!(error.message().contains(why), "{error}");
    }
}

/// From the documentation of tool use and of extended thinking.
#[test]
fn a_reply_with_tool_calls_is_an_answer_with_all_that_it_holds() {
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
fn a_paused_turn_is_an_answer_that_says_so() {
    let content =
        r#"[{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}]"#;
    let answer = decoded("anthropic", &reply("pause_turn", content)).unwrap();
    assert_eq!(answer.text, "");
    assert_eq!(answer.finish_reason.as_str(), "pause_turn");
    assert!(answer.details().tool_calls.is_empty());
    assert!(answer.warning.unwrap().contains("paused"));
    // Where the turn is over, nothing came of it.
    let error = decoded("anthropic", &reply("end_turn", content)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.message().contains("web_search"), "{error}");
    let empty = decoded("anthropic", &reply("pause_turn", "[]")).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Malformed);
}

#[test]
fn usage_tells_cache_writes_and_searches_apart() {
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

fn with_tools(tools: Value, more: &[(&str, Value)]) -> Value {
    let mut request = Request::new("weather?").with_extra("tools", tools);
    for (field, value) in more {
        request = request.with_extra(*field, value.clone());
    }
    let (_, body) = encoded("anthropic", &request);
    json!({"tools": body["tools"], "tool_choice": body["tool_choice"]})
}

fn function(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

/// From the documentation of tool use.
#[test]
fn tools_are_said_in_the_dialects_words() {
    let location = json!({"type": "object", "required": ["location"],
        "properties": {"location": {"type": "string", "maxLength": 99}}});
    let tool = |strict: bool| {
        json!([{"type": "function", "function": {"name": "get_weather", "strict": strict,
            "description": "Get the current weather", "parameters": location}}])
    };
    let said = with_tools(tool(false), &[]);
    assert_eq!(
        said,
        json!({"tools": [{"name": "get_weather", "description": "Get the current weather",
            "input_schema": location}], "tool_choice": null})
    );
    let said = with_tools(tool(true), &[]);
    let schema = &said["tools"][0]["input_schema"];
    assert_eq!(said["tools"][0]["strict"], true);
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["location"].get("maxLength"), None);
    let bare = with_tools(
        json!([{"type": "function", "function": {"name": "now"}}]),
        &[],
    );
    assert_eq!(
        bare["tools"],
        json!([{"name": "now", "input_schema": {"properties": {}, "type": "object"}}])
    );
    let own = json!({"type": "web_search_20250305", "name": "web_search"});
    let mixed = with_tools(json!([function("f"), own]), &[]);
    assert_eq!(
        (&mixed["tools"][0], &mixed["tools"][1]["name"]),
        (&own, &json!("f"))
    );
}

#[test]
fn the_choice_of_a_tool_is_said_in_the_dialects_words() {
    let one = json!({"type": "function", "function": {"name": "f"}});
    let said = |more: &[(&str, Value)]| {
        with_tools(json!([function("f"), function("g")]), more)["tool_choice"].clone()
    };
    for (choice, expected) in [
        (json!("auto"), json!({"type": "auto"})),
        (json!("none"), json!({"type": "none"})),
        (json!("required"), json!({"type": "any"})),
        (one, json!({"type": "tool", "name": "f"})),
        (json!({"type": "any"}), json!({"type": "any"})),
        (json!("odd"), Value::Null),
    ] {
        assert_eq!(said(&[("tool_choice", choice)]), expected);
    }
    let single = ("parallel_tool_calls", json!(false));
    let auto = json!({"type": "auto", "disable_parallel_tool_use": true});
    assert_eq!(said(std::slice::from_ref(&single)), auto);
    let none = said(&[single.clone(), ("tool_choice", json!("none"))]);
    assert_eq!(none, json!({"type": "none"}));
    let any = said(&[single, ("tool_choice", json!("required"))]);
    assert_eq!(
        any,
        json!({"type": "any", "disable_parallel_tool_use": true})
    );
    let allowed = json!({"type": "allowed_tools", "allowed_tools":
        {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}});
    let left = with_tools(
        json!([function("f"), function("g")]),
        &[("tool_choice", allowed)],
    );
    assert_eq!(left["tool_choice"], json!({"type": "any"}));
    assert_eq!(left["tools"].as_array().unwrap().len(), 1);
    assert_eq!(left["tools"][0]["name"], "g");
}

/// What a reply held goes back as it came: without the signatures the API refuses it.
#[test]
fn a_conversation_goes_on_with_what_a_reply_held() {
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
