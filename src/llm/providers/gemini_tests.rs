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
fn absent_counts_are_zero() {
    let body = r#"{"candidates":[{"finishReason":"STOP","content":{"parts":[{"text":"x"}]}}],
        "usageMetadata":{"promptTokenCount":3}}"#;
    let usage = decoded("gemini", body).unwrap().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (3, 0));
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

/// From the documentation of function calling and of thought signatures.
#[test]
fn a_reply_with_tool_calls_is_an_answer_with_all_that_it_holds() {
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
fn usage_tells_kinds_of_tokens_apart() {
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
fn the_tier_stands_in_a_header() {
    let body = reply("STOP", TEXT);
    let headers = [("x-gemini-service-tier", "flex")];
    let reply = testing::reply(200, &headers, &body);
    let answer = super::super::dialect::decode(vendor("gemini"), &reply).unwrap();
    assert_eq!(answer.details().service_tier.as_deref(), Some("flex"));
}

/// From the documentation of function calling.
#[test]
fn tools_are_said_in_the_dialects_words() {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tool = |name: &str, strict: bool| {
        json!({"type": "function", "function": {"name": name, "description": "D",
            "parameters": parameters, "strict": strict}})
    };
    let said = |tools: Value, more: &[(&str, Value)]| {
        let mut request = Request::new("U").with_extra("tools", tools);
        for (field, value) in more {
            request = request.with_extra(*field, value.clone());
        }
        let (_, body) = encoded("gemini", &request);
        (
            body["tools"].clone(),
            body["toolConfig"]["functionCallingConfig"].clone(),
        )
    };
    let (tools, config) = said(json!([tool("f", false)]), &[]);
    let declared = json!({"name": "f", "description": "D", "parametersJsonSchema": parameters});
    assert_eq!(tools, json!([{"functionDeclarations": [declared]}]));
    assert_eq!(config, Value::Null);
    let bare = said(
        json!([{"type": "function", "function": {"name": "now"}}]),
        &[],
    )
    .0;
    assert_eq!(bare, json!([{"functionDeclarations": [{"name": "now"}]}]));
    let (mixed, _) = said(json!([tool("f", false), {"googleSearch": {}}]), &[]);
    assert_eq!(mixed[0], json!({"googleSearch": {}}));
    assert_eq!(
        said(json!([tool("f", true)]), &[]).1,
        json!({"mode": "VALIDATED"})
    );
    for (choice, expected) in [
        (json!("auto"), json!({"mode": "AUTO"})),
        (json!("none"), json!({"mode": "NONE"})),
        (json!("required"), json!({"mode": "ANY"})),
        (
            json!({"type": "function", "function": {"name": "f"}}),
            json!({"mode": "ANY", "allowedFunctionNames": ["f"]}),
        ),
    ] {
        let config = said(json!([tool("f", false)]), &[("tool_choice", choice)]).1;
        assert_eq!(config, expected);
    }
    let own = json!({"functionCallingConfig": {"mode": "ANY"}});
    let more = [("toolConfig", own), ("tool_choice", json!("none"))];
    assert_eq!(
        said(json!([tool("f", true)]), &more).1,
        json!({"mode": "ANY"})
    );
}

#[test]
fn probabilities_are_asked_for_in_the_dialects_words() {
    let request = Request::new("U")
        .with_extra("logprobs", json!(true))
        .with_extra("top_logprobs", json!(3));
    let (_, body) = encoded("gemini", &request);
    let config = json!({"responseLogprobs": true, "logprobs": 3});
    assert_eq!(body["generationConfig"], config);
}

/// Its calls go back with the signature that the first of them has, and with their ids.
#[test]
fn a_conversation_goes_on_with_what_a_reply_held() {
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

#[test]
fn a_request_has_one_answer_and_each_sample_a_seed() {
    let config = json!({"seed": 7, "candidateCount": 4, "candidate_count": 4, "topK": 3});
    let request = Request::new("x").with_extra("generationConfig", config);
    for (sample, seed) in [(0, 7), (1, 7), (3, 9)] {
        let (_, body) = encoded("gemini", &request.clone().with_sample(sample));
        assert_eq!(body["generationConfig"], json!({"seed": seed, "topK": 3}));
    }
}

fn content_of(request: &Request) -> Result<Value, Error> {
    content(vendor("gemini"), request, "m")
}
