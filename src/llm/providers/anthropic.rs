//! Anthropic's Messages dialect.
//!
//! Differences from OpenAI's format: the system text is a separate field, the maximum number of tokens is required,
//! there is no seed and no JSON mode without a schema, and a reply is a list of blocks. Sources: the documentation of
//! the Messages API and the types of Anthropic's Python SDK.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::{Error, Paid, Usage};
use crate::llm::nested_json::shallow;
use crate::llm::params::ResponseFormat;
use crate::llm::request::{Request, Text};
use crate::llm::response::Response;

use super::answer::{Answer, name_calls, reasoning, tool_call, unlike};
use super::anthropic_schema;
use super::bounded;
use super::cache_marks;
use super::calls::{self, Call, CallResult, Choice, Function};
use super::content::{self, JSON_MODE, Part, invalid, lacking};
use super::counts::{CacheWrites, Count, counts, object, server_tools};
use super::error_body::word;
use super::errors::failure_inside;
use super::native;
use super::vendor::Vendor;

/// The maximum number of tokens of an answer if the request sets none, not including thinking. Every model supports it,
/// and an answer that reaches it has a finish reason that says so.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 4096;

/// The body of a call.
pub(super) fn message(vendor: &Vendor, request: &Request, model: &str) -> Result<Value, Error> {
    if let Some(body) = native::body(vendor, request, model)? {
        return Ok(body);
    }
    let (mut system, messages) = conversation(vendor, request)?;
    let params = &request.params;
    let further = vendor.fields.further(request);
    let mut further: Map<_, _> = further
        .map(|(field, value)| (field.to_owned(), value.into_owned()))
        .collect();
    // Thinking counts towards the limit, which must leave room for an answer.
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
                system.add(Text::Plain(&content::in_words(schema)));
            }
        }
    }
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    let mark = cache_marks::cache_control(vendor, request, model);
    set("system", system.value(mark));
    let temperature = vendor.fields.temperature(request);
    set("temperature", temperature.map(Value::from));
    set("top_p", params.top_p.map(Value::from));
    let stops = vendor.fields.stops(request);
    set("stop_sequences", (!stops.is_empty()).then(|| json!(stops)));
    let output = output_config(enforced, &mut further);
    set("output_config", (!output.is_empty()).then(|| output.into()));
    let (tools, choice) = tools(request)?;
    set("tools", tools);
    set("tool_choice", choice);
    for (field, value) in further {
        fields.entry(field).or_insert(value);
    }
    Ok(body)
}

/// The system text and the turns of a request.
fn conversation(vendor: &Vendor, request: &Request) -> Result<(System, Vec<Value>), Error> {
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
                message.insert("content".to_owned(), turn(vendor, text, extra)?);
                messages.push(Value::Object(message));
            }
            "tool" => {
                let (id, result) = calls::result(text, extra)?;
                let result = match result {
                    CallResult::Text(text) => text.into(),
                    CallResult::Parts(parts) => blocks(parts)?,
                };
                let id = vendor.fields.call_id(id);
                let block = json!({"type": "tool_result", "tool_use_id": id, "content": result});
                answered(&mut messages, block);
            }
            other => {
                return Err(invalid(format!(
                    "anthropic does not support messages with the role `{other}`"
                )));
            }
        }
    }
    if messages.is_empty() {
        return Err(invalid(
            "anthropic needs a message in addition to the system text".to_owned(),
        ));
    }
    Ok((system, messages))
}

/// The field `output_config`. What the user wrote in Anthropic's format stays, unless a parameter sets the same field.
fn output_config(schema: Option<Value>, further: &mut Map<String, Value>) -> Map<String, Value> {
    let mut output = match further.remove("output_config") {
        Some(Value::Object(own)) => own,
        _ => Map::new(),
    };
    if let Some(schema) = schema {
        let format = json!({"type": "json_schema", "schema": schema});
        output.insert("format".to_owned(), format);
    }
    if let Some(effort) = further.remove("reasoning_effort") {
        output.insert("effort".to_owned(), effort);
    }
    output
}

/// The content of a turn: the thinking blocks that it began with, its text, and its tool calls.
fn turn(
    vendor: &Vendor,
    text: Text<'_>,
    extra: Option<&Map<String, Value>>,
) -> Result<Value, Error> {
    let own = |block: &&Value| {
        let kind = block.get("type").and_then(Value::as_str);
        matches!(kind, Some("thinking" | "redacted_thinking"))
    };
    let thoughts = calls::reasoning_details(extra).filter(own);
    let mut content: Vec<Value> = thoughts.cloned().collect();
    let mut calls = calls::of_turn(extra).peekable();
    if content.is_empty() && calls.peek().is_none() {
        return blocks(text);
    }
    match text {
        Text::Value(Value::Null) => {}
        text => match blocks(text)? {
            Value::Array(blocks) => content.extend(blocks),
            Value::String(text) if text.trim().is_empty() => {}
            text => content.push(json!({"type": "text", "text": text})),
        },
    }
    for call in calls {
        let Call {
            id,
            name,
            arguments,
            ..
        } = Call::read(call)?;
        let id = vendor.fields.call_id(id);
        content.push(json!({"type": "tool_use", "id": id, "name": name, "input": arguments}));
    }
    Ok(content.into())
}

/// Adds the result of a call. All results of one turn are in one message.
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

/// The tools, and the choice among them. Anthropic rejects calls of undefined tools. If the request defines none but
/// the conversation has calls, the called tools are defined, and the choice is that none may be called.
fn tools(request: &Request) -> Result<(Option<Value>, Option<Value>), Error> {
    let tools = calls::tools(request);
    if tools.is_empty() {
        if !calls::are_told(request) {
            return Ok((None, None));
        }
        let named = calls::named(request)?.into_iter();
        let schema = json!({"type": "object", "properties": {}});
        let named = named.map(|name| json!({"name": name, "input_schema": schema}));
        return Ok((Some(named.collect()), Some(json!({"type": "none"}))));
    }
    let functions = tools.functions.iter().map(tool);
    let all = tools.own.iter().map(|own| (*own).clone()).chain(functions);
    let one = calls::one_at_a_time(request);
    let mut choice = match calls::choice(request) {
        None if !one => return Ok((Some(all.collect()), None)),
        None | Some(Choice::Auto) => json!({"type": "auto"}),
        Some(Choice::Never) => json!({"type": "none"}),
        Some(Choice::Any) => json!({"type": "any"}),
        Some(Choice::One(name)) => json!({"type": "tool", "name": name}),
        Some(Choice::Own(choice)) => choice.clone(),
    };
    if one && choice["type"] != "none" {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Ok((Some(all.collect()), Some(choice)))
}

/// A function in Anthropic's format. It is strict only if its schema is supported.
fn tool(function: &Function<'_>) -> Value {
    let strict = function.parameters.filter(|_| function.strict);
    let strict = strict.and_then(anthropic_schema::anthropic);
    let is_strict = strict.is_some();
    let mut schema = strict.or_else(|| function.parameters.cloned());
    let schema = schema.get_or_insert_with(|| json!({"properties": {}}));
    content::object(schema)
        .entry("type")
        .or_insert_with(|| "object".into());
    let mut own = json!({"name": function.name, "input_schema": schema});
    if let Some(description) = function.description {
        own["description"] = description.into();
    }
    if is_strict {
        own["strict"] = true.into();
    }
    own
}

/// The system text: a string, unless a part of it was a list, because blocks may have fields such as `cache_control`.
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

    /// Anthropic rejects empty texts.
    fn push(&mut self, block: Value) {
        let text = block.get("text").and_then(Value::as_str);
        if text.is_none_or(|text| !text.trim().is_empty()) {
            self.blocks.push(block);
        }
    }

    /// The text; with a mark, as blocks, the last of which has it.
    fn value(mut self, mark: Option<Value>) -> Option<Value> {
        if self.blocks.is_empty() {
            return None;
        }
        if let (true, Some(mark), Some(last)) = (self.in_blocks, &mark, self.blocks.last_mut()) {
            last["cache_control"] = mark.clone();
        }
        if self.in_blocks {
            return Some(self.blocks.into());
        }
        let texts = self
            .blocks
            .iter()
            .filter_map(|block| block["text"].as_str());
        let text = texts.collect::<Vec<_>>().join("\n\n");
        Some(match mark {
            Some(mark) => json!([{"type": "text", "text": text, "cache_control": mark}]),
            None => text.into(),
        })
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
                let why = format!("it supports only PDF and text files, not {kind}");
                return Err(lacking("anthropic", "file", &why));
            }
            Part::FileId(id) => {
                let why = format!("{id} is kept by another provider; give it as file_data");
                return Err(lacking("anthropic", "file", &why));
            }
            Part::Sound { .. } => return Err(lacking("anthropic", "input_audio", "")),
            // Texts have the same format here, and may have further fields.
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
    #[serde(borrow)]
    id: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::word")]
    model: String,
    #[serde(default, deserialize_with = "bounded::field")]
    content: Option<Value>,
    #[serde(default, deserialize_with = "bounded::word")]
    stop_reason: String,
    #[serde(default, deserialize_with = "bounded::rare")]
    stop_details: Option<Box<Value>>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::rare")]
    error: Option<Box<Value>>,
}

/// Reads the body of a success reply.
///
/// # Errors
/// If it is not JSON of this format. The inner result is an error if the reply contains a failure or no usable answer.
pub(super) fn read(
    vendor: &Vendor,
    body: &[u8],
    unchecked: bool,
) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_slice(body)?;
    let counts: Counts = counts(reply.usage).unwrap_or_default();
    let usage = counts.usage();
    let Some(Value::Array(blocks)) = reply.content else {
        return Ok(Err(match reply.error.as_deref() {
            Some(error) => failure_inside(vendor, error, body),
            None => unlike("it has no content", body).with_paid(Paid::new(usage, None)),
        }));
    };
    let finish = reply.stop_reason;
    let details = reply.stop_details.filter(|_| finish == "refusal");
    let detail = |name| {
        let text = word(details.as_deref().and_then(|d| d.get(name)));
        Some(text).filter(|text| !text.is_empty())
    };
    let (refusal, category) = (detail("explanation"), detail("category"));
    let mut answer = Answer {
        refusal,
        category,
        finish,
        model: Some(reply.model),
        usage,
        ..content_of(blocks)
    };
    name_calls(&mut answer.details.tool_calls, reply.id);
    answer.details.service_tier = Some(counts.service_tier).filter(|t| !t.is_empty());
    Ok(answer.conclude(vendor.name, body, unchecked))
}

/// The content of the blocks of a reply.
fn content_of(blocks: Vec<Value>) -> Answer {
    let (mut answer, mut thoughts, mut signed) = (Answer::default(), String::new(), Vec::new());
    for mut block in blocks {
        let text = |name: &str| block.get(name).and_then(Value::as_str);
        match text("type").unwrap_or_default() {
            "text" => {
                answer.text += text("text").unwrap_or_default();
                if let Some(Value::Array(found)) = block.get_mut("citations").map(Value::take) {
                    let found = found.into_iter().map(shallow);
                    answer.details.citations.extend(found);
                }
            }
            "tool_use" => {
                let input = block.get("input").cloned();
                let call = tool_call(text("id"), text("name"), input);
                answer.details.tool_calls.push(call);
            }
            kind @ ("thinking" | "redacted_thinking") => {
                if kind == "thinking" && !thoughts.is_empty() {
                    thoughts += "\n\n";
                }
                thoughts += text("thinking").unwrap_or_default();
                answer.holds.block(&block);
                signed.push(shallow(block));
            }
            _ => answer.holds.block(&block),
        }
    }
    answer.details.reasoning = reasoning(thoughts, signed);
    answer
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    input_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_read_input_tokens: Count,
    output_tokens: Count,
    #[serde(deserialize_with = "object")]
    output_tokens_details: OutputDetails,
    #[serde(deserialize_with = "object")]
    cache_creation: CacheWrites,
    server_tool_use: Option<Box<Value>>,
    #[serde(deserialize_with = "bounded::word")]
    service_tier: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: Count,
}

impl Counts {
    fn usage(&self) -> Option<Usage> {
        let cached = self.cache_read_input_tokens.or_zero();
        let thinking = self.output_tokens_details.thinking_tokens;
        let lasting = &self.cache_creation;
        let short = lasting.ephemeral_5m_input_tokens.or_zero();
        let long = lasting.ephemeral_1h_input_tokens.or_zero();
        let both = self.cache_creation_input_tokens;
        let cache_written = both.or_zero().max(short.saturating_add(long));
        let (tools, searches) = server_tools(self.server_tool_use.as_deref());
        Some(Usage {
            // The input tokens do not include those read from or written to the cache.
            input_tokens: self
                .input_tokens
                .0?
                .saturating_add(cached)
                .saturating_add(cache_written),
            cached_input_tokens: cached,
            output_tokens: self.output_tokens.0?,
            reasoning_tokens: thinking.or_zero(),
            cache_write_tokens: cache_written,
            cache_write_5m_tokens: short,
            cache_write_1h_tokens: long,
            server_tool_calls: tools,
            web_search_calls: searches,
            ..Usage::default()
        })
    }
}

#[cfg(test)]
#[path = "anthropic_tests.rs"]
mod tests;
