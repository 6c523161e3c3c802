//! Classifies replies that are failures.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::base::json_read::without_bom;
use crate::base::verdict::{Form, Whom};
use crate::base::{Error, ErrorKind, Optional, Sent};
use crate::llm::transport::HttpReply;

use super::answer::{beginning, malformed};
use super::limits::retry_after;
use super::rules::{ErrorBody, RULES, Rule, cut_to, word};
use super::vendor::{Dialect, Vendor};

/// The failure of a reply with an error status.
pub(super) fn failure(vendor: &Vendor, reply: &HttpReply) -> Error {
    let status = reply.status;
    let body = without_bom(&reply.body);
    let (form, error_body) = read(status, body);
    let unreadable = !matches!(form, Form::Coded | Form::Bare);
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
    let mut message = error_body.text(vendor.name, &format!("answered {status}"));
    if let Some(title) = title(body).filter(|_| form == Form::Page) {
        message = format!("{message}, titled {title:?}");
    }
    let coding = reply.headers.get("content-encoding");
    if let Some(coding) = coding.filter(|_| std::str::from_utf8(body).is_err()) {
        message = format!("{message} (Content-Encoding: {coding})");
    }
    // What no row knows is the request's own only if the provider says so in its own words.
    let is_own = matches!(status, 400 | 415 | 422) && !unreadable;
    let is_unclear = rule.default && status < 500 && !is_own;
    let whom = match status {
        300..400 => Some(Whom::Way),
        _ => rule.whom.or(is_unclear.then_some(Whom::Unclear)),
    };
    let whom = whom.filter(|_| kind == rule.kind);
    let error = Error::new(kind, message)
        .in_form(form)
        .with_status(status)
        .with_sent(sent(status))
        .with_retry_after(wait)
        .set(whom, Error::concerning)
        .when(
            rule.default && kind == ErrorKind::Invalid,
            Error::with_unclassified,
        );
    // nginx itself replies with such a page if it limits requests (limit_req, limit_conn) or has no server to forward to.
    let is_nginx = || memchr::memmem::find(body, b"<center>nginx").is_some();
    let by_proxy = status == 503 && unreadable && is_nginx();
    let error = error
        .when(by_proxy, Error::by_proxy)
        // Only servers that users run themselves answer while they load their model.
        .when(rule.loading && vendor.may_load, Error::with_not_ready);
    match &error_body.written {
        Some(written) => error.with_raw(written),
        None if unreadable && !body.is_empty() => error.with_raw(&beginning(body)),
        None => error,
    }
}

/// The form of an error reply, and what it says.
fn read(status: u16, body: &[u8]) -> (Form, ErrorBody) {
    if let Some(error_body) = ErrorBody::from_body(body) {
        let is_coded = !error_body.words.is_empty();
        return (if is_coded { Form::Coded } else { Form::Bare }, error_body);
    }
    let text = std::str::from_utf8(body).map_or("", str::trim);
    let form = match body.trim_ascii() {
        [] => Form::Empty,
        [b'<', ..] => Form::Page,
        _ if serde_json::from_slice::<IgnoredAny>(body).is_ok() => Form::Bare,
        _ => Form::Text,
    };
    let message = match (status, form) {
        (300..400, _) => "a redirect; is the base URL right?".to_owned(),
        (404 | 405, _) => "no such address; is the base URL right?".to_owned(),
        (407, _) => "a proxy on the way wants a login".to_owned(),
        (_, Form::Bare) => "JSON without an error message".to_owned(),
        (_, Form::Text) if !text.is_empty() => word(Some(&text.into())),
        _ => "a reply that is not JSON".to_owned(),
    };
    let error_body = ErrorBody {
        message,
        ..ErrorBody::default()
    };
    (form, error_body)
}

/// The title of a web page, which often says what refused the request.
pub(super) fn title(page: &[u8]) -> Option<String> {
    let page = String::from_utf8_lossy(page);
    let lower = page.to_ascii_lowercase();
    let tag = lower.find("<title")?;
    let start = tag + lower[tag..].find('>')? + 1;
    let end = start + lower[start..].find("</")?;
    let words: Vec<&str> = page[start..end].split_whitespace().collect();
    let title = cut_to(LONGEST_TITLE, words.join(" "));
    (!title.is_empty()).then_some(title)
}

/// Bytes of a page's title that a message has.
const LONGEST_TITLE: usize = 120;

/// If a gateway timed out before the model did, the answer may have been billed.
fn sent(status: u16) -> Sent {
    match status {
        408 | 499 | 504 | 524 => Sent::Maybe,
        _ => Sent::Answered,
    }
}

/// The error of a batch or of one of its requests, with the status that it has in a reply to a call: by Google's codes, or
/// by Anthropic's types.
pub(super) fn error_in_batch(vendor: &Vendor, error: &Value) -> ErrorBody {
    let error = error.get("error").unwrap_or(error);
    let mut error_body = ErrorBody::from_error(error);
    let code = word(error.get("code"));
    let mut known = RULES.google_codes.iter();
    let known = known
        .find(|(number, name, _)| number.to_string() == code || name.eq_ignore_ascii_case(&code));
    if let Some((_, name, status)) = known {
        error_body.status = Some(*status);
        if !error_body.words.contains(name) {
            error_body.words.push(name.clone());
        }
    }
    error_body.status = error_body.status.or_else(|| by_type(vendor, &error_body));
    error_body
}

/// The failure of a batch or of one of its requests, and the status that decides about it.
pub(super) fn failure_in_batch(vendor: &Vendor, error_body: &ErrorBody) -> (Error, u16) {
    let known = error_body.status.filter(|s| (400..600).contains(s));
    // An unknown error is not known to be the fault of the request, so it is retried; but in OpenAI's format, only those
    // of requests have no code.
    let status = known.unwrap_or(match vendor.dialect {
        Dialect::OpenAi => 400,
        _ => 500,
    });
    let error = classified(vendor, status, error_body).0;
    let error = error.reworded(error_body.text(vendor.name, "said"));
    (error.set(known, Error::with_status), status)
}

/// The failure with this status in a complete reply, and its rule.
fn classified<'v>(vendor: &'v Vendor, status: u16, error_body: &ErrorBody) -> (Error, &'v Rule) {
    let rule = vendor.rule(status, error_body);
    let message = error_body.text(vendor.name, &format!("answered {status}"));
    let error = Error::new(rule.kind, message)
        .with_sent(Sent::Answered)
        .with_retry_after(error_body.wait.or(rule.default_wait()))
        .set(rule.whom, Error::concerning);
    (error, rule)
}

/// The status of an error in a reply to a call, by its code.
fn by_type(vendor: &Vendor, error_body: &ErrorBody) -> Option<u16> {
    let known = match vendor.dialect {
        Dialect::Anthropic => &RULES.anthropic_statuses,
        Dialect::OpenAi => &RULES.openai_statuses,
        _ => return None,
    };
    let mut known = known.iter();
    let (_, status) = known.find(|(kind, _)| error_body.words.contains(kind))?;
    Some(*status)
}

/// The failure inside a reply with a success status, which some gateways send.
pub(super) fn failure_inside(vendor: &Vendor, error: &Value, body: &[u8]) -> Error {
    let error_body = ErrorBody::from_error(error);
    let named = error_body
        .status
        .or_else(|| by_type(vendor, &error_body))
        .filter(|status| (400..600).contains(status));
    // Without a status, only errors with a rule of their own are known.
    let status = named.unwrap_or(400);
    let (error, rule) = classified(vendor, status, &error_body);
    if named.is_none() && rule.default {
        return malformed(error_body.message, body);
    }
    error.when(rule.default, Error::with_unclassified)
}
