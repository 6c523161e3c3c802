//! Translates requests from the format of one provider into the common format.

mod anthropic;
mod gemini;
pub(crate) mod response_items;
mod responses;

use serde_json::{Map, Value, json};

use crate::base::{Error, ErrorKind};

use super::native::{Native, NativeFormat};
use super::params::ResponseFormat;
use super::reply_details::Reasoning;
use super::request::{Message, Request, Role};
use response_items::Signed;

impl Request {
    /// A request in the format of one provider's API: the body of a call, or of a line of a batch. This provider gets
    /// the body unchanged, except for the model. For other providers it is translated. If a field of the body has no
    /// equivalent there, the request fails as [`ErrorKind::Invalid`] without being sent, and the error names the field.
    /// The fingerprint is computed from the body and the model.
    ///
    /// ```
    /// use batchwright::Request;
    /// use batchwright::client::NativeFormat;
    /// let body = serde_json::json!({"model": "gpt-5-mini", "input": "Name a prime."});
    /// let request = Request::from_native(NativeFormat::OpenAiResponses, body)?;
    /// assert_eq!(request.model.as_deref(), Some("gpt-5-mini"));
    /// assert_eq!(request.messages[0].text(), "Name a prime.");
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it contains no prompt, or requests what a bulk run does not support: a streamed
    /// answer, or an answer that is made in the background.
    pub fn from_native(format: NativeFormat, body: Value) -> Result<Self, Error> {
        read(format, body).map_err(|why| Error::new(ErrorKind::Invalid, why))
    }
}

/// Reads a body. The error names what was found and what was expected.
pub(crate) fn read(format: NativeFormat, body: Value) -> Result<Request, String> {
    let Value::Object(body) = body else {
        return Err("found a body that is not an object; expected an object".to_owned());
    };
    for (field, why) in [
        ("stream", "answers of a bulk run are not streamed"),
        ("background", "an answer comes with its call"),
    ] {
        let asked = body.get(field).unwrap_or(&Value::Null);
        if !matches!(asked, Value::Null | Value::Bool(false)) {
            return Err(format!(
                "found {asked} in \"{field}\"; expected false: {why}"
            ));
        }
    }
    let mut neutral = Neutral::default();
    let fields = Fields::new("", body.clone());
    match format {
        NativeFormat::OpenAiResponses => responses::read(fields, &mut neutral)?,
        NativeFormat::AnthropicMessages => anthropic::read(fields, &mut neutral)?,
        NativeFormat::GeminiContent => gemini::read(fields, &mut neutral)?,
    }
    let Neutral {
        mut request, lost, ..
    } = neutral;
    request.native = Some(Box::new(Native::new(format, body, lost)));
    Ok(request)
}

/// A request in the common format, and the first field that cannot be translated.
#[derive(Default)]
struct Neutral {
    request: Request,
    lost: Option<String>,
    /// Reasoning that belongs to the next message of the assistant.
    reasoning: Option<Reasoning>,
    /// The signatures of tool calls, by their ids.
    signatures: Map<String, Value>,
}

impl Neutral {
    fn lose(&mut self, field: impl Into<String>) {
        self.lost.get_or_insert_with(|| field.into());
    }

    /// Reports the first unread field of an object as one that cannot be translated.
    fn rest(&mut self, fields: Fields) {
        let mut left = fields.map.into_iter();
        if let Some((name, _)) = left.find(|(_, value)| !value.is_null()) {
            self.lose(format!("{}{name}", fields.path));
        }
    }

    fn say(&mut self, role: Role, content: Value) {
        // In a streamed answer, reasoning without a text may come after its message.
        if role != Role::Assistant {
            self.reasoned();
        }
        self.request.messages.push(Message {
            content,
            ..Message::new(role, "")
        });
        self.reasoned();
        self.reasoning = None;
    }

    /// Adds reasoning of the model, for the message of the assistant that follows.
    fn reason(&mut self, text: String, signed: Signed) {
        let mut reasoning = Reasoning::new(text);
        reasoning.details = signed.details;
        self.signatures.extend(signed.signatures);
        self.reasoning = Some(reasoning);
    }

    /// Moves the reasoning to the last message if that is the assistant's.
    fn reasoned(&mut self) {
        if let Some(last) = self.request.messages.last_mut()
            && last.role == Role::Assistant
            && !last.extra.contains_key("reasoning")
            && let Some(reasoning) = self.reasoning.take()
        {
            last.extra.insert("reasoning".to_owned(), json!(reasoning));
        }
    }

    /// Adds a tool call. Several calls of one turn are in one message.
    fn call(&mut self, id: &str, name: &str, arguments: String) {
        let call = match self.signatures.get(id) {
            Some(signature) => {
                json!({"id": id, "name": name, "arguments": arguments, "signature": signature})
            }
            None => {
                let function = json!({"name": name, "arguments": arguments});
                json!({"id": id, "type": "function", "function": function})
            }
        };
        let last = self.request.messages.last();
        if last.is_none_or(|last| last.role != Role::Assistant) {
            self.say(Role::Assistant, Value::Null);
        }
        self.reasoned();
        if let Some(last) = self.request.messages.last_mut() {
            match last.extra.get_mut("tool_calls") {
                Some(Value::Array(calls)) => calls.push(call),
                _ => {
                    last.extra.insert("tool_calls".to_owned(), json!([call]));
                }
            }
        }
    }

    fn called(&mut self, id: &str, result: String) {
        self.say(Role::Tool, result.into());
        if let Some(last) = self.request.messages.last_mut() {
            last.extra.insert("tool_call_id".to_owned(), id.into());
        }
    }

    fn extra(&mut self, name: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.request.extra.insert(name.to_owned(), value);
        }
    }

    /// Sets the format of the answer by a JSON Schema.
    fn schema(&mut self, field: &str, schema: Value, name: Option<String>, strict: Option<bool>) {
        match ResponseFormat::json_schema(schema) {
            Ok(ResponseFormat::JsonSchema {
                name: own,
                schema,
                strict: is_strict,
            }) => {
                self.request.params.response_format = Some(ResponseFormat::JsonSchema {
                    name: name.unwrap_or(own),
                    schema,
                    strict: strict.unwrap_or(is_strict),
                });
            }
            _ => self.lose(field),
        }
    }

    fn tool(
        &mut self,
        name: Value,
        description: Option<Value>,
        parameters: Option<Value>,
        strict: Option<Value>,
    ) {
        let mut function = json!({ "name": name });
        for (field, value) in [
            ("description", description),
            ("parameters", parameters),
            ("strict", strict),
        ] {
            if let Some(value) = value {
                function[field] = value;
            }
        }
        let tool = json!({"type": "function", "function": function});
        match self.request.extra.get_mut("tools") {
            Some(Value::Array(tools)) => tools.push(tool),
            _ => self.extra("tools", Some(json!([tool]))),
        }
    }
}

/// The fields of an object that have not been read, and its place in the body.
struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    fn new(path: impl Into<String>, map: Map<String, Value>) -> Self {
        Self {
            path: path.into(),
            map,
        }
    }

    /// The fields of a nested object or list item. Any other value becomes a field without a name.
    fn of(path: String, value: Value) -> Self {
        match value {
            Value::Object(map) => Self::new(format!("{path}."), map),
            other => Self::new(path, Map::from_iter([(String::new(), other)])),
        }
    }

    fn at(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Takes a field that exists and is not null.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field of this type. A field of another type stays unread.
    fn typed<T>(&mut self, name: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let read = read(self.map.get(name)?)?;
        self.map.shift_remove(name);
        Some(read)
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.typed(name, |value| value.as_str().map(str::to_owned))
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        self.typed(name, Value::as_f64)
    }

    fn count(&mut self, name: &str) -> Option<u32> {
        self.typed(name, |value| u32::try_from(value.as_u64()?).ok())
    }

    fn list(&mut self, name: &str) -> Vec<(String, Value)> {
        let items = self.typed(name, |value| value.as_array().cloned());
        let items = items.unwrap_or_default().into_iter().enumerate();
        items
            .map(|(i, item)| (format!("{}{name}[{i}]", self.path), item))
            .collect()
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        let read = |value: &Value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect()
        };
        self.typed(name, read).unwrap_or_default()
    }

    fn object(&mut self, name: &str) -> Option<Self> {
        let map = self.typed(name, |value| value.as_object().cloned())?;
        Some(Self::new(format!("{}{name}.", self.path), map))
    }
}

/// Content parts in their shortest form: a single text becomes a string.
fn content(mut parts: Vec<Value>) -> Value {
    match parts.as_slice() {
        [] => Value::String(String::new()),
        [one] if one["type"] == "text" => parts[0]["text"].take(),
        _ => parts.into(),
    }
}

fn text_part(text: impl Into<String>) -> Value {
    json!({"type": "text", "text": text.into()})
}

fn image_part(url: String) -> Value {
    json!({"type": "image_url", "image_url": {"url": url}})
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
