//! Google's Gemini API: protocol buffers written as JSON, so fields have two spellings and zeros are omitted.

use serde_json::{Map, Value, json};

use super::SimConfig;
use super::http::Request;
use super::problems::Problem;
use super::prompt::{Answer, Conversation, Finish, Prompt, THOUGHTS};
use super::rules::{self, Fault, text};
use super::shape::{self, Shape};

/// Rejects a request without a key in its header, or with one in its address. Google accepts the latter, but it would
/// be in every log on the way.
pub(super) fn admit(request: &Request, config: &SimConfig) -> Result<(), Problem> {
    if request
        .query
        .split('&')
        .any(|pair| pair.starts_with("key="))
    {
        let message = "The key belongs into the header x-goog-api-key, not into the address.";
        return Err(Fault::invalid("", message).into());
    }
    match request.header("x-goog-api-key") {
        Some(key) if config.is_key(key) => Ok(()),
        Some(_) => Err(Problem::new("key", "wrong_key")),
        None => Err(Problem::new("key", "no_key")),
    }
}

/// Reads a body in either spelling and checks it against a rule.
pub(super) fn read(body: &[u8], rule: &str) -> Result<Value, Fault> {
    let value = serde_json::from_slice(body).map_err(|_| Fault::not_json())?;
    let value = camel(value);
    rules::check(&value, "", "gemini", rule)?;
    Ok(value)
}

/// The value with its fields in camel case; data of the caller, such as schemas, stay as they are.
fn camel(value: Value) -> Value {
    const DATA: [&str; 5] = [
        "responseJsonSchema",
        "parametersJsonSchema",
        "parameters",
        "args",
        "response",
    ];
    match value {
        Value::Array(list) => list.into_iter().map(camel).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (String, Value)| {
                let mut words = name.split('_');
                let first = words.next().unwrap_or_default().to_owned();
                let name = words.fold(first, |name, word| match word.split_at_checked(1) {
                    Some((initial, rest)) => name + &initial.to_ascii_uppercase() + rest,
                    None => name + "_" + word,
                });
                let is_data = DATA.contains(&name.as_str());
                (name, if is_data { value } else { camel(value) })
            };
            Value::Object(fields.into_iter().map(field).collect())
        }
        value => value,
    }
}

/// Reads a request's body.
pub(super) fn parse(body: &[u8], model: &str) -> Result<Prompt, Fault> {
    let root = read(body, "request")?;
    let mut conversation = Conversation::default();
    conversation.instruct(&text(&root["systemInstruction"]["parts"]));
    for content in rules::list(&root["contents"]) {
        conversation.say(content["role"] != "model", text(&content["parts"]));
    }
    let config = &root["generationConfig"];
    let json = config["responseMimeType"] == "application/json";
    let schema = config.get("responseJsonSchema").cloned();
    if schema.is_some() && !json {
        let message = "set response_mime_type to application/json";
        return Err(Fault::invalid("generationConfig.responseMimeType", message));
    }
    let object = json.then_some(Shape::Object);
    Ok(Prompt {
        tools: shape::gemini_tools(&root),
        flex: root["serviceTier"] == "flex",
        model: model.to_owned(),
        tokens: conversation.tokens(),
        text: conversation.prompt(),
        cap: config["maxOutputTokens"].as_u64(),
        shape: schema.map(Shape::Schema).or(object),
    })
}

/// An answer.
pub(super) fn answer(answer: &Answer<'_>) -> Value {
    let tokens = answer.tokens;
    let mut body = json!({"modelVersion": answer.model, "responseId": format!("sim-{}", answer.call),
            "candidates": [candidate(answer)]});
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
    body["usageMetadata"] = usage.into();
    body
}

fn candidate(answer: &Answer<'_>) -> Value {
    let reason = match answer.finish {
        Finish::Stop => "STOP",
        Finish::Length => "MAX_TOKENS",
        Finish::Filtered | Finish::Refused => {
            return json!({"finishReason": "SAFETY"});
        }
    };
    let mut parts = Vec::new();
    if answer.tokens.reasoning > 0 {
        parts.push(json!({"text": THOUGHTS, "thought": true}));
    }
    if !answer.text.is_empty() {
        parts.push(json!({"text": answer.text}));
    }
    for (nth, call) in answer.calls.iter().enumerate() {
        let mut part = json!({"functionCall": {"name": call.name, "args": call.arguments}});
        if nth == 0 {
            part["thoughtSignature"] = "c2ltdWxhdGVk".into();
        }
        parts.push(part);
    }
    if parts.is_empty() {
        json!({"finishReason": reason})
    } else {
        json!({"finishReason": reason, "content": {"role": "model", "parts": parts}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_client::{cases, with};

    #[test]
    fn mistakes_are_named_with_their_places() {
        for (fields, at) in cases(
            r#"
            {"x": 1} => x
            {"contents": []} => contents
            {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]} => contents[0].role
            {"generationConfig": {"max_tokens": 1}} => generationConfig.maxTokens
            {"generationConfig": {"responseJsonSchema": {}}} => generationConfig.responseMimeType
            {"generationConfig": {"temperature": 3}} => generationConfig.temperature
        "#,
        ) {
            let good = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
            let body = with(good, fields).to_string();
            assert_eq!(parse(body.as_bytes(), "m").unwrap_err().at, at);
        }
    }
}
