//! The response object of `/v1/responses`.

use batchwright::{Error, ErrorKind, FinishReason, Response as Answer, Usage};
use serde_json::{Map, Value, json};

use crate::records::files::now;

/// Fields that the server sets, also if OpenAI's own reply has them.
const OURS: [&str; 7] = [
    "background",
    "created_at",
    "id",
    "metadata",
    "previous_response_id",
    "store",
    "usage",
];

/// A response that has not begun. `fields` are those of its request.
pub(in super::super) fn queued(
    id: &str,
    model: &str,
    fields: &Map<String, Value>,
) -> Map<String, Value> {
    let object = json!({
        "id": id,
        "object": "response",
        "created_at": now(),
        "completed_at": null,
        "status": "queued",
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "max_output_tokens": null,
        "max_tool_calls": null,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "store": false,
        "temperature": null,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": null,
        "truncation": "disabled",
        "usage": null,
    });
    let mut object = match object {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    object.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    object
}

/// Completes a response with its answer; a refusal is an answer, too.
///
/// # Errors
/// The failure that it is instead.
pub(in super::super) fn complete<'r>(
    object: &mut Map<String, Value>,
    result: &'r Result<Answer, Error>,
) -> Result<(), &'r Error> {
    let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
    let id = id.trim_start_matches("resp_").to_owned();
    let (output, used) = match result {
        Ok(answer) => (answer.items(&id), answer.usage),
        Err(error) => {
            let part = json!({"type": "refusal", "refusal": error.refusal().ok_or(error)?});
            let message = json!({
                "type": "message", "id": format!("msg_{id}"), "status": "completed", "role": "assistant",
                "content": [part],
            });
            (vec![message], error.usage())
        }
    };
    let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
    set("status", "completed".into());
    set("completed_at", now().into());
    set("usage", usage(used));
    if let Ok(answer) = result {
        let details = answer.details();
        let why = match &answer.finish_reason {
            FinishReason::Length => Some("max_output_tokens"),
            FinishReason::Other(word) if word == "content_filter" => Some("content_filter"),
            _ => None,
        };
        if let Some(why) = why {
            set("status", "incomplete".into());
            set("incomplete_details", json!({"reason": why}));
        }
        if let Some(model) = &answer.model {
            set("model", model.as_str().into());
        }
        let tier = details.service_tier.as_deref();
        if let Some(tier) = tier.and_then(service_tier) {
            set("service_tier", tier.into());
        }
        let others = details.citations.iter();
        let others = others.filter(|citation| citation["type"] != "url_citation");
        let others: Vec<Value> = others.cloned().collect();
        let reply = details.reply.as_ref();
        let reply = reply.and_then(|reply| reply.parse::<Map<String, Value>>().ok());
        match reply.filter(|reply| reply.get("object") == Some(&json!("response"))) {
            Some(reply) => reply
                .into_iter()
                .filter(|(name, _)| !OURS.contains(&name.as_str()))
                .for_each(|(name, value)| drop(set(&name, value))),
            None if !others.is_empty() => drop(set("citations", others.into())),
            None => {}
        }
    }
    set("output", output.into());
    Ok(())
}

/// Ends a response without an answer.
pub(super) fn fail(object: &mut Map<String, Value>, error: &Error) {
    let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
    set("completed_at", now().into());
    set("usage", usage(error.usage()));
    if error.kind() == ErrorKind::Cancelled {
        set("status", "cancelled".into());
        return;
    }
    let code = match error.kind() {
        ErrorKind::RateLimited | ErrorKind::Quota => "rate_limit_exceeded",
        ErrorKind::Invalid | ErrorKind::UnknownModel | ErrorKind::Blocked => "invalid_prompt",
        _ => "server_error",
    };
    set("status", "failed".into());
    set("error", json!({"code": code, "message": error.message()}));
}

/// OpenAI's name of a service tier, if it has one: clients accept no other.
fn service_tier(tier: &str) -> Option<&str> {
    match tier {
        "standard" => Some("default"),
        "auto" | "default" | "flex" | "scale" | "priority" => Some(tier),
        _ => None,
    }
}

fn usage(used: Option<Usage>) -> Value {
    let Some(used) = used else {
        return Value::Null;
    };
    json!({
        "input_tokens": used.input_tokens,
        "input_tokens_details": {
            "cached_tokens": used.cached_input_tokens,
            "cache_write_tokens": used.cache_write_tokens,
        },
        "output_tokens": used.output_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.input_tokens.saturating_add(used.output_tokens),
    })
}
