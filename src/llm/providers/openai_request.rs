//! Chat requests in the OpenAI dialect.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::base::json_text::{write_field as field, write_name, write_string};
use crate::llm::params::ResponseFormat;
use crate::llm::request::{Request, Text};

use super::content::{self, JSON_MODE, Part};
use super::further::{cache_key, further, of_turn};
use super::vendor::{SentReasoning, Vendor};

/// Writes the body of a chat completion call.
pub(super) fn write(
    vendor: &Vendor,
    request: &Request,
    model: &str,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let params = &request.params;
    out.push(b'{');
    field(out, "model", &model)?;
    write_name("messages", out);
    out.push(b'[');
    messages(vendor, request, out)?;
    out.push(b']');
    if let Some(key) = cache_key(vendor, request) {
        field(out, "prompt_cache_key", &key)?;
    }
    if let Some(tokens) = params.max_tokens {
        field(out, vendor.cap, &tokens)?;
    }
    if let Some(temperature) = params.temperature {
        field(out, "temperature", &temperature)?;
    }
    if let Some(top_p) = params.top_p {
        field(out, "top_p", &top_p)?;
    }
    if !params.stop.is_empty() {
        field(out, "stop", &params.stop)?;
    }
    if let Some(seed) = params.seed.filter(|_| !vendor.seed_field.is_empty()) {
        field(out, vendor.seed_field, &seed)?;
    }
    match &params.response_format {
        None => {}
        Some(ResponseFormat::JsonSchema {
            name,
            schema,
            strict,
        }) if vendor.schemas => {
            let format = json!({
                "type": "json_schema",
                "json_schema": {"name": name, "strict": strict, "schema": schema},
            });
            field(out, "response_format", &format)?;
        }
        Some(ResponseFormat::JsonObject | ResponseFormat::JsonSchema { .. }) => {
            field(out, "response_format", &json!({"type": "json_object"}))?;
        }
    }
    for (name, value) in further(request) {
        field(out, name, value)?;
    }
    out.push(b'}');
    Ok(())
}

fn messages(vendor: &Vendor, request: &Request, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let lead = request.rendered().next();
    let lead = lead.filter(|(role, ..)| matches!(*role, "system" | "developer"));
    let instructed = instruction(vendor, request)
        .map(|said| with_instruction(lead.map(|(_, content, _)| content), &said));
    let (role, extra) = lead.map_or(("system", None), |(role, _, extra)| (role, extra));
    let first = instructed
        .as_ref()
        .map(|instructed| (role, Text::of(instructed), extra));
    let replaced = usize::from(instructed.is_some() && lead.is_some());
    let all = first.into_iter().chain(request.rendered().skip(replaced));
    for (number, (role, content, fields)) in all.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        let role = match role {
            "developer" if !vendor.developer_role => "system",
            role => role,
        };
        out.push(b'{');
        field(out, "role", &role)?;
        write_name("content", out);
        match content {
            Text::Plain(text) => write_string(text, out),
            Text::Parts(parts) => serde_json::to_writer(&mut *out, parts)?,
            Text::Other(value) => serde_json::to_writer(&mut *out, value)?,
        }
        if let Some(fields) = fields {
            turn_fields(vendor, fields, out)?;
        }
        out.push(b'}');
    }
    Ok(())
}

/// What must be said of the answer's shape in words.
fn instruction(vendor: &Vendor, request: &Request) -> Option<Cow<'static, str>> {
    match request.params.response_format.as_ref()? {
        ResponseFormat::JsonObject if !mentions_json(request) => Some(Cow::Borrowed(JSON_MODE)),
        ResponseFormat::JsonSchema { schema, .. } if !vendor.schemas => {
            Some(Cow::Owned(content::in_words(schema)))
        }
        _ => None,
    }
}

/// Whether a message says JSON. OpenAI and Groq refuse to answer with it otherwise, and models
/// elsewhere may answer with blanks without end.
fn mentions_json(request: &Request) -> bool {
    request.rendered().any(|(_, content, _)| match content {
        Text::Plain(text) => says_json(text),
        Text::Parts(parts) => parts
            .iter()
            .any(|part| matches!(content::part(part), Part::Text(text) if says_json(text))),
        Text::Other(_) => false,
    })
}

fn says_json(text: &str) -> bool {
    let mut words = text.as_bytes().windows(4);
    words.any(|word| word.eq_ignore_ascii_case(b"json"))
}

/// The system text with an instruction. It stays one message: not every model takes two.
fn with_instruction(system: Option<Text<'_>>, said: &str) -> Value {
    let text = match system {
        Some(Text::Parts(parts)) => {
            let said = json!({"type": "text", "text": said});
            return parts.iter().cloned().chain([said]).collect();
        }
        Some(Text::Plain(text)) => text,
        Some(Text::Other(_)) | None => "",
    };
    match text.trim() {
        "" => said.into(),
        _ => format!("{text}\n\n{said}").into(),
    }
}

/// The further fields of a message.
fn turn_fields(
    vendor: &Vendor,
    fields: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    for (name, value) in of_turn(fields) {
        match (name.as_str(), value) {
            ("tool_calls", calls) => {
                field(out, name, &content::in_openais_shape(vendor, calls))?;
            }
            ("reasoning", Value::Object(_)) => {}
            _ => field(out, name, value)?,
        }
    }
    match reasoning(vendor, fields) {
        Some((name, value)) if !fields.contains_key(name) => field(out, name, &value),
        _ => Ok(()),
    }
}

/// What is sent back of the reasoning that a result has: OpenRouter's details, Anthropic's blocks to a gateway before it,
/// or the text to servers that want it as long as the model calls tools, as DeepSeek's.
fn reasoning(vendor: &Vendor, fields: &Map<String, Value>) -> Option<(&'static str, Value)> {
    let reasoning = fields.get("reasoning")?.as_object()?;
    if vendor.reasoning == SentReasoning::Nothing {
        return None;
    }
    let signed = |is_one: fn(&str) -> bool| {
        let details = content::reasoning_details(Some(fields));
        let kept = details.filter(|block| block["type"].as_str().is_some_and(is_one));
        let kept: Vec<Value> = kept.cloned().collect();
        (vendor.reasoning == SentReasoning::Signed && !kept.is_empty()).then(|| kept.into())
    };
    if let Some(details) = signed(|kind| kind.starts_with("reasoning.")) {
        return Some(("reasoning_details", details));
    }
    if let Some(blocks) = signed(|kind| matches!(kind, "thinking" | "redacted_thinking")) {
        return Some(("thinking_blocks", blocks));
    }
    let text = reasoning.get("text")?.as_str()?;
    let is_wanted = fields.contains_key("tool_calls") && !text.is_empty();
    is_wanted.then(|| ("reasoning_content", text.into()))
}
