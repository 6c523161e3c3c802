use super::*;
use crate::llm::hash::request_hash;

fn translated(format: NativeFormat, body: Value) -> Request {
    let request = read(format, body.clone()).unwrap();
    assert_eq!(
        request.native.as_ref().unwrap().untranslated(),
        None,
        "{body}"
    );
    request
}

fn lost(format: NativeFormat, body: Value) -> String {
    let request = read(format, body.clone()).unwrap();
    let lost = request.native.as_ref().unwrap().untranslated();
    lost.unwrap_or_else(|| panic!("nothing is lost of {body}"))
        .to_owned()
}

/// What the request says, whoever said it.
fn neutral(mut request: Request) -> Request {
    request.native = None;
    request
}

const RESPONSES: NativeFormat = NativeFormat::OpenAiResponses;
const ANTHROPIC: NativeFormat = NativeFormat::AnthropicMessages;
const GEMINI: NativeFormat = NativeFormat::GeminiContent;

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": false})
}

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "weather", "description": "The weather", "parameters": schema()}})
}

/// `translate_cases.json`.
#[derive(serde::Deserialize)]
struct Cases {
    /// One conversation in each format.
    same_conversation: Map<String, Value>,
    /// Schemas in Gemini's format, each with the JSON Schema that it means.
    gemini_schemas: Vec<(Value, Value)>,
    /// Bodies with a field that has no equivalent, and that field.
    untranslated: Vec<(String, Value, String)>,
    refused: Vec<(String, Value)>,
}

fn cases() -> Cases {
    serde_json::from_str(include_str!("translate_cases.json")).unwrap()
}

fn format_named(name: &str) -> NativeFormat {
    let mut all = NativeFormat::ALL.into_iter();
    all.find(|format| format.as_str() == name).unwrap()
}

#[test]
fn all_three_formats_translate_to_the_same_conversation() {
    let conversation = cases().same_conversation;
    let [responses, anthropic, gemini] =
        NativeFormat::ALL.map(|format| translated(format, conversation[format.as_str()].clone()));
    assert_eq!(neutral(responses.clone()), neutral(anthropic.clone()));
    assert_eq!(neutral(anthropic.clone()), neutral(gemini.clone()));
    assert_eq!(responses.extra["tools"], json!([weather()]));
    assert_eq!(responses.params.max_tokens, Some(64));
    // What was written is what counts.
    let hashes = [&responses, &anthropic, &gemini].map(request_hash);
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    for request in [responses.with_sample(3), anthropic, gemini] {
        let kept = serde_json::to_string(&request).unwrap();
        let again: Request = serde_json::from_str(&kept).unwrap();
        assert_eq!(again, request);
        assert_eq!(request_hash(&again), request_hash(&request));
        let other = request.clone().with_model("other");
        assert_ne!(request_hash(&other), request_hash(&request));
    }
}

#[test]
fn schemas_for_answers_are_read_from_all_three() {
    let format = |request: Request| request.params.response_format.unwrap();
    let responses = json!({"input": "x", "text": {"format": {
        "type": "json_schema", "name": "answer", "strict": true, "schema": schema()}}});
    let anthropic = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "x"}],
        "output_config": {"format": {"type": "json_schema", "schema": schema()}}});
    let gemini = json!({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {
        "responseMimeType": "application/json", "responseJsonSchema": schema()}});
    let one = format(translated(RESPONSES, responses));
    assert_eq!(one, format(translated(ANTHROPIC, anthropic)));
    assert_eq!(one, format(translated(GEMINI, gemini)));
    let capitals = json!({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {
        "response_mime_type": "application/json",
        "response_schema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}}});
    let ResponseFormat::JsonSchema { schema, .. } = format(translated(GEMINI, capitals)) else {
        panic!("no schema");
    };
    assert_eq!(schema["properties"]["a"]["type"], "string");
}

/// What an answer has to fit that is asked for in Gemini's words.
fn gemini_schema(schema: Value) -> Value {
    let body = json!({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {
        "responseMimeType": "application/json", "responseSchema": schema}});
    match translated(GEMINI, body).params.response_format {
        Some(ResponseFormat::JsonSchema { schema, .. }) => schema,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_that_geminis_schema_allows_fit_its_translation() {
    let text = json!({"type": "STRING", "nullable": true});
    for (own, expected) in cases().gemini_schemas {
        assert_eq!(gemini_schema(own.clone()), expected, "{own}");
    }
    let tool = json!({"functionDeclarations": [{"name": "f", "parameters": text}]});
    let body = json!({"contents": [{"parts": [{"text": "x"}]}], "tools": [tool]});
    let tools = translated(GEMINI, body).extra["tools"].clone();
    let parameters = &tools[0]["function"]["parameters"];
    assert_eq!(parameters, &json!({"type": ["string", "null"]}));
}

#[cfg(feature = "schema")]
#[test]
fn an_unusable_schema_cannot_be_translated() {
    let unknown = json!({"type": "ARRAY", "items": {"type": "MAP"}});
    let body = json!({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {
        "responseMimeType": "application/json", "responseSchema": unknown}});
    assert_eq!(lost(GEMINI, body), "generationConfig.responseSchema");
}

#[test]
fn results_belong_to_the_calls_that_they_name() {
    let call = |id: Value, city: &str| json!({"functionCall": {"id": id, "name": "weather", "args": {"city": city}}});
    let result = |id: Value, c: u8| json!({"functionResponse": {"id": id, "name": "weather", "response": {"c": c}}});
    let conversation = |calls: [Value; 2], results: [Value; 2]| {
        let body = json!({"contents": [{"parts": [{"text": "x"}]},
            {"role": "model", "parts": calls}, {"role": "user", "parts": results}]});
        let request = translated(GEMINI, body);
        let calls = request.messages[1].extra["tool_calls"].clone();
        let ids = [0, 1].map(|i: usize| calls[i]["id"].as_str().unwrap().to_owned());
        let results = request.messages[2..].iter();
        let results: Vec<_> = results
            .map(|turn| format!("{} {}", turn.extra["tool_call_id"], turn.content))
            .collect();
        (ids, results)
    };
    let none = Value::Null;
    let (ids, results) = conversation(
        [call(json!("o"), "Oslo"), call(json!("r"), "Rome")],
        [result(json!("r"), 20), result(json!("o"), 3)],
    );
    assert_eq!(ids, ["o", "r"]);
    assert_eq!(results, [r#""r" "{\"c\":20}""#, r#""o" "{\"c\":3}""#]);
    for results_name_them in [true, false] {
        let id = |id: &str| {
            if results_name_them {
                json!(id)
            } else {
                Value::Null
            }
        };
        let calls = if results_name_them {
            [call(none.clone(), "Oslo"), call(none.clone(), "Rome")]
        } else {
            [call(json!("call_0"), "Oslo"), call(json!("call_1"), "Rome")]
        };
        let (ids, results) = conversation(calls, [result(id("x"), 3), result(id("y"), 20)]);
        assert_eq!(ids, ["call_0", "call_1"]);
        assert!(results[0].starts_with("\"call_0\"") && results[1].starts_with("\"call_1\""));
    }
    let foreign = json!({"contents": [{"parts": [{"text": "x"}]},
        {"role": "model", "parts": [call(json!("o"), "Oslo")]},
        {"role": "user", "parts": [result(json!("z"), 3)]}]});
    assert_eq!(
        lost(GEMINI, foreign),
        "contents[2].parts[0].functionResponse.name"
    );
}

#[test]
fn fields_that_cannot_be_translated_are_named() {
    for (format, body, field) in cases().untranslated {
        assert_eq!(lost(format_named(&format), body), field);
    }
}

#[test]
fn nonsense_is_rejected_without_a_panic() {
    for (format, body) in cases().refused {
        let read = read(format_named(&format), body.clone());
        assert!(read.is_err(), "{body}");
    }
    let odd = [
        json!(null),
        json!(7),
        json!("x"),
        json!([7]),
        json!({"a": [{}]}),
        json!([{"type": 7}]),
    ];
    for value in &odd {
        for (format, inner) in [
            (
                RESPONSES,
                json!({"input": [value], "tools": value, "text": value, "reasoning": value}),
            ),
            (
                ANTHROPIC,
                json!({"messages": [value], "tools": value, "system": value}),
            ),
            (
                ANTHROPIC,
                json!({"messages": [{"role": "user", "content": value}]}),
            ),
            (
                GEMINI,
                json!({"contents": [value], "tools": value, "generationConfig": value}),
            ),
            (GEMINI, json!({"contents": [{"parts": value}]})),
        ] {
            let _ = read(format, inner);
        }
    }
}
