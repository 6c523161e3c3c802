//! OpenAI's Responses API.

use serde_json::{Value, json};

use super::response_items::Signed;
use super::{Fields, Neutral, content, text_part};
use crate::llm::params::ResponseFormat;
use crate::llm::request::Role;

/// Values of `include`.
const ENCRYPTED: &str = "reasoning.encrypted_content";
const LOGPROBS: &str = "message.output_text.logprobs";

/// Fields that OpenAI's chat API has under the same names.
const SAME: [&str; 9] = [
    "parallel_tool_calls",
    "metadata",
    "service_tier",
    "user",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "moderation",
];

pub(super) fn read(mut fields: Fields, out: &mut Neutral) -> Result<(), String> {
    match fields.take("input") {
        Some(Value::String(text)) if !text.trim().is_empty() => out.say(Role::User, text.into()),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (i, value) in items.into_iter().enumerate() {
                item(Fields::of(format!("input[{i}]"), value), out);
            }
        }
        _ => return Err("found no \"input\"; expected a text or a list of items".to_owned()),
    }
    let request = &mut out.request;
    request.model = fields.text("model");
    request.params.max_tokens = fields.count("max_output_tokens");
    request.params.temperature = fields.number("temperature");
    request.params.top_p = fields.number("top_p");
    if let Some(text) = fields.text("instructions") {
        instruct(text, out);
    }
    if let Some(mut reasoning) = fields.object("reasoning") {
        out.extra("reasoning_effort", reasoning.take("effort"));
        // An answer has the reasoning that its provider returns.
        reasoning.typed("summary", |value| (value == "auto").then_some(()));
        out.rest(reasoning);
    }
    included(&mut fields, out);
    if let Some(mut text) = fields.object("text") {
        out.extra("verbosity", text.take("verbosity"));
        if let Some(format) = text.object("format") {
            shape(format, out);
        }
        out.rest(text);
    }
    for (path, value) in fields.list("tools") {
        tool(Fields::of(path, value), out);
    }
    match fields.take("tool_choice") {
        Some(Value::Object(mut choice)) => {
            let name = choice.shift_remove("name");
            match (choice.get("type").and_then(Value::as_str), name) {
                (Some("function"), Some(name)) => {
                    let choice = json!({"type": "function", "function": {"name": name}});
                    out.extra("tool_choice", Some(choice));
                }
                _ => out.lose("tool_choice"),
            }
        }
        choice => out.extra("tool_choice", choice),
    }
    // The values by which OpenAI is asked for nothing.
    fields.typed("store", |value| (value == false).then_some(()));
    fields.typed("truncation", |value| (value == "disabled").then_some(()));
    for name in SAME {
        let value = fields.take(name);
        out.extra(name, value);
    }
    for absent in ["stream", "background"] {
        fields.take(absent);
    }
    out.rest(fields);
    Ok(())
}

/// Reads which further data of an answer is requested.
fn included(fields: &mut Fields, out: &mut Neutral) {
    let included = fields.texts("include");
    // Reasoning is returned anyway, with the part that its provider requires in the next request.
    let others = included.iter().filter(|name| *name != ENCRYPTED);
    let mut others = others.filter(|name| *name != LOGPROBS);
    if others.next().is_some() {
        out.lose("include");
    }
    let most = fields.take("top_logprobs");
    if most.is_some() || included.iter().any(|name| name == LOGPROBS) {
        out.extra("logprobs", Some(true.into()));
    }
    out.extra("top_logprobs", most);
}

/// Puts the instructions before the conversation, which may begin with its own instructions.
fn instruct(text: String, out: &mut Neutral) {
    match out.request.messages.first().map(|first| &first.role) {
        Some(Role::System | Role::Developer) => {
            let first = &mut out.request.messages[0];
            match &first.content {
                Value::String(own) => first.content = format!("{text}\n\n{own}").into(),
                _ => out.lose("instructions"),
            }
        }
        _ => out.request.system = Some(text),
    }
}

fn item(mut fields: Fields, out: &mut Neutral) {
    let kind = fields.text("type");
    // Fields that OpenAI adds to its items.
    for own in ["id", "status", "phase"] {
        fields.take(own);
    }
    match kind.as_deref() {
        None | Some("message") => {
            let role = fields.text("role").and_then(|role| Role::parse(&role));
            let Some(role) = role.filter(|role| *role != Role::Tool) else {
                return out.lose(fields.at("role"));
            };
            let said = match fields.text("content") {
                Some(text) => text.into(),
                None => {
                    let parts = fields.list("content").into_iter();
                    content(
                        parts
                            .filter_map(|(path, value)| part(path, value, out))
                            .collect(),
                    )
                }
            };
            out.say(role, said);
        }
        Some("function_call") => {
            let [id, name, arguments] =
                ["call_id", "name", "arguments"].map(|name| fields.text(name).unwrap_or_default());
            out.call(&id, &name, arguments);
        }
        Some("function_call_output") => {
            let id = fields.text("call_id").unwrap_or_default();
            match fields.text("output").or_else(|| output(&mut fields)) {
                Some(output) => out.called(&id, output),
                None => out.lose(fields.at("output")),
            }
        }
        Some("reasoning") => {
            let texts = [fields.list("summary"), fields.list("content")];
            let texts = texts.iter().flatten();
            let text = texts.filter_map(|(_, part)| part.get("text")?.as_str());
            // Without a part that is ours, it is another provider's, which the model does not need.
            let signed = fields.text("encrypted_content");
            let signed = signed.and_then(|signed| Signed::unpacked(&signed));
            out.reason(text.collect(), signed.unwrap_or_default());
        }
        Some(_) => return out.lose(fields.at("type")),
    }
    out.rest(fields);
}

/// The result of a function that is a list of texts.
fn output(fields: &mut Fields) -> Option<String> {
    fields
        .typed("output", |value| {
            let parts = value.as_array()?.iter();
            let text = |part: &Value| match part["type"].as_str() {
                Some("input_text") => part["text"].as_str().map(str::to_owned),
                _ => None,
            };
            parts.map(text).collect::<Option<Vec<_>>>()
        })
        .map(|texts| texts.join("\n"))
}

fn part(path: String, value: Value, out: &mut Neutral) -> Option<Value> {
    let mut fields = Fields::of(path, value);
    let kind = fields.text("type").unwrap_or_default();
    let part = match kind.as_str() {
        "input_text" | "output_text" | "text" => {
            // Parts of earlier answers that do not influence the next answer.
            for beside in ["annotations", "logprobs"] {
                fields.take(beside);
            }
            text_part(fields.text("text").unwrap_or_default())
        }
        "refusal" => text_part(fields.text("refusal").unwrap_or_default()),
        "input_image" => {
            let Some(url) = fields.text("image_url") else {
                out.lose(fields.at("image_url"));
                return None;
            };
            let mut image = json!({ "url": url });
            if let Some(detail) = fields.take("detail") {
                image["detail"] = detail;
            }
            json!({"type": "image_url", "image_url": image})
        }
        "input_file" => {
            let Some(data) = fields.text("file_data") else {
                out.lose(fields.at("file_data"));
                return None;
            };
            let name = fields.text("filename").unwrap_or_else(|| "file".to_owned());
            json!({"type": "file", "file": {"filename": name, "file_data": data}})
        }
        "input_audio" => match fields.take("input_audio") {
            Some(audio) => json!({"type": "input_audio", "input_audio": audio}),
            None => {
                out.lose(fields.at("input_audio"));
                return None;
            }
        },
        _ => {
            out.lose(fields.at("type"));
            return None;
        }
    };
    out.rest(fields);
    Some(part)
}

fn shape(mut format: Fields, out: &mut Neutral) {
    match format.text("type").as_deref() {
        None | Some("text") => {}
        Some("json_object") => {
            out.request.params.response_format = Some(ResponseFormat::JsonObject);
        }
        Some("json_schema") => {
            let (name, strict) = (format.text("name"), format.typed("strict", Value::as_bool));
            let mut schema = format.take("schema").unwrap_or_default();
            if let (Some(text), Some(schema)) = (format.take("description"), schema.as_object_mut())
            {
                schema.entry("description").or_insert(text);
            }
            let field = format.at("schema");
            out.schema(&field, schema, name, Some(strict.unwrap_or(false)));
        }
        Some(_) => out.lose(format.at("type")),
    }
    out.rest(format);
}

fn tool(mut tool: Fields, out: &mut Neutral) {
    if tool.text("type").as_deref() != Some("function") {
        return out.lose(tool.at("type"));
    }
    let name = tool.take("name").unwrap_or_default();
    let [description, parameters, strict] =
        ["description", "parameters", "strict"].map(|name| tool.take(name));
    out.tool(name, description, parameters, strict);
    out.rest(tool);
}
