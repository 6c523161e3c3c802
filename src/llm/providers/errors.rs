//! Classifies replies that are failures.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::base::{Error, ErrorKind, Mark, Optional, Sent};
use crate::llm::transport::HttpReply;

use super::answer::{beginning, malformed};
use super::error_body::ErrorBody;
use super::limits::retry_after;
use super::rules::RULES;
use super::vendor::{Dialect, Vendor};

/// The failure of a reply with an error status.
pub(super) fn failure(vendor: &Vendor, reply: &HttpReply) -> Error {
    let status = reply.status;
    let error_body = ErrorBody::from_body(&reply.body);
    let unreadable = error_body.is_none();
    let error_body = error_body.unwrap_or_else(|| ErrorBody {
        message: match status {
            300..400 => "a redirect; is the base URL right?".to_owned(),
            404 | 405 => "no such address; is the base URL right?".to_owned(),
            407 => "a proxy on the way wants a login".to_owned(),
            _ if serde_json::from_slice::<IgnoredAny>(&reply.body).is_ok() => {
                "JSON without an error message".to_owned()
            }
            _ => "a reply that is not JSON".to_owned(),
        },
        ..ErrorBody::default()
    });
    let rule = vendor.rule(status, &error_body);
    let mut kind = rule.kind;
    match reply.headers.get("x-should-retry") {
        Some("true") if kind == ErrorKind::Invalid => kind = ErrorKind::Transient,
        Some("false") if kind == ErrorKind::Transient => kind = ErrorKind::Invalid,
        _ => {}
    }
    let wait = retry_after(vendor.tells, &reply.headers)
        .or(error_body.wait)
        .or(rule.default_wait());
    let error = Error::new(kind, error_body.text(vendor.name, status))
        .with_status(status)
        .with_sent(sent(status))
        .with_retry_after(wait)
        .when(rule.of_model, Error::with_model_only)
        .when(
            rule.default && kind == ErrorKind::Invalid,
            Error::with_unclassified,
        );
    // nginx itself replies with such a page if it limits requests (limit_req, limit_conn) or has no server to forward to.
    let by_proxy = status == 503 && unreadable && contains(&reply.body, b"<center>nginx");
    // With a wrong path or a proxy in between, all items fail in the same way, and nothing is billed.
    let misdirected = matches!(status, 300..400 | 404 | 405 | 407) && error.is_unclassified();
    let error = error
        .when(by_proxy, |error| error.marked(Mark::ByProxy))
        .when(misdirected, Error::with_unreachable);
    match &error_body.written {
        Some(written) => error.with_raw(written),
        None if unreadable && !reply.body.is_empty() => error.with_raw(&beginning(&reply.body)),
        None => error,
    }
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// If a gateway timed out before the model did, the answer may have been billed.
fn sent(status: u16) -> Sent {
    match status {
        408 | 499 | 504 | 524 => Sent::Maybe,
        _ => Sent::Answered,
    }
}

/// The failure of a request in a batch, by the status that such an error has in a reply to a call.
pub(super) fn failure_in_batch(vendor: &Vendor, status: u16, error_body: &ErrorBody) -> Error {
    let rule = vendor.rule(status, error_body);
    Error::new(rule.kind, error_body.text(vendor.name, status))
        .with_status(status)
        .with_sent(Sent::Answered)
        .with_retry_after(error_body.wait.or(rule.default_wait()))
        .when(rule.of_model, Error::with_model_only)
}

/// The failure inside a reply with a success status, which some gateways send.
pub(super) fn failure_inside(vendor: &Vendor, error: &Value, body: &[u8]) -> Error {
    let error_body = ErrorBody::from_error(error);
    let by_type = || {
        let mut known = RULES.anthropic_statuses.iter();
        let known = known.find(|(kind, _)| error_body.words.contains(kind));
        known.map(|(_, status)| *status)
    };
    let named = error_body
        .status
        .or_else(|| (vendor.dialect == Dialect::Anthropic).then(by_type)?)
        .filter(|status| (400..600).contains(status));
    // Without a status, only errors with a rule of their own are known.
    let status = named.unwrap_or(400);
    let rule = vendor.rule(status, &error_body);
    if named.is_none() && rule.default {
        return malformed(error_body.message, body);
    }
    Error::new(rule.kind, error_body.text(vendor.name, status))
        .with_sent(Sent::Answered)
        .with_retry_after(error_body.wait.or(rule.default_wait()))
        .when(rule.default, Error::with_unclassified)
}
