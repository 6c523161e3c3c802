//! The wire formats: what a call looks like, and what its reply means.
//!
//! Pure functions from a request to bytes and from a reply to an answer. They know nothing of
//! threads, retries, limits or sockets.

use std::borrow::Cow;

use serde::{Deserialize, de::Error as _};
use serde_json::Value;

use crate::base::json_mend::leniently;
use crate::base::{Error, ErrorKind, Optional, Paid, RateHints, Sent, Usd};
use crate::llm::native::{Native, NativeFormat};
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::HttpReply;

use super::answer::{malformed, unlike, unreadable};
use super::content::{invalid, named};
use super::errors::failure;
use super::further::refused;
use super::limits::rate_hints;
use super::vendor::{Dialect, Vendor};
use super::{anthropic, gemini, openai, openai_request, stream};

/// A call: where it goes, below the base URL, and what it says.
pub(super) struct Call {
    pub path: Cow<'static, str>,
    pub body: Vec<u8>,
}

/// The call for one prompt.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) when no model is named, or the dialect cannot say what
/// the request asks.
pub(super) fn encode(
    vendor: &Vendor,
    request: &Request,
    model: Option<&str>,
) -> Result<Call, Error> {
    let model = named(model)?;
    let path = match vendor.dialect {
        Dialect::OpenAi => Cow::Borrowed("/chat/completions"),
        Dialect::Anthropic => Cow::Borrowed("/messages"),
        Dialect::Gemini => Cow::Owned(format!("/{}:generateContent", gemini::resource(model)?)),
        Dialect::Extract => return Err(invalid("extract makes no calls")),
    };
    let mut body = Vec::with_capacity(256 + request.text_bytes());
    let value = match (&request.native, vendor.dialect) {
        (Some(native), _) => native_body(vendor, native, model)?,
        (None, Dialect::Anthropic) => anthropic::message(vendor, request, model)?,
        (None, Dialect::Gemini) => gemini::content(request, model)?,
        (None, _) => {
            openai_request::write(vendor, request, model, &mut body).map_err(unwritable)?;
            return Ok(Call { path, body });
        }
    };
    serde_json::to_writer(&mut body, &value).map_err(unwritable)?;
    Ok(Call { path, body })
}

/// A body in the format of its provider, with the name of the model.
///
/// # Errors
/// If it is in the format of another vendor.
fn native_body(vendor: &Vendor, native: &Native, model: &str) -> Result<Value, Error> {
    if let Some(why) = refused(native.format(), vendor.name) {
        return Err(invalid(format!("{why}; nothing was sent")).with_sent(Sent::No));
    }
    let mut body = native.body().clone();
    // Gemini's model stands in the address.
    if native.format() == NativeFormat::AnthropicMessages {
        body.insert("model".to_owned(), model.into());
    }
    Ok(body.into())
}

/// Turns a complete reply into an answer or a classified error. `unchecked` as in [`Request::unchecked`].
///
/// # Errors
/// Whatever the reply says went wrong; [`Malformed`](crate::ErrorKind::Malformed) when it says
/// nothing sensible.
pub(super) fn decode(
    vendor: &Vendor,
    reply: &HttpReply,
    unchecked: bool,
) -> Result<Response, Error> {
    let hints = succeeded(vendor, reply)?;
    match read(vendor, &reply.body, unchecked) {
        Ok(mut response) => {
            add_headers(vendor, &mut response, reply);
            response.hints = hints;
            Ok(response)
        }
        Err(error) => {
            let paid = error.paid();
            let error = error.with_paid(Paid {
                cost_usd: paid.cost_usd.or_else(|| stated_cost(reply)),
                ..paid
            });
            Err(in_reply(not_fetched(vendor, reply, error), reply, hints))
        }
    }
}

/// What a reply says of limits.
///
/// # Errors
/// If its status is a failure.
pub(super) fn succeeded(vendor: &Vendor, reply: &HttpReply) -> Result<RateHints, Error> {
    let hints = rate_hints(vendor.tells, &reply.headers);
    if (200..300).contains(&reply.status) {
        return Ok(hints);
    }
    Err(in_reply(failure(vendor, reply), reply, hints))
}

/// A failure with what its reply says beside the body.
pub(super) fn in_reply(error: Error, reply: &HttpReply, hints: RateHints) -> Error {
    let error = error.with_status(reply.status).with_rate_hints(hints);
    error.with_request_id(request_id(reply))
}

/// What a reply without an answer is that promises one for later (NVIDIA's, after a minute): it is being
/// made, and asking again would have it made twice.
fn not_fetched(vendor: &Vendor, reply: &HttpReply, error: Error) -> Error {
    if reply.status != 202 {
        return error;
    }
    let why = format!(
        "{} answered 202: it is still at it, and its answer would have to be fetched later, which is \
         not done here",
        vendor.name
    );
    Error::new(ErrorKind::Invalid, why)
        .with_sent(Sent::Answered)
        .with_unusable_reply(&*reply.body)
}

/// Reads the body of a success reply: what was paid for is not lost to a detail, nor to its form.
///
/// # Errors
/// When it holds a failure, or no usable answer.
pub(super) fn read(vendor: &Vendor, body: &[u8], unchecked: bool) -> Result<Response, Error> {
    let Some((joined, has_ended)) = stream::joined(body) else {
        return read_whole(vendor, body, body, unchecked);
    };
    let read = read_whole(vendor, joined.as_bytes(), body, unchecked || !has_ended);
    if !has_ended {
        let paid = read.map_or_else(|error| error.paid(), |response| response.paid());
        let what = "it is a stream of events without its end";
        // What has begun is paid for and would be paid for again.
        let cut = match &*joined {
            "{}" => malformed(what, body),
            _ => unlike(what, body),
        };
        return Err(cut.with_paid(paid));
    }
    read.map(|mut response| {
        response.warn("the reply was a stream of events, which was not requested");
        response
    })
}

/// Reads a reply in one piece, which came as the bytes `came`.
fn read_whole(
    vendor: &Vendor,
    body: &[u8],
    came: &[u8],
    unchecked: bool,
) -> Result<Response, Error> {
    let of_text = |text: &str| {
        if text.trim_ascii_start().starts_with('[') {
            return Err(serde_json::Error::custom("it is a list, not an object"));
        }
        let read = match vendor.dialect {
            Dialect::Anthropic => anthropic::read(vendor, text, unchecked),
            Dialect::Gemini => gemini::read(vendor, text, unchecked),
            Dialect::OpenAi | Dialect::Extract => openai::read(vendor, text, unchecked),
        };
        read.map(|answer| answer.map_err(|error| with_model(error, text)))
    };
    // Whatever was made of the body to read it, it is kept as it came.
    let as_it_came = |error: Error| {
        let is_unusable = error.is_unusable_reply();
        error.when(is_unusable, |error| error.with_unusable_reply(came))
    };
    match leniently(body, of_text) {
        Ok((Ok(mut response), warning)) => {
            if let Some(warning) = warning {
                response.warn(&warning);
            }
            Ok(response)
        }
        Ok((Err(error), _)) => Err(as_it_came(error)),
        Err(error) => Err(unreadable(&error, body)),
    }
}

/// A billed failure with the model that the reply names: its price is the one of that model.
fn with_model(error: Error, text: &str) -> Error {
    #[derive(Deserialize)]
    struct Named {
        #[serde(alias = "modelVersion")]
        model: Option<String>,
    }

    if !error.paid().is_known() {
        return error;
    }
    let named = serde_json::from_str::<Named>(text).ok();
    error.with_answered_model(named.and_then(|named| named.model))
}

/// What a reply says of an answer outside of its body: LiteLLM the price, Gemini the tier.
fn add_headers(vendor: &Vendor, response: &mut Response, reply: &HttpReply) {
    response.cost_usd = response.cost_usd.or_else(|| stated_cost(reply));
    if vendor.dialect == Dialect::Gemini
        && let Some(tier) = reply.headers.get("x-gemini-service-tier")
    {
        response.details_mut().service_tier = Some(tier.to_owned());
    }
}

/// The price of a call in LiteLLM's words.
pub(super) fn stated_cost(reply: &HttpReply) -> Option<Usd> {
    let cost = reply.headers.get("x-litellm-response-cost")?;
    let cost = cost.trim().parse::<f64>().ok()?;
    Usd::from_dollars(cost).filter(|_| cost.is_finite())
}

/// What the provider calls this exchange.
pub(super) fn request_id(reply: &HttpReply) -> Option<&str> {
    let names = ["x-request-id", "request-id"];
    names.into_iter().find_map(|name| reply.headers.get(name))
}

fn unwritable(error: serde_json::Error) -> Error {
    invalid(format!("cannot encode the request: {error}"))
}

/// What the dialects' tests share.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::llm::outcome::Outcome;

    pub fn vendor(name: &str) -> &'static Vendor {
        Vendor::named(name).unwrap()
    }

    pub fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> HttpReply {
        HttpReply {
            status,
            headers: headers.iter().copied().collect(),
            body: body.as_bytes().to_vec(),
        }
    }

    pub fn decoded(name: &str, body: &str) -> Result<Response, Error> {
        decode(vendor(name), &reply(200, &[], body), false)
    }

    /// The result line of an answer.
    pub fn line(answer: &Response) -> Value {
        let outcome = Outcome::new(None, Ok(answer.clone()));
        let line = serde_json::to_string(&outcome).unwrap();
        let read: Outcome = serde_json::from_str(&line).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), line);
        serde_json::from_str(&line).unwrap()
    }

    pub fn failed_with(name: &str, status: u16, headers: &[(&str, &str)], body: &str) -> Error {
        decode(vendor(name), &reply(status, headers, body), false).unwrap_err()
    }

    pub fn failed(name: &str, status: u16, body: &str) -> Error {
        failed_with(name, status, &[], body)
    }

    pub fn kind(name: &str, status: u16, body: &str) -> ErrorKind {
        failed(name, status, body).kind()
    }

    /// The path and the body of a call to model `m`.
    pub fn encoded(name: &str, request: &Request) -> (String, Value) {
        let call = encode(vendor(name), request, Some("m")).unwrap();
        let body = serde_json::from_slice(&call.body).unwrap();
        (call.path.into_owned(), body)
    }
}
