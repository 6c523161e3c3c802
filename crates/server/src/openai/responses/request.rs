//! The requests of `/v1/responses`: what the server does itself, and what the provider gets.

use batchwright::Request;
use batchwright::client::NativeFormat;
use serde_json::{Map, Value, json};

use crate::openai::batches::metadata;
use crate::openai::endpoints::flag;
use crate::problem::Problem;

/// The fields of a body that the server handles and no provider gets.
#[derive(Default)]
pub(super) struct Own {
    pub background: bool,
    pub previous: Option<String>,
    pub store: bool,
    pub stream: bool,
    metadata: Value,
}

impl Own {
    /// Takes them from a body.
    ///
    /// # Errors
    /// When one has a value that cannot be honoured.
    pub fn take(body: &mut Map<String, Value>) -> Result<Self, Problem> {
        let refused = |field: &str, why: &str| Err(Problem::invalid(why).param(field));
        if given(body, "conversation").is_some() {
            let why = "conversation is not supported: use previous_response_id";
            return refused("conversation", why);
        }
        let options = given(body, "stream_options").unwrap_or_default();
        if options["include_obfuscation"] == true {
            let why =
                "streams here are not obfuscated: leave stream_options.include_obfuscation out";
            return refused("stream_options.include_obfuscation", why);
        }
        let window =
            given(body, "background_options").unwrap_or(json!({"completion_window": "soonest"}));
        if window != json!({"completion_window": "soonest"}) {
            let why = "background_options supports only the completion_window soonest";
            return refused("background_options", why);
        }
        let previous = match given(body, "previous_response_id") {
            None => None,
            Some(Value::String(id)) => Some(id),
            Some(_) => {
                let why = "previous_response_id is a text";
                return refused("previous_response_id", why);
            }
        };
        let store = match body.get("store") {
            // OpenAI must not store it either.
            Some(Value::Bool(false)) => false,
            None | Some(Value::Null | Value::Bool(true)) => {
                body.shift_remove("store");
                true
            }
            Some(_) => return refused("store", "store is true or false"),
        };
        let metadata = given(body, "metadata").map(metadata).transpose()?;
        let own = Self {
            background: flag(body, "background")?,
            previous,
            store,
            stream: flag(body, "stream")?,
            metadata: json!(metadata),
        };
        match own {
            Self {
                background: true,
                stream: true,
                ..
            } => {
                let why = "a response in the background is not streamed: poll it with GET /v1/responses/ID";
                refused("stream", why)
            }
            Self {
                background: true,
                store: false,
                ..
            } => refused("store", "a response in the background is stored"),
            own => Ok(own),
        }
    }
}

/// Takes a field that is not null.
fn given(body: &mut Map<String, Value>, name: &str) -> Option<Value> {
    body.shift_remove(name).filter(|value| !value.is_null())
}

/// The input of a body as a list of items.
///
/// # Errors
/// If the input is missing or empty.
pub(super) fn items(body: &Map<String, Value>) -> Result<Vec<Value>, Problem> {
    match body.get("input") {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(vec![
            json!({"type": "message", "role": "user", "content": text}),
        ]),
        Some(Value::Array(items)) if !items.is_empty() => Ok(items.clone()),
        _ => Err(Problem::invalid("input must be a text or a list of items").param("input")),
    }
}

/// The request of a line of a batch.
///
/// # Errors
/// When it has a field that cannot be honoured.
pub(in super::super) fn of_line(
    mut body: Map<String, Value>,
    strict: bool,
) -> Result<Request, Problem> {
    for field in ["background", "previous_response_id", "store", "stream"] {
        let value = body.get(field).unwrap_or(&Value::Null);
        if !value.is_null() && value != false {
            let why = format!("{field} is not supported in a line of a batch");
            return Err(Problem::invalid(why).param(field));
        }
    }
    let own = Own {
        store: false,
        ..Own::take(&mut body)?
    };
    of_body(body, &own, strict)
}

/// The request of a body without the [own](Own) fields. The `input` of the request has the fields that the response
/// repeats.
///
/// # Errors
/// When it is no request.
pub(super) fn of_body(
    mut body: Map<String, Value>,
    own: &Own,
    strict: bool,
) -> Result<Request, Problem> {
    items(&body)?;
    let input = body.shift_remove("input").unwrap_or_default();
    let mut fields = body.clone();
    fields.shift_remove("include");
    fields.insert("background".to_owned(), own.background.into());
    fields.insert("store".to_owned(), own.store.into());
    fields.insert("metadata".to_owned(), own.metadata.clone());
    fields.insert("previous_response_id".to_owned(), json!(own.previous));
    body.insert("input".to_owned(), input);
    let request = Request::from_native(NativeFormat::OpenAiResponses, body.into())?;
    let form = Map::from_iter([("response".to_owned(), fields.into())]);
    // If OpenAI answers, the response has everything that its reply has.
    Ok(request
        .with_input(form)
        .with_unchecked(!strict)
        .with_keep_reply(true))
}
