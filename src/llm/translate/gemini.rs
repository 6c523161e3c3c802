//! Gemini's `generateContent`. JSON of protocol buffers: fields may be spelt in two ways.

use serde_json::{Map, Value, json};

use super::{Fields, Neutral, content, image_part, text_part};
use crate::llm::attachment::sound_format;
use crate::llm::params::ResponseFormat;
use crate::llm::request::Role;

pub(super) fn read(fields: Fields, out: &mut Neutral) -> Result<(), String> {
    let mut fields = camel(fields);
    let contents = fields.list("contents");
    if contents.is_empty() {
        return Err("found no \"contents\"; expected a list of contents".to_owned());
    }
    let mut calls = Calls::default();
    for (path, value) in contents {
        turn(camel(Fields::of(path, value)), &mut calls, out);
    }
    let model = fields.text("model");
    let named = |model: String| match model.strip_prefix("models/") {
        Some(name) => name.to_owned(),
        None => model,
    };
    out.request.model = model.map(named);
    if let Some(mut system) = fields.object("systemInstruction") {
        system.take("role");
        let parts = system.list("parts").into_iter();
        let texts = parts.filter_map(|(path, value)| {
            let mut part = camel(Fields::of(path, value));
            let text = part.text("text");
            out.rest(part);
            text
        });
        out.request.system = Some(texts.collect::<Vec<_>>().join("\n\n"));
        out.rest(system);
    }
    if let Some(config) = fields.object("generationConfig") {
        configured(camel(config), out);
    }
    for (path, value) in fields.list("tools") {
        let mut tools = camel(Fields::of(path, value));
        for (path, value) in tools.list("functionDeclarations") {
            let mut tool = camel(Fields::of(path, value));
            let name = tool.take("name").unwrap_or_default();
            let description = tool.take("description");
            let parameters = tool.take("parametersJsonSchema");
            let parameters = parameters.or_else(|| Some(lower(tool.take("parameters")?)));
            out.tool(name, description, parameters, None);
            out.rest(tool);
        }
        out.rest(tools);
    }
    if let Some(config) = fields.object("toolConfig") {
        let mut config = camel(config);
        if let Some(choice) = config.object("functionCallingConfig") {
            tool_choice(camel(choice), out);
        }
        out.rest(config);
    }
    out.rest(fields);
    Ok(())
}

/// Calls of tools have no ids here; what came of them is matched by name, in order.
#[derive(Default)]
struct Calls {
    made: usize,
    open: Vec<(String, String)>,
}

fn turn(mut turn: Fields, calls: &mut Calls, out: &mut Neutral) {
    let role = match turn.text("role").as_deref() {
        None | Some("user" | "function") => Role::User,
        Some("model") => Role::Assistant,
        Some(_) => return out.lose(turn.at("role")),
    };
    let mut parts = Vec::new();
    let mut called = Vec::new();
    for (path, value) in turn.list("parts") {
        let mut part = camel(Fields::of(path, value));
        if let Some(text) = part.text("text") {
            parts.push(text_part(text));
        } else if let Some(data) = part.object("inlineData") {
            parts.extend(inline(camel(data), out));
        } else if let Some(mut call) = part.object("functionCall") {
            call.take("id");
            let name = call.text("name").unwrap_or_default();
            let arguments = call.take("args").unwrap_or_else(|| json!({}));
            let id = format!("call_{}", calls.made);
            calls.made += 1;
            calls.open.push((name.clone(), id.clone()));
            called.push((id, name, arguments));
            out.rest(call);
        } else if let Some(mut answer) = part.object("functionResponse") {
            answer.take("id");
            let name = answer.text("name").unwrap_or_default();
            let at = calls.open.iter().position(|(open, _)| *open == name);
            match at {
                Some(at) => {
                    let (_, id) = calls.open.remove(at);
                    let response = answer.take("response").unwrap_or_default();
                    out.called(&id, response.to_string());
                }
                None => out.lose(answer.at("name")),
            }
            out.rest(answer);
        }
        out.rest(part);
    }
    if !parts.is_empty() {
        out.say(role, content(parts));
    } else if !called.is_empty() {
        out.say(role, Value::Null);
    }
    for (id, name, arguments) in called {
        out.call(&id, &name, arguments.to_string());
    }
    out.rest(turn);
}

fn inline(mut data: Fields, out: &mut Neutral) -> Option<Value> {
    let (media, base64) = (data.text("mimeType")?, data.text("data")?);
    let name = data.text("displayName");
    let field = data.at("mimeType");
    out.rest(data);
    let url = format!("data:{media};base64,{base64}");
    if media.starts_with("image/") {
        return Some(image_part(url));
    }
    if media.starts_with("audio/") {
        let format = sound_format(&media);
        let sound = json!({"data": base64, "format": format});
        return Some(json!({"type": "input_audio", "input_audio": sound}));
    }
    if media == "application/pdf" {
        let name = name.unwrap_or_else(|| "file.pdf".to_owned());
        return Some(json!({"type": "file", "file": {"filename": name, "file_data": url}}));
    }
    out.lose(field);
    None
}

fn configured(mut config: Fields, out: &mut Neutral) {
    let params = &mut out.request.params;
    params.temperature = config.number("temperature");
    params.top_p = config.number("topP");
    params.max_tokens = config.count("maxOutputTokens");
    params.stop = config.texts("stopSequences");
    params.seed = config.typed("seed", Value::as_i64);
    for (own, name) in [
        ("topK", "top_k"),
        ("presencePenalty", "presence_penalty"),
        ("frequencyPenalty", "frequency_penalty"),
    ] {
        let value = config.take(own);
        out.extra(name, value);
    }
    if config.map.get("candidateCount") == Some(&json!(1)) {
        config.take("candidateCount");
    }
    if let Some(thinking) = config.object("thinkingConfig") {
        let mut thinking = camel(thinking);
        let level = thinking.text("thinkingLevel");
        out.extra(
            "reasoning_effort",
            level.map(|level| level.to_lowercase().into()),
        );
        out.rest(thinking);
    }
    let media = config.text("responseMimeType");
    let schema = config.take("responseJsonSchema");
    let schema = schema.or_else(|| Some(lower(config.take("responseSchema")?)));
    match (media.as_deref(), schema) {
        (None | Some("text/plain"), None) => {}
        (Some("application/json"), None) => {
            out.request.params.response_format = Some(ResponseFormat::JsonObject);
        }
        (Some("application/json"), Some(schema)) => {
            let field = config.at("responseSchema");
            out.schema(&field, schema, None, None);
        }
        _ => out.lose(config.at("responseMimeType")),
    }
    out.rest(config);
}

fn tool_choice(mut choice: Fields, out: &mut Neutral) {
    let names = choice.texts("allowedFunctionNames");
    let neutral = match (choice.text("mode").as_deref(), names.as_slice()) {
        (Some("AUTO"), []) => json!("auto"),
        (Some("NONE"), []) => json!("none"),
        (Some("ANY"), []) => json!("required"),
        (Some("ANY"), [one]) => json!({"type": "function", "function": {"name": one}}),
        _ => return out.lose(choice.at("mode")),
    };
    out.extra("tool_choice", Some(neutral));
    out.rest(choice);
}

/// The fields under the names that the documentation gives them.
fn camel(fields: Fields) -> Fields {
    let named = |name: String| match name.contains('_') {
        false => name,
        true => {
            let mut words = name.split('_');
            let first = words.next().unwrap_or_default().to_owned();
            words.fold(first, |name, word| {
                let mut letters = word.chars();
                let first = letters.next().map(|c| c.to_ascii_uppercase());
                name + &first.into_iter().chain(letters).collect::<String>()
            })
        }
    };
    let map = fields.map.into_iter();
    Fields {
        map: map.map(|(name, value)| (named(name), value)).collect(),
        path: fields.path,
    }
}

/// A schema in Google's words, in which types are in capitals, as JSON Schema has it.
fn lower(schema: Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = match (name.as_str(), value) {
                    ("type", Value::String(kind)) => kind.to_lowercase().into(),
                    (_, value) => lower(value),
                };
                (name, value)
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.into_iter().map(lower).collect(),
        other => other,
    }
}
