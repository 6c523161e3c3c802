//! Parts of a message in the OpenAI style, which prompt files are written in, for the dialects
//! that have other words for them.

use serde_json::{Map, Value};

use crate::base::error::{Error, ErrorKind};
use crate::llm::request::Text;

/// Asks in words for JSON: some dialects have no field for it, and some providers refuse theirs
/// unless a message says so too.
pub(super) const JSON_MODE: &str = "Answer with one JSON object and nothing else.";

/// A part of a message's content.
pub(super) enum Part<'p> {
    Text(&'p str),
    /// A picture as base64, with its media type.
    Data {
        kind: &'p str,
        base64: &'p str,
    },
    /// A picture at an address.
    Url(&'p str),
    /// In the dialect's own shape already, or unknown.
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
        _ => None,
    };
    found.unwrap_or(Part::Other(value))
}

fn picture(url: &str) -> Part<'_> {
    let data = url.strip_prefix("data:").and_then(|rest| {
        let (kind, base64) = rest.split_once(";base64,")?;
        Some(Part::Data { kind, base64 })
    });
    data.unwrap_or(Part::Url(url))
}

/// The text of a message for a place that takes nothing else.
pub(super) fn plain(text: Text<'_>) -> String {
    match text {
        Text::Plain(text) => text.to_owned(),
        Text::Value(Value::String(text)) => text.clone(),
        Text::Value(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        Text::Value(_) => String::new(),
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

/// The error of what a dialect cannot say; nothing was sent.
pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
