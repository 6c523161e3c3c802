//! Anthropic's Messages dialect.
//!
//! What differs from the OpenAI style: instructions stand apart from the conversation, the cap on
//! the answer must be named, there is no seed and no plain JSON mode, and a reply is a list of
//! blocks. Source: the Messages API's documentation and the types of Anthropic's Python SDK.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::error::Error;
use crate::base::usage::{Paid, Usage};
use crate::llm::request::{Request, ResponseFormat, Text};
use crate::llm::response::Response;

use super::answer::{Answer, End, Ends, count, count_in, counts, text_of, unlike};
use super::anthropic_schema;
use super::bounded;
use super::calls::{self, Call, Choice};
use super::content::{self, JSON_MODE, Part, invalid, lacking};
use super::error_body::word;
use super::errors::failure_inside;
use super::reply_contents::Holds;
use super::vendor::Vendor;

/// The cap on the answer when the request names none, beside what it is to think: every model takes
/// it, and what is cut says so.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 4096;

/// Asks for the shape that the API cannot enforce.
const SCHEMA_MODE: &str = "Answer with JSON that fits this JSON Schema and nothing else:";

/// The body of a call.
pub(super) fn message(vendor: &Vendor, request: &Request, model: &str) -> Result<Value, Error> {
    let mut system = System::default();
    let mut messages = Vec::new();
    for (role, text, extra) in request.rendered() {
        match role {
            "system" | "developer" => system.add(text),
            "user" | "assistant" => {
                let own = extra.into_iter().flat_map(|e| vendor.fields.of_turn(e));
                let own = own.map(|(field, value)| (field.clone(), value.clone()));
                let mut message: Map<_, _> = own.collect();
                message.insert("role".to_owned(), role.into());
                message.insert("content".to_owned(), error_body(text, extra)?);
                messages.push(Value::Object(message));
            }
            "tool" => {
                let (id, result) = calls::result(text, extra)?;
                let block = json!({"type": "tool_result", "tool_use_id": id, "content": result});
                answered(&mut messages, block);
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
    let further = vendor.fields.further(request);
    let mut further: Map<_, _> = further
        .map(|(field, value)| (field.to_owned(), value.into_owned()))
        .collect();
    // Thinking counts against the cap, which must leave room for an answer.
    let thinking = further.get("thinking").and_then(|t| t.get("budget_tokens"));
    let thinking = thinking.and_then(Value::as_u64).unwrap_or(0);
    let default = u64::from(DEFAULT_MAX_TOKENS).saturating_add(thinking);
    let mut body = json!({
        "model": model,
        "max_tokens": params.max_tokens.map_or(default, u64::from),
        "messages": messages,
    });
    let fields = content::object(&mut body);
    let mut enforced = None;
    match &params.response_format {
        None => {}
        Some(ResponseFormat::JsonObject) => system.add(Text::Plain(JSON_MODE)),
        Some(ResponseFormat::JsonSchema { schema, .. }) => {
            enforced = anthropic_schema::anthropic(schema);
            if enforced.is_none() {
                system.add(Text::Plain(&format!("{SCHEMA_MODE}\n{schema}")));
            }
        }
    }
    if let Some(system) = system.value() {
        fields.insert("system".to_owned(), system);
    }
    if let Some(temperature) = vendor.fields.temperature(request) {
        fields.insert("temperature".to_owned(), temperature.into());
    }
    if let Some(top_p) = params.top_p {
        fields.insert("top_p".to_owned(), top_p.into());
    }
    let stops = vendor.fields.stops(request);
    if !stops.is_empty() {
        fields.insert("stop_sequences".to_owned(), json!(stops));
    }
    // What the user wrote in Anthropic's own words stays, but for what was set by name.
    let mut output = match further.remove("output_config") {
        Some(Value::Object(own)) => own,
        _ => Map::new(),
    };
    if let Some(schema) = enforced {
        let format = json!({"type": "json_schema", "schema": schema});
        output.insert("format".to_owned(), format);
    }
    if let Some(effort) = further.remove("reasoning_effort") {
        output.insert("effort".to_owned(), effort);
    }
    if !output.is_empty() {
        fields.insert("output_config".to_owned(), output.into());
    }
    if calls::are_told(request) && !further.contains_key("tools") {
        let (tools, choice) = tools(request)?;
        fields.insert("tools".to_owned(), tools);
        fields.insert("tool_choice".to_owned(), choice);
    }
    for (field, value) in further {
        fields.entry(field).or_insert(value);
    }
    Ok(body)
}

/// What a turn says, with the tool calls that it makes.
fn error_body(text: Text<'_>, extra: Option<&Map<String, Value>>) -> Result<Value, Error> {
    let mut calls = calls::of_turn(extra).peekable();
    if calls.peek().is_none() {
        return blocks(text);
    }
    let mut content = match text {
        Text::Value(Value::Null) => Vec::new(),
        text => match blocks(text)? {
            Value::Array(blocks) => blocks,
            Value::String(text) if text.trim().is_empty() => Vec::new(),
            text => vec![json!({"type": "text", "text": text})],
        },
    };
    for call in calls {
        let Call {
            id,
            name,
            arguments,
            ..
        } = Call::read(call)?;
        content.push(json!({"type": "tool_use", "id": id, "name": name, "input": arguments}));
    }
    Ok(content.into())
}

/// Adds what came of a call. All results of one turn stand in one message.
fn answered(messages: &mut Vec<Value>, block: Value) {
    let last = messages
        .last_mut()
        .and_then(|last| last["content"].as_array_mut());
    match last {
        Some(content) if content.iter().all(|other| other["type"] == "tool_result") => {
            content.push(block);
        }
        _ => messages.push(json!({"role": "user", "content": [block]})),
    }
}

/// The tools of a conversation with calls, without which it is refused. Where the request defines
/// none, those that were called stand for them, and none is to be called.
fn tools(request: &Request) -> Result<(Value, Value), Error> {
    let tools = calls::tools(request);
    let defined = tools.iter().map(|tool| {
        let mut own = json!({"name": tool.name, "input_schema": tool.parameters});
        if let Some(description) = tool.description {
            own["description"] = description.into();
        }
        own
    });
    if !tools.is_empty() {
        let choice = match calls::choice(request) {
            None | Some(Choice::Auto) => json!({"type": "auto"}),
            Some(Choice::Never) => json!({"type": "none"}),
            Some(Choice::Any) => json!({"type": "any"}),
            Some(Choice::One(name)) => json!({"type": "tool", "name": name}),
        };
        return Ok((defined.collect(), choice));
    }
    let named = calls::named(request)?.into_iter();
    let named = named.map(|name| json!({"name": name, "input_schema": calls::anything()}));
    Ok((named.collect(), json!({"type": "none"})))
}

/// The system text: a string, unless a part of it was a list, whose blocks may have marks of their
/// own such as `cache_control`.
#[derive(Default)]
struct System {
    blocks: Vec<Value>,
    in_blocks: bool,
}

impl System {
    fn add(&mut self, text: Text<'_>) {
        match text {
            Text::Plain(text) => self.push(json!({"type": "text", "text": text})),
            Text::Value(Value::String(text)) => self.push(json!({"type": "text", "text": text})),
            Text::Value(Value::Array(parts)) => {
                self.in_blocks = true;
                parts.iter().for_each(|part| self.push(part.clone()));
            }
            Text::Value(_) => {}
        }
    }

    /// Empty texts are refused.
    fn push(&mut self, block: Value) {
        let text = block.get("text").and_then(Value::as_str);
        if text.is_none_or(|text| !text.trim().is_empty()) {
            self.blocks.push(block);
        }
    }

    fn value(self) -> Option<Value> {
        if self.blocks.is_empty() {
            return None;
        }
        if self.in_blocks {
            return Some(self.blocks.into());
        }
        let texts = self
            .blocks
            .iter()
            .filter_map(|block| block["text"].as_str());
        Some(texts.collect::<Vec<_>>().join("\n\n").into())
    }
}

fn blocks(text: Text<'_>) -> Result<Value, Error> {
    let parts = match text {
        Text::Plain(text) => return Ok(text.into()),
        Text::Value(Value::String(text)) => return Ok(text.as_str().into()),
        Text::Value(Value::Array(parts)) => parts,
        Text::Value(_) => {
            return Err(invalid(
                "anthropic needs a text in every message".to_owned(),
            ));
        }
    };
    let blocks = parts.iter().map(|part| {
        Ok(match content::part(part) {
            Part::Data { kind, base64 } => json!({
                "type": "image",
                "source": {"type": "base64", "media_type": kind, "data": base64},
            }),
            Part::Url(url) => json!({"type": "image", "source": {"type": "url", "url": url}}),
            Part::File {
                kind: kind @ "application/pdf",
                base64,
                name,
            } => document(
                json!({"type": "base64", "media_type": kind, "data": base64}),
                name,
            ),
            Part::File { kind, base64, name } if kind.starts_with("text/") => {
                let text = STANDARD
                    .decode(base64)
                    .ok()
                    .and_then(|b| String::from_utf8(b).ok());
                let text =
                    text.ok_or_else(|| lacking("anthropic", "file", "its text is no UTF-8"))?;
                document(
                    json!({"type": "text", "media_type": "text/plain", "data": text}),
                    name,
                )
            }
            Part::File { kind, .. } => {
                let why = format!("of files it takes PDF and text, not {kind}");
                return Err(lacking("anthropic", "file", &why));
            }
            Part::FileId(id) => {
                let why = format!("{id} is kept by another provider; give it as file_data");
                return Err(lacking("anthropic", "file", &why));
            }
            Part::Sound { .. } => return Err(lacking("anthropic", "input_audio", "")),
            // Texts have the same shape here, and may have marks of their own.
            Part::Text(_) => part.clone(),
            Part::Other(other) => content::own("anthropic", other)?,
        })
    });
    blocks.collect()
}

fn document(source: Value, name: Option<&str>) -> Value {
    let mut document = json!({"type": "document", "source": source});
    if let Some(name) = name {
        document["title"] = name.into();
    }
    document
}

#[derive(Deserialize)]
struct Reply<'b> {
    #[serde(default, deserialize_with = "bounded::field")]
    model: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    content: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    stop_reason: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    stop_details: Option<Value>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::field")]
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
/// When it is not the dialect's JSON; inside, when it holds a failure, or no usable answer.
pub(super) fn read(vendor: &Vendor, body: &[u8]) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_slice(body)?;
    let usage = counts(reply.usage).and_then(|counts: Counts| counts.usage());
    if !reply.content.as_ref().is_some_and(Value::is_array) {
        return Ok(Err(match &reply.error {
            Some(error) => failure_inside(vendor, error, body),
            None => unlike("it has no content", body).with_paid(Paid {
                usage,
                cost_usd: None,
            }),
        }));
    }
    let finish = word(reply.stop_reason.as_ref());
    let details = reply.stop_details.filter(|_| finish == "refusal");
    let detail = |name| {
        let text = word(details.as_ref().and_then(|d| d.get(name)));
        Some(text).filter(|text| !text.is_empty())
    };
    let mut holds = Holds::default();
    holds.blocks(reply.content.as_ref());
    let answer = Answer {
        text: text_of(reply.content),
        refusal: detail("explanation"),
        category: detail("category"),
        finish,
        model: Some(word(reply.model.as_ref())),
        usage,
        cost_usd: None,
        holds,
    };
    Ok(answer.conclude(vendor.name, ENDS, body))
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
    output_tokens_details: Value,
}

impl Counts {
    fn usage(&self) -> Option<Usage> {
        let cached = self.cache_read_input_tokens.unwrap_or(0);
        let thinking = count_in(&self.output_tokens_details, "thinking_tokens");
        Some(Usage {
            // What was read from the cache or written to it is not among the input here.
            input_tokens: self
                .input_tokens?
                .saturating_add(cached)
                .saturating_add(self.cache_creation_input_tokens.unwrap_or(0)),
            cached_input_tokens: cached,
            output_tokens: self.output_tokens.unwrap_or(0),
            reasoning_tokens: thinking.unwrap_or(0),
        })
    }
}

#[cfg(test)]
#[path = "anthropic_tests.rs"]
mod tests;
