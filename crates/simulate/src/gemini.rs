//! Google's Gemini API: protocol buffers written as JSON, so fields have two spellings and zeros are omitted.

use serde_json::{Map, Value, json};

use super::http::{Request, Shown};
use super::objects;
use super::prompt::{Answer, Conversation, Fault, Finish, Problem, Prompt};
use super::shape::Shape;
use super::tool_rules;
use super::tree::{Object, Spelling};

/// Rejects a request without a key in its header, or with one in its address. Google accepts the latter, but it would
/// be in every log on the way.
pub(super) fn admit(request: &Request<'_>) -> Result<(), Problem<'static>> {
    let fault = |message: &str| Err(Problem::Fault(Fault::invalid("", message)));
    if request.key_in_url {
        return fault("The key belongs into the header x-goog-api-key, not into the address.");
    }
    match request.credentials.x_goog_api_key {
        Shown::Right => Ok(()),
        Shown::Wrong => Err(Problem::WrongKey),
        Shown::Nothing => Err(Problem::NoKey),
    }
}

/// Reads a request's body.
pub(super) fn parse(body: &[u8], model: &str) -> Result<Prompt, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = objects::request(&value, Spelling::Protobuf, "gemini", "request")?;
    let mut conversation = Conversation::default();
    if let Some(system) = root.object("systemInstruction")? {
        conversation.instruct(&text(&system)?);
    }
    for content in root.objects("contents")?.unwrap_or_default() {
        conversation.say(content.text("role")? != Some("model"), text(&content)?);
    }
    let (cap, shape) = match root.object("generationConfig")? {
        Some(config) => configured(&config)?,
        None => (None, None),
    };
    Ok(Prompt {
        tools: tool_rules::gemini(&root)?.map(Box::new),
        flex: root.text("serviceTier")? == Some("flex"),
        model: model.to_owned(),
        tokens: conversation.tokens(),
        text: conversation.prompt(),
        cap,
        shape,
    })
}

/// The text of a content's parts.
pub(super) fn text(content: &Object<'_>) -> Result<String, Fault> {
    let parts = content.objects("parts")?.unwrap_or_default();
    let texts = parts.iter().map(|part| part.text("text"));
    texts.map(|text| Ok(text?.unwrap_or_default())).collect()
}

fn configured(config: &Object<'_>) -> Result<(Option<u64>, Option<Shape>), Fault> {
    let cap = config.whole("maxOutputTokens", 1)?;
    let mime = config.text("responseMimeType")?;
    let json = mime == Some("application/json");
    let schemas = ["responseSchema", "responseJsonSchema"].map(|name| config.get(name));
    let fault = |at: &str, message: &str| Err(Fault::invalid(config.at(at), message));
    match schemas {
        [Some(_), Some(_)] => fault(
            "responseJsonSchema",
            "only one of response_schema and response_json_schema may be set",
        ),
        [None, None] => Ok((cap, json.then_some(Shape::Object))),
        _ if !json => fault(
            "responseMimeType",
            "set response_mime_type to application/json",
        ),
        [Some(schema), None] => Ok((cap, Some(Shape::Schema(plain(schema))))),
        [None, Some(schema)] => {
            Object::new(schema, config.at("responseJsonSchema"), Spelling::Exact)?;
            Ok((cap, Some(Shape::Schema(schema.clone()))))
        }
    }
}

/// Converts a schema in OpenAPI's format, with types in capitals, to a JSON Schema.
fn plain(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let lower = |(name, value): (&String, &Value)| {
                let value = match value {
                    Value::String(kind) if name == "type" => kind.to_ascii_lowercase().into(),
                    value => plain(value),
                };
                (name.clone(), value)
            };
            Value::Object(map.iter().map(lower).collect())
        }
        Value::Array(list) => list.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// Appends an answer.
pub(super) fn answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let tokens = answer.tokens;
    let mut body = Map::new();
    let held_back = matches!(answer.finish, Finish::Refused | Finish::Filtered);
    if answer.finish == Finish::Blocked {
        body.insert(
            "promptFeedback".into(),
            json!({"blockReason": "PROHIBITED_CONTENT"}),
        );
    } else {
        let mut parts = Vec::new();
        if tokens.reasoning > 0 && !held_back {
            let text = "The simulator thinks of an answer.";
            parts.push(json!({"text": text, "thought": true}));
        }
        if !answer.text.is_empty() && !held_back {
            parts.push(json!({"text": answer.text}));
        }
        for (call, number) in answer.calls.iter().zip(1_u32..) {
            let mut part = json!({"functionCall": {"name": call.name, "args": call.arguments}});
            if number == 1 {
                part["thoughtSignature"] = "c2ltdWxhdGVk".into();
            }
            parts.push(part);
        }
        let reason = match answer.finish {
            Finish::Stop => "STOP",
            Finish::Length => "MAX_TOKENS",
            Finish::Filtered | Finish::Blocked | Finish::Refused => "SAFETY",
        };
        let mut candidate = json!({"finishReason": reason});
        if !parts.is_empty() {
            candidate["content"] = json!({"role": "model", "parts": parts});
        }
        body.insert("candidates".into(), json!([candidate]));
    }
    let counts = [
        ("promptTokenCount", tokens.prompt),
        ("cachedContentTokenCount", tokens.cached),
        ("candidatesTokenCount", tokens.output),
        ("thoughtsTokenCount", tokens.reasoning),
        ("totalTokenCount", tokens.total()),
    ];
    let told = counts.into_iter().filter(|(_, count)| *count > 0);
    let mut usage: Map<_, _> = told
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    if answer.flex {
        usage.insert("serviceTier".into(), "flex".into());
    }
    body.insert("usageMetadata".into(), usage.into());
    body.insert("modelVersion".into(), answer.model.into());
    body.insert("responseId".into(), format!("sim-{}", answer.call).into());
    let _ = serde_json::to_writer(out, &body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
        body[name] = value;
        body
    }

    fn read(body: &Value) -> Result<Prompt, Fault> {
        parse(body.to_string().as_bytes(), "m")
    }

    #[test]
    fn a_prompt_is_read_in_either_spelling() {
        let schema = json!({"type": "object"});
        let camel = json!({"systemInstruction": {"parts": [{"text": "12345"}]}, "contents": [
            {"role": "model", "parts": [{"text": "yes?"}]},
            {"parts": [{"text": "one "}, {"text": "two"}]}],
            "generationConfig": {"maxOutputTokens": 5, "topP": 0.5,
                "responseMimeType": "application/json", "responseJsonSchema": schema}});
        let snake = json!({"system_instruction": {"parts": [{"text": "12345"}]}, "contents": [
            {"role": "model", "parts": [{"text": "yes?"}]}, {"parts": [{"text": "one two"}]}],
            "generation_config": {"max_output_tokens": 5,
                "response_mime_type": "application/json", "response_schema": {"type": "OBJECT"}}});
        for body in [camel, snake] {
            let prompt = read(&body).unwrap();
            assert_eq!((&*prompt.model, &*prompt.text), ("m", "one two"));
            assert_eq!((prompt.tokens, prompt.cap), (4, Some(5)));
            assert_eq!(prompt.shape, Some(Shape::Schema(schema.clone())));
        }
    }

    #[test]
    fn mistakes_are_named_with_their_places() {
        for (name, value, at) in [
            ("x", json!(1), "x"),
            ("contents", json!([]), "contents"),
            (
                "contents",
                json!([{"role": "assistant", "parts": [{"text": "x"}]}]),
                "contents[0].role",
            ),
            ("contents", json!([{"parts": []}]), "contents[0].parts"),
            (
                "generationConfig",
                json!({"max_tokens": 1}),
                "generationConfig.max_tokens",
            ),
            (
                "generationConfig",
                json!({"responseJsonSchema": {}}),
                "generationConfig.responseMimeType",
            ),
            (
                "generationConfig",
                json!({"maxOutputTokens": 0}),
                "generationConfig.maxOutputTokens",
            ),
            (
                "generationConfig",
                json!({"temperature": 3}),
                "generationConfig.temperature",
            ),
        ] {
            let fault = read(&with(name, value)).unwrap_err();
            assert_eq!(fault.at(), at);
        }
    }
}
