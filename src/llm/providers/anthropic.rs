//! Anthropic's Messages dialect.
//!
//! What differs from the OpenAI style: instructions stand apart from the conversation, the cap on
//! the answer must be named, there is no seed and no plain JSON mode, and a reply is a list of
//! blocks. Source: the Messages API's documentation and the types of Anthropic's Python SDK.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::error::Error;
use crate::base::usage::{Paid, Usage};
use crate::llm::request::{Request, ResponseFormat, Text};
use crate::llm::response::Response;

use super::answer::{Answer, End, Ends, count, malformed, text_of};
use super::content::{self, Part};
use super::dialect::invalid;
use super::errors::failure_inside;
use super::said::word;
use super::schema_for;
use super::vendor::Vendor;

/// The version of the API that is asked for; the newest one refuses sampling fields outright.
pub(super) const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

/// The cap on the answer when the request names none: every model takes it, and what is cut says
/// so.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 4096;

/// Asks for what other dialects have a field for.
const JSON_MODE: &str = "Answer with one JSON object and nothing else.";

/// Asks for the shape that the API cannot enforce.
const SCHEMA_MODE: &str = "Answer with JSON that fits this JSON Schema and nothing else:";

/// The body of a call.
pub(super) fn message(vendor: &Vendor, request: &Request, model: &str) -> Result<Value, Error> {
    let mut system = Vec::new();
    let mut messages = Vec::new();
    for (role, text, extra) in request.rendered() {
        match role {
            "system" | "developer" => system.push(content::plain(text)),
            "user" | "assistant" => {
                let mut message = content::without_name(extra);
                message.insert("role".to_owned(), role.into());
                message.insert("content".to_owned(), blocks(text)?);
                messages.push(Value::Object(message));
            }
            other => {
                return Err(invalid(format!(
                    "anthropic takes no message with the role `{other}`"
                )));
            }
        }
    }
    if messages.is_empty() {
        return Err(invalid(
            "anthropic needs a message besides the system text".to_owned(),
        ));
    }
    let params = &request.params;
    let mut body = json!({
        "model": model,
        "max_tokens": params.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
        "messages": messages,
    });
    let fields = content::object(&mut body);
    let mut enforced = None;
    match &params.response_format {
        None => {}
        Some(ResponseFormat::JsonObject) => system.push(JSON_MODE.to_owned()),
        Some(ResponseFormat::JsonSchema { schema, .. }) => {
            enforced = schema_for::anthropic(schema);
            if enforced.is_none() {
                system.push(format!("{SCHEMA_MODE}\n{schema}"));
            }
        }
    }
    if !system.is_empty() {
        fields.insert("system".to_owned(), system.join("\n\n").into());
    }
    if let Some(temperature) = params.temperature {
        fields.insert("temperature".to_owned(), temperature.into());
    }
    if let Some(top_p) = params.top_p {
        fields.insert("top_p".to_owned(), top_p.into());
    }
    if !params.stop.is_empty() {
        fields.insert("stop_sequences".to_owned(), json!(params.stop));
    }
    let mut output = Map::new();
    if let Some(schema) = enforced {
        let format = json!({"type": "json_schema", "schema": schema});
        output.insert("format".to_owned(), format);
    }
    if let Some(effort) = request.extra.get("reasoning_effort") {
        output.insert("effort".to_owned(), effort.clone());
    }
    if !output.is_empty() {
        fields.insert("output_config".to_owned(), output.into());
    }
    content::add_extra(fields, vendor, request, &["stream", "reasoning_effort"]);
    Ok(body)
}

fn blocks(text: Text<'_>) -> Result<Value, Error> {
    let parts = match text {
        Text::Plain(text) => return Ok(text.into()),
        Text::Value(Value::Array(parts)) => parts,
        Text::Value(other) => return Ok(other.clone()),
    };
    let blocks = parts.iter().map(|part| match content::part(part) {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Data { kind, base64 } => json!({
            "type": "image",
            "source": {"type": "base64", "media_type": kind, "data": base64},
        }),
        Part::Url(url) => json!({"type": "image", "source": {"type": "url", "url": url}}),
        Part::Other(own) => own.clone(),
    });
    Ok(blocks.collect())
}

#[derive(Deserialize)]
struct Reply<'b> {
    model: Option<Value>,
    content: Option<Value>,
    stop_reason: Option<Value>,
    stop_details: Option<Value>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    error: Option<Value>,
}

const ENDS: Ends = &[
    ("end_turn", End::Complete),
    ("stop_sequence", End::Complete),
    ("max_tokens", End::Cut),
    ("model_context_window_exceeded", End::Cut),
    ("refusal", End::Blocked),
    ("tool_use", End::Tool),
    ("pause_turn", End::Tool),
];

/// Reads the body of a success reply.
///
/// # Errors
/// When it holds a failure, or no usable answer.
pub(super) fn read(vendor: &Vendor, body: &[u8]) -> Result<Response, Error> {
    let reply: Reply<'_> = serde_json::from_slice(body).map_err(|e| malformed(e, body))?;
    let usage = Counts::read(reply.usage).and_then(|counts| counts.usage());
    if !reply.content.as_ref().is_some_and(Value::is_array) {
        return Err(match &reply.error {
            Some(error) => failure_inside(vendor, error, body),
            None => malformed("it has no content", body).with_paid(Paid {
                usage,
                cost_usd: None,
            }),
        });
    }
    let detail = |name| {
        let text = word(reply.stop_details.as_ref().and_then(|d| d.get(name)));
        Some(text).filter(|text| !text.is_empty())
    };
    let answer = Answer {
        text: text_of(reply.content),
        finish: word(reply.stop_reason.as_ref()),
        refusal: detail("explanation"),
        category: detail("category"),
        model: Some(word(reply.model.as_ref())),
        usage,
        cost_usd: None,
    };
    answer.conclude(vendor, ENDS, body)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    #[serde(deserialize_with = "count")]
    input_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    cache_creation_input_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    cache_read_input_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    output_tokens: Option<u64>,
    output_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    #[serde(deserialize_with = "count")]
    thinking_tokens: Option<u64>,
}

impl Counts {
    /// Read apart from the answer: a strange usage must not cost it.
    fn read(raw: Option<&RawValue>) -> Option<Self> {
        serde_json::from_str(raw?.get()).ok()
    }

    fn usage(&self) -> Option<Usage> {
        let cached = self.cache_read_input_tokens.unwrap_or(0);
        let details = self.output_tokens_details.as_ref();
        Some(Usage {
            // What was read from the cache or written to it is not among the input here.
            input_tokens: self
                .input_tokens?
                .saturating_add(cached)
                .saturating_add(self.cache_creation_input_tokens.unwrap_or(0)),
            cached_input_tokens: cached,
            output_tokens: self.output_tokens.unwrap_or(0),
            reasoning_tokens: details.and_then(|d| d.thinking_tokens).unwrap_or(0),
        })
    }
}

#[cfg(test)]
#[path = "anthropic_tests.rs"]
mod tests;
