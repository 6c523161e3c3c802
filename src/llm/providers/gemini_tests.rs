//! The dialect against replies of every shape that is known.

use super::*;
use crate::llm::providers::dialect::testing::{self, decoded, encoded, line, vendor};
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
fn output_tokens_that_are_not_stated_are_the_rest_of_the_total_or_unknown() {
    let counted = |more: &str| {
        let body = format!(
            r#"{{"candidates":[{{"finishReason":"STOP","content":{{"parts":[{{"text":"x"}}]}}}}],
            "usageMetadata":{{"promptTokenCount":3{more}}}}}"#
        );
        let usage = decoded("gemini", &body).unwrap().usage;
        usage.map(|usage| (usage.input_tokens, usage.output_tokens))
    };
    assert_eq!(counted(""), None);
    assert_eq!(counted(r#","thoughtsTokenCount":5"#), None);
    assert_eq!(counted(r#","totalTokenCount":3"#), Some((3, 0)));
    let thoughts = r#","thoughtsTokenCount":5,"totalTokenCount":8"#;
    assert_eq!(counted(thoughts), Some((3, 5)));
    let tools = r#","toolUsePromptTokenCount":4,"candidatesTokenCount":-1,"totalTokenCount":9"#;
    assert_eq!(counted(tools), Some((7, 2)));
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
fn older_models_get_no_signature_for_calls_of_other_models() {
    let request = testing::after_tool_calls();
    let older = content(vendor("gemini"), &request, "gemini-2.5-flash").unwrap();
    assert!(!older.to_string().contains("skip_thought_signature"));
}

#[test]
fn a_result_without_its_call_is_rejected() {
    let mut request = testing::after_tool_calls();
    request.messages.remove(1);
    let error = content(vendor("gemini"), &request, "m").unwrap_err();
    assert!(error.message().contains("`c1`"), "{error}");
}

/// From the documentation of function calling and of thought signatures.
#[test]
fn a_reply_with_tool_calls_is_an_answer_with_all_its_parts() {
    let content = r#","content":{"role":"model","parts":[
        {"text":"I look it up.","thought":true},
        {"functionCall":{"name":"get_weather","args":{"city":"Oslo"},"id":"8f2b1a3c"},
         "thoughtSignature":"AbCd"},
        {"functionCall":{"name":"get_time"}}]}"#;
    let read = || decoded("gemini", &reply("STOP", content)).unwrap();
    let answer = read();
    assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    let line = line(&answer);
    assert_eq!(line["text"], Value::Null);
    assert_eq!(
        line["tool_calls"][0],
        json!({"id": "8f2b1a3c", "name": "get_weather", "arguments": {"city": "Oslo"},
            "signature": "AbCd"})
    );
    assert_eq!(line["reasoning"], json!({"text": "I look it up."}));
    // Without an id it gets one, the same each time and another in another reply.
    let made = |answer: &Response| answer.details().tool_calls[1].clone();
    assert_eq!(
        (made(&answer).id.len(), made(&answer).arguments),
        (9, json!({}))
    );
    assert_eq!(made(&answer).id, made(&read()).id);
    let other = reply("STOP", content).replace("\"r1\"", "\"r2\"");
    assert_ne!(
        made(&answer).id,
        made(&decoded("gemini", &other).unwrap()).id
    );
}

#[test]
fn a_call_that_can_be_read_is_an_answer_even_if_there_were_too_many() {
    let content = r#","content":{"parts":[{"functionCall":{"name":"f","args":{}}}]}"#;
    let answer = decoded("gemini", &reply("TOO_MANY_TOOL_CALLS", content)).unwrap();
    assert_eq!(answer.finish_reason.as_str(), "TOO_MANY_TOOL_CALLS");
    assert_eq!(answer.details().tool_calls.len(), 1);
    let body = reply("MALFORMED_FUNCTION_CALL", r#","finishMessage":"print(f("#);
    let error = decoded("gemini", &body.replace("print(f(", "print(f(\"")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.is_unusable_reply() && error.raw().unwrap().contains("print(f("));
}

#[test]
fn grounding_probabilities_and_signatures_of_texts_are_kept() {
    let content = r#","content":{"parts":[{"text":"Oslo","thoughtSignature":"S"}]},
        "avgLogprobs":-0.10,"logprobsResult":{"chosenCandidates":[{"token":"Oslo","logProbability":-0.1}]},
        "citationMetadata":{"citationSources":[{"startIndex":0,"uri":"https://c"}]},
        "groundingMetadata":{"webSearchQueries":["a","b"],"groundingChunks":[{"web":{"uri":"https://a"}}]}"#;
    let answer = decoded("gemini", &reply("STOP", content)).unwrap();
    let usage = answer.usage.unwrap();
    assert_eq!((usage.server_tool_calls, usage.web_search_calls), (2, 2));
    let line = line(&answer);
    assert_eq!(
        line["reasoning"],
        json!({"text": "", "details": [{"thoughtSignature": "S"}]})
    );
    assert_eq!(
        line["citations"][0]["groundingChunks"][0]["web"]["uri"],
        "https://a"
    );
    assert_eq!(
        line["citations"][1],
        json!({"startIndex": 0, "uri": "https://c"})
    );
    let logprobs = answer.details().logprobs.clone().unwrap();
    assert!(
        logprobs
            .as_str()
            .starts_with(r#"{"avgLogprobs":-0.10,"logprobsResult":{"#)
    );
}

#[test]
fn usage_distinguishes_kinds_of_tokens() {
    let body = r#"{"candidates":[{"finishReason":"STOP","content":{"parts":[{"text":"x"}]}}],
        "usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":9,"toolUsePromptTokenCount":7,
        "promptTokensDetails":[{"modality":"TEXT","tokenCount":10},{"modality":"AUDIO","tokenCount":60},
            {"modality":"IMAGE","tokenCount":30}],
        "candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":8}]}}"#;
    let usage = decoded("gemini", body).unwrap().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (107, 9));
    assert_eq!(
        (usage.input_audio_tokens, usage.input_image_tokens),
        (60, 30)
    );
    assert_eq!(
        (usage.output_audio_tokens, usage.output_image_tokens),
        (0, 8)
    );
}

#[test]
fn the_tier_is_read_from_a_header() {
    let body = reply("STOP", TEXT);
    let headers = [("x-gemini-service-tier", "flex")];
    let reply = testing::reply(200, &headers, &body);
    let answer = super::super::dialect::decode(vendor("gemini"), &reply, false).unwrap();
    assert_eq!(answer.details().service_tier.as_deref(), Some("flex"));
}

/// Its calls go back with the signature that the first of them has, and with their ids.
#[test]
fn a_conversation_continues_with_all_parts_of_a_reply() {
    let content = r#","content":{"role":"model","parts":[{"text":"So.","thoughtSignature":"T"},
        {"functionCall":{"name":"f","args":{"a":1},"id":"i1"},"thoughtSignature":"S"},
        {"functionCall":{"name":"g","args":{},"id":"i2"}}]}"#;
    let answer = decoded("gemini", &reply("STOP", content)).unwrap();
    let turns = vec![
        Message::new(Role::User, "?"),
        answer.message(),
        Message::tool_result("i1", "1"),
        Message::tool_result("i2", "{\"b\":2}"),
    ];
    let (_, body) = encoded("gemini", &Request::chat(turns));
    assert_eq!(
        body["contents"][1]["parts"],
        json!([{"text": "So.", "thoughtSignature": "T"},
            {"functionCall": {"name": "f", "args": {"a": 1}, "id": "i1"}, "thoughtSignature": "S"},
            {"functionCall": {"name": "g", "args": {}, "id": "i2"}}])
    );
    assert_eq!(
        body["contents"][2]["parts"],
        json!([{"functionResponse": {"name": "f", "response": {"result": "1"}, "id": "i1"}},
            {"functionResponse": {"name": "g", "response": {"b": 2}, "id": "i2"}}])
    );
    let mut picture = Message::tool_result("i1", "");
    picture.content = json!([{"type": "image_url", "image_url": {"url": "https://a"}}]);
    let turns = vec![Message::new(Role::User, "?"), answer.message(), picture];
    let error = content_of(&Request::chat(turns)).unwrap_err();
    assert!(error.message().contains("is text for gemini"), "{error}");
}

fn content_of(request: &Request) -> Result<Value, Error> {
    content(vendor("gemini"), request, "m")
}
