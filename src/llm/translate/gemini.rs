//! Gemini's `generateContent`. Its JSON is that of protocol buffers, so every field has two spellings.

use serde_json::{Map, Number, Value, json};

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
        configured(camel(config), out)?;
    }
    for (path, value) in fields.list("tools") {
        let mut tools = camel(Fields::of(path, value));
        for (path, value) in tools.list("functionDeclarations") {
            let mut tool = camel(Fields::of(path, value));
            let name = tool.take("name").unwrap_or_default();
            let description = tool.take("description");
            let parameters = tool.take("parametersJsonSchema");
            let parameters = parameters.or_else(|| Some(json_schema(tool.take("parameters")?)));
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

/// Tool calls may have no id here. Results without an id are matched by name, in order.
#[derive(Default)]
struct Calls {
    made: usize,
    open: Vec<Open>,
}

/// A call that has no result yet.
struct Open {
    /// Its id, if it has one.
    own_id: Option<String>,
    name: String,
    id: String,
}

impl Calls {
    fn make(&mut self, own_id: Option<String>, name: &str) -> String {
        let id = own_id
            .clone()
            .unwrap_or_else(|| format!("call_{}", self.made));
        self.made += 1;
        self.open.push(Open {
            own_id,
            name: name.to_owned(),
            id: id.clone(),
        });
        id
    }

    /// The call that a result belongs to.
    fn answered(&mut self, own_id: Option<&str>, name: &str) -> Option<String> {
        let is_meant = |open: &Open| match (open.own_id.as_deref(), own_id) {
            (Some(own), Some(meant)) => own == meant,
            _ => open.name == name,
        };
        let at = self.open.iter().position(is_meant)?;
        Some(self.open.remove(at).id)
    }
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
            let own_id = call.text("id").filter(|id| !id.is_empty());
            let name = call.text("name").unwrap_or_default();
            let arguments = call.take("args").unwrap_or_else(|| json!({}));
            let id = calls.make(own_id, &name);
            called.push((id, name, arguments));
            out.rest(call);
        } else if let Some(mut answer) = part.object("functionResponse") {
            let own_id = answer.text("id").filter(|id| !id.is_empty());
            let name = answer.text("name").unwrap_or_default();
            match calls.answered(own_id.as_deref(), &name) {
                Some(id) => {
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
    let (Some(media), Some(base64)) = (data.text("mimeType"), data.text("data")) else {
        out.lose(data.at("mimeType"));
        return None;
    };
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

fn configured(mut config: Fields, out: &mut Neutral) -> Result<(), String> {
    // Only the first of several answers would be kept, but all would be billed.
    match config.take("candidateCount") {
        None => {}
        Some(count) if count == json!(1) => {}
        Some(count) => {
            let field = config.at("candidateCount");
            return Err(format!(
                "found {count} in \"{field}\"; expected 1: several answers to one prompt are items of \
                 their own"
            ));
        }
    }
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
    let schema = schema.or_else(|| Some(json_schema(config.take("responseSchema")?)));
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
    Ok(())
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

/// The fields, renamed to the spelling of the documentation.
fn camel(fields: Fields) -> Fields {
    let map = fields.map.into_iter();
    Fields {
        map: map.map(|(name, value)| (camel_name(name), value)).collect(),
        path: fields.path,
    }
}

fn camel_name(name: String) -> String {
    if !name.contains('_') {
        return name;
    }
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        name + &first.into_iter().chain(letters).collect::<String>()
    })
}

/// Fields of a schema with counts, which may be strings, as in JSON of protocol buffers.
const LENGTHS: [&str; 6] = [
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minProperties",
    "maxProperties",
];

/// Converts a schema in Google's format into a JSON Schema: Google writes types in capitals, may write numbers as
/// strings, and has a separate field for null.
fn json_schema(schema: Value) -> Value {
    let Value::Object(fields) = schema else {
        return schema;
    };
    let fields = fields.into_iter();
    let fields = fields.map(|(name, value)| (camel_name(name), value));
    let mut fields: Map<String, Value> = fields.collect();
    let is_nullable = fields.shift_remove("nullable") == Some(Value::Bool(true));
    for (name, value) in &mut fields {
        match (name.as_str(), &mut *value) {
            ("type", Value::String(kind)) => *kind = kind.to_lowercase(),
            ("properties", Value::Object(all)) => {
                all.values_mut().for_each(to_json_schema);
            }
            ("items", one) => to_json_schema(one),
            ("anyOf", Value::Array(all)) => all.iter_mut().for_each(to_json_schema),
            (name, Value::String(text)) if LENGTHS.contains(&name) => {
                if let Ok(count) = text.parse::<u64>() {
                    *value = count.into();
                }
            }
            _ => {}
        }
    }
    if fields.get("type") == Some(&json!("type_unspecified")) {
        fields.shift_remove("type");
    }
    let kind = fields.get("type").and_then(Value::as_str);
    let is_number = matches!(kind, Some("integer" | "number"));
    let kind = kind.map(str::to_owned);
    if let Some(Value::Array(values)) = fields.get_mut("enum").filter(|_| is_number) {
        for value in values {
            let number = value.as_str().and_then(|text| text.parse::<Number>().ok());
            *value = number.map_or_else(|| value.take(), Value::from);
        }
    }
    match kind {
        _ if !is_nullable => fields.into(),
        Some(kind) if !fields.contains_key("anyOf") => {
            fields.insert("type".to_owned(), json!([kind, "null"]));
            if let Some(Value::Array(values)) = fields.get_mut("enum") {
                values.push(Value::Null);
            }
            fields.into()
        }
        _ => json!({"anyOf": [fields, {"type": "null"}]}),
    }
}

fn to_json_schema(schema: &mut Value) {
    *schema = json_schema(schema.take());
}
