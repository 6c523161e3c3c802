//! Lines of input and of results, in the formats of all providers.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::json_mend::leniently;
use crate::base::json_read::{JsonObject, JsonString};
use crate::base::{Error, ErrorKind, Sent};
use crate::llm::batch::{BatchLine, BatchLineResult};
use crate::llm::native::Native;
use crate::llm::providers::answer::{malformed, unlike};
use crate::llm::providers::content::invalid;
use crate::llm::providers::dialect::{decode, encode};
use crate::llm::providers::errors::{error_in_batch, failure_in_batch};
use crate::llm::providers::fields::{Raw, whole};
use crate::llm::providers::rules::{ErrorBody, word};
use crate::llm::providers::vendor::{Dialect, Vendor};
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{HttpHeaders, HttpReply};

/// The line of a request, whose key was checked; in OpenAI's format with the address `url`.
pub(super) fn write(
    vendor: &Vendor,
    key: &str,
    request: &Request,
    model: &str,
    url: &str,
) -> Result<Vec<u8>, Error> {
    let call = encode(vendor, request, Some(model))?;
    if vendor.dialect == Dialect::Anthropic {
        check_fields(request)?;
    }
    let body = String::from_utf8(call.body);
    let body = body.map_err(|error| invalid(format!("cannot encode the request: {error}")))?;
    let line = match vendor.dialect {
        Dialect::Anthropic => format!("{{\"custom_id\":\"{key}\",\"params\":{body}}}\n"),
        Dialect::Gemini => format!("{{\"key\":\"{key}\",\"request\":{body}}}\n"),
        _ => format!(
            "{{\"custom_id\":\"{key}\",\"method\":\"POST\",\"url\":\"{url}\",\"body\":{body}}}\n"
        ),
    };
    Ok(line.into_bytes())
}

/// Fields that Anthropic allows in a call but not in a batch: one of them would fail the whole batch.
const REFUSED: [&str; 4] = ["speed", "store", "previous_thread_event_id", "cache_hint"];

fn check_fields(request: &Request) -> Result<(), Error> {
    let native = request.native.as_deref().map(Native::body);
    let fields = native.unwrap_or(&request.extra);
    // A native body is sent as it is, with its nulls.
    let is_sent = |field: &&str| {
        let value = fields.get(*field);
        value.is_some_and(|value| native.is_some() || !value.is_null())
    };
    REFUSED.into_iter().find(is_sent).map_or(Ok(()), |field| {
        let why = format!("anthropic does not support `{field}` in a batch");
        Err(invalid(why))
    })
}

/// A line of results. Its fields have other names at each provider.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'l"))]
struct Line<'l> {
    custom_id: Option<Value>,
    /// Of xAI.
    batch_request_id: Option<Value>,
    /// Of Gemini, which may have it in the metadata.
    key: Option<Value>,
    metadata: Option<Value>,
    /// Of Anthropic and of xAI; others have the parts of it beside the key.
    #[serde(alias = "batch_result")]
    result: Option<Outcome<'l>>,
    response: Raw<'l>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'l"))]
struct Outcome<'l> {
    /// Of Anthropic.
    #[serde(rename = "type")]
    kind: Option<Value>,
    #[serde(alias = "message")]
    response: Raw<'l>,
    error: Option<Value>,
}

impl<'l> Line<'l> {
    fn key(&self) -> Option<String> {
        let inner = self.metadata.as_ref().and_then(|data| data.get("key"));
        let names = [&self.custom_id, &self.batch_request_id, &self.key];
        let mut names = names.into_iter().flatten().chain(inner);
        let name = names.find_map(|name| name.as_str().filter(|name| !name.is_empty()));
        name.map(str::to_owned)
    }

    fn outcome(self) -> Outcome<'l> {
        self.result.unwrap_or(Outcome {
            kind: None,
            response: self.response,
            error: self.error,
        })
    }
}

/// The reply to a request of a batch.
struct Reply<'l> {
    status: Option<u16>,
    request_id: Option<String>,
    body: Raw<'l>,
}

impl<'l> Reply<'l> {
    /// The reply in a response: in OpenAI's frame with a status, the bare body, or, at xAI, the body under the name of its
    /// endpoint.
    fn of(vendor: &Vendor, response: &'l RawValue) -> Self {
        let bare = |body| Self {
            status: None,
            request_id: None,
            body: Some(body),
        };
        let fields = match vendor.dialect {
            Dialect::OpenAi => JsonObject::parse(response.get()).unwrap_or_default(),
            _ => return bare(response),
        };
        let [status, body, choices] =
            ["status_code", "body", "choices"].map(|name| fields.get(name, 0));
        if status.is_none() && body.is_none() {
            let first = fields.fields().next().filter(|_| choices.is_none());
            return bare(first.map_or(response, |(_, body)| body));
        }
        let value = |raw: Raw<'_>| serde_json::from_str::<Value>(raw?.get()).ok();
        let status = value(status).as_ref().and_then(whole);
        Self {
            status: status.and_then(|status| u16::try_from(status).ok()),
            request_id: Some(word(value(fields.get("request_id", 0)).as_ref())),
            body,
        }
    }

    /// The answer, decoded like the reply to a single call.
    fn answer(self, vendor: &Vendor) -> Result<Response, Error> {
        let reply = HttpReply {
            status: self.status.unwrap_or(200),
            headers: HttpHeaders::default(),
            body: self
                .body
                .map_or(Cow::Borrowed("null"), unquoted)
                .as_bytes()
                .to_vec(),
        };
        let id = self.request_id.filter(|id| !id.is_empty());
        let answer = decode(vendor, &reply, false);
        answer.map_err(|error| error.with_request_id(id.as_deref()))
    }
}

/// The body of a reply: JSON, or a text in which some servers keep what came.
fn unquoted(body: &RawValue) -> Cow<'_, str> {
    let text = serde_json::from_str::<JsonString<'_>>(body.get());
    text.map_or(Cow::Borrowed(body.get()), |JsonString(text)| text)
}

/// The body of the reply in a line of results.
pub(super) fn body(vendor: &Vendor, line: &str) -> serde_json::Result<String> {
    let line: Line<'_> = serde_json::from_str(line.trim())?;
    let response = line.outcome().response;
    let body = response.and_then(|response| Reply::of(vendor, response).body);
    body.map(|body| unquoted(body).into_owned())
        .ok_or_else(|| serde_json::Error::custom("it has no body"))
}

/// Reads a line of results. The error of a request counts only if its response was not billed.
pub(super) fn read(vendor: &Vendor, line: &[u8]) -> Result<BatchLine, Error> {
    let of_text = |text: &str| Ok(judged(vendor, serde_json::from_str(text)?, text.as_bytes()));
    let (read, warning) = leniently(line, of_text).map_err(|error| malformed(error, line))?;
    let mut read = read?;
    if let (BatchLineResult::Answered(answer), Some(warning)) = (&mut read.result, warning) {
        match &mut **answer {
            Ok(response) => response.warn(&warning),
            // It is kept as it came.
            Err(error) if error.is_unusable_reply() => {
                *error = error.clone().with_unusable_reply(line);
            }
            Err(_) => {}
        }
    }
    Ok(read)
}

fn judged(vendor: &Vendor, read: Line<'_>, line: &[u8]) -> Result<BatchLine, Error> {
    let key = read.key();
    let key = key.ok_or_else(|| malformed("a result that names no request", line))?;
    let outcome = read.outcome();
    let answer = outcome
        .response
        .map(|of| Reply::of(vendor, of).answer(vendor));
    let kind = word(outcome.kind.as_ref());
    let result = match (outcome.error.filter(says_something), answer) {
        (Some(error), Some(Ok(mut answer))) => {
            let error = ErrorBody::from_error(&error).text(vendor.name, "said");
            answer.warn(&format!("its result also has an error: {error}"));
            answered(Ok(answer))
        }
        (Some(_), Some(Err(unusable))) if unusable.paid().is_known() => answered(Err(unusable)),
        (Some(error), _) => failed(vendor, &error),
        (None, Some(answer)) => answered(answer),
        (None, None) => match &*kind {
            "canceled" => not_processed("the batch was cancelled before this request's turn"),
            "expired" => not_processed("the batch expired before this request's turn"),
            _ => answered(Err(unlike("neither a response nor an error", line))),
        },
    };
    Ok(BatchLine { key, result })
}

pub(super) fn says_something(error: &Value) -> bool {
    match error {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// The result of a request that has an error instead of a response.
fn failed(vendor: &Vendor, error: &Value) -> BatchLineResult {
    let error_body = error_in_batch(vendor, error);
    let had_no_turn = |word: &String| {
        let word = word.to_ascii_lowercase();
        let is_over = word.ends_with("expired") && !word.contains("key");
        is_over || word.contains("cancelled") || word.contains("canceled")
    };
    if error_body.words.iter().any(had_no_turn) {
        let why = format!("{} did not come to it: {}", vendor.name, error_body.message);
        return not_processed(&why);
    }
    let (failure, _) = failure_in_batch(vendor, &error_body);
    let id = error.get("request_id").and_then(Value::as_str);
    answered(Err(failure.with_sent(Sent::Answered).with_request_id(id)))
}

/// The result of a request that was processed.
pub(super) fn answered(answer: Result<Response, Error>) -> BatchLineResult {
    BatchLineResult::Answered(Box::new(answer))
}

/// The result of a request that was not processed. Another try may succeed, whatever ended its batch.
fn not_processed(why: &str) -> BatchLineResult {
    let error = Error::new(ErrorKind::Transient, why);
    BatchLineResult::NotProcessed(error.with_sent(Sent::Answered))
}
