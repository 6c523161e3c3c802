//! Anthropic's Messages API.

use serde_json::{Value, json};

use super::SimConfig;
use super::http::Request;
use super::problems::Problem;
use super::prompt::{Answer, Conversation, Finish, Prompt, THOUGHTS};
use super::rules::{self, Fault, text};
use super::shape::{self, Shape, schema_told};

/// Rejects a request without its version or without exactly one key.
pub(super) fn admit(request: &Request, config: &SimConfig) -> Result<(), Problem> {
    let fault = |message: &str| Err(Fault::invalid("", message).into());
    let key = match (request.header("x-api-key"), request.bearer()) {
        (None, None) => return Err(Problem::new("key", "no_key")),
        (Some(_), Some(_)) => {
            return fault("Only one of x-api-key and authorization may be sent.");
        }
        (Some(key), None) | (None, Some(key)) => key,
    };
    if !config.is_key(key) {
        return Err(Problem::new("key", "wrong_key"));
    }
    match request.header("anthropic-version") {
        None => fault("anthropic-version: header is required"),
        Some("2023-06-01") => Ok(()),
        Some(_) => fault("anthropic-version: this is not a valid version"),
    }
}

/// Reads a request's body.
pub(super) fn parse(body: &[u8]) -> Result<Prompt, Fault> {
    let root = rules::read(body, "anthropic", "request")?;
    let system = text(&root["system"]);
    let mut conversation = Conversation::default();
    conversation.instruct(&system);
    for message in rules::list(&root["messages"]) {
        conversation.say(message["role"] == "user", text(&message["content"]));
    }
    let schema = root["output_config"]["format"].get("schema").cloned();
    // There is no field for plain JSON, nor for every schema: the simulated model follows the system text.
    let schema = schema.or_else(|| schema_told(&system));
    let object = || system.contains("JSON object").then_some(Shape::Object);
    Ok(Prompt {
        tools: shape::anthropic_tools(&root),
        flex: false,
        model: root["model"].as_str().unwrap_or_default().to_owned(),
        tokens: conversation.tokens(),
        text: conversation.prompt(),
        cap: root["max_tokens"].as_u64(),
        shape: schema.map(Shape::Schema).or_else(object),
    })
}

/// A message.
pub(super) fn answer(answer: &Answer<'_>) -> Value {
    let tokens = answer.tokens;
    let mut content = Vec::new();
    if tokens.reasoning > 0 {
        content
            .push(json!({"type": "thinking", "signature": "c2ltdWxhdGVk", "thinking": THOUGHTS}));
    }
    let stop_reason = match answer.finish {
        Finish::Stop if !answer.calls.is_empty() => "tool_use",
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Refused | Finish::Filtered => "refusal",
    };
    let refused = stop_reason == "refusal";
    if !answer.text.is_empty() && !refused {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    for (call, number) in answer.calls.iter().zip(1_u32..) {
        let id = format!("toolu_sim_{}_{number}", answer.call);
        content.push(json!({"type": "tool_use", "id": id, "name": call.name,
            "input": call.arguments}));
    }
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
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_client::{cases, with};

    #[test]
    fn mistakes_are_named_with_their_places() {
        let read = |fields: &str| {
            let body = json!({"model": "m", "max_tokens": 5,
                "messages": [{"role": "user", "content": "hi"}]});
            let read = parse(with(body, fields).to_string().as_bytes());
            read.map_err(|fault| fault.at)
        };
        for (fields, at) in cases(
            r#"
            {"seed": 1} => seed
            {"max_tokens": 0} => max_tokens
            {"messages": []} => messages
            {"messages": [{"role": "system", "content": "x"}]} => messages[0].role
            {"metadata": {"run": "r7"}} => metadata.run
            {"output_config": {"format": {"type": "json_schema"}}} => output_config.format.schema
        "#,
        ) {
            assert_eq!(read(fields).unwrap_err(), at);
        }
    }
}
