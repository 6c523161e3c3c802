//! A line of JSON: OpenAI batch lines, short forms with a prompt or messages, and with a template
//! any object at all. Unknown fields of the short forms are refused, since a misspelt parameter
//! would otherwise be left out, or sent, in silence.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::fault::{Fault, described, excerpt};
use super::fields::{self, string};
use super::id;
use super::messages;
use super::names::{hint, listed};
use super::template::Template;
use super::{Ignored, Settings};
use crate::llm::request::{Request, RequestTask, Role};

/// A list would need a result line for each of its texts, under one id.
const ONE_TEXT: &str = "a string: one text a line; instead of a list write a line for each text, with \
    ids such as \"doc-7#1\" and \"doc-7#2\"";

/// What a record says itself.
pub(super) struct Parsed {
    pub(super) request: Request,
    /// It names the shape of the answer, be it plain text.
    pub(super) format: bool,
}

impl Parsed {
    pub(super) fn new(request: Request) -> Self {
        Self {
            request,
            format: false,
        }
    }
}

/// The end points whose batch lines are understood, each for its task.
const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

pub(super) fn line(text: &str, settings: &Settings) -> Result<Parsed, Fault> {
    let mut fields = object(text)?;
    let (task, ignored) = (settings.task, &settings.ignored);
    let id = match &settings.id_column {
        Some(name) => Some(id::of_column(&fields, name)?),
        None => id::of_fields(&fields)?,
    };
    ignored
        .names
        .iter()
        .for_each(|name| leave_out(&mut fields, name));
    if let (Some(name), None) = (&settings.id_column, &settings.template) {
        fields.remove(name);
    }
    let mut parsed = match &settings.template {
        Some(template) => templated(fields, template)?,
        None if fields.contains_key("body") => batch(fields, task, ignored)?,
        None => short(fields, task, ignored)?,
    };
    parsed.request.id = id;
    Ok(parsed)
}

/// The id alone, of a line that makes no prompt.
pub(super) fn id(text: &str, settings: &Settings) -> Option<String> {
    let fields = object(text).ok()?;
    match &settings.id_column {
        Some(name) => id::of_column(&fields, name).ok(),
        None => id::of_fields(&fields).ok()?,
    }
}

/// Removes a field, or one inside of it that is named behind a dot.
fn leave_out(fields: &mut Map<String, Value>, name: &str) {
    if fields.remove(name).is_some() {
        return;
    }
    if let Some((outer, inner)) = name.split_once('.')
        && let Some(Value::Object(fields)) = fields.get_mut(outer)
    {
        leave_out(fields, inner);
    }
}

fn object(text: &str) -> Result<Map<String, Value>, Fault> {
    const EXPECTED: &str = "one JSON object per line";
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(Fault::new(described(&other), EXPECTED)),
        Err(_) if text.trim_start().starts_with('[') => {
            Err(Fault::new("the start of a JSON list", EXPECTED))
        }
        Err(error) => {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            Err(Fault::new(
                format!("invalid JSON ({message} at column {})", error.column()),
                EXPECTED,
            ))
        }
    }
}

fn batch(
    mut line: Map<String, Value>,
    task: RequestTask,
    ignored: &Ignored,
) -> Result<Parsed, Fault> {
    known(
        &mut line,
        ignored,
        &["custom_id", "id", "method", "url", "body"],
    )?;
    if let Some(method) = line.get("method") {
        match method.as_str() {
            Some(name) if name.eq_ignore_ascii_case("POST") => {}
            _ => return Err(Fault::field("method", method, "\"POST\"")),
        }
    }
    if let Some(url) = line.get("url") {
        let name = url.as_str().unwrap_or_default();
        let expected = match task {
            RequestTask::Complete if name.ends_with(CHAT) => None,
            RequestTask::Embed if name.ends_with(EMBEDDINGS) => None,
            RequestTask::Complete if name.ends_with(EMBEDDINGS) => Some(format!(
                "\"{CHAT}\"; vectors are asked for with --task embed"
            )),
            RequestTask::Complete => {
                Some(format!("\"{CHAT}\", the only end point that is supported"))
            }
            RequestTask::Embed => Some(format!("\"{EMBEDDINGS}\", since the task is to embed")),
        };
        if let Some(expected) = expected {
            return Err(Fault::field("url", url, expected));
        }
    }
    let mut body = match line.remove("body").unwrap_or_default() {
        Value::Object(body) => body,
        other => return Err(Fault::field("body", &other, "an object")),
    };
    if task == RequestTask::Embed {
        let mut parsed = match body.remove("input") {
            Some(Value::String(text)) => Parsed::new(prompt(text)?),
            Some(other) => return Err(Fault::field("input", &other, ONE_TEXT)),
            None => return Err(Fault::new("no \"input\" in \"body\"", "a string")),
        };
        fields::take_embedding(&mut body, &mut parsed.request)?;
        parsed.request.extra = body;
        return Ok(parsed);
    }
    let Some(messages) = body.remove("messages") else {
        return Err(Fault::new(
            "no \"messages\" in \"body\"",
            "a list of messages",
        ));
    };
    let mut parsed = Parsed::new(Request::chat(messages::parse(messages)?));
    parsed.format = fields::take(&mut body, &mut parsed.request)?;
    parsed.request.extra = body;
    Ok(parsed)
}

fn short(
    mut line: Map<String, Value>,
    task: RequestTask,
    ignored: &Ignored,
) -> Result<Parsed, Fault> {
    const OWN: [&str; 6] = ["id", "custom_id", "prompt", "messages", "system", "extra"];
    let names = fields::names(task);
    let accepted = |name: &str| OWN.contains(&name) || names.contains(&name);
    if !line.keys().all(|name| accepted(name)) {
        let accepted: Vec<&str> = OWN.iter().chain(names).copied().collect();
        wants_template(&line, &accepted)?;
        known(&mut line, ignored, &accepted)?;
    }
    let mut request = match (line.remove("prompt"), line.remove("messages")) {
        (Some(Value::String(text)), None) => prompt(text)?,
        (Some(other), None) => return Err(Fault::field("prompt", &other, "a string")),
        (None, Some(messages)) => Request::chat(messages::parse(messages)?),
        (Some(_), Some(_)) => {
            return Err(Fault::new(
                "both \"prompt\" and \"messages\"",
                "one of them",
            ));
        }
        (None, None) => {
            return Err(Fault::new(
                format!(
                    "only the fields {}",
                    listed(line.keys().map(String::as_str))
                ),
                "\"prompt\", \"messages\" or an OpenAI batch line with \"body\"",
            ));
        }
    };
    request.system = string(&mut line, "system")?;
    let first = request.messages.first().map(|m| &m.role);
    if request.system.is_some() && matches!(first, Some(Role::System | Role::Developer)) {
        return Err(Fault::new(
            "\"system\" beside messages that begin with instructions",
            "one of them",
        ));
    }
    let extra = match line.remove("extra") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(extra)) => extra,
        Some(other) => return Err(Fault::field("extra", &other, "an object")),
    };
    let taken = |name: &&String| *name == "messages" || names.contains(&name.as_str());
    if let Some(name) = extra.keys().find(taken) {
        return Err(Fault::new(
            format!("the field {name:?} inside \"extra\""),
            "it beside \"extra\", where it is checked",
        ));
    }
    let mut parsed = Parsed::new(request);
    match task {
        RequestTask::Complete => parsed.format = fields::take(&mut line, &mut parsed.request)?,
        RequestTask::Embed => fields::take_embedding(&mut line, &mut parsed.request)?,
    }
    parsed.request.extra = extra;
    Ok(parsed)
}

fn templated(mut line: Map<String, Value>, template: &Template) -> Result<Parsed, Fault> {
    for name in template.variables() {
        match line.get(name) {
            Some(Value::String(_) | Value::Number(_) | Value::Bool(_)) => {}
            Some(other) => {
                let expected = "a string, number or boolean for the template";
                return Err(Fault::field(name, other, expected));
            }
            None => template.check("one of the line's fields", line.keys().map(String::as_str))?,
        }
    }
    let value = |name: &str| match line.get(name)? {
        Value::String(text) => Some(Cow::Borrowed(text.as_str())),
        other => Some(Cow::Owned(other.to_string())),
    };
    template.check_filled(value)?;
    let text = template
        .render(value)
        .map_err(|unknown| Fault::new(unknown.to_string(), "a field of that name"))?;
    let mut request = prompt(text)?;
    request.model = string(&mut line, "model")?;
    request.system = string(&mut line, "system")?;
    Ok(Parsed::new(request))
}

/// A request with one message, which must say something.
pub(super) fn prompt(text: String) -> Result<Request, Fault> {
    match text.trim().is_empty() {
        true => Err(Fault::new("an empty prompt", "some text")),
        false => Ok(Request::new(text)),
    }
}

/// Refuses a line of data, of which a template would make a prompt; leaving fields out would not.
fn wants_template(line: &Map<String, Value>, accepted: &[&str]) -> Result<(), Fault> {
    let unknown = |name: &&String| !accepted.contains(&name.as_str());
    let misspelt = |name: &String| !hint(name, ["prompt", "messages"]).is_empty();
    if ["prompt", "messages"]
        .iter()
        .any(|name| line.contains_key(*name))
        || line.keys().filter(unknown).any(misspelt)
    {
        return Ok(());
    }
    let texts = line.iter().filter_map(|(name, value)| {
        let text = value.as_str().filter(|_| unknown(&name))?;
        Some((text.chars().count(), name))
    });
    let Some((_, name)) = texts.max_by_key(|(len, _)| *len) else {
        return Ok(());
    };
    let names = line.keys().map(String::as_str);
    Err(Fault::new(
        format!("only the fields {}", listed(names)),
        format!(
            "\"prompt\" or \"messages\", or a template such as --template 'Summarize: {{{{{name}}}}}'"
        ),
    ))
}

/// Refuses fields that nobody reads, unless they are to be ignored.
fn known(line: &mut Map<String, Value>, ignored: &Ignored, accepted: &[&str]) -> Result<(), Fault> {
    if ignored.all {
        line.retain(|name, _| accepted.contains(&name.as_str()));
        return Ok(());
    }
    let names = line.keys().map(String::as_str);
    let unknown: Vec<&str> = names.filter(|name| !accepted.contains(name)).collect();
    let Some(first) = unknown.first() else {
        return Ok(());
    };
    let what = match unknown.len() {
        1 => format!("an unknown field {}", listed([*first])),
        _ => format!("unknown fields {}", listed(unknown.iter().copied())),
    };
    let flag = match unknown.iter().any(|name| name.contains(',')) || unknown.len() > 12 {
        true => "all".to_owned(),
        false => unknown.join(","),
    };
    Err(Fault::new(
        format!("{what}{}", hint(first, accepted.iter().copied())),
        format!(
            "one of {}; to leave out what is not sent: --ignore-fields {}",
            accepted.join(", "),
            quoted(&excerpt(&flag))
        ),
    ))
}

/// Ready for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,/:".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
