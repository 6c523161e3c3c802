//! Reads prompts in OpenAI's format, which prompt files use, for the dialects with another format: the parts of a message,
//! tools, the choice of a tool, tool calls and their results.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::base::{Error, ErrorKind};
use crate::llm::attachment::{Kind, by_content};
use crate::llm::request::{Request, Text};

use super::vendor::{SentReasoning, Vendor};

/// A message that asks for JSON. Some dialects have no field for it, and some providers require that a message also
/// mentions it.
pub(super) const JSON_MODE: &str = "Answer with one JSON object and nothing else.";

/// A message that asks for JSON of a schema, for providers without a field for schemas.
pub(super) fn in_words(schema: &Value) -> String {
    format!("Answer with JSON that fits this JSON Schema and nothing else:\n{schema}")
}

/// A part of a message's content.
pub(super) enum Part<'p> {
    Text(&'p str),
    /// An image as base64, with its media type.
    Data {
        kind: Cow<'p, str>,
        base64: &'p str,
    },
    /// The URL of an image.
    Url(&'p str),
    /// Sound as base64, with its format, such as `wav`.
    Sound {
        format: &'p str,
        base64: &'p str,
    },
    /// A file as base64, with its media type.
    File {
        kind: Cow<'p, str>,
        base64: &'p str,
        name: Option<&'p str>,
    },
    /// A part in the format of the dialect, or of an unknown type.
    Other(&'p Value),
}

pub(super) fn part(value: &Value) -> Part<'_> {
    let kind = value.get("type").and_then(Value::as_str);
    let found = match kind {
        Some("text") => value.get("text").and_then(Value::as_str).map(Part::Text),
        Some("image_url") => {
            let image = value.get("image_url");
            let url = image.and_then(|image| image.get("url").unwrap_or(image).as_str());
            url.map(picture)
        }
        Some("input_audio") => value.get("input_audio").and_then(|sound| {
            let text = |field| sound.get(field).and_then(Value::as_str);
            let (format, base64) = (text("format")?, text("data")?);
            Some(Part::Sound { format, base64 })
        }),
        Some("file") => value.get("file").and_then(file),
        _ => None,
    };
    found.unwrap_or(Part::Other(value))
}

fn file(file: &Value) -> Option<Part<'_>> {
    let text = |field| file.get(field).and_then(Value::as_str);
    let data = text("file_data")?;
    // Some leave the address out of which the media type is told.
    let is_bare = data.starts_with("JVBERi");
    let (kind, base64) = data_url(data).or(is_bare.then_some(("", data)))?;
    Some(of_kind(media_type(kind, base64), base64, text("filename")))
}

fn picture(url: &str) -> Part<'_> {
    data_url(url).map_or(Part::Url(url), |(kind, base64)| {
        of_kind(media_type(kind, base64), base64, None)
    })
}

fn of_kind<'p>(kind: Cow<'p, str>, base64: &'p str, name: Option<&'p str>) -> Part<'p> {
    match Kind::of(&kind) {
        Kind::Image => Part::Data { kind, base64 },
        _ => Part::File { kind, base64, name },
    }
}

/// The media type in the address and the data behind it.
fn data_url(url: &str) -> Option<(&str, &str)> {
    let (head, base64) = url.split_once(',')?;
    let (scheme, kind) = head.split_once(':')?;
    let (kind, coding) = kind.rsplit_once(';')?;
    let is_data = scheme.eq_ignore_ascii_case("data") && coding.eq_ignore_ascii_case("base64");
    is_data.then_some((kind, base64))
}

/// The media type of data: by its first bytes, else the one that it is labelled with, without parameters.
fn media_type<'p>(label: &'p str, base64: &str) -> Cow<'p, str> {
    let beginning = base64.get(..24).unwrap_or(base64);
    let beginning = STANDARD.decode(beginning).unwrap_or_default();
    if let Some(told) = by_content(&beginning) {
        return told.into();
    }
    let kind = label.split(';').next().unwrap_or_default().trim();
    match kind.to_ascii_lowercase() {
        lower if lower == "image/jpg" => "image/jpeg".into(),
        lower if lower == kind => kind.into(),
        lower => lower.into(),
    }
}

/// The fields of a JSON object that was just made.
pub(super) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made an object"),
    }
}

/// The model of a call.
///
/// # Errors
/// If none is named.
pub(super) fn named(model: Option<&str>) -> Result<&str, Error> {
    let why = "no model named: set one on the request or for the provider";
    model.ok_or_else(|| invalid(why))
}

/// The error for a request that cannot be sent in this dialect.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// The tool calls in a message of the assistant.
pub(super) fn calls_of_turn(extra: Option<&Map<String, Value>>) -> impl Iterator<Item = &Value> {
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
        let given = call.pointer("/function/arguments");
        let arguments = match given.or_else(|| call.get("arguments")) {
            Some(Value::String(text)) if matches!(text.trim(), "" | "null") => json!({}),
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
            Some(Value::Null) | None => json!({}),
            Some(other) => other.clone(),
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
pub(super) fn in_openais_shape(vendor: &Vendor, calls: &Value) -> Value {
    let Some(list) = calls.as_array() else {
        return calls.clone();
    };
    let said = list.iter().map(|call| {
        let is_in_shape = call.get("function").is_some() || call.get("custom").is_some();
        let Some(name) = call.get("name").filter(|_| !is_in_shape) else {
            return call.clone();
        };
        let arguments = match call.get("arguments") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "{}".to_owned(),
            Some(other) => other.to_string(),
        };
        let mut said = json!({"id": call.get("id"), "type": "function",
            "function": {"name": name, "arguments": arguments}});
        let is_signed = vendor.reasoning == SentReasoning::Signed;
        if let Some(signature) = signature(call).filter(|_| is_signed) {
            said["extra_content"] = json!({"google": {"thought_signature": signature}});
        }
        said
    });
    said.collect()
}

/// The id of a call, and its result; `None` if that has parts that are not text, for example images.
///
/// # Errors
/// If the message does not name its call.
pub(super) fn result<'m>(
    text: Text<'m>,
    extra: Option<&'m Map<String, Value>>,
) -> Result<(&'m str, Option<String>), Error> {
    let id = extra.and_then(|extra| extra.get("tool_call_id")?.as_str());
    let id = id.ok_or_else(|| invalid("a message of the role `tool` has no tool_call_id"))?;
    let is_text = |part: &Value| part.get("type").and_then(Value::as_str) == Some("text");
    let has_media = matches!(text, Text::Parts(parts) if !parts.iter().all(is_text));
    Ok((id, (!has_media).then(|| text.plain())))
}

/// Adds the result of a call to the messages. All results of one turn are in one message, in this field.
pub(super) fn add_result(
    messages: &mut Vec<Value>,
    field: &str,
    is_result: fn(&Value) -> bool,
    result: Value,
) {
    let last = messages.last_mut();
    let last = last.and_then(|last| last.get_mut(field)?.as_array_mut());
    match last {
        Some(results) if results.iter().all(is_result) => results.push(result),
        _ => messages.push(json!({"role": "user", field: [result]})),
    }
}

/// The tools of a request: functions in OpenAI's format, and what is in the format of the provider.
pub(super) fn tools(request: &Request) -> (Vec<&Value>, Vec<&Value>) {
    let tools = match request.extra.get("tools") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(tools)) => &tools[..],
        Some(other) => std::slice::from_ref(other),
    };
    let is_function = |tool: &&Value| tool.pointer("/function/name").is_some_and(Value::is_string);
    let (functions, own): (Vec<_>, Vec<_>) = tools.iter().partition(is_function);
    let functions = functions.into_iter().map(|tool| &tool["function"]);
    (functions.collect(), own)
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
