//! Why a provider rejected a batch that it had created: a line, the whole batch, or the amount of queued requests.

use serde_json::Value;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchRefusal, BatchState};
use crate::llm::providers::error_body::ErrorBody;
use crate::llm::providers::vendor::Vendor;

use super::reply::count;

/// The kind of the failure of a batch or of one of its requests, also without a status.
pub(super) fn kind(vendor: &Vendor, error_body: &ErrorBody, status: Option<u16>) -> ErrorKind {
    let named = status.or(error_body.status);
    if let Some(status) = named.filter(|status| (400..600).contains(status)) {
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
    // Mistral reports a text without a code.
    let server_says = [
        "internal error",
        "server error",
        "service unavailable",
        "temporarily unavailable",
        "timed out",
        "overloaded",
    ];
    let words = error_body.message.split(|c: char| !c.is_alphanumeric());
    let of_input = error_body.mentions(&["invalid", "input file"])
        || words
            .into_iter()
            .any(|word| ["line", "lines"].contains(&&*word.to_ascii_lowercase()));
    if says(&[
        "server_error",
        "internal",
        "unavailable",
        "timeout",
        "overloaded",
    ]) || !of_input && error_body.mentions(&server_says)
    {
        return ErrorKind::Transient;
    }
    vendor.rule(400, error_body).kind
}

/// The state of a batch that was rejected with these errors: a list, an object with a list, a text, or nothing.
pub(super) fn refused(vendor: &Vendor, errors: Option<&Value>) -> BatchState {
    let complaints: Vec<RefusedPart> = entries(errors)
        .iter()
        .map(|entry| RefusedPart::read(vendor, entry))
        .collect();
    let first = |fits: &dyn Fn(&RefusedPart) -> bool| {
        let found = complaints.iter().find(|complaint| fits(complaint));
        found.map(|complaint| complaint.error.clone())
    };
    if let Some(error) = first(&|complaint| complaint.about == Subject::Queue) {
        return BatchState::Refused(BatchRefusal::TooMuchQueued(error));
    }
    if let Some(error) = first(&|complaint| complaint.about == Subject::All) {
        return BatchState::Refused(BatchRefusal::Whole(error));
    }
    if let Some(error) = first(&|complaint| complaint.about == Subject::Server) {
        return BatchState::Failed(error);
    }
    let lines = complaints.iter().filter_map(|complaint| {
        let error = complaint.error.clone();
        complaint.line.map(|line| (line, error))
    });
    let mut lines: Vec<(u64, Error)> = lines.collect();
    lines.sort_by_key(|(line, _)| *line);
    lines.dedup_by_key(|(line, _)| *line);
    BatchState::Refused(if !lines.is_empty() {
        BatchRefusal::Lines(lines)
    } else {
        BatchRefusal::SomeLine(first(&|_| true).unwrap_or_else(|| {
            let why = format!("{} rejected the batch without a reason", vendor.name);
            Error::new(ErrorKind::Invalid, why)
        }))
    })
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

#[derive(PartialEq, Eq)]
enum Subject {
    Line,
    Queue,
    All,
    Server,
}

struct RefusedPart {
    about: Subject,
    error: Error,
    line: Option<u64>,
}

impl RefusedPart {
    fn read(vendor: &Vendor, entry: &Value) -> Self {
        let error_body = ErrorBody::from_error(entry);
        let line = entry.get("line").and_then(count).filter(|line| *line > 0);
        let kind = kind(vendor, &error_body, None);
        let queue = error_body
            .words
            .iter()
            .any(|word| word == "token_limit_exceeded")
            || error_body.mentions(&["enqueued token limit"]);
        // The limit is lower than expected: halves of the batch may pass.
        let size = line.is_none()
            && error_body.mentions(&["too large", "too many", "maximum", "at most"])
            && error_body.mentions(&["requests", "lines", "size", "bytes"]);
        let no_model = error_body.mentions(&["model"])
            && error_body.mentions(&["not supported", "unsupported", "not available"]);
        let file = error_body.mentions(&["input file", "input_file", "file id"]);
        let no_file = line.is_none()
            && file
            && error_body.mentions(&["not found", "not exist", "missing", "deleted", "no such"]);
        let (about, kind) = match kind {
            _ if queue || size => (Subject::Queue, ErrorKind::RateLimited),
            kind if kind.is_critical() => (Subject::All, kind),
            _ if no_model => (Subject::All, ErrorKind::UnknownModel),
            // The requests are valid: with a new file they may succeed.
            _ if no_file => (Subject::All, ErrorKind::Transient),
            ErrorKind::Transient | ErrorKind::RateLimited if line.is_none() => {
                (Subject::Server, ErrorKind::Transient)
            }
            kind => (Subject::Line, kind),
        };
        Self {
            about,
            error: Error::new(kind, message(vendor, &error_body)),
            line,
        }
    }
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
