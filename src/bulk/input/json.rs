//! A line of JSON: an OpenAI batch line, a short form with a prompt or messages, and with a template any object.
//! Unknown fields of the short forms are rejected, because a misspelled parameter would otherwise be dropped, or sent,
//! unnoticed.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::cells::Field;
use super::fault::{Fault, described, excerpt, hint, listed};
use super::fields::{self, Parsed, string};
use super::keep::Kept;
use super::layout::{self, Layout, TOOLS};
use super::messages::{self, MESSAGES};
use super::row::{self, Record, prompt};
use super::shape::proposed;
use super::{PromptSettings, id};
use crate::base::json_read::UniqueJson;
use crate::base::names::quoted;
use crate::llm::native::NativeFormat;
use crate::llm::params::RequestTask;
use crate::llm::request::{Request, are_tokens};
use crate::llm::request_json;

/// A list would need a result line for each of its texts, under one id.
const ONE_TEXT: &str = "a string or a list of tokens: one text a line; instead of a list of texts write a line for each \
    text, with ids such as \"doc-7#1\" and \"doc-7#2\"";

/// The field with the text to embed.
const INPUT: &str = "input";
const ONE_OBJECT: &str = "one JSON object per line";

/// The end points of supported batch lines, one per task, with the names used in messages.
const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

fn posted(line: &Map<String, Value>) -> Result<(), Fault> {
    match line.get("method") {
        Some(Value::String(name)) if name.eq_ignore_ascii_case("POST") => Ok(()),
        Some(method) => Err(Fault::field("method", method, "\"POST\"")),
        None => Ok(()),
    }
}

/// A line in the format of one provider's API.
fn native(
    mut line: Map<String, Value>,
    layout: Layout,
    format: NativeFormat,
    settings: &PromptSettings,
) -> Result<Parsed, Fault> {
    known(&mut line, settings, &layout.names(settings.task))?;
    posted(&line)?;
    if settings.task == RequestTask::Embed {
        let what = format!("a line of {}'s API for answers", format.provider());
        return Err(Fault::new(what, "a text to embed"));
    }
    let body = line.remove(layout.row().1).unwrap_or_default();
    let request = request_json::read_native(format, body).map_err(Fault::told)?;
    // It is sent unchanged, so the settings of the run would be lost.
    let params = &request.params;
    if settings.system.is_some() && request.system.is_none()
        || settings.max_tokens.is_some() && params.max_tokens.is_none()
        || settings.temperature.is_some() && params.temperature.is_none()
        || settings.format.is_some()
        || !settings.extra.is_empty()
    {
        let provider = format.provider();
        return Err(Fault::new(
            format!(
                "a line in the format of {provider}, which is sent unchanged, and flags that are part of requests"
            ),
            "these values in the line itself, and no --system, --max-tokens, --temperature, --json-schema, \
             --service-tier and --extra",
        ));
    }
    Ok(Parsed {
        request,
        format: true,
    })
}

/// The most frequent line, which is read without a tree.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'t> {
    #[serde(borrow)]
    id: Cow<'t, str>,
    prompt: String,
}

/// The request of such a line; `None` for any other, and for one with a fault.
fn plain(text: &str, settings: &PromptSettings) -> Option<Parsed> {
    let is_named = settings.without_ids || settings.roles.are_named();
    // Serde reads a list as an object, too.
    if is_named || settings.is_data() || !text.trim_start().starts_with('{') {
        return None;
    }
    let line: Plain<'_> = serde_json::from_str(text).ok()?;
    let mut request = prompt(line.prompt).ok()?;
    request.id = Some(id::checked("id", &line.id).ok()?);
    Some(Parsed::new(request))
}

pub(super) fn line(text: &str, settings: &PromptSettings) -> Result<Parsed, Fault> {
    plain(text, settings).map_or_else(|| any_line(text, settings), Ok)
}

fn any_line(text: &str, settings: &PromptSettings) -> Result<Parsed, Fault> {
    let mut fields = object(text)?;
    let roles = &settings.roles;
    let id = own_id(&fields, Layout::of_line(&fields, settings), settings)?;
    let mut parsed = if settings.is_data() {
        let record = Record::of_line(text).ok_or_else(|| Fault::new("no object", ONE_OBJECT))?;
        Parsed::new(record.request(roles.messages.as_deref(), settings)?)
    } else {
        for name in roles.id.iter() {
            fields.remove(name);
        }
        let mut own = |name: &Option<String>| match name {
            Some(name) => string(&mut fields, name),
            None => Ok(None),
        };
        let (model, system) = (own(&roles.model)?, own(&roles.system)?);
        let layout = Layout::of_line(&fields, settings);
        let mut parsed = match (layout, layout.row().0) {
            (Layout::Short, _) => short(fields, settings)?,
            (_, Some(format)) => native(fields, layout, format, settings)?,
            (_, None) => batch(fields, settings)?,
        };
        let request = &mut parsed.request;
        for (given, own) in [
            (model.is_some(), &request.model),
            (system.is_some(), &request.system),
        ] {
            if let (true, Some(own)) = (given, own) {
                let found = format!("\"{own}\" beside the column that --column names for it");
                return Err(Fault::two(found));
            }
        }
        request.model = model.or(request.model.take());
        if system.is_some() {
            row::set_system(request, system)?;
        }
        parsed
    };
    parsed.request.id = id;
    Ok(parsed)
}

/// The id of a line that makes no prompt.
pub(super) fn id(text: &str, settings: &PromptSettings) -> Option<String> {
    let fields = object(text).ok()?;
    own_id(&fields, Layout::of_line(&fields, settings), settings).ok()?
}

fn own_id(
    fields: &Map<String, Value>,
    layout: Layout,
    settings: &PromptSettings,
) -> Result<Option<String>, Fault> {
    match &settings.roles.id {
        _ if settings.without_ids => Ok(None),
        Some(name) => id::of_column(fields, name).map(Some),
        None => layout.id(fields, settings.is_data()),
    }
}

fn object(text: &str) -> Result<Map<String, Value>, Fault> {
    match serde_json::from_str(text) {
        Ok(UniqueJson(Value::Object(fields))) => Ok(fields),
        Ok(UniqueJson(other)) => Err(Fault::new(described(&other), ONE_OBJECT)),
        Err(_) if text.trim_start().starts_with('[') => {
            Err(Fault::new("the start of a JSON list", ONE_OBJECT)
                .with_flags("for a list add --format json"))
        }
        Err(error) => {
            if let Some(word) = not_a_number(text, &error) {
                let found = format!("{word} (at column {})", error.column());
                return Err(Fault::new(
                    found,
                    "null, a number or a string: JSON has no such number",
                ));
            }
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            let (found, expected) = if error.is_data() {
                ("a field twice", "each field once")
            } else if message.ends_with("hex escape") {
                (
                    "half of a character",
                    r"both halves, such as \ud83d\ude00, or neither",
                )
            } else {
                ("invalid JSON", ONE_OBJECT)
            };
            let place = error.column();
            Err(Fault::new(
                format!("{found} ({message} at column {place})"),
                expected,
            ))
        }
    }
}

/// What Python and JavaScript write for numbers that JSON does not have, if the error is there.
fn not_a_number(text: &str, error: &serde_json::Error) -> Option<&'static str> {
    let line = text.lines().nth(error.line().checked_sub(1)?)?;
    let (before, rest) = line.split_at_checked(error.column().checked_sub(1)?)?;
    let words = ["NaN", "Infinity", "-Infinity"];
    let found = words.into_iter().find(|word| rest.starts_with(word))?;
    Some(if before.ends_with('-') {
        "-Infinity"
    } else {
        found
    })
}

fn batch(mut line: Map<String, Value>, settings: &PromptSettings) -> Result<Parsed, Fault> {
    let task = settings.task;
    known(&mut line, settings, &Layout::Batch.names(task))?;
    posted(&line)?;
    if let Some(url) = line.get("url") {
        let is = |endpoint| layout::names(url, endpoint);
        let expected = match task {
            RequestTask::Complete if is(CHAT) => None,
            RequestTask::Embed if is(EMBEDDINGS) => None,
            RequestTask::Complete if is(EMBEDDINGS) => {
                let fault = Fault::field("url", url, format!("\"{CHAT}\""));
                return Err(fault.with_flags("for embeddings, use --task embed"));
            }
            RequestTask::Complete => Some(format!("\"{CHAT}\"")),
            RequestTask::Embed | RequestTask::Speech => {
                Some(format!("\"{EMBEDDINGS}\", since the task is to embed"))
            }
        };
        if let Some(expected) = expected {
            return Err(Fault::field("url", url, expected));
        }
    }
    let body = line.remove("body").unwrap_or_default();
    let Value::Object(mut body) = body else {
        return Err(Fault::field("body", &body, "an object"));
    };
    if task == RequestTask::Embed {
        let Some(input) = body.remove(INPUT) else {
            return Err(Fault::new("no \"input\" in \"body\"", "a string"));
        };
        let mut parsed = Parsed::new(embedded(input)?);
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
    let mut parsed = Parsed::new(Request::chat(messages::parse(MESSAGES, messages)?));
    fields::take(&mut body, &mut parsed)?;
    parsed.request.extra = body;
    Ok(parsed)
}

/// The request to embed the value of the field `input`.
fn embedded(input: Value) -> Result<Request, Fault> {
    match input {
        Value::String(text) => prompt(text),
        Value::Array(tokens) if are_tokens(&tokens) => {
            let mut request = Request::new("");
            request.messages[0].content = tokens.into();
            Ok(request)
        }
        other => Err(Fault::field(INPUT, &other, ONE_TEXT)),
    }
}

fn short(mut line: Map<String, Value>, settings: &PromptSettings) -> Result<Parsed, Fault> {
    let task = settings.task;
    if !line.keys().all(|name| Layout::Short.reads(name, task)) {
        let accepted = Layout::Short.names(task);
        wants_template(&line, &accepted, task)?;
        known(&mut line, settings, &accepted)?;
    }
    let mut request = match (line.remove("prompt"), line.remove("messages")) {
        (Some(Value::String(text)), None) => prompt(text)?,
        // As datasets for the training of models have it.
        (Some(list), None) if list.get(0).is_some_and(Value::is_object) => {
            Request::chat(messages::parse("prompt", list)?)
        }
        (Some(other), None) => return Err(Fault::field("prompt", &other, "a string")),
        (None, Some(messages)) => Request::chat(messages::parse(MESSAGES, messages)?),
        (Some(_), Some(_)) => return Err(Fault::two("both \"prompt\" and \"messages\"")),
        (None, None) if task == RequestTask::Embed && line.contains_key(INPUT) => {
            embedded(line.remove(INPUT).unwrap_or_default())?
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
    row::set_system(&mut request, string(&mut line, "system")?)?;
    let mut extra = match line.remove("extra") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(extra)) => extra,
        Some(other) => return Err(Fault::field("extra", &other, "an object")),
    };
    let has_tools = line.keys().any(|name| TOOLS.contains(&name.as_str()));
    for name in TOOLS.iter().filter(|_| has_tools) {
        let given = line.remove(*name).filter(|value| !value.is_null());
        let before = given.and_then(|given| extra.insert((*name).to_owned(), given));
        if before.is_some() {
            let found = format!("the field {name:?} inside \"extra\" and next to it");
            return Err(Fault::two(found));
        }
    }
    let names = fields::names(task);
    let taken = |name: &&String| *name == "messages" || names.contains(&name.as_str());
    if let Some(name) = extra.keys().find(taken) {
        return Err(Fault::new(
            format!("the field {name:?} inside \"extra\""),
            "it beside \"extra\", where it is checked",
        ));
    }
    let mut parsed = Parsed::new(request);
    match task {
        RequestTask::Complete => fields::take(&mut line, &mut parsed)?,
        RequestTask::Embed | RequestTask::Speech => {
            fields::take_embedding(&mut line, &mut parsed.request)?
        }
    }
    parsed.request.extra = extra;
    Ok(parsed)
}

/// The kept fields of a line; `None` if it is not an object. Without a template they are those that are not read.
pub(super) fn kept(text: &str, settings: &PromptSettings, most: Option<usize>) -> Option<Kept> {
    let record = Record::of_line(text)?;
    let (keep, is_data) = (&settings.keep, settings.is_data());
    let layout = Layout::of(settings, |name| {
        let value = record.raw(name)?;
        Some(value.get().starts_with('{'))
    });
    let reads =
        |name: &str| !is_data && (settings.roles.names(name) || layout.reads(name, settings.task));
    let all = keep.all || !keep.is_on();
    record.kept(|name| keep.names(name) || all && !reads(name), most)
}

/// Rejects a line of data that needs a template; ignoring its fields would not help.
fn wants_template(
    line: &Map<String, Value>,
    accepted: &[&str],
    task: RequestTask,
) -> Result<(), Fault> {
    let unknown = |name: &&String| !accepted.contains(&name.as_str());
    let misspelt = |name: &String| !hint(name, ["prompt", "messages"]).is_empty();
    if ["prompt", "messages"]
        .iter()
        .any(|name| line.contains_key(*name))
        || line.keys().filter(unknown).any(misspelt)
    {
        return Ok(());
    }
    let is_conversation = |list: &Value| {
        let first = list.get(0);
        first.is_some_and(|first| first.get("role").or(first.get("from")).is_some())
    };
    let fields = line.iter().filter(|(name, _)| unknown(name));
    if let Some((name, _)) = fields.clone().find(|(_, value)| is_conversation(value)) {
        let found = format!("a list of messages in {}", listed([name.as_str()]));
        let flag = quoted(&format!("messages={name}"));
        return Err(
            Fault::new(found, "\"prompt\" or \"messages\"").with_flags(format!("--column {flag}"))
        );
    }
    let fields = fields.map(|(name, value)| match value {
        Value::String(text) => (name.as_str(), Field::Text(text.into())),
        other => (name.as_str(), Field::Json(other.to_string().into())),
    });
    let Some(template) = proposed(fields, task) else {
        return Ok(());
    };
    let names = line.keys().map(String::as_str);
    let mut help = format!("to make prompts of fields: {template}");
    if line.contains_key(INPUT) && task == RequestTask::Complete {
        help.push_str(", or to embed \"input\": --task embed");
    }
    let found = format!("only the fields {}", listed(names));
    Err(Fault::new(found, "\"prompt\" or \"messages\"").with_flags(help))
}

/// Rejects unknown fields, unless they are kept for the result.
fn known(
    line: &mut Map<String, Value>,
    settings: &PromptSettings,
    accepted: &[&str],
) -> Result<(), Fault> {
    if settings.keep.is_on() {
        line.retain(|name, _| accepted.contains(&name.as_str()) || !settings.keep.takes(name));
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
    let flag = if unknown.iter().any(|name| name.contains(',')) || unknown.len() > 12 {
        "all".to_owned()
    } else {
        unknown.join(",")
    };
    Err(Fault::new(
        format!("{what}{}", hint(first, accepted.iter().copied())),
        format!("one of {}", accepted.join(", ")),
    )
    .with_flags(format!(
        "to keep it in the result without sending it: --keep {}",
        quoted(&excerpt(&flag))
    )))
}

#[cfg(test)]
mod tests {
    use super::super::ColumnRole;
    use super::*;

    #[test]
    fn the_most_frequent_line_is_read_as_any_other() {
        let settings = PromptSettings::default();
        for (text, is_plain) in [
            (r#"{"id": "a", "prompt": "hi"}"#, true),
            (r#" {"prompt":"\u00e9\n","id":"b\"c"} "#, true),
            (r#"{"id": "a", "prompt": " "}"#, false),
            (r#"{"id": "", "prompt": "hi"}"#, false),
            (r#"{"id": "a\n", "prompt": "hi"}"#, false),
            (r#"{"id": 7, "prompt": "hi"}"#, false),
            (r#"{"id": null, "prompt": "hi"}"#, false),
            (r#"{"prompt": "hi"}"#, false),
            (r#"{"id": "a", "prompt": "hi", "id": "b"}"#, false),
            (r#"{"id": "a", "prompt": "hi", "model": "m"}"#, false),
            (r#"{"id": "a", "prompt": ["hi"]}"#, false),
            (r#"["a", "hi"]"#, false),
        ] {
            let plain = plain(text, &settings);
            assert_eq!(plain.is_some(), is_plain, "{text}");
            if let Some(plain) = plain {
                let read = any_line(text, &settings).unwrap_or_else(|fault| panic!("{fault}"));
                assert_eq!((plain.request, plain.format), (read.request, read.format));
            }
        }
        let named = PromptSettings::new().column(ColumnRole::Id, "id");
        let without = PromptSettings {
            without_ids: true,
            ..PromptSettings::default()
        };
        for settings in [named, without] {
            assert!(plain(r#"{"id": "a", "prompt": "hi"}"#, &settings).is_none());
        }
    }
}
