//! The messages of a conversation, in the OpenAI format.

use serde_json::{Map, Value};

use super::fault::{Fault, excerpt};
use crate::llm::request::{Message, Request, Role};

/// The field or column with a conversation.
pub(super) const MESSAGES: &str = "messages";

/// Parses a list of messages, which must not be empty. `name` is the field or column with it.
pub(super) fn parse(name: &str, value: Value) -> Result<Vec<Message>, Fault> {
    match value {
        Value::Array(items) if !items.is_empty() => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| message(&format!("{name}[{i}]"), item))
            .collect(),
        other => Err(Fault::field(name, &other, "a list of messages")),
    }
}

/// The conversation in a cell of a table. A table gives each message the fields of all others, with nulls.
pub(super) fn of_cell(name: &str, cell: &str) -> Result<Request, Fault> {
    let list = serde_json::from_str(cell).map_err(|_| {
        let expected = "a list of messages, as JSON";
        Fault::new(format!("{} in {name:?}", excerpt(cell)), expected)
    })?;
    Ok(Request::chat(parse(name, without_nulls(list))?))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            let fields = fields.map(|(name, value)| (name, without_nulls(value)));
            Value::Object(fields.collect())
        }
        other => other,
    }
}

fn message(place: &str, value: Value) -> Result<Message, Fault> {
    let Value::Object(mut fields) = value else {
        let expected = "an object with \"role\" and \"content\"";
        return Err(Fault::field(place, &value, expected));
    };
    // ShareGPT's and Gemini's; their further fields, such as weights, are not for the provider.
    let own = match (
        fields.get("from"),
        fields.get("role"),
        fields.get("content"),
    ) {
        (Some(Value::String(from)), None, _) => {
            fields.get("value").map(|text| (from, text.clone()))
        }
        (_, Some(Value::String(role)), None) => fields
            .get("parts")
            .and_then(texts)
            .map(|text| (role, text.into())),
        _ => None,
    };
    if let Some((role, content)) = own {
        let role = match role.as_str() {
            "human" => "user",
            "gpt" | "chatgpt" | "model" | "bing" | "bard" => "assistant",
            other => other,
        };
        let own = [("role", role.into()), ("content", content)];
        fields = own
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect();
    }
    let role = fields.remove("role").unwrap_or_default();
    let Some(role) = role.as_str().and_then(Role::parse) else {
        return Err(Fault::field(
            &format!("{place}.role"),
            &role,
            "system, developer, user, assistant or tool",
        ));
    };
    let content = fields.remove("content").unwrap_or_default();
    content_fits(place, &role, &content, &fields)?;
    Ok(Message {
        role,
        content,
        extra: fields,
    })
}

/// The text of parts that are texts.
fn texts(parts: &Value) -> Option<String> {
    let parts = parts.as_array()?.iter();
    parts.map(|part| part.get("text")?.as_str()).collect()
}

fn content_fits(
    place: &str,
    role: &Role,
    content: &Value,
    fields: &Map<String, Value>,
) -> Result<(), Fault> {
    let place = format!("{place}.content");
    let calls = fields.get("tool_calls").is_some_and(Value::is_array);
    let wrong = match content {
        Value::String(_) => None,
        Value::Null if *role == Role::Assistant && calls => None,
        Value::Array(parts) if !parts.is_empty() => {
            let mut parts = parts.iter().enumerate();
            let wrong = parts.find(|(_, part)| !part.is_object());
            wrong.map(|(i, part)| (format!("{place}[{i}]"), part, "an object: a content part"))
        }
        other => Some((place, other, "a string or a list of content parts")),
    };
    wrong.map_or(Ok(()), |(place, value, expected)| {
        Err(Fault::field(&place, value, expected))
    })
}
