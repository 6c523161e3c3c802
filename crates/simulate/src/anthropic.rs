//! Anthropic's Messages API.

use serde_json::{Map, Value, json};

use super::http::{Request, Shown, Version};
use super::objects;
use super::prompt::{Answer, Conversation, Fault, Finish, Problem, Prompt};
use super::shape::Shape;
use super::tool_rules;
use super::tree::{Object, Spelling};

/// Rejected since version 2026-10-21.
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];

/// Rejects a request without its version or without exactly one key.
pub(super) fn admit(request: &Request<'_>) -> Result<(), Problem<'static>> {
    let keys = request.credentials;
    let fault = |message: &str| Err(Problem::Fault(Fault::invalid("", message)));
    match (keys.x_api_key, keys.bearer) {
        (Shown::Nothing, Shown::Nothing) => return Err(Problem::NoKey),
        (Shown::Nothing, key) | (key, Shown::Nothing) => {
            if key == Shown::Wrong {
                return Err(Problem::WrongKey);
            }
        }
        _ => return fault("Only one of x-api-key and authorization may be sent."),
    }
    match request.version {
        Version::Absent => fault("anthropic-version: header is required"),
        Version::Other => fault("anthropic-version: this is not a valid version"),
        Version::Old | Version::New => Ok(()),
    }
}

/// Reads a request's body.
pub(super) fn parse(body: &[u8], version: Version) -> Result<Prompt, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let mut names = value.as_object().into_iter().flat_map(Map::keys);
    if let Some(gone) = names.find(|name| SAMPLING.contains(&name.as_str()))
        && version == Version::New
    {
        return Err(Fault::Unknown(gone.clone()));
    }
    let root = objects::request(&value, Spelling::Exact, "anthropic", "request")?;
    let cap = root.whole("max_tokens", 1)?;
    let system = text(&root, "system")?;
    let mut conversation = Conversation::default();
    conversation.instruct(&system);
    for message in root.objects("messages")?.unwrap_or_default() {
        let said = text(&message, "content")?;
        conversation.say(message.text("role")? == Some("user"), said);
    }
    Ok(Prompt {
        tools: tool_rules::anthropic(&root)?.map(Box::new),
        flex: false,
        model: root.text("model")?.unwrap_or_default().to_owned(),
        tokens: conversation.tokens(),
        text: conversation.prompt(),
        cap,
        shape: shape(&root)?.or_else(|| told(&system)),
    })
}

/// The format that the system text describes: there is no field for plain JSON, nor for every schema. The simulated
/// model follows it.
fn told(system: &str) -> Option<Shape> {
    let schema = crate::shape::schema_told(system);
    let object = || system.contains("JSON object").then_some(Shape::Object);
    schema.map(Shape::Schema).or_else(object)
}

/// The text of a string or of a list of blocks; empty if the field is missing.
fn text(object: &Object<'_>, name: &str) -> Result<String, Fault> {
    if let Some(Value::String(text)) = object.get(name) {
        return Ok(text.clone());
    }
    let blocks = object.objects(name)?.unwrap_or_default();
    let texts = blocks
        .iter()
        .filter(|block| block.text("type") == Ok(Some("text")));
    texts
        .map(|block| Ok(block.text("text")?.unwrap_or_default()))
        .collect()
}

fn shape(root: &Object<'_>) -> Result<Option<Shape>, Fault> {
    let Some(output) = root.object("output_config")? else {
        return Ok(None);
    };
    let Some(format) = output.object("format")? else {
        return Ok(None);
    };
    let schema = format.get("schema").unwrap_or(&Value::Null);
    Ok(Some(Shape::Schema(schema.clone())))
}

/// Appends a message.
pub(super) fn answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let tokens = answer.tokens;
    let mut content = Vec::new();
    if tokens.reasoning > 0 {
        content.push(json!({"type": "thinking", "signature": "c2ltdWxhdGVk",
            "thinking": "The simulator thinks of an answer."}));
    }
    let refused = matches!(
        answer.finish,
        Finish::Refused | Finish::Filtered | Finish::Blocked
    );
    if !answer.text.is_empty() && !refused {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    for (call, number) in answer.calls.iter().zip(1_u32..) {
        let id = format!("toolu_sim_{}_{number}", answer.call);
        content.push(json!({"type": "tool_use", "id": id, "name": call.name,
            "input": call.arguments}));
    }
    let stop_reason = match answer.finish {
        Finish::Stop if !answer.calls.is_empty() => "tool_use",
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Refused | Finish::Filtered | Finish::Blocked => "refusal",
    };
    let mut message = json!({
        "id": format!("msg_sim_{}", answer.call), "type": "message", "role": "assistant",
        "model": answer.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {
            "input_tokens": tokens.prompt - tokens.cached,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": tokens.cached,
            "output_tokens": tokens.completion(),
            "output_tokens_details": {"thinking_tokens": tokens.reasoning},
            "service_tier": "standard"}});
    if refused {
        message["stop_details"] = json!({"type": "refusal", "category": "general_harms",
            "explanation": answer.text});
    }
    let _ = serde_json::to_writer(out, &message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems;

    fn fault(body: &Value, version: Version) -> String {
        let fault = parse(body.to_string().as_bytes(), version).unwrap_err();
        let mut out = Vec::new();
        let problem = Problem::Fault(fault);
        assert_eq!(problems::write(&mut out, &problem, "anthropic", 1), 400);
        let body: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(body["error"]["type"], "invalid_request_error");
        body["error"]["message"].as_str().unwrap().to_owned()
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({"model": "m", "max_tokens": 5,
            "messages": [{"role": "user", "content": "hi"}]});
        body[name] = value;
        body
    }

    #[test]
    fn a_prompt_is_read_from_strings_and_blocks() {
        let closed = json!({"type": "object", "additionalProperties": false});
        let body = json!({"model": "m", "max_tokens": 5, "system": "12345", "messages": [
            {"role": "user", "content": "x"}, {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": [{"type": "text", "text": "one "},
                {"type": "image", "source": {"type": "url", "url": "https://x"}}, {"type": "text", "text": "two"}]}],
            "output_config": {"effort": "low",
                "format": {"type": "json_schema", "schema": closed}}});
        let prompt = parse(body.to_string().as_bytes(), Version::New).unwrap();
        assert_eq!((&*prompt.model, &*prompt.text), ("m", "one two"));
        assert_eq!((prompt.tokens, prompt.cap), (5, Some(5)));
        assert_eq!(prompt.shape, Some(Shape::Schema(closed)));
    }

    #[test]
    fn json_is_answered_where_the_system_text_asks_for_it() {
        let body = with("system", json!("Answer with one JSON object."));
        let prompt = parse(body.to_string().as_bytes(), Version::New).unwrap();
        assert_eq!(prompt.shape, Some(Shape::Object));
    }

    #[test]
    fn a_schema_in_the_system_text_is_answered_to() {
        for (system, expected) in [
            (
                "Be brief.\n\nAnswer with JSON that fits this JSON Schema and nothing else:\n\
                 {\"type\": \"array\"}\n\nThanks.",
                Some(Shape::Schema(json!({"type": "array"}))),
            ),
            ("I like each JSON Schema.", None),
            ("It fits this JSON Schema: {\"type\"", None),
        ] {
            let body = with("system", json!(system));
            let prompt = parse(body.to_string().as_bytes(), Version::New).unwrap();
            assert_eq!(prompt.shape, expected);
        }
    }

    #[test]
    fn the_new_version_takes_no_sampling_fields() {
        for name in SAMPLING {
            let body = with(name, json!(1));
            assert!(parse(body.to_string().as_bytes(), Version::Old).is_ok());
            let wanted = format!("{name}: Extra inputs are not permitted");
            assert_eq!(fault(&body, Version::New), wanted);
        }
    }

    /// A field of a request, of its format or of its only message, and the error for it.
    const MISTAKES: &str = r#"
{"seed": 1} => seed: Extra inputs are not permitted
{"output_format": {}} => output_format: Extra inputs are not permitted
{"max_tokens": null} => max_tokens: Field required
{"max_tokens": 0} => 'max_tokens' must be at least 1.
{"messages": []} => Invalid value for 'messages'
{"messages": [{"role": "system", "content": "x"}]} => Invalid value for 'messages[0].role'
{"messages": [{"role": "user", "content": "x", "name": "y"}]} => messages.0.name: Extra inputs are not permitted
{"messages": [{"role": "user", "content": ""}]} => Invalid value for 'messages[0].content'
{"format": {"type": "json_object", "schema": {}}} => Invalid value for 'output_config.format.type'
{"format": {"type": "json_schema"}} => output_config.format.schema: Field required
{"format": {"type": "json_schema", "schema": {}, "name": "x"}} => output_config.format.name: Extra inputs are not permitted
{"metadata": {"run": "r7"}} => metadata.run: Extra inputs are not permitted
{"service_tier": "flex"} => Invalid value for 'service_tier'
{"system": ""} => Invalid value for 'system'
{"output_config": {"effort": "minimal"}} => Invalid value for 'output_config.effort'
{"temperature": 1.5} => 'temperature' must be from 0 to 1, found 1.5.
"#;

    #[test]
    fn mistakes_are_named_with_their_places() {
        for row in MISTAKES.trim().lines() {
            let (field, wanted) = row.split_once(" => ").unwrap();
            let field: Value = serde_json::from_str(field).unwrap();
            let (name, value) = field.as_object().unwrap().iter().next().unwrap();
            let body = match &**name {
                "format" => with("output_config", json!({"format": value})),
                _ => with(name, value.clone()),
            };
            let message = fault(&body, Version::Old);
            assert!(message.starts_with(wanted), "{row}: {message}");
        }
    }
}
