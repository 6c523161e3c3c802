//! Lines of input and of results in OpenAI's format, which other providers also use.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::{Error, Sent};
use crate::llm::batch::{BatchLine, BatchLineResult};
use crate::llm::providers::answer::malformed;
use crate::llm::providers::content::invalid;
use crate::llm::providers::dialect::encode;
use crate::llm::providers::error_body::ErrorBody;
use crate::llm::providers::vendor::Vendor;
use crate::llm::request::Request;

use super::refusal::{kind, message};
use super::reply::{answer, answered, count, leniently, not_processed, without_response};

#[derive(Serialize)]
struct Input<'a> {
    custom_id: &'a str,
    method: &'static str,
    url: &'static str,
    body: &'a RawValue,
}

/// The line of a request.
pub(super) fn write(
    vendor: &Vendor,
    key: &str,
    request: &Request,
    model: &str,
    url: &'static str,
) -> Result<Vec<u8>, Error> {
    let unwritable = |error| invalid(format!("cannot encode the request: {error}"));
    let call = encode(vendor, request, Some(model))?;
    let line = Input {
        custom_id: key,
        method: "POST",
        url,
        body: serde_json::from_slice(&call.body).map_err(unwritable)?,
    };
    let mut line = serde_json::to_vec(&line).map_err(unwritable)?;
    line.push(b'\n');
    Ok(line)
}

#[derive(Deserialize)]
struct Output<'a> {
    custom_id: Option<String>,
    #[serde(borrow)]
    response: Option<Reply<'a>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    status_code: Option<Value>,
    request_id: Option<Value>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// Reads a line of results. The error of a request counts only if its response was not billed.
pub(super) fn read(vendor: &Vendor, line: &[u8]) -> Result<BatchLine, Error> {
    leniently(line, |line| {
        Ok(judged(vendor, serde_json::from_slice(line)?, line))
    })
}

fn judged(vendor: &Vendor, output: Output<'_>, line: &[u8]) -> Result<BatchLine, Error> {
    let key = output.custom_id.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| malformed("a result without custom_id", line))?;
    let response = output.response.map(|reply| {
        let status = reply.status_code.as_ref().and_then(count);
        let status = status.and_then(|status| u16::try_from(status).ok());
        let body = reply.body.map_or("null", RawValue::get);
        let id = reply.request_id.as_ref().and_then(Value::as_str);
        let answer = answer(vendor, status.unwrap_or(200), body.as_bytes());
        answer.map_err(|e| e.with_request_id(id))
    });
    let end = match (output.error.filter(says_something), response) {
        (Some(error), Some(Ok(mut answer))) => {
            let error = message(vendor, &ErrorBody::from_error(&error));
            answer.warn(&format!("its result also has an error: {error}"));
            answered(Ok(answer))
        }
        (Some(_), Some(Err(unusable))) if unusable.paid().is_known() => answered(Err(unusable)),
        (Some(error), _) => failed(vendor, ErrorBody::from_error(&error), None),
        (None, Some(answer)) => answered(answer),
        (None, None) => without_response(line),
    };
    Ok(BatchLine { key, result: end })
}

fn says_something(error: &Value) -> bool {
    match error {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// The result of a request that has an error instead of a response.
pub(super) fn failed(
    vendor: &Vendor,
    error_body: ErrorBody,
    status: Option<u16>,
) -> BatchLineResult {
    let had_no_turn = |word: &String| {
        let word = word.to_ascii_lowercase();
        word.ends_with("expired") || word.contains("cancelled") || word.contains("canceled")
    };
    if error_body.words.iter().any(had_no_turn) {
        let why = format!("{} did not come to it: {}", vendor.name, error_body.message);
        return not_processed(why);
    }
    let error = Error::new(
        kind(vendor, &error_body, status),
        message(vendor, &error_body),
    );
    answered(Err(error.with_sent(Sent::Answered)))
}
