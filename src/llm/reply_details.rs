//! The parts of a reply other than its text: tool calls, reasoning, citations and others. Few replies have any, so an
//! answer without them does not store this struct.

use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::brief::{Bytes, Many, Name};
use crate::base::{Error, ErrorKind};

/// The parts of a reply other than its text. Its `Debug` shows their sizes, not their content.
#[derive(Clone, Default, PartialEq, derive_more::Debug)]
#[non_exhaustive]
pub struct ReplyDetails {
    /// The tool calls that the model requests, in its order. The library does not call them: the caller continues the
    /// conversation with [`Response::message`](crate::Response::message) and a message of
    /// [`Role::Tool`](crate::Role::Tool) for each.
    #[debug("{:?}", Many(tool_calls.len()))]
    pub tool_calls: Vec<ToolCall>,
    /// The reasoning of the model before its answer, if the provider returns it.
    pub reasoning: Option<Reasoning>,
    /// The sources of the answer, in the format of the provider: from OpenAI and OpenRouter the annotations of the
    /// message, from xAI and Perplexity URLs, from Anthropic the citations of its text blocks, from Gemini
    /// `groundingMetadata` and the sources in `citationMetadata`.
    #[debug("{:?}", Many(citations.len()))]
    pub citations: Vec<Value>,
    /// Probabilities of the answer's tokens, in the format of the provider: OpenAI's `logprobs`, or an object of
    /// Gemini's `avgLogprobs` and `logprobsResult`.
    pub logprobs: Option<RawJson>,
    /// The service tier of the call, as named by the provider.
    #[debug("{:?}", service_tier.as_deref().map(Name))]
    pub service_tier: Option<String>,
    /// Why no model answered, if this is the answer of the stand-in `extract` in a [route](crate::Route) that asks
    /// models first: each of them with its error, or with the reason why it could not be called.
    #[debug("{:?}", degraded.as_ref().map(|why| Bytes(why.len())))]
    pub degraded: Option<String>,
    /// Fields of the request that the provider that answered did not get: it has another wire format than the first one
    /// of the route, or the field cannot be set.
    #[debug("{:?}", Many(left_out.len()))]
    pub left_out: Vec<String>,
    /// The whole body of the reply, if the request [asks for it](crate::Request::with_keep_reply) or if the reply has
    /// images, sound or files in addition to its text.
    pub reply: Option<RawJson>,
}

impl ReplyDetails {
    /// Nothing at all.
    pub(crate) fn none() -> &'static Self {
        static NONE: LazyLock<ReplyDetails> = LazyLock::new(ReplyDetails::default);
        &NONE
    }

    /// Changes each text in it that is another without something.
    pub(crate) fn without(&mut self, clean: &impl Fn(&str) -> Option<String>) {
        let mend = |text: &mut String| {
            if let Some(cleaned) = clean(text) {
                *text = cleaned;
            }
        };
        for call in &mut self.tool_calls {
            mend(&mut call.id);
            mend(&mut call.name);
            each_text(&mut call.arguments, &mend);
        }
        if let Some(reasoning) = &mut self.reasoning {
            mend(&mut reasoning.text);
            for block in &mut reasoning.details {
                each_text(block, &mend);
            }
        }
        for citation in &mut self.citations {
            each_text(citation, &mend);
        }
        let texts = [&mut self.service_tier, &mut self.degraded];
        texts.into_iter().flatten().for_each(mend);
        let raw = [&mut self.logprobs, &mut self.reply];
        raw.into_iter()
            .flatten()
            .for_each(|json| json.without(clean));
    }
}

/// A tool call that the model requests.
#[derive(Clone, PartialEq, Serialize, Deserialize, derive_more::Debug)]
#[non_exhaustive]
pub struct ToolCall {
    /// The provider's id of the call, which its result must contain. If the provider sends none, as Gemini may, it is
    /// nine letters and digits derived from the call and its reply.
    #[debug("{:?}", Name(id))]
    pub id: String,
    /// The tool's name.
    #[debug("{:?}", Name(name))]
    pub name: String,
    /// The arguments: the JSON that the model wrote, or a string with its text if it is not JSON or has integers of more
    /// than 64 bits.
    #[debug(skip)]
    pub arguments: Value,
    /// The signature that Gemini adds to a call and requires in the next request (`thoughtSignature`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[debug(skip)]
    pub signature: Option<String>,
}

impl ToolCall {
    /// A call, for clients of your own.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: Value) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            arguments,
            signature: None,
        }
    }

    /// Parses the arguments into a type of yours.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if they have another form. The message quotes nothing from them.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(&self.arguments).map_err(|_| {
            let why = format!(
                "the arguments of the call of {} are of another form than expected",
                self.name
            );
            Error::new(ErrorKind::Invalid, why)
        })
    }
}

/// The reasoning of a model before its answer.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, derive_more::Debug)]
#[non_exhaustive]
pub struct Reasoning {
    /// The text, or the provider's summary of it; empty if the provider does not return it.
    #[debug("{:?}", Bytes(text.len()))]
    pub text: String,
    /// The part that the provider requires in the next request of the conversation, in its format:
    /// Anthropic's blocks `thinking` and `redacted_thinking` with their signatures (through LiteLLM, too), Gemini's
    /// `{"thoughtSignature"}` of a text, OpenRouter's `reasoning_details`. Mostly empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[debug("{:?}", Many(details.len()))]
    pub details: Vec<Value>,
}

impl Reasoning {
    /// Reasoning that has only a text, for clients of your own.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            details: Vec::new(),
        }
    }
}

/// JSON as it was written: it keeps each digit of its numbers, the order of its fields and repeated names, but no line
/// breaks and no indentation. Clones share it.
#[derive(Clone, Serialize, Deserialize, derive_more::Debug)]
#[serde(transparent)]
#[debug("{:?}", Bytes(self.as_str().len()))]
pub struct RawJson(Arc<RawValue>);

impl RawJson {
    /// The JSON in a text, or a JSON string of the text if it is not JSON.
    pub fn new(text: &str) -> Self {
        let json = serde_json::from_str::<&RawValue>(text.trim());
        let line = json.map_or_else(
            |_| Value::from(text).to_string(),
            |json| on_one_line(json.get()),
        );
        Self::from_line(RawValue::from_string(line).unwrap_or_default())
    }

    /// JSON of a reply.
    pub(crate) fn of(json: &RawValue) -> Self {
        Self::new(json.get())
    }

    /// JSON that is already on one line.
    pub(crate) fn from_line(json: Box<RawValue>) -> Self {
        Self(json.into())
    }

    /// Replaces its text if `clean` changes it.
    pub(crate) fn without(&mut self, clean: &impl Fn(&str) -> Option<String>) {
        if let Some(cleaned) = clean(self.as_str()) {
            *self = Self::new(&cleaned);
        }
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Parses the JSON into a type of yours.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it has another form. The message names the position and quotes nothing from it.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.as_str()).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let why = format!("JSON of another form than expected (line {line} column {column})");
            Error::new(ErrorKind::Invalid, why)
        })
    }
}

/// A line of results has no line breaks, which bodies of replies may have between their parts, but never inside of a
/// string.
fn on_one_line(json: &str) -> String {
    json.split(['\n', '\r']).map(str::trim).collect()
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Display for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The maximum depth. Deeper values are kept as a string of their JSON, because result lines must be readable, and JSON
/// parsers limit the depth.
const DEEPEST: usize = 64;

/// The value, or a string of its JSON if it is too deep.
pub(crate) fn shallow(value: Value) -> Value {
    let mut parts = usize::MAX;
    if is_small(&value, DEEPEST, &mut parts) {
        value
    } else {
        Value::String(value.to_string())
    }
}

/// Whether it has at most this many levels and parts; a value without parts is one of each.
pub(crate) fn is_small(value: &Value, levels: usize, parts: &mut usize) -> bool {
    if levels == 0 || *parts == 0 {
        return false;
    }
    *parts -= 1;
    match value {
        Value::Array(items) => items.iter().all(|item| is_small(item, levels - 1, parts)),
        Value::Object(fields) => fields
            .values()
            .all(|part| is_small(part, levels - 1, parts)),
        _ => true,
    }
}

/// Changes every text in a value, except the names of fields.
pub(crate) fn each_text(value: &mut Value, change: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|item| each_text(item, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_line_breaks_and_indentation_are_removed() {
        for (text, kept) in [
            (
                " {\"a\" :\n [1.50, -0] ,\t\"a b\":\"c  \\\" \\\\\"}\r\n",
                "{\"a\" :[1.50, -0] ,\t\"a b\":\"c  \\\" \\\\\"}",
            ),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            (r#"{"a":1,"a":"\ud83d"}"#, r#"{"a":1,"a":"\ud83d"}"#),
            ("\"ä \\u00e4\"", "\"ä \\u00e4\""),
            ("", "\"\""),
            ("data: {}\n", "\"data: {}\\n\""),
            ("{} {}", "\"{} {}\""),
        ] {
            let json = RawJson::new(text);
            assert_eq!(json.as_str(), kept);
            let written = serde_json::to_string(&json).unwrap();
            assert_eq!(serde_json::from_str::<RawJson>(&written).unwrap(), json);
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(RawJson::new(&deep).as_str(), deep);
    }

    #[test]
    fn arguments_are_parsed_into_a_users_type() {
        let call = ToolCall::new("c", "add", serde_json::json!({"a": 1}));
        let read: std::collections::HashMap<String, u8> = call.parse().unwrap();
        assert_eq!(read["a"], 1);
        let error = call.parse::<Vec<u8>>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.message().contains('1'), "{error}");
    }

    #[test]
    fn a_value_that_is_too_deep_becomes_a_string() {
        let nested = |depth: usize| (1..depth).fold(json!([]), |inner, _| json!([inner]));
        assert_eq!(shallow(nested(DEEPEST)), nested(DEEPEST));
        let deep = nested(DEEPEST + 1);
        assert_eq!(shallow(deep.clone()), json!(deep.to_string()));
    }
}
