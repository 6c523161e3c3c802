//! Why a provider rejected an input or a batch: named requests, one that is not named, its size, or the account.

use serde_json::Value;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchRefusal, BatchState, RequestName};
use crate::llm::providers::rules::ErrorBody;
use crate::llm::providers::vendor::Vendor;

use super::named::{WORDS, named};
use super::reply::count;

/// The kind of the failure of a batch or of one of its requests, also without a status.
pub(super) fn kind(vendor: &Vendor, error_body: &ErrorBody) -> ErrorKind {
    let status = error_body.status;
    if let Some(status) = status.filter(|status| (400..600).contains(status)) {
        return vendor.rule(status, error_body).kind;
    }
    let says = |parts: &[&str]| {
        let mut words = error_body
            .words
            .iter()
            .map(|word| word.to_ascii_lowercase());
        words.any(|word| parts.iter().any(|part| word.contains(part)))
    };
    if says(&["rate_limit"]) {
        return ErrorKind::RateLimited;
    }
    let words = error_body.message.split(|c: char| !c.is_alphanumeric());
    let of_input = error_body.mentions(&["invalid", "input file"])
        || words
            .into_iter()
            .any(|word| ["line", "lines"].contains(&&*word.to_ascii_lowercase()));
    // Some report a text without a code.
    if says(&WORDS.server_codes) || !of_input && error_body.mentions(&WORDS.server_texts) {
        return ErrorKind::Transient;
    }
    vendor.rule(400, error_body).kind
}

/// The state of a batch that was rejected with these errors: a list, an object with a list, a text, or nothing.
pub(super) fn refused(vendor: &Vendor, errors: Option<&Value>) -> BatchState {
    let all = entries(errors);
    let mut parts: Vec<BatchRefusal> = all.iter().map(|entry| part(vendor, entry)).collect();
    // What concerns the account or the whole batch decides; otherwise, all named requests count.
    parts.sort_by_key(rank);
    let mut names: Vec<(RequestName, Error)> = Vec::new();
    for part in parts {
        match part {
            BatchRefusal::Named(more) => {
                for (name, error) in more {
                    if names.iter().all(|(known, _)| *known != name) {
                        names.push((name, error));
                    }
                }
            }
            BatchRefusal::Unnamed(_) if !names.is_empty() => break,
            BatchRefusal::Busy(error) => return BatchState::Failed(error),
            other => return BatchState::Refused(other),
        }
    }
    BatchState::Refused(if names.is_empty() {
        let why = format!("{} rejected the batch without a reason", vendor.name);
        BatchRefusal::Unnamed(Error::new(ErrorKind::Invalid, why))
    } else {
        names.sort_by_key(|(name, _)| match name {
            RequestName::Line(line) => *line,
            RequestName::Key(_) => 0,
        });
        BatchRefusal::Named(names)
    })
}

fn rank(refusal: &BatchRefusal) -> u8 {
    match refusal {
        BatchRefusal::Account(_) => 0,
        BatchRefusal::TooMuchQueued(_) => 1,
        BatchRefusal::TooLarge(_) => 2,
        BatchRefusal::Whole(_) => 3,
        BatchRefusal::NoFile(_) => 4,
        BatchRefusal::Busy(_) => 5,
        BatchRefusal::Named(_) => 6,
        BatchRefusal::Unnamed(_) => 7,
    }
}

/// One entry of the errors of a batch.
fn part(vendor: &Vendor, entry: &Value) -> BatchRefusal {
    let error_body = ErrorBody::from_error(entry);
    let line = entry.get("line").and_then(count).filter(|line| *line > 0);
    let kind = kind(vendor, &error_body);
    let error = Error::new(kind, message(vendor, &error_body));
    match line {
        Some(line) if kind != ErrorKind::Quota => {
            let kind = match kind {
                _ if is_of_model(&error.message().to_lowercase()) => ErrorKind::UnknownModel,
                ErrorKind::Auth => ErrorKind::Invalid,
                kind => kind,
            };
            let error = Error::new(kind, error.message());
            BatchRefusal::Named(vec![(RequestName::Line(line), error)])
        }
        _ => of(error),
    }
}

/// The state of a batch that failed while it ran, with these errors. Requests without an answer may be sent again.
pub(super) fn broken_off(vendor: &Vendor, errors: Option<&Value>) -> BatchState {
    let all = entries(errors);
    let first = all.first().map(ErrorBody::from_error);
    let why = first.map_or_else(String::new, |error| message(vendor, &error));
    let why = match &*why {
        "" => format!("{} broke the batch off without a reason", vendor.name),
        why => format!("the batch failed before this request was worked on: {why}"),
    };
    BatchState::Failed(Error::new(ErrorKind::Transient, why))
}

/// Why an upload, a creation or a batch was refused, judged by the text of the error and its kind. Providers use few
/// codes here and change their words, so that each decision is one about words; in doubt, no request is judged.
pub(super) fn of(error: Error) -> BatchRefusal {
    let text = error.message().to_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let kind = error.kind();
    if kind == ErrorKind::Quota {
        return account(error, BILLING);
    }
    let concerns_requests = matches!(
        kind,
        ErrorKind::Invalid | ErrorKind::Blocked | ErrorKind::UnknownModel | ErrorKind::Auth
    );
    if concerns_requests {
        let names = named(&text);
        if !names.is_empty() {
            let error = of_request(error);
            let names = names.into_iter();
            return BatchRefusal::Named(names.map(|name| (name, error.clone())).collect());
        }
    }
    let limits = says(&WORDS.limit);
    if says(&WORDS.storage) && (limits || error.status() == Some(507)) {
        return account(error, DELETE_FILES);
    }
    let queue = says(&WORDS.queue) && limits || kind == ErrorKind::RateLimited && says(&["quota"]);
    if queue || says(&["token_limit_exceeded", "enqueued token"]) {
        let why = format!("{error}; {WAIT}");
        return BatchRefusal::TooMuchQueued(with_kind(error, ErrorKind::RateLimited).reworded(why));
    }
    let counts_requests = says(&["requests", "lines", "bytes", "size"]);
    if limits && (says(&WORDS.batches) || says(&["batches"]) && !counts_requests) {
        return account(error, WAIT);
    }
    if says(&WORDS.money) {
        return account(error, BILLING);
    }
    let is_amount = says(&WORDS.too_large) && says(&WORDS.sizes) && !says(&["token", "context"]);
    match kind {
        ErrorKind::Auth => BatchRefusal::Whole(error),
        ErrorKind::UnknownModel => BatchRefusal::Whole(error),
        // "Too many requests" is a rate, not a size.
        ErrorKind::RateLimited | ErrorKind::Transient | ErrorKind::Malformed => {
            BatchRefusal::Busy(error)
        }
        _ if says(&WORDS.not_yet) => BatchRefusal::Busy(error),
        _ if error.is_too_large() || is_amount => BatchRefusal::TooLarge(error),
        _ if says(&["file"]) && says(&WORDS.gone) => {
            BatchRefusal::NoFile(with_kind(error, ErrorKind::Transient))
        }
        _ if is_of_model(&text) => BatchRefusal::Whole(with_kind(error, ErrorKind::UnknownModel)),
        _ => BatchRefusal::Unnamed(error),
    }
}

/// Whether a text says that a model cannot be used.
fn is_of_model(text: &str) -> bool {
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    says(&["model"]) && says(&WORDS.no_model) && !says(&WORDS.fields)
}

const DELETE_FILES: &str = "delete files there that you no longer need";
const WAIT: &str = "wait until earlier batches there have ended, or cancel some";
const BILLING: &str = "add credit or raise the limit in the billing settings of the account";

/// A refusal that concerns the account, with what to do.
fn account(error: Error, advice: &str) -> BatchRefusal {
    let why = format!("{error}; {advice}");
    BatchRefusal::Account(with_kind(error, ErrorKind::Quota).reworded(why))
}

/// The failure of a named request: what concerns the key does not concern it.
fn of_request(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Auth => with_kind(error, ErrorKind::Invalid),
        _ => error,
    }
}

fn with_kind(error: Error, kind: ErrorKind) -> Error {
    let other = Error::new(kind, error.message())
        .with_sent(error.sent())
        .with_retry_after(error.retry_after())
        .with_request_id(error.request_id());
    match error.status() {
        Some(status) => other.with_status(status),
        None => other,
    }
}

/// The places that the body of a refusal names apart from its message, for the message: a line or a parameter.
pub(super) fn places_of(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return String::new();
    };
    let body = match &body {
        Value::Array(list) => list.first().cloned().unwrap_or_default(),
        _ => body,
    };
    let error = body.get("error").unwrap_or(&body);
    let mut all = vec![error.clone(), body.clone()];
    all.extend(entries(error.get("errors").or_else(|| body.get("errors"))));
    let mut places = String::new();
    for entry in &all {
        if let Some(line) = entry.get("line").and_then(count).filter(|line| *line > 0) {
            places += &format!(" (line {line})");
        }
        if let Some(param) = entry.get("param").and_then(Value::as_str)
            && !named(param).is_empty()
        {
            places += &format!(" ({param})");
        }
    }
    places
}

/// The provider's message about a batch or a part of it.
pub(super) fn message(vendor: &Vendor, error_body: &ErrorBody) -> String {
    let name = vendor.name;
    match error_body.words.first() {
        Some(word) => format!("{name} said ({word}): {}", error_body.message),
        None => format!("{name} said: {}", error_body.message),
    }
}

fn entries(errors: Option<&Value>) -> Vec<Value> {
    match errors {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.clone(),
        Some(Value::Object(fields)) => match fields.get("data") {
            Some(data) => entries(Some(data)),
            None if fields.is_empty() => Vec::new(),
            None => vec![Value::Object(fields.clone())],
        },
        Some(other) => vec![other.clone()],
    }
}
