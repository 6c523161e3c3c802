//! Anthropic's Messages API.

use serde_json::{Value, json};

use super::{Fields, Neutral, content, image_part, text_part};
use crate::llm::request::Role;

pub(super) fn read(mut fields: Fields, out: &mut Neutral) -> Result<(), String> {
    let messages = fields.list("messages");
    if messages.is_empty() {
        return Err("found no \"messages\"; expected a list of messages".to_owned());
    }
    for (path, value) in messages {
        message(Fields::of(path, value), out);
    }
    let request = &mut out.request;
    request.model = fields.text("model");
    request.params.max_tokens = fields.count("max_tokens");
    request.params.temperature = fields.number("temperature");
    request.params.top_p = fields.number("top_p");
    request.params.stop = fields.texts("stop_sequences");
    request.system = fields.text("system");
    if request.system.is_none() {
        let blocks = fields.list("system");
        let texts: Vec<String> = blocks
            .into_iter()
            .filter_map(|(path, value)| {
                let mut block = Fields::of(path, value);
                let text = (block.text("type").as_deref() == Some("text"))
                    .then(|| block.text("text"))
                    .flatten();
                out.rest(block);
                text
            })
            .collect();
        out.request.system = (!texts.is_empty()).then(|| texts.join("\n\n"));
    }
    let top_k = fields.take("top_k");
    out.extra("top_k", top_k);
    for (path, value) in fields.list("tools") {
        tool(Fields::of(path, value), out);
    }
    if let Some(choice) = fields.object("tool_choice") {
        tool_choice(choice, out);
    }
    if let Some(mut output) = fields.object("output_config") {
        out.extra("reasoning_effort", output.take("effort"));
        if let Some(mut format) = output.object("format") {
            match format.text("type").as_deref() {
                Some("json_schema") => {
                    let schema = format.take("schema").unwrap_or_default();
                    let field = format.at("schema");
                    out.schema(&field, schema, None, None);
                }
                _ => out.lose(format.at("type")),
            }
            out.rest(format);
        }
        out.rest(output);
    }
    fields.take("stream");
    out.rest(fields);
    Ok(())
}

fn message(mut message: Fields, out: &mut Neutral) {
    let role = match message.text("role").as_deref() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => return out.lose(message.at("role")),
    };
    if let Some(text) = message.text("content") {
        out.say(role, text.into());
        return out.rest(message);
    }
    let mut parts = Vec::new();
    let mut calls = Vec::new();
    for (path, value) in message.list("content") {
        let mut block = Fields::of(path, value);
        match block.text("type").unwrap_or_default().as_str() {
            "text" => parts.push(text_part(block.text("text").unwrap_or_default())),
            "image" => parts.extend(source(&mut block, out).map(|source| match source {
                Source::Base64(media, data) => image_part(format!("data:{media};base64,{data}")),
                Source::Url(url) => image_part(url),
            })),
            "document" => {
                let name = block.text("title").unwrap_or_else(|| "document".to_owned());
                match source(&mut block, out) {
                    Some(Source::Base64(media, data)) => {
                        let data = format!("data:{media};base64,{data}");
                        let file = json!({"filename": name, "file_data": data});
                        parts.push(json!({"type": "file", "file": file}));
                    }
                    Some(Source::Url(_)) => out.lose(block.at("source")),
                    None => {}
                }
            }
            "tool_use" => {
                let (id, name) = (block.text("id"), block.text("name"));
                let input = block.take("input").unwrap_or_else(|| json!({}));
                calls.push((id.unwrap_or_default(), name.unwrap_or_default(), input));
            }
            "tool_result" => {
                let id = block.text("tool_use_id").unwrap_or_default();
                let result = result(&mut block, out);
                out.called(&id, result);
            }
            _ => out.lose(block.at("type")),
        }
        out.rest(block);
    }
    if !parts.is_empty() || (calls.is_empty() && role == Role::Assistant) {
        out.say(role, content(parts));
    } else if !calls.is_empty() {
        out.say(role, Value::Null);
    }
    for (id, name, input) in calls {
        out.call(&id, &name, input.to_string());
    }
    out.rest(message);
}

enum Source {
    Base64(String, String),
    Url(String),
}

fn source(block: &mut Fields, out: &mut Neutral) -> Option<Source> {
    let Some(mut source) = block.object("source") else {
        out.lose(block.at("source"));
        return None;
    };
    let found = match source.text("type").as_deref() {
        Some("base64") => source
            .text("media_type")
            .and_then(|media| Some(Source::Base64(media, source.text("data")?))),
        Some("url") => source.text("url").map(Source::Url),
        _ => None,
    };
    match found {
        Some(_) => out.rest(source),
        None => out.lose(source.at("type")),
    }
    found
}

/// The result of a tool call: a text, or blocks of text.
fn result(block: &mut Fields, out: &mut Neutral) -> String {
    if let Some(text) = block.text("content") {
        return text;
    }
    let mut texts = Vec::new();
    for (path, value) in block.list("content") {
        let mut part = Fields::of(path, value);
        match part.text("type").as_deref() {
            Some("text") => texts.push(part.text("text").unwrap_or_default()),
            _ => out.lose(part.at("type")),
        }
        out.rest(part);
    }
    texts.join("\n")
}

fn tool(mut tool: Fields, out: &mut Neutral) {
    if let Some(kind) = tool.text("type")
        && kind != "custom"
    {
        return out.lose(tool.at("type"));
    }
    let name = tool.take("name").unwrap_or_default();
    let [description, parameters, strict] =
        ["description", "input_schema", "strict"].map(|name| tool.take(name));
    out.tool(name, description, parameters, strict);
    out.rest(tool);
}

fn tool_choice(mut choice: Fields, out: &mut Neutral) {
    let neutral = match choice.text("type").as_deref() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => {
            let name = choice.take("name").unwrap_or_default();
            json!({"type": "function", "function": {"name": name}})
        }
        _ => return out.lose(choice.at("type")),
    };
    out.extra("tool_choice", Some(neutral));
    let alone = choice.typed("disable_parallel_tool_use", Value::as_bool);
    out.extra("parallel_tool_calls", alone.map(|alone| (!alone).into()));
    out.rest(choice);
}
