//! Reads tools, the choice of a tool, tool calls and their results in OpenAI's format, which prompts use, for the
//! dialects with another format.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::base::Error;
use crate::llm::request::{Request, Text};

use super::content::{invalid, plain};

/// The fields of a request about tools.
pub(super) const FIELDS: [&str; 3] = ["tools", "tool_choice", "parallel_tool_calls"];

/// The format of tools, if it is not OpenAI's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Words {
    Anthropic,
    Gemini,
}

/// The tool calls in a message of the assistant.
pub(super) fn of_turn(extra: Option<&Map<String, Value>>) -> impl Iterator<Item = &Value> {
    let calls = extra.and_then(|extra| extra.get("tool_calls")?.as_array());
    calls.into_iter().flatten()
}

/// The details of the reasoning in a message of the assistant, for the provider that sent them.
pub(super) fn reasoning_details(
    extra: Option<&Map<String, Value>>,
) -> impl Iterator<Item = &Value> {
    let details = extra.and_then(|extra| extra.get("reasoning")?.get("details")?.as_array());
    details.into_iter().flatten()
}

/// Whether the conversation has tool calls or results of tools.
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
    /// The signature that Gemini adds to a call and requires in the next request.
    pub signature: Option<&'c str>,
}

impl<'c> Call<'c> {
    /// Reads a call in the format of OpenAI or of a result line.
    ///
    /// # Errors
    /// If it has neither format.
    pub(super) fn read(call: &'c Value) -> Result<Self, Error> {
        let wrong = |what: &str| invalid(format!("a tool call in the conversation has no {what}"));
        let text = |pointer: &str| call.pointer(pointer).and_then(Value::as_str);
        let name = |pointers: &[&str]| pointers.iter().find_map(|pointer| text(pointer));
        if let Some(input) = call.pointer("/custom/input") {
            return Ok(Self {
                id: text("/id").unwrap_or_default(),
                name: text("/custom/name").ok_or_else(|| wrong("custom.name"))?,
                arguments: json!({ "input": input }),
                signature: None,
            });
        }
        let given = call.pointer("/function/arguments");
        let arguments = match given.or_else(|| call.get("arguments")) {
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
            name: name(&["/function/name", "/name"]).ok_or_else(|| wrong("function.name"))?,
            arguments,
            signature: signature(call),
        })
    }
}

fn signature(call: &Value) -> Option<&str> {
    let own = call.get("signature");
    let own = own.or_else(|| call.pointer("/extra_content/google/thought_signature"));
    own.and_then(Value::as_str)
}

/// The calls of a message in OpenAI's format, also if they are in the format of a result line. Each gets an id that the
/// vendor accepts.
pub(super) fn in_openais_shape<'v>(
    calls: &'v Value,
    request: &Request,
    signed: bool,
    sent_id: &dyn for<'i> Fn(&'i str) -> Cow<'i, str>,
) -> Cow<'v, Value> {
    let list = calls.as_array().map_or(&[][..], Vec::as_slice);
    let is_ours = |call: &Value| {
        call.get("function").is_none() && call.get("custom").is_none() && call.get("name").is_some()
    };
    let other_id = |call: &Value| match sent_id(call.get("id")?.as_str()?) {
        Cow::Owned(id) => Some(id),
        Cow::Borrowed(_) => None,
    };
    if !list
        .iter()
        .any(|call| is_ours(call) || other_id(call).is_some())
    {
        return Cow::Borrowed(calls);
    }
    let said = list.iter().map(|call| {
        let mut said = if is_ours(call) {
            said_to_openai(call, request, signed)
        } else {
            call.clone()
        };
        if let Some(id) = other_id(call) {
            said["id"] = id.into();
        }
        said
    });
    Cow::Owned(said.collect())
}

fn said_to_openai(call: &Value, request: &Request, signed: bool) -> Value {
    let name = call.get("name");
    let arguments = match call.get("arguments") {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "{}".to_owned(),
    };
    if is_custom(request, name) {
        return json!({"id": call.get("id"), "type": "custom",
            "custom": {"name": name, "input": arguments}});
    }
    let mut said = json!({"id": call.get("id"), "type": "function",
        "function": {"name": name, "arguments": arguments}});
    if let Some(signature) = signature(call).filter(|_| signed) {
        said["extra_content"] = json!({"google": {"thought_signature": signature}});
    }
    said
}

fn is_custom(request: &Request, name: Option<&Value>) -> bool {
    let tools = request.extra.get("tools").and_then(Value::as_array);
    let mut tools = tools.into_iter().flatten();
    tools.any(|tool| name.is_some() && tool.pointer("/custom/name") == name)
}

/// The id of a call, and its result.
///
/// # Errors
/// If the message does not name its call.
pub(super) fn result<'m>(
    text: Text<'m>,
    extra: Option<&'m Map<String, Value>>,
) -> Result<(&'m str, CallResult<'m>), Error> {
    let id = extra.and_then(|extra| extra.get("tool_call_id")?.as_str());
    let id =
        id.ok_or_else(|| invalid("a message of the role `tool` has no tool_call_id".into()))?;
    let is_text = |part: &Value| part.get("type").and_then(Value::as_str) == Some("text");
    let result = match text {
        Text::Value(Value::Array(parts)) if !parts.iter().all(is_text) => CallResult::Parts(text),
        text => CallResult::Text(plain(text)),
    };
    Ok((id, result))
}

/// The result of a call.
pub(super) enum CallResult<'m> {
    Text(String),
    /// Parts that are not text, for example images.
    Parts(Text<'m>),
}

/// A function that may be called.
pub(super) struct Function<'t> {
    pub name: &'t str,
    pub description: Option<&'t str>,
    pub parameters: Option<&'t Value>,
    /// Whether the arguments must conform strictly to the schema of the parameters.
    pub strict: bool,
}

/// The tools that may be called.
#[derive(Default)]
pub(super) struct Tools<'t> {
    pub functions: Vec<Function<'t>>,
    /// Tools that are not in OpenAI's format.
    pub own: Vec<&'t Value>,
}

impl Tools<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.own.is_empty()
    }
}

/// The tools of a request, or only the allowed ones if it restricts them.
pub(super) fn tools(request: &Request) -> Tools<'_> {
    let mut all = Tools::default();
    let allowed = allowed(request);
    let tools = request.extra.get("tools").and_then(Value::as_array);
    for tool in tools.into_iter().flatten() {
        if is_own(tool) {
            all.own.push(tool);
        } else if let Some(function) = function(tool)
            && allowed
                .as_ref()
                .is_none_or(|names| names.contains(&function.name))
        {
            all.functions.push(function);
        }
    }
    all
}

/// Whether a tool is not in OpenAI's format, which has an object under the name of its type.
fn is_own(tool: &Value) -> bool {
    tool.is_object() && tool.get("function").is_none() && !tool["custom"].is_object()
}

fn function(tool: &Value) -> Option<Function<'_>> {
    let function = tool.get("function")?;
    let parameters = function.get("parameters");
    Some(Function {
        name: function.get("name")?.as_str()?,
        description: function.get("description").and_then(Value::as_str),
        parameters: parameters.filter(|parameters| parameters.is_object()),
        strict: function.get("strict") == Some(&Value::Bool(true)),
    })
}

/// The tools in the calls of the conversation, for a request that defines no tools. The provider would reject calls of
/// undefined tools.
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

/// Which tool the model must call.
pub(super) enum Choice<'c> {
    Auto,
    Never,
    Any,
    One(&'c str),
    /// In Anthropic's format.
    Own(&'c Value),
}

/// The choice of the request, if it has one.
pub(super) fn choice(request: &Request) -> Option<Choice<'_>> {
    let choice = request.extra.get("tool_choice")?;
    let mode = choice.pointer("/allowed_tools/mode").unwrap_or(choice);
    match mode.as_str() {
        Some("auto") => return Some(Choice::Auto),
        Some("none") => return Some(Choice::Never),
        Some("required") => return Some(Choice::Any),
        Some(_) => return None,
        None => {}
    }
    if let Some(name) = choice.pointer("/function/name") {
        return Some(Choice::One(name.as_str()?));
    }
    let own = ["auto", "any", "tool", "none"];
    let kind = choice.get("type").and_then(Value::as_str)?;
    own.contains(&kind).then_some(Choice::Own(choice))
}

/// The names of the tools that the choice allows, if it restricts them.
fn allowed(request: &Request) -> Option<Vec<&str>> {
    let choice = request.extra.get("tool_choice")?;
    let tools = choice.pointer("/allowed_tools/tools")?.as_array()?;
    let names = tools.iter();
    let names = names.filter_map(|tool| tool.pointer("/function/name")?.as_str());
    Some(names.collect())
}

/// Whether the model may call at most one tool at a time.
pub(super) fn one_at_a_time(request: &Request) -> bool {
    request.extra.get("parallel_tool_calls") == Some(&Value::Bool(false))
}

/// The fields that this format does not support, each with whether it supports another value of it.
pub(super) fn left_out(words: Words, request: &Request) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    let given = |field: &str| request.extra.get(field).filter(|value| !value.is_null());
    if let Some(given) = given("tools") {
        match given.as_array() {
            None => out.push(("tools".to_owned(), true)),
            Some(tools) if tools.iter().any(|tool| tool["custom"].is_object()) => {
                out.push(("tools[].custom".to_owned(), false));
            }
            Some(tools)
                if !tools
                    .iter()
                    .all(|tool| is_own(tool) || function(tool).is_some()) =>
            {
                out.push(("tools[]".to_owned(), true));
            }
            Some(_) => {}
        }
    }
    let none = tools(request).is_empty();
    if given("tool_choice").is_some() {
        let place = match choice(request) {
            _ if none => None,
            Some(Choice::Own(_)) if words == Words::Gemini => Some(false),
            choice => Some(choice.is_some()),
        };
        if place != Some(true) {
            out.push(("tool_choice".to_owned(), place.is_some()));
        }
    }
    if let Some(given) = given("parallel_tool_calls") {
        let place = !none && (words == Words::Anthropic || *given == Value::Bool(true));
        if !place || !given.is_boolean() {
            out.push(("parallel_tool_calls".to_owned(), place));
        }
    }
    out
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
