//! Tool calls in the conversation of a prompt, which prompt files tell in OpenAI's words, for the
//! dialects that have others: what was called, what came of it, and which tools there are.

use serde_json::{Map, Value, json};

use crate::base::error::Error;
use crate::llm::request::{Request, Text};

use super::content::{invalid, plain};

/// The calls that a message of the assistant holds.
pub(super) fn of_turn(extra: Option<&Map<String, Value>>) -> impl Iterator<Item = &Value> {
    let calls = extra.and_then(|extra| extra.get("tool_calls")?.as_array());
    calls.into_iter().flatten()
}

/// Whether the conversation has tool calls, or what came of one.
pub(super) fn are_told(request: &Request) -> bool {
    request
        .rendered()
        .any(|(role, _, extra)| role == "tool" || of_turn(extra).next().is_some())
}

/// One call: its id, the tool's name, and its arguments.
pub(super) struct Call<'c> {
    pub id: &'c str,
    pub name: &'c str,
    pub arguments: Value,
    /// What Gemini's OpenAI endpoint hangs on a call, and wants back.
    pub signature: Option<&'c str>,
}

impl<'c> Call<'c> {
    /// # Errors
    /// When it is no call in OpenAI's shape.
    pub(super) fn read(call: &'c Value) -> Result<Self, Error> {
        let wrong = |what: &str| invalid(format!("a tool call in the conversation has no {what}"));
        let text = |pointer: &str| call.pointer(pointer).and_then(Value::as_str);
        let arguments = match call.pointer("/function/arguments") {
            Some(Value::String(text)) if text.trim().is_empty() => json!({}),
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
            Some(other) => other.clone(),
            None => json!({}),
        };
        if !arguments.is_object() {
            return Err(wrong("arguments that are a JSON object"));
        }
        Ok(Self {
            id: text("/id").unwrap_or_default(),
            name: text("/function/name").ok_or_else(|| wrong("function.name"))?,
            arguments,
            signature: text("/extra_content/google/thought_signature"),
        })
    }
}

/// What came of a call: the id of that, and the text.
///
/// # Errors
/// When it does not say which call it belongs to.
pub(super) fn result<'m>(
    text: Text<'m>,
    extra: Option<&'m Map<String, Value>>,
) -> Result<(&'m str, String), Error> {
    let id = extra.and_then(|extra| extra.get("tool_call_id")?.as_str());
    let id =
        id.ok_or_else(|| invalid("a message of the role `tool` has no tool_call_id".into()))?;
    Ok((id, plain(text)))
}

/// A tool that may be called.
pub(super) struct Tool<'t> {
    pub name: &'t str,
    pub description: Option<&'t str>,
    pub parameters: Value,
}

/// The tools of a request in OpenAI's shape; none in a shape of another's.
pub(super) fn tools(request: &Request) -> Vec<Tool<'_>> {
    let tools = request.extra.get("tools").and_then(Value::as_array);
    let functions = tools.into_iter().flatten();
    let functions = functions.filter_map(|tool| {
        let function = tool.get("function")?;
        Some(Tool {
            name: function.get("name")?.as_str()?,
            description: function.get("description").and_then(Value::as_str),
            parameters: function.get("parameters").cloned().unwrap_or_else(anything),
        })
    });
    functions.collect()
}

/// The tools that the conversation names, where the request defines none: a conversation of calls of
/// tools that are not defined would be refused.
pub(super) fn named(request: &Request) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for (_, _, extra) in request.rendered() {
        for call in of_turn(extra) {
            let name = Call::read(call)?.name.to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// The parameters of a tool that nobody has described.
pub(super) fn anything() -> Value {
    json!({"type": "object", "properties": {}})
}

/// Which tool is to be called.
pub(super) enum Choice<'c> {
    Auto,
    Never,
    Any,
    One(&'c str),
}

/// The choice in OpenAI's words, if the request makes one.
pub(super) fn choice(request: &Request) -> Option<Choice<'_>> {
    let choice = request.extra.get("tool_choice")?;
    Some(match choice.as_str() {
        Some("auto") => Choice::Auto,
        Some("none") => Choice::Never,
        Some("required") => Choice::Any,
        Some(_) => return None,
        None => Choice::One(choice.pointer("/function/name")?.as_str()?),
    })
}
