//! The parameter fields of a chat request, with the names of the OpenAI format.

use serde_json::{Map, Value};

use super::fault::Fault;
use crate::llm::params::{RequestTask, ResponseFormat};
use crate::llm::request::Request;
use crate::llm::schema::{Schema, is_example, is_name};

/// The fields that [`take`], or [`take_embedding`], reads.
pub(super) fn names(task: RequestTask) -> &'static [&'static str] {
    match task {
        RequestTask::Complete => &COMPLETION,
        RequestTask::Embed | RequestTask::Speech => &["model", "dimensions", "input"],
    }
}

/// Whether a request of either task has a member for a field, so that it is not an extra field.
pub(crate) fn is_set_by_itself(name: &str) -> bool {
    COMPLETION.contains(&name)
        || ["messages", "system", "prompt", "input", "dimensions"].contains(&name)
}

const COMPLETION: [&str; 11] = [
    "model",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "response_format",
    "n",
    "stream",
    "stream_options",
];

/// Moves the known fields into the parsed record and leaves the others. Null means absent, as for the provider.
pub(super) fn take(fields: &mut Map<String, Value>, parsed: &mut Parsed) -> Result<(), Fault> {
    let request = &mut parsed.request;
    request.model = string(fields, "model")?;
    let params = &mut request.params;
    params.temperature = typed(fields, "temperature", "a number", Value::as_f64)?;
    params.top_p = typed(fields, "top_p", "a number", Value::as_f64)?;
    params.seed = typed(fields, "seed", "an integer", Value::as_i64)?;
    let stop = typed(fields, "stop", "a string or a list of strings", texts)?;
    params.stop = stop.unwrap_or_default();
    let older = positive(fields, "max_tokens")?;
    let newer = positive(fields, "max_completion_tokens")?;
    params.max_tokens = match (older, newer) {
        (Some(a), Some(b)) if a != b => {
            let found = format!("\"max_tokens\" {a} beside \"max_completion_tokens\" {b}");
            return Err(Fault::two(found));
        }
        (a, b) => a.or(b),
    };
    if let Some(n) = present(fields, "n").filter(|n| *n != 1) {
        let expected = "1: for several answers repeat the line, each time with another id";
        return Err(Fault::field("n", &n, expected));
    }
    match present(fields, "stream") {
        None | Some(Value::Bool(false)) => fields.remove("stream_options"),
        Some(other) => {
            let expected = "false: answers of a bulk run are not streamed";
            return Err(Fault::field("stream", &other, expected));
        }
    };
    let format = present(fields, "response_format");
    parsed.format = format.is_some();
    params.response_format = format.map(response_format).transpose()?.flatten();
    Ok(())
}

/// The same for an embedding.
pub(super) fn take_embedding(
    fields: &mut Map<String, Value>,
    request: &mut Request,
) -> Result<(), Fault> {
    request.model = string(fields, "model")?;
    request.params.dimensions = positive(fields, "dimensions")?;
    Ok(())
}

fn present(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).filter(|value| !value.is_null())
}

fn typed<T>(
    fields: &mut Map<String, Value>,
    name: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, Fault> {
    match present(fields, name) {
        None => Ok(None),
        Some(value) => match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(Fault::field(name, &value, expected)),
        },
    }
}

fn positive(fields: &mut Map<String, Value>, name: &str) -> Result<Option<u32>, Fault> {
    typed(fields, name, "an integer of at least 1", |value| {
        let n = u32::try_from(value.as_u64()?).ok()?;
        (n > 0).then_some(n)
    })
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items
            .iter()
            .map(|item| Some(item.as_str()?.to_owned()))
            .collect(),
        _ => None,
    }
}

fn response_format(value: Value) -> Result<Option<ResponseFormat>, Fault> {
    const TYPES: &str = "an object whose \"type\" is text, json_object or json_schema";
    match value.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(ResponseFormat::JsonObject)),
        Some("json_schema") => json_schema(value.get("json_schema").cloned().unwrap_or_default()),
        _ => Err(Fault::field("response_format", &value, TYPES)),
    }
}

fn json_schema(mut value: Value) -> Result<Option<ResponseFormat>, Fault> {
    const FIELD: &str = "response_format.json_schema";
    let wrong = |value: &Value, expected: &str| Err(Fault::field(FIELD, value, expected));
    let Some(fields) = value.as_object_mut() else {
        return wrong(&value, "an object with \"name\" and \"schema\"");
    };
    let name = match fields.remove("name") {
        Some(Value::String(name)) if is_name(&name) => name,
        other => {
            let expected = "a \"name\" of at most 64 letters, digits, _ and -";
            return wrong(&other.unwrap_or_default(), expected);
        }
    };
    let mut schema = match fields.remove("schema") {
        Some(Value::Object(schema)) => schema,
        other => return wrong(&other.unwrap_or_default(), "an object as \"schema\""),
    };
    let strict = typed(fields, "strict", "true or false", Value::as_bool)?.unwrap_or(false);
    if is_example(&schema) {
        return Err(Fault::new(
            format!("a schema that does not restrict an answer in \"{FIELD}\""),
            "a JSON Schema, not an example of an answer",
        ));
    }
    // Not every API has a description next to the schema; inside the schema all have.
    if let Some(text) = string(fields, "description")? {
        schema.entry("description").or_insert(Value::String(text));
    }
    if let Some(other) = fields.keys().next() {
        return Err(Fault::new(
            format!("an unknown field \"{other}\" in \"{FIELD}\""),
            "only name, schema, strict and description",
        ));
    }
    let schema = Value::Object(schema);
    if let Err(why) = Schema::compile(&schema) {
        return Err(Fault::new(
            format!("a schema that cannot be used ({why}) in \"{FIELD}\""),
            "a JSON Schema without references to other documents",
        ));
    }
    Ok(Some(ResponseFormat::JsonSchema {
        name,
        schema,
        strict,
    }))
}

/// Takes a string; null counts as absent.
pub(super) fn string(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    typed(fields, name, "a string", |value| {
        value.as_str().map(str::to_owned)
    })
}

/// The values that a record sets itself.
pub(super) struct Parsed {
    pub(super) request: Request,
    /// Whether it sets the format of the answer, including plain text.
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
