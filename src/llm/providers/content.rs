//! Reads the parts of a message in OpenAI's format, which prompt files use, for the dialects with another format.

use serde_json::{Map, Value};

use crate::base::{Error, ErrorKind};
use crate::llm::request::Text;

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
        kind: &'p str,
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
        kind: &'p str,
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
    let name = text("filename");
    let data = text("file_data")?;
    let (kind, base64) = match data_url(data) {
        Some(parts) => parts,
        // Some leave the address out of which the media type is told.
        None if data.starts_with("JVBERi") => ("application/pdf", data),
        None => return None,
    };
    Some(Part::File { kind, base64, name })
}

fn picture(url: &str) -> Part<'_> {
    let data = data_url(url).map(|(kind, base64)| Part::Data { kind, base64 });
    data.unwrap_or(Part::Url(url))
}

fn data_url(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("data:")?.split_once(";base64,")
}

/// The text of a message, for a field that accepts only text.
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

/// The error for a request that cannot be sent in this dialect.
pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
