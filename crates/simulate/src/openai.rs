//! OpenAI's API and its variants at other vendors.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::http::Request;
use super::problems::Problem;
use super::prompt::{Answer, Conversation, Finish, Prompt, THOUGHTS};
use super::rules::{self, Fault, text};
use super::shape::{self, Shape, schema_told};
use super::template::Facts;
use super::vendor::Row;
use super::{SimConfig, Vendor};

/// Rejects a request without the required key.
pub(super) fn admit(
    request: &Request,
    config: &SimConfig,
    vendor: Option<Vendor>,
) -> Result<(), Problem> {
    let Some(key) = &config.api_key else {
        return Ok(());
    };
    let shown = match vendor {
        Some(Vendor::Local) => return Ok(()),
        // The newer addresses also accept it in OpenAI's header.
        Some(Vendor::Azure) => {
            let own = request.header("api-key");
            own.or(request.bearer().filter(|_| !request.versioned))
        }
        _ => request.bearer(),
    };
    match shown {
        Some(shown) if shown == key => Ok(()),
        Some(_) => Err(Problem::new("key", "wrong_key")),
        None => Err(Problem::new("key", "no_key")),
    }
}

/// Which vendor knows which field of a request and of its messages. Lists of vendors are words; `every` stands for all
/// vendors of that list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    every: String,
    fields: Vec<(String, String)>,
    message_fields: Vec<(String, String)>,
}

static KNOWN: LazyLock<Known> =
    LazyLock::new(|| rules::table("chat", include_str!("../rules/chat.json")));

/// Rejects fields of an object that the vendor of this name does not know.
fn known(object: &Value, at: &str, fields: &[(String, String)], vendor: &str) -> Result<(), Fault> {
    let has = |list: &str, name: &str| list.split(' ').any(|one| one == name);
    let takes = |list: &str| {
        vendor == "any" || has(list, vendor) || has(list, "every") && has(&KNOWN.every, vendor)
    };
    let is_known = |name: &str| {
        let mut fields = fields.iter();
        fields.any(|(known, list)| known == name && takes(list))
    };
    rules::only(object.as_object().unwrap_or(&Map::new()), at, is_known)
}

/// Reads a request's body as the vendor of this row does.
pub(super) fn parse(body: &[u8], row: &Row) -> Result<Prompt, Fault> {
    let root = rules::read(body, "openai", "chat")?;
    if let Some(name) = &row.fields {
        known(&root, "", &KNOWN.fields, name)?;
    }
    let mut conversation = Conversation::default();
    for (nth, message) in rules::list(&root["messages"]).enumerate() {
        let at = format!("messages[{nth}]");
        if let Some(name) = &row.fields {
            known(message, &at, &KNOWN.message_fields, name)?;
        }
        for (part_nth, part) in rules::list(&message["content"]).enumerate() {
            let rule = match part.get("type") {
                Some(_) => &row.parts,
                None => "part_text",
            };
            rules::check(part, &format!("{at}.content[{part_nth}]"), "openai", rule)?;
        }
        conversation.say(message["role"] == "user", text(&message["content"]));
    }
    let newer = root["max_completion_tokens"].as_u64();
    Ok(Prompt {
        tools: shape::openai_tools(&root),
        flex: root["service_tier"] == "flex",
        model: root["model"].as_str().unwrap_or_default().to_owned(),
        tokens: conversation.tokens(),
        text: conversation.prompt(),
        cap: newer
            .filter(|_| row.newer_cap)
            .or(root["max_tokens"].as_u64()),
        shape: shape(&root, row)?,
    })
}

/// The requested format.
fn shape(root: &Value, row: &Row) -> Result<Option<Shape>, Fault> {
    let format = &root["response_format"];
    if format.is_null() {
        return Ok(None);
    }
    rules::check(format, "response_format", "openai", &row.format)?;
    let told =
        || rules::list(&root["messages"]).find_map(|said| schema_told(said["content"].as_str()?));
    Ok(match format["type"].as_str() {
        Some("json_object") => {
            let schema = format.get("schema").cloned().or_else(told);
            Some(schema.map_or(Shape::Object, Shape::Schema))
        }
        Some("json_schema") => Some(Shape::Schema(format["json_schema"]["schema"].clone())),
        _ => None,
    })
}

/// A chat completion.
pub(super) fn answer(answer: &Answer<'_>, row: &Row) -> Value {
    let finish = match answer.finish {
        Finish::Stop if !answer.calls.is_empty() => "tool_calls",
        Finish::Stop => &row.stop,
        Finish::Refused => "stop",
        Finish::Length => "length",
        Finish::Filtered => "content_filter",
    };
    let mut body = json!({
        "id": format!("chatcmpl-sim-{}", answer.call), "object": "chat.completion",
        "created": answer.created, "model": answer.model, "system_fingerprint": "fp_sim",
        "choices": [{"index": 0, "finish_reason": finish, "message": message(answer, row)}],
        "usage": {"prompt_tokens": answer.tokens.prompt, "total_tokens": answer.tokens.total(),
            // The total includes the reasoning all the same.
            "completion_tokens": if row.apart { answer.tokens.output } else { answer.tokens.completion() }},
    });
    let facts = facts(answer);
    extend(&mut body["usage"], facts.fill(&row.usage));
    extend(&mut body, facts.fill(&row.answer));
    if answer.flex {
        body["service_tier"] = "flex".into();
    }
    body
}

fn extend(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// What a vendor's own fields are made of.
fn facts(answer: &Answer<'_>) -> Facts {
    let tokens = answer.tokens;
    let mut facts = Facts::default();
    facts.set("call", answer.call);
    facts.set("cached", tokens.cached);
    facts.set("missed", tokens.prompt - tokens.cached);
    facts.set("reasoning", tokens.reasoning);
    // At a dollar for a million tokens; in ticks, at 0.2 and 1 dollar.
    facts.set("dollars", tokens.total() as f64 / 1e6);
    let ticks = tokens.prompt.saturating_mul(2_000);
    let ticks = ticks.saturating_add(tokens.completion().saturating_mul(10_000));
    facts.set("ticks", ticks);
    facts
}

fn message(answer: &Answer<'_>, row: &Row) -> Value {
    let mut message = json!({"role": "assistant", "content": answer.text, "refusal": null});
    if answer.finish == Finish::Refused {
        message = json!({"role": "assistant", "content": null, "refusal": answer.text});
    }
    if !answer.calls.is_empty() {
        let id = |number: usize| match row.ids {
            Some((9, 9)) => format!("{:07}{number:02}", answer.call % 10_000_000),
            _ => format!("call_sim_{}_{number}", answer.call),
        };
        let calls = answer.calls.iter().enumerate();
        message["content"] = Value::Null;
        message["tool_calls"] = calls
            .map(|(nth, call)| {
                json!({"id": id(nth + 1), "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments.to_string()}})
            })
            .collect();
    }
    match row
        .reasoning
        .as_deref()
        .filter(|_| answer.tokens.reasoning > 0)
    {
        Some("content") => {
            let thoughts = json!([{"type": "text", "text": THOUGHTS}]);
            let mut chunks = vec![json!({"type": "thinking", "thinking": thoughts})];
            if let Some(text) = message["content"].as_str() {
                chunks.push(json!({"type": "text", "text": text}));
            }
            message["content"] = chunks.into();
        }
        Some(field) => message[field] = THOUGHTS.into(),
        None => {}
    }
    message
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
