//! Reads tools, the choice of a tool, tool calls and their results in OpenAI's format, which prompts use, for the
//! dialects with another format.

use serde_json::{Map, Value, json};

use crate::base::Error;
use crate::llm::request::{Request, Text};

use super::content::{invalid, plain};
use super::further::call_id;
use super::vendor::{SentReasoning, Vendor};

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

/// The calls of a message in OpenAI's format, also if they are in the format of a result line.
pub(super) fn in_openais_shape(vendor: &Vendor, calls: &Value, request: &Request) -> Value {
    let Some(list) = calls.as_array() else {
        return calls.clone();
    };
    let said = list.iter().map(|call| {
        let is_in_shape = call.get("function").is_some() || call.get("custom").is_some();
        let mut said = if is_in_shape || call.get("name").is_none() {
            call.clone()
        } else {
            said_to_openai(call, request, vendor.reasoning == SentReasoning::Signed)
        };
        if let Some(id) = call.get("id").and_then(Value::as_str) {
            said["id"] = call_id(vendor, id).into();
        }
        said
    });
    said.collect()
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

/// The tools of a request. What is not a function in OpenAI's format is in that of the provider.
pub(super) fn tools(request: &Request) -> Tools<'_> {
    let mut all = Tools::default();
    let tools = match request.extra.get("tools") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(tools)) => &tools[..],
        Some(other) => std::slice::from_ref(other),
    };
    for tool in tools {
        match function(tool) {
            Some(function) => all.functions.push(function),
            None => all.own.push(tool),
        }
    }
    all
}

fn function(tool: &Value) -> Option<Function<'_>> {
    let function = tool.get("function")?;
    let text = |field| function.get(field).and_then(Value::as_str);
    Some(Function {
        name: text("name")?,
        description: text("description"),
        parameters: function.get("parameters").filter(|p| p.is_object()),
        strict: function.get("strict") == Some(&Value::Bool(true)),
    })
}

/// Which tool the model must call.
pub(super) enum Choice<'c> {
    Auto,
    Never,
    Any,
    One(&'c str),
    /// In the format of the provider.
    Own(&'c Value),
}

/// The choice of the request, if it has one.
pub(super) fn choice(request: &Request) -> Option<Choice<'_>> {
    let choice = request.extra.get("tool_choice").filter(|c| !c.is_null())?;
    let name = choice.pointer("/function/name").and_then(Value::as_str);
    Some(match (choice.as_str(), name) {
        (Some("auto"), _) => Choice::Auto,
        (Some("none"), _) => Choice::Never,
        (Some("required"), _) => Choice::Any,
        (_, Some(name)) => Choice::One(name),
        _ => Choice::Own(choice),
    })
}

/// Whether the model may call at most one tool at a time.
pub(super) fn one_at_a_time(request: &Request) -> bool {
    request.extra.get("parallel_tool_calls") == Some(&Value::Bool(false))
}
