//! Anthropic's Messages dialect.
//!
//! Differences from OpenAI's format: the system text is a separate field, the maximum number of tokens is required,
//! there is no seed and no JSON mode without a schema, and a reply is a list of blocks. Sources: the documentation of
//! the Messages API and the types of Anthropic's Python SDK.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::base::json_text::{hex, set};
use crate::base::{Error, Paid, Usage};
use crate::llm::params::ResponseFormat;
use crate::llm::reply_details::shallow;
use crate::llm::request::{Request, Text};
use crate::llm::response::Response;

use super::answer::{Answer, name_calls, reasoning, tool_call, unlike};
use super::anthropic_schema;
use super::content::{self, Call, Choice, JSON_MODE, Part, invalid};
use super::errors::failure_inside;
use super::fields::{self, Counts, Raw, field};
use super::further::{cache_control, without_tools};
use super::rules::word;
use super::vendor::Vendor;

/// The maximum number of tokens of an answer if the request sets none, not including thinking. Every model supports it,
/// and an answer that reaches it has a finish reason that says so.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 4096;

/// The body of a call.
pub(super) fn message(vendor: &Vendor, request: &Request, model: &str) -> Result<Value, Error> {
    let (mut system, messages) = conversation(request)?;
    let params = &request.params;
    let mut further = without_tools(request);
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
    let mark = cache_control(vendor, request);
    set(fields, "system", system.value(mark));
    set(fields, "temperature", params.temperature);
    set(fields, "top_p", params.top_p);
    let stops = (!params.stop.is_empty()).then(|| params.stop.clone());
    set(fields, "stop_sequences", stops);
    if let Some(schema) = enforced {
        // What the user wrote there stays.
        let output = content::object(further.entry("output_config").or_insert_with(|| json!({})));
        let format = json!({"type": "json_schema", "schema": schema});
        output.insert("format".to_owned(), format);
    }
    let (tools, choice) = tools(request);
    set(fields, "tools", tools);
    set(fields, "tool_choice", choice);
    for (field, value) in further {
        fields.entry(field).or_insert(value);
    }
    Ok(body)
}

/// The system text and the turns of a request.
fn conversation(request: &Request) -> Result<(System, Vec<Value>), Error> {
    let mut system = System::default();
    let mut messages = Vec::new();
    for (role, text, extra) in request.rendered() {
        match role {
            "system" | "developer" => system.add(text),
            "user" | "assistant" => {
                messages.push(json!({"role": role, "content": turn(text, extra)?}));
            }
            "tool" => {
                let (id, result) = content::result(text, extra)?;
                let result = result.map_or_else(|| blocks(text), |text| Ok(text.into()))?;
                let id = call_id(id);
                let block = json!({"type": "tool_result", "tool_use_id": id, "content": result});
                let is_result = |block: &Value| block["type"] == "tool_result";
                content::add_result(&mut messages, "content", is_result, block);
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
            "anthropic needs a message in addition to the system text",
        ));
    }
    Ok((system, messages))
}

/// The content of a turn: the thinking blocks that it began with, its text, and its tool calls.
fn turn(text: Text<'_>, extra: Option<&Map<String, Value>>) -> Result<Value, Error> {
    let own = |block: &&Value| {
        let kind = block.get("type").and_then(Value::as_str);
        matches!(kind, Some("thinking" | "redacted_thinking"))
    };
    let thoughts = content::reasoning_details(extra).filter(own);
    let mut content: Vec<Value> = thoughts.cloned().collect();
    let mut calls = content::calls_of_turn(extra).peekable();
    if content.is_empty() && calls.peek().is_none() {
        return blocks(text);
    }
    match text {
        Text::Other(Value::Null) => {}
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
        let id = call_id(id);
        content.push(json!({"type": "tool_use", "id": id, "name": name, "input": arguments}));
    }
    Ok(content.into())
}

/// The id of a tool call, which another provider may have made. One that Anthropic refuses is replaced, always by the
/// same one.
fn call_id(id: &str) -> Cow<'_, str> {
    let is_accepted = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !id.is_empty() && id.bytes().all(is_accepted) {
        return Cow::Borrowed(id);
    }
    Cow::Owned(hex(&Sha256::digest(id)[..12]))
}

/// The tools, and the choice among them.
fn tools(request: &Request) -> (Option<Value>, Option<Value>) {
    let (functions, own) = content::tools(request);
    if functions.is_empty() && own.is_empty() {
        return (None, None);
    }
    let all = own
        .into_iter()
        .cloned()
        .chain(functions.into_iter().map(tool));
    let one = content::one_at_a_time(request);
    let mut choice = match content::choice(request) {
        None if !one => return (Some(all.collect()), None),
        None | Some(Choice::Auto) => json!({"type": "auto"}),
        Some(Choice::Never) => json!({"type": "none"}),
        Some(Choice::Any) => json!({"type": "any"}),
        Some(Choice::One(name)) => json!({"type": "tool", "name": name}),
        Some(Choice::Own(choice)) => choice.clone(),
    };
    if one && choice["type"] != "none" && choice.is_object() {
        choice["disable_parallel_tool_use"] = true.into();
    }
    (Some(all.collect()), Some(choice))
}

/// A function in Anthropic's format. It is strict only if its schema is supported.
fn tool(function: &Value) -> Value {
    let parameters = function.get("parameters").filter(|p| p.is_object());
    let strict = parameters.filter(|_| function["strict"] == true);
    let strict = strict.and_then(anthropic_schema::anthropic);
    let is_strict = strict.is_some();
    let mut schema = strict.or_else(|| parameters.cloned());
    let schema = schema.get_or_insert_with(|| json!({"properties": {}}));
    content::object(schema)
        .entry("type")
        .or_insert_with(|| "object".into());
    let mut own = json!({"name": function["name"], "input_schema": schema});
    if function["description"].is_string() {
        own["description"] = function["description"].clone();
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
            Text::Parts(parts) => {
                self.in_blocks = true;
                parts.iter().for_each(|part| self.push(part.clone()));
            }
            Text::Other(_) => {}
        }
    }

    /// Anthropic rejects empty texts.
    fn push(&mut self, block: Value) {
        let text = block.get("text").and_then(Value::as_str);
        if text.is_none_or(|text| !text.trim().is_empty()) {
            self.blocks.push(block);
        }
    }

    /// The text, if there is one; with a mark, as blocks, and the last one has it.
    fn value(mut self, mark: Option<Value>) -> Option<Value> {
        self.blocks.last()?;
        if !self.in_blocks {
            let texts = self.blocks.iter();
            let texts = texts.filter_map(|block| block["text"].as_str());
            let text = texts.collect::<Vec<_>>().join("\n\n");
            if mark.is_none() {
                return Some(text.into());
            }
            self.blocks = vec![json!({"type": "text", "text": text})];
        }
        if let Some(mark) = mark {
            self.blocks.last_mut()?["cache_control"] = mark;
        }
        Some(self.blocks.into())
    }
}

fn blocks(text: Text<'_>) -> Result<Value, Error> {
    let parts = match text {
        Text::Plain(text) => return Ok(text.into()),
        Text::Parts(parts) => parts,
        Text::Other(_) => {
            return Err(invalid("anthropic needs a text in every message"));
        }
    };
    let blocks = parts.iter().map(|part| {
        Ok(match content::part(part) {
            Part::Data { kind, base64 } => json!({
                "type": "image",
                "source": {"type": "base64", "media_type": kind, "data": base64},
            }),
            Part::Url(url) => json!({"type": "image", "source": {"type": "url", "url": url}}),
            Part::File { kind, base64, name } if kind.starts_with("text/") => {
                let text = STANDARD
                    .decode(base64)
                    .ok()
                    .and_then(|b| String::from_utf8(b).ok());
                let text = text.ok_or_else(|| invalid("a text file is not UTF-8"))?;
                let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
                let source = json!({"type": "text", "media_type": "text/plain", "data": text});
                document(source, name)
            }
            Part::File { kind, base64, name } => {
                let source = json!({"type": "base64", "media_type": kind, "data": base64});
                document(source, name)
            }
            // Texts have the same format here, and may have further fields.
            _ => part.clone(),
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
#[serde(bound(deserialize = "'de: 'b"))]
struct Reply<'b> {
    id: Raw<'b>,
    model: Raw<'b>,
    #[serde(default, deserialize_with = "fields::any")]
    content: Option<Value>,
    stop_reason: Raw<'b>,
    stop_details: Raw<'b>,
    usage: Raw<'b>,
    error: Raw<'b>,
}

/// Reads the body of a success reply.
///
/// # Errors
/// If it is not JSON of this format. The inner result is an error if the reply contains a failure or no usable answer.
pub(super) fn read(
    vendor: &Vendor,
    text: &str,
    unchecked: bool,
) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_str(text)?;
    let body = text.as_bytes();
    let counts = Counts::read(reply.usage);
    let usage = usage(&counts);
    let Some(Value::Array(blocks)) = reply.content else {
        return Ok(Err(match field(reply.error)? {
            Some(error) => failure_inside(vendor, &error, body),
            None => unlike("it has no content", body).with_paid(Paid::new(usage, None)),
        }));
    };
    let finish = fields::word(field(reply.stop_reason)?);
    let details = field(reply.stop_details)?.filter(|_| finish == "refusal");
    let detail = |name| {
        let text = word(details.as_ref().and_then(|d| d.get(name)));
        Some(text).filter(|text| !text.is_empty())
    };
    let (refusal, category) = (detail("explanation"), detail("category"));
    let mut answer = Answer {
        refusal,
        category,
        finish,
        model: Some(fields::word(field(reply.model)?)),
        usage,
        ..content_of(blocks)
    };
    name_calls(&mut answer.details.tool_calls, reply.id);
    let tier = word(counts.value("service_tier").as_ref());
    answer.details.service_tier = Some(tier).filter(|tier| !tier.is_empty());
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

fn usage(counts: &Counts<'_>) -> Option<Usage> {
    let cached = counts.or_zero("cache_read_input_tokens");
    let lasting = counts.of("cache_creation");
    let short = lasting.or_zero("ephemeral_5m_input_tokens");
    let long = lasting.or_zero("ephemeral_1h_input_tokens");
    let both = counts.or_zero("cache_creation_input_tokens");
    let cache_written = both.max(short.saturating_add(long));
    let (tools, searches) = counts.of("server_tool_use").server_tools();
    Some(Usage {
        // The input tokens do not include those read from or written to the cache.
        input_tokens: counts
            .get("input_tokens")?
            .saturating_add(cached)
            .saturating_add(cache_written),
        cached_input_tokens: cached,
        output_tokens: counts.get("output_tokens")?,
        reasoning_tokens: counts
            .of("output_tokens_details")
            .or_zero("thinking_tokens"),
        cache_write_tokens: cache_written,
        cache_write_5m_tokens: short,
        cache_write_1h_tokens: long,
        server_tool_calls: tools,
        web_search_calls: searches,
        ..Usage::default()
    })
}
