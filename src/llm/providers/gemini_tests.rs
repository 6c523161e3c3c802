//! The dialect against replies of every shape that is known.

use super::*;
use crate::llm::providers::dialect::testing::{self, decoded, encoded, vendor};
use crate::llm::request::{Message, Role};
use crate::llm::response::FinishReason;

fn reply(finish: &str, content: &str) -> String {
    format!(
        r#"{{"candidates":[{{"index":0,"finishReason":"{finish}"{content}}}],"promptFeedback":{{}},
        "usageMetadata":{{"promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":5,
        "thoughtsTokenCount":"20","totalTokenCount":35}},"modelVersion":"gemini-x-001","responseId":"r1"}}"#
    )
}

const TEXT: &str = r#","content":{"role":"model","parts":[{"text":"hm","thought":true},{"text":"a"},{"text":"b"}]}"#;

#[test]
fn text_parts_are_joined_without_thoughts_and_thoughts_are_output() {
    let answer = decoded("gemini", &reply("STOP", TEXT)).unwrap();
    assert_eq!(answer.text, "ab");
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    assert_eq!(answer.model.as_deref(), Some("gemini-x-001"));
    let usage = answer.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.cached_input_tokens), (10, 4));
    assert_eq!((usage.output_tokens, usage.reasoning_tokens), (25, 20));
}

#[test]
fn absent_counts_are_zero() {
    let body = r#"{"candidates":[{"finishReason":"STOP","content":{"parts":[{"text":"x"}]}}],
        "usageMetadata":{"promptTokenCount":3}}"#;
    let usage = decoded("gemini", body).unwrap().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (3, 0));
}

#[test]
fn finish_reasons_lead_to_their_outcomes() {
    let ended = |reason| decoded("gemini", &reply(reason, TEXT)).map(|a| a.finish_reason);
    assert_eq!(ended("MAX_TOKENS").unwrap(), FinishReason::Length);
    assert_eq!(
        ended("CONTINUATION").unwrap(),
        FinishReason::Other("CONTINUATION".into())
    );
    for blocked in [
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
    ] {
        let error = ended(blocked).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Blocked, "{blocked}");
        assert!(error.message().contains(blocked));
    }
    for tool in [
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "MISSING_THOUGHT_SIGNATURE",
    ] {
        assert_eq!(ended(tool).unwrap_err().kind(), ErrorKind::Invalid);
    }
    for fault in ["OTHER", "MALFORMED_RESPONSE", "NO_IMAGE"] {
        assert_eq!(ended(fault).unwrap_err().kind(), ErrorKind::Malformed);
    }
}

#[test]
fn a_candidate_may_lack_its_content() {
    let failed = |finish| decoded("gemini", &reply(finish, "")).unwrap_err();
    assert_eq!(failed("MAX_TOKENS").kind(), ErrorKind::Invalid);
    assert_eq!(failed("STOP").kind(), ErrorKind::Malformed);
    let ratings = r#","safetyRatings":[{"category":"HARM_CATEGORY_X","probability":"LOW"},
        {"category":"HARM_CATEGORY_Y","probability":"HIGH","blocked":true}]"#;
    let error = decoded("gemini", &reply("SAFETY", ratings)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Blocked);
    assert_eq!(error.category(), Some("HARM_CATEGORY_Y"));
}

#[test]
fn a_blocked_prompt_is_a_success_without_a_candidate() {
    let error = decoded("gemini", r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Blocked);
    assert_eq!(error.category(), Some("SAFETY"));
    let error = decoded("gemini", r#"{"promptFeedback":{}}"#).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
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
    .with_temperature(0.5)
    .with_extra("reasoning_effort", "low".into())
    .with_extra("user", "u".into())
    .with_extra("generationConfig", json!({"topK": 3, "seed": 1}))
    .with_extra("cachedContent", "cachedContents/1".into());
    request.params.seed = Some(7);
    request.params.top_p = Some(0.5);
    request.params.stop = vec!["END".into()];
    request.params.response_format = Some(ResponseFormat::JsonSchema {
        name: "row".into(),
        schema: json!({"type": "object"}),
        strict: true,
    });
    let (path, body) = encoded("gemini", &request);
    assert_eq!(path, "/models/m:generateContent");
    assert_eq!(
        body,
        json!({
            "systemInstruction": {"parts": [{"text": "S"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "one"}]},
                {"role": "model", "parts": [{"text": "two"}]},
                {"role": "user", "parts": [{"text": "three"}]},
            ],
            "generationConfig": {
                "temperature": 0.5, "topP": 0.5, "maxOutputTokens": 9, "seed": 7, "topK": 3,
                "stopSequences": ["END"], "responseMimeType": "application/json",
                "responseJsonSchema": {"type": "object"},
                "thinkingConfig": {"thinkingLevel": "LOW"},
            },
            "cachedContent": "cachedContents/1",
        })
    );
}

#[test]
fn sampling_and_thinking_stand_in_the_configuration() {
    let request = Request::new("U")
        .with_extra("top_k", 3.into())
        .with_extra("reasoning_effort", "none".into());
    let config = |request: &Request| encoded("gemini", request).1["generationConfig"].clone();
    let level = json!({"topK": 3, "thinkingConfig": {"thinkingLevel": "MINIMAL"}});
    assert_eq!(config(&request), level);
    let own = json!({"thinkingConfig": {"thinkingBudget": 0}});
    let request = request.with_extra("generationConfig", own);
    let budget = json!({"topK": 3, "thinkingConfig": {"thinkingBudget": 0}});
    assert_eq!(config(&request), budget);
}

#[test]
fn what_is_not_set_is_absent() {
    let (_, body) = encoded("gemini", &Request::new("U"));
    assert_eq!(
        body,
        json!({"contents": [{"role": "user", "parts": [{"text": "U"}]}]})
    );
}

#[test]
fn pictures_are_said_in_the_dialects_words() {
    let mut request = Request::new("");
    request.messages[0].content = json!([
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]);
    let (_, body) = encoded("gemini", &request);
    assert_eq!(
        body["contents"][0]["parts"],
        json!([
            {"text": "what?"},
            {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        ])
    );
}

#[test]
fn a_models_name_cannot_change_the_address() {
    assert_eq!(resource("gemini-x").unwrap(), "models/gemini-x");
    assert_eq!(resource("models/gemini-x").unwrap(), "models/gemini-x");
    assert_eq!(resource("tunedModels/a-1").unwrap(), "tunedModels/a-1");
    for bad in ["", "a b", "x?key=1", "x#", "../files", "x:delete"] {
        assert_eq!(resource(bad).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn tool_calls_of_a_conversation_are_told_as_parts() {
    let request = testing::after_tool_calls();
    let (_, body) = encoded("gemini", &request);
    let signature = "skip_thought_signature_validator";
    assert_eq!(
        body["contents"],
        json!([
            {"role": "user", "parts": [{"text": "weather?"}]},
            {"role": "model", "parts": [
                {"text": "I look."},
                {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}},
                 "thoughtSignature": signature},
                {"functionCall": {"name": "get_time", "args": {}}, "thoughtSignature": signature},
            ]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "get_weather", "response": {"c": 3}}},
                {"functionResponse": {"name": "get_time", "response": {"result": "noon"}}},
            ]},
            {"role": "user", "parts": [{"text": "and now?"}]},
        ])
    );
    let older = content(vendor("gemini"), &request, "gemini-2.5-flash").unwrap();
    assert!(!older.to_string().contains(signature));
    let tool = json!({"name": "get_time", "parameters": {"type": "object"}});
    let request = request
        .with_extra("tools", json!([{"type": "function", "function": tool}]))
        .with_extra(
            "tool_choice",
            json!({"type": "function", "function": {"name": "get_time"}}),
        );
    let (_, body) = encoded("gemini", &request);
    let declared = json!([{"functionDeclarations": [
        {"name": "get_time", "parametersJsonSchema": {"type": "object"}},
    ]}]);
    let choice =
        json!({"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_time"]}});
    assert_eq!((&body["tools"], &body["toolConfig"]), (&declared, &choice));
    assert!(vendor("gemini").fields.left_out(&request).is_empty());
}

#[test]
fn a_result_of_no_call_is_refused() {
    let mut request = testing::after_tool_calls();
    request.messages.remove(1);
    let error = content(vendor("gemini"), &request, "m").unwrap_err();
    assert!(error.message().contains("`c1`"), "{error}");
}

#[test]
fn sound_and_files_are_inline_data_and_penalties_are_taken() {
    let (_, body) = encoded(
        "gemini",
        &testing::with_parts([
            json!({"type": "input_audio", "input_audio": {"format": "wav", "data": "UklG"}}),
            json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0x"}}),
        ]),
    );
    assert_eq!(
        body["contents"][0]["parts"],
        json!([
            {"inlineData": {"mimeType": "audio/wav", "data": "UklG"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0x"}},
        ])
    );
    let request = Request::new("U")
        .with_extra("presence_penalty", 0.5.into())
        .with_extra("frequency_penalty", 0.25.into());
    let config = json!({"presencePenalty": 0.5, "frequencyPenalty": 0.25});
    assert_eq!(encoded("gemini", &request).1["generationConfig"], config);
}
