//! The OpenAI chat dialect.
//!
//! Spoken by OpenAI, xAI, Groq, Mistral and the local servers, with the differences that
//! [`Vendor`] lists. Decoding is lenient about what does not matter (a strange `usage` must not
//! cost a paid answer) and strict about what does (no text is no answer).

use serde::Deserialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::error::Error;
use crate::base::usage::{Paid, Usage};
use crate::llm::request::{Request, ResponseFormat, Text};
use crate::llm::response::Response;

use super::answer::{Answer, End, Ends, count, count_in, counts, text_of, unlike};
use super::bounded;
use super::content::{self, JSON_MODE, Part};
use super::error_body::{own_word, word};
use super::errors::failure_inside;
use super::fields::Fields;
use super::reply_contents::Holds;
use super::vendor::{CapField, Vendor};

/// The body of a chat completion call.
///
/// # Errors
/// When a part of the content has no place at the vendor.
pub(super) fn write(
    vendor: &Vendor,
    request: &Request,
    model: &str,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    for (_, text, _) in request.rendered() {
        content::refuse(vendor.name, text, vendor.fields.lacks_parts)?;
    }
    let unwritable = |error| content::invalid(format!("cannot encode the request: {error}"));
    fields(vendor, request, model, out).map_err(unwritable)
}

fn fields(
    vendor: &Vendor,
    request: &Request,
    model: &str,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let params = &request.params;
    let mut serializer = serde_json::Serializer::new(out);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("model", model)?;
    map.serialize_entry("messages", &Messages(vendor, request))?;
    let cap = match vendor.cap {
        CapField::MaxTokens => "max_tokens",
        CapField::MaxCompletionTokens => "max_completion_tokens",
    };
    if let Some(tokens) = params.max_tokens {
        map.serialize_entry(cap, &tokens)?;
    }
    if let Some(temperature) = vendor.fields.temperature(request) {
        map.serialize_entry("temperature", &temperature)?;
    }
    if let Some(top_p) = params.top_p {
        map.serialize_entry("top_p", &top_p)?;
    }
    let stops = vendor.fields.stops(request);
    if !stops.is_empty() {
        map.serialize_entry("stop", &stops)?;
    }
    if let Some(seed) = vendor.fields.seed(request) {
        map.serialize_entry(vendor.seed_field, &seed)?;
    }
    match &params.response_format {
        None => {}
        Some(ResponseFormat::JsonObject) => {
            map.serialize_entry("response_format", &json!({"type": "json_object"}))?;
        }
        Some(ResponseFormat::JsonSchema {
            name,
            schema,
            strict,
        }) => {
            let format = json!({
                "type": "json_schema",
                "json_schema": {"name": name, "strict": strict, "schema": schema},
            });
            map.serialize_entry("response_format", &format)?;
        }
    }
    for (field, value) in vendor.fields.further(request) {
        map.serialize_entry(field, &value)?;
    }
    map.end()
}

struct Messages<'a>(&'a Vendor, &'a Request);

impl serde::Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(vendor, request) = self;
        let lead = request.rendered().next();
        let lead = lead.filter(|(role, ..)| matches!(*role, "system" | "developer"));
        let instructed =
            wants_word(request).then(|| with_word(lead.map(|(_, content, _)| content)));
        let (role, extra) = lead.map_or(("system", None), |(role, _, extra)| (role, extra));
        let first = instructed
            .as_ref()
            .map(|instructed| (role, Text::Value(instructed), extra));
        let replaced = usize::from(instructed.is_some() && lead.is_some());
        let all = first
            .into_iter()
            .chain(request.rendered().skip(replaced))
            .map(|(role, content, extra)| MessageBody {
                role: match role {
                    "developer" if !vendor.developer_role => "system",
                    role => role,
                },
                content,
                extra: extra.map(|fields| Extra {
                    of: &vendor.fields,
                    fields,
                }),
            });
        serializer.collect_seq(all)
    }
}

/// Whether JSON is asked for and no message says so. OpenAI and Groq refuse such requests, and
/// models elsewhere may answer with blanks without end.
fn wants_word(request: &Request) -> bool {
    request.params.response_format == Some(ResponseFormat::JsonObject)
        && !request.rendered().any(|(_, content, _)| match content {
            Text::Plain(text) => says_json(text),
            Text::Value(Value::String(text)) => says_json(text),
            Text::Value(Value::Array(parts)) => parts
                .iter()
                .any(|part| matches!(content::part(part), Part::Text(text) if says_json(text))),
            Text::Value(_) => false,
        })
}

fn says_json(text: &str) -> bool {
    let mut words = text.as_bytes().windows(4);
    words.any(|word| word.eq_ignore_ascii_case(b"json"))
}

/// The system text with the word. It stays one message: not every model takes two.
fn with_word(system: Option<Text<'_>>) -> Value {
    let text = match system {
        Some(Text::Value(Value::Array(parts))) => {
            let word = json!({"type": "text", "text": JSON_MODE});
            return parts.iter().cloned().chain([word]).collect();
        }
        Some(Text::Plain(text)) => text,
        Some(Text::Value(value)) => value.as_str().unwrap_or_default(),
        None => "",
    };
    match text.trim() {
        "" => JSON_MODE.into(),
        _ => format!("{text}\n\n{JSON_MODE}").into(),
    }
}

#[derive(serde::Serialize)]
struct MessageBody<'a> {
    role: &'a str,
    content: Text<'a>,
    #[serde(flatten)]
    extra: Option<Extra<'a>>,
}

struct Extra<'a> {
    of: &'a Fields,
    fields: &'a Map<String, Value>,
}

impl serde::Serialize for Extra<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.of.of_turn(self.fields))
    }
}

#[derive(Deserialize)]
struct Reply<'b> {
    #[serde(default, deserialize_with = "bounded::field")]
    model: Option<Value>,
    #[serde(default, deserialize_with = "bounded::first")]
    choices: Option<Choice>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::field")]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default, deserialize_with = "bounded::field")]
    finish_reason: Option<Value>,
    message: Option<Message>,
}

#[derive(Default, Deserialize)]
struct Message {
    #[serde(default, deserialize_with = "bounded::field")]
    content: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    refusal: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    tool_calls: Option<Value>,
    /// The older form of one call.
    #[serde(default, deserialize_with = "bounded::field")]
    function_call: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    audio: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    images: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    reasoning: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    reasoning_content: Option<Value>,
}

impl Message {
    /// What it holds beside the text.
    fn holds(&self) -> Holds {
        let mut holds = Holds::default();
        let calls = self.tool_calls.as_ref().and_then(Value::as_array);
        for call in calls.into_iter().flatten() {
            // Custom tools have a place of their own.
            let tool = call.get("function").or_else(|| call.get("custom"));
            holds.call(tool.unwrap_or(call).get("name"));
        }
        let older = self.function_call.as_ref();
        if let Some(call) = older.filter(|call| call.is_object()) {
            holds.call(call.get("name"));
        }
        holds.blocks(self.content.as_ref());
        if self.audio.as_ref().is_some_and(Value::is_object) {
            holds.part("audio");
        }
        let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
        if self.images.as_ref().is_some_and(some) {
            holds.part("an image");
        }
        let thoughts = [&self.reasoning, &self.reasoning_content];
        let error_body = |text: &Value| text.as_str().is_some_and(|text| !text.is_empty());
        if thoughts.into_iter().flatten().any(error_body) {
            holds.part("thoughts");
        }
        holds
    }
}

const ENDS: Ends = &[
    ("stop", End::Complete),
    ("length", End::Cut),
    ("model_length", End::Cut),
    ("content_filter", End::Blocked),
    ("tool_calls", End::Tool),
    ("function_call", End::Tool),
    ("error", End::Fault),
];

/// Reads the body of a success reply.
///
/// # Errors
/// When it is not the dialect's JSON; inside, when it holds a failure, or no usable answer.
pub(super) fn read(vendor: &Vendor, body: &[u8]) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_slice(body)?;
    let Some(choice) = reply.choices else {
        // Some gateways answer 200 and put the failure inside.
        let inside = reply.error.as_ref().filter(|error| !error.is_null());
        return Ok(Err(match inside {
            Some(error) => failure_inside(vendor, error, body),
            None => unlike("it has no choices", body).with_paid(Paid {
                usage: Counts::read(reply.usage).usage(),
                cost_usd: None,
            }),
        }));
    };
    let message = choice.message.unwrap_or_default();
    let counts = Counts::read(reply.usage);
    let holds = message.holds();
    let finish = match own_word(choice.finish_reason) {
        // xAI names no end when the model wants a tool.
        none if none.is_empty() && holds.has_calls() => "tool_calls".to_owned(),
        word => word,
    };
    let answer = Answer {
        text: text_of(message.content),
        finish,
        refusal: Some(word(message.refusal.as_ref())).filter(|text| !text.is_empty()),
        category: None,
        model: Some(own_word(reply.model)),
        usage: counts.usage(),
        cost_usd: counts.cost_usd(),
        holds,
    };
    Ok(answer.conclude(vendor.name, ENDS, body))
}

/// Token counts as the dialect has them; what is no number counts as absent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    #[serde(deserialize_with = "count")]
    prompt_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    completion_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    total_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    num_cached_tokens: Option<u64>,
    cost_in_usd_ticks: Option<Value>,
    prompt_tokens_details: Value,
    completion_tokens_details: Value,
}

impl Counts {
    pub(super) fn read(raw: Option<&RawValue>) -> Self {
        counts(raw).unwrap_or_default()
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let input_tokens = self.prompt_tokens?;
        let completion = self.completion_tokens.unwrap_or(0);
        let details = &self.completion_tokens_details;
        let reasoning_tokens = count_in(details, "reasoning_tokens").unwrap_or(0);
        // xAI leaves reasoning out of the completion but counts it in the total.
        let apart = self.total_tokens == Some(input_tokens + completion + reasoning_tokens);
        let cached = count_in(&self.prompt_tokens_details, "cached_tokens");
        Some(Usage {
            input_tokens,
            cached_input_tokens: cached.or(self.num_cached_tokens).unwrap_or(0),
            output_tokens: if apart {
                completion + reasoning_tokens
            } else {
                completion
            },
            reasoning_tokens,
        })
    }

    /// xAI states the price of a call in ticks of 1e-10 dollars.
    fn cost_usd(&self) -> Option<f64> {
        Some(self.cost_in_usd_ticks.as_ref()?.as_u64()? as f64 * 1e-10)
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
