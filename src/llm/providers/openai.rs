//! The OpenAI chat dialect: a request to bytes, a reply to an answer or a classified error.
//!
//! Spoken by OpenAI, xAI, Groq, Mistral and the local servers, with the differences that
//! [`Vendor`] lists. Decoding is lenient about what does not matter (a strange `usage` must not
//! cost a paid answer) and strict about what does (no text is no answer).

use std::time::{Duration, SystemTime};

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::hints::{RateHints, Window};
use crate::base::usage::Usage;
use crate::llm::request::{Request, ResponseFormat};
use crate::llm::response::{FinishReason, Response};
use crate::llm::transport::{Headers, HttpReply};

use super::vendor::{CapField, Quirk, Vendor};

/// The body of a chat completion call.
///
/// # Errors
/// [`ErrorKind::Invalid`] when no model is named.
pub(crate) fn encode(
    vendor: &Vendor,
    request: &Request,
    model: Option<&str>,
) -> Result<Vec<u8>, Error> {
    let model = model.ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            "no model named: set one on the request or for the provider",
        )
    })?;
    let mut out = Vec::with_capacity(256 + request.text_bytes());
    write_body(vendor, request, model, &mut out).map_err(|e| {
        Error::new(
            ErrorKind::Invalid,
            format!("cannot encode the request: {e}"),
        )
    })?;
    Ok(out)
}

/// Fields that a request sets by its own parameters; the same name among its extra fields is left
/// out.
const OWN_FIELDS: [&str; 11] = [
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "random_seed",
    "response_format",
    "stream",
];

fn write_body(
    vendor: &Vendor,
    request: &Request,
    model: &str,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let params = &request.params;
    let mut serializer = serde_json::Serializer::new(out);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("model", model)?;
    map.serialize_entry("messages", &Messages(request))?;
    let cap = match vendor.cap {
        CapField::MaxTokens => "max_tokens",
        CapField::MaxCompletionTokens => "max_completion_tokens",
    };
    if let Some(tokens) = params.max_tokens {
        map.serialize_entry(cap, &tokens)?;
    }
    if let Some(temperature) = params.temperature {
        map.serialize_entry("temperature", &temperature)?;
    }
    if let Some(top_p) = params.top_p {
        map.serialize_entry("top_p", &top_p)?;
    }
    if !params.stop.is_empty() {
        map.serialize_entry("stop", &params.stop)?;
    }
    if let Some(seed) = params.seed {
        map.serialize_entry(vendor.seed_field, &seed)?;
    }
    match &params.response_format {
        None => {}
        Some(ResponseFormat::JsonObject) => {
            map.serialize_entry(
                "response_format",
                &serde_json::json!({"type": "json_object"}),
            )?;
        }
        Some(ResponseFormat::JsonSchema {
            name,
            schema,
            strict,
        }) => {
            let format = serde_json::json!({
                "type": "json_schema",
                "json_schema": {"name": name, "strict": strict, "schema": schema},
            });
            map.serialize_entry("response_format", &format)?;
        }
    }
    for (key, value) in &request.extra {
        // A key that stands twice is read differently from server to server.
        if !OWN_FIELDS.contains(&key.as_str()) {
            map.serialize_entry(key, value)?;
        }
    }
    map.end()
}

struct Messages<'a>(&'a Request);

impl serde::Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.rendered().map(|(role, content, extra)| MessageBody {
            role,
            content,
            extra,
        }))
    }
}

#[derive(serde::Serialize)]
struct MessageBody<'a> {
    role: &'a str,
    content: crate::llm::request::Text<'a>,
    #[serde(flatten)]
    extra: Option<&'a serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
struct Reply<'b> {
    model: Option<Value>,
    choices: Option<Vec<Choice>>,
    #[serde(borrow)]
    usage: Option<&'b RawValue>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    finish_reason: Option<Value>,
    message: Option<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    content: Option<Value>,
    refusal: Option<Value>,
}

/// Turns a complete reply into an answer or a classified error.
///
/// # Errors
/// Whatever the reply says went wrong; [`ErrorKind::Malformed`] when it says nothing sensible.
pub(crate) fn decode(vendor: &Vendor, reply: &HttpReply) -> Result<Response, Error> {
    let hints = rate_hints(vendor, &reply.headers);
    if !(200..300).contains(&reply.status) {
        return Err(refusal(vendor, reply).with_rate_hints(hints));
    }
    match decode_success(vendor, &reply.body) {
        Ok(response) => Ok(response.with_rate_hints(hints)),
        Err(error) => Err(error.with_status(reply.status).with_rate_hints(hints)),
    }
}

fn malformed(what: impl std::fmt::Display, body: &[u8]) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("not a chat completion: {what}"),
    )
    .with_sent(Sent::Maybe)
    .with_raw(&String::from_utf8_lossy(body))
}

fn decode_success(vendor: &Vendor, body: &[u8]) -> Result<Response, Error> {
    let reply: Reply<'_> = serde_json::from_slice(body).map_err(|e| malformed(e, body))?;
    let Some(choice) = reply.choices.and_then(|choices| choices.into_iter().next()) else {
        // Some gateways answer 200 and put the failure inside.
        return Err(match &reply.error {
            Some(inner) => {
                let said = Said::from_error(inner);
                let status = said.code.parse().unwrap_or(0);
                if (400..600).contains(&status) {
                    let kind = classify(vendor, status, &said);
                    Error::new(kind, said.text(vendor, status)).with_sent(Sent::Answered)
                } else {
                    malformed(said.message, body)
                }
            }
            None => malformed("it has no choices", body),
        });
    };
    let answer = choice.message.unwrap_or(Answer {
        content: None,
        refusal: None,
    });
    let text = text_of(answer.content);
    let answered = |kind, message: String| {
        Error::new(kind, message)
            .with_sent(Sent::Answered)
            .with_raw(&text)
    };
    if let Some(Value::String(refusal)) = answer.refusal
        && !refusal.is_empty()
    {
        return Err(answered(
            ErrorKind::Blocked,
            format!("the model refused: {refusal}"),
        ));
    }
    let finish_reason = match word(choice.finish_reason.as_ref()).as_str() {
        "stop" => FinishReason::Stop,
        "length" | "model_length" => FinishReason::Length,
        "content_filter" => {
            let message = "the provider's content filter blocked the answer";
            return Err(answered(ErrorKind::Blocked, message.to_owned()));
        }
        "tool_calls" | "function_call" => {
            let message = "the model asked for a tool call, which nothing here can make";
            return Err(answered(ErrorKind::Invalid, message.to_owned()));
        }
        "error" => return Err(malformed("the model failed while answering", body)),
        // What was paid for is kept: a new word for the end does not make the text worthless.
        other => FinishReason::Other(other.to_owned()),
    };
    if text.is_empty() && finish_reason == FinishReason::Length {
        let message = "the token limit was used up before any text came; allow more tokens";
        return Err(answered(ErrorKind::Invalid, message.to_owned()));
    }
    if text.trim().is_empty() && finish_reason != FinishReason::Length {
        return Err(malformed("the answer is empty", body));
    }
    let mut response = Response::new(vendor.name, text);
    response.finish_reason = finish_reason;
    response.model = Some(word(reply.model.as_ref())).filter(|model| !model.is_empty());
    let counts = Counts::read(reply.usage);
    response.usage = counts.usage();
    response.cost_usd = counts.cost_usd();
    Ok(response)
}

/// The text of a content field: a string, or a list of parts of which the text ones count.
fn text_of(content: Option<Value>) -> String {
    match content {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts
            .iter()
            .filter(|part| part.get("type").and_then(Value::as_str) == Some("text"))
            .filter_map(|part| part.get("text")?.as_str())
            .collect(),
        _ => String::new(),
    }
}

/// Token counts as the dialect has them; what is no number counts as absent.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    #[serde(deserialize_with = "count")]
    prompt_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    completion_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    total_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    num_cached_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    cost_in_usd_ticks: Option<u64>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    #[serde(deserialize_with = "count")]
    cached_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    reasoning_tokens: Option<u64>,
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_u64())
}

impl Counts {
    /// Read apart from the answer: a strange usage must not cost it.
    fn read(raw: Option<&RawValue>) -> Self {
        raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }

    fn usage(&self) -> Option<Usage> {
        let input_tokens = self.prompt_tokens?;
        let completion = self.completion_tokens.unwrap_or(0);
        let details = self.completion_tokens_details.as_ref();
        let reasoning_tokens = details.and_then(|d| d.reasoning_tokens).unwrap_or(0);
        // xAI leaves reasoning out of the completion but counts it in the total.
        let apart = self.total_tokens == Some(input_tokens + completion + reasoning_tokens);
        let details = self.prompt_tokens_details.as_ref();
        let cached = details.and_then(|d| d.cached_tokens);
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
        Some(self.cost_in_usd_ticks? as f64 * 1e-10)
    }
}

/// What an error body says, whichever of the known shapes it has.
#[derive(Default)]
struct Said {
    message: String,
    kind: String,
    code: String,
    failed_generation: bool,
}

impl Said {
    fn from_body(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        if let Some(error) = value.get("error").filter(|e| !e.is_null()) {
            let mut said = Self::from_error(error);
            if said.code.is_empty() {
                said.code = word(value.get("code"));
            }
            return Some(said);
        }
        let mut said = Self::from_error(&value);
        if let Some(detail) = value.get("detail") {
            said.message = match detail {
                Value::Array(faults) => faults.iter().map(fault).collect::<Vec<_>>().join("; "),
                other => word(Some(other)),
            };
        }
        (!said.message.is_empty()).then_some(said)
    }

    fn from_error(error: &Value) -> Self {
        match error {
            Value::String(message) => Self {
                message: message.clone(),
                ..Self::default()
            },
            error => Self {
                message: word(error.get("message")),
                kind: word(error.get("type")),
                code: word(error.get("code")),
                failed_generation: error.get("failed_generation").is_some(),
            },
        }
    }

    fn mentions(&self, words: &[&str]) -> bool {
        let message = self.message.to_lowercase();
        words.iter().any(|word| message.contains(word))
    }

    /// The wait that some messages name: "Please try again in 388ms."
    fn wait(&self) -> Option<Duration> {
        let (_, rest) = self.message.split_once("try again in ")?;
        let word = rest.split_whitespace().next()?;
        go_duration(word.trim_end_matches(['.', ',', ';', ')']))
    }

    fn text(&self, vendor: &Vendor, status: u16) -> String {
        let code = [&self.code, &self.kind]
            .into_iter()
            .find(|word| !word.is_empty() && word.parse::<u16>().is_err());
        match code {
            Some(code) => format!(
                "{} answered {status} ({code}): {}",
                vendor.name, self.message
            ),
            None => format!("{} answered {status}: {}", vendor.name, self.message),
        }
    }
}

fn word(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// One entry of a validation error: where, and what.
fn fault(entry: &Value) -> String {
    let place: Vec<String> = entry
        .get("loc")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|part| word(Some(part)))
        .collect();
    format!("{}: {}", place.join("."), word(entry.get("msg")))
}

fn refusal(vendor: &Vendor, reply: &HttpReply) -> Error {
    let status = reply.status;
    let said = Said::from_body(&reply.body);
    let unreadable = said.is_none();
    let said = said.unwrap_or_else(|| Said {
        message: match status {
            300..400 => "a redirect; is the base URL right?".to_owned(),
            404 | 405 => "no such address; is the base URL right?".to_owned(),
            _ => "a reply that is not JSON".to_owned(),
        },
        ..Said::default()
    });
    let mut kind = classify(vendor, status, &said);
    match reply.headers.get("x-should-retry") {
        Some("true") if kind == ErrorKind::Invalid => kind = ErrorKind::Transient,
        Some("false") if kind == ErrorKind::Transient => kind = ErrorKind::Invalid,
        _ => {}
    }
    let mut message = said.text(vendor, status);
    if kind == ErrorKind::Auth
        && let Some(variable) = vendor.key_vars.first()
    {
        message = format!("{message}; check {variable}");
    }
    let error = Error::new(kind, message)
        .with_status(status)
        .with_sent(Sent::Answered)
        .with_retry_after(
            retry_after(vendor, &reply.headers, SystemTime::now()).or_else(|| said.wait()),
        );
    // A wrong path fails every item alike, and nothing is bought by it.
    let misdirected = matches!(status, 300..400 | 404 | 405) && kind == ErrorKind::Invalid;
    let error = if misdirected {
        error.with_unreachable()
    } else {
        error
    };
    if unreadable && !reply.body.is_empty() {
        error.with_raw(&String::from_utf8_lossy(&reply.body))
    } else {
        error
    }
}

const EMPTY_ACCOUNT: &[&str] = &[
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
];

fn classify(vendor: &Vendor, status: u16, said: &Said) -> ErrorKind {
    let empty_account = EMPTY_ACCOUNT
        .iter()
        .any(|code| said.code == *code || said.kind == *code)
        || vendor.quirk == Quirk::Xai
            && said.mentions(&[
                "used all available credits",
                "all credits",
                "monthly spending limit",
            ]);
    match status {
        400 | 402 | 403 | 429 if empty_account => ErrorKind::Quota,
        402 => ErrorKind::Quota,
        401 | 403 => ErrorKind::Auth,
        400 if vendor.quirk == Quirk::Xai && said.mentions(&["api key"]) => ErrorKind::Auth,
        400 | 404 if said.code == "model_not_found" => ErrorKind::UnknownModel,
        404 if said.mentions(&["model"]) && !said.mentions(&["url", "path"]) => {
            ErrorKind::UnknownModel
        }
        // Groq: the model failed to write the JSON it was asked for; another try may do.
        400 if said.failed_generation => ErrorKind::Malformed,
        429 => ErrorKind::RateLimited,
        408 | 409 | 425 => ErrorKind::Transient,
        498 if vendor.quirk == Quirk::Groq => ErrorKind::Transient,
        501 | 505 => ErrorKind::Invalid,
        // Ollama's queue is full.
        503 if said.mentions(&["maximum pending requests"]) => ErrorKind::RateLimited,
        500.. => ErrorKind::Transient,
        _ => ErrorKind::Invalid,
    }
}

/// How long the server asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a
/// date, else, for an allowance it calls empty, the time until that is full again.
fn retry_after(vendor: &Vendor, headers: &Headers, now: SystemTime) -> Option<Duration> {
    let seconds = |text: &str, scale: f64| {
        let value: f64 = text.trim().parse().ok()?;
        (value.is_finite() && value >= 0.0)
            .then(|| Duration::from_secs_f64((value * scale).min(1e7)))
    };
    if let Some(wait) = headers.get("retry-after-ms").and_then(|t| seconds(t, 1e-3)) {
        return Some(wait);
    }
    if let Some(text) = headers.get("retry-after") {
        return seconds(text, 1.0).or_else(|| {
            let date = httpdate::parse_http_date(text.trim()).ok()?;
            Some(date.duration_since(now).unwrap_or(Duration::ZERO))
        });
    }
    let hints = rate_hints(vendor, headers);
    [hints.requests, hints.tokens]
        .into_iter()
        .flatten()
        .filter(|window| window.remaining == Some(0))
        .filter_map(|window| window.reset)
        .max()
}

/// Header names of a limit, what is left of it, and when it is whole again.
const REQUEST_HEADERS: [&str; 3] = [
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
];
const TOKEN_HEADERS: [&str; 3] = [
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

fn rate_hints(vendor: &Vendor, headers: &Headers) -> RateHints {
    let number = |name: &str| headers.get(name)?.trim().parse::<f64>().ok();
    let window = |[limit, remaining, reset]: [&str; 3], period: u64| {
        Some(Window {
            limit: number(limit)? as u64,
            period: Duration::from_secs(period),
            remaining: number(remaining).map(|n| n.max(0.0) as u64),
            reset: headers.get(reset).and_then(go_duration),
        })
    };
    RateHints {
        requests: window(REQUEST_HEADERS, vendor.request_period),
        tokens: window(TOKEN_HEADERS, 60),
    }
}

/// A duration as Go prints it (`1h2m3.5s`, `12ms`), or a bare number of seconds.
fn go_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let valid = |seconds: f64| {
        (0.0..1e9)
            .contains(&seconds)
            .then(|| Duration::from_secs_f64(seconds))
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return valid(seconds);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| digits + at);
        total += value
            * match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| valid(total)).flatten()
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
