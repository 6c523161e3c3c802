//! Why a provider rejected an input or a batch, judged once where its reply is read: by status, code, type, parameter and
//! the places of requests in its fields. Texts decide only in the rows of the tables of errors.

use serde_json::Value;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchRefusal, BatchState, RefusalOutcome, RequestName};
use crate::llm::providers::errors::{error_in_batch, failure_in_batch};
use crate::llm::providers::fields::whole;
use crate::llm::providers::rules::{ErrorBody, InBatch, LONGEST_WORD, RULES, cut_to, word};
use crate::llm::providers::vendor::Vendor;
use crate::llm::transport::HttpReply;

/// The refusal in a reply with an error status.
pub(super) fn of_reply(vendor: &Vendor, reply: &HttpReply, error: Error) -> BatchRefusal {
    let body = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
    match ErrorBody::from_body(&reply.body) {
        Some(error_body) => judged(vendor, error, reply.status, &error_body, names_in(&body)),
        None => {
            let mut refusal = BatchRefusal::from(error);
            // It comes from something in between, and says nothing about requests or files.
            if matches!(
                refusal.outcome,
                RefusalOutcome::Unnamed | RefusalOutcome::NoFile
            ) {
                refusal.outcome = RefusalOutcome::Stops { of_account: false };
            }
            refusal
        }
    }
}

/// The refusal in an error of a batch that was created.
pub(super) fn in_batch(vendor: &Vendor, error: &Value) -> BatchRefusal {
    let error_body = error_in_batch(vendor, error);
    let (failure, status) = failure_in_batch(vendor, &error_body);
    judged(vendor, failure, status, &error_body, names_in(error))
}

fn judged(
    vendor: &Vendor,
    error: Error,
    status: u16,
    error_body: &ErrorBody,
    mut names: Vec<RequestName>,
) -> BatchRefusal {
    let rule = vendor.rule(status, error_body);
    if rule.names {
        let place = error_body.message.split([':', ' ']).next();
        names.extend(place.and_then(name_of));
    }
    let kind = error.kind();
    let is_of_all = matches!(kind, ErrorKind::Quota | ErrorKind::UnknownModel)
        || status == 401
        || kind == ErrorKind::Auth && rule.is_listed();
    let param = error_body.param.split(['.', '[']).next();
    let is_of_batch = RULES
        .batch_parameters
        .iter()
        .any(|name| Some(&**name) == param);
    let is_of_request = |code: &String| {
        let code = code.to_lowercase();
        code.starts_with("invalid") || RULES.request_codes.contains(&code)
    };
    let codes = &error_body.words;
    let is_of_requests = codes.is_empty() || codes.iter().any(is_of_request);
    let stops = |of_account| RefusalOutcome::Stops { of_account };
    let outcome = match rule.batch {
        Some(InBatch::TooLarge) => RefusalOutcome::TooLarge,
        Some(InBatch::Room) => RefusalOutcome::Wait { room: true },
        Some(InBatch::Wait) => RefusalOutcome::Wait { room: false },
        Some(InBatch::NoFile) => RefusalOutcome::NoFile,
        Some(InBatch::Unnamed) => RefusalOutcome::Unnamed,
        None if is_of_all => stops(!error.is_model_only()),
        None => match RefusalOutcome::of(Some(status), &error) {
            known @ (RefusalOutcome::Wait { .. } | RefusalOutcome::TooLarge) => known,
            _ if !names.is_empty() => named(names, &error),
            RefusalOutcome::Unnamed if is_of_batch || !is_of_requests => stops(false),
            known => known,
        },
    };
    let param = error_body.param.replace(|c: char| c.is_ascii_digit(), "");
    BatchRefusal {
        outcome,
        error,
        code: [codes.join(" "), param].join(" "),
    }
}

/// These requests fail, for the same reason.
fn named(names: Vec<RequestName>, error: &Error) -> RefusalOutcome {
    // They may be thousands, and each has the text.
    let most = ((1 << 20) / names.len()).clamp(512, LONGEST_WORD);
    let kind = match error.kind() {
        ErrorKind::Blocked => ErrorKind::Blocked,
        // What concerns the key does not concern a request.
        _ => ErrorKind::Invalid,
    };
    let why = Error::new(kind, cut_to(most, error.message().to_owned()));
    let names = names.into_iter();
    RefusalOutcome::Named(names.map(|name| (name, why.clone())).collect())
}

/// The state of a batch that was rejected with these errors: a list, an object with a list, a text, or nothing.
pub(super) fn refused(vendor: &Vendor, errors: Option<&Value>) -> BatchState {
    let all = entries(errors);
    let mut parts: Vec<BatchRefusal> = all.iter().map(|entry| in_batch(vendor, entry)).collect();
    // What concerns the account or the whole batch decides; otherwise, all named requests count.
    parts.sort_by_key(|part| match part.outcome {
        RefusalOutcome::Stops { .. } => 0,
        RefusalOutcome::Wait { .. } => 1,
        RefusalOutcome::TooLarge => 2,
        RefusalOutcome::NoFile => 3,
        RefusalOutcome::Named(_) => 4,
        RefusalOutcome::Unnamed => 5,
    });
    let mut parts = parts.into_iter();
    let mut first = parts.next().unwrap_or_else(|| {
        let why = format!("{} rejected the batch without a reason", vendor.name);
        Error::new(ErrorKind::Invalid, why).with_status(400).into()
    });
    if let RefusalOutcome::Named(names) = &mut first.outcome {
        for part in parts {
            if let RefusalOutcome::Named(more) = part.outcome {
                names.extend(more);
            }
        }
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        names.dedup_by(|(later, _), (first, _)| later == first);
    }
    BatchState::Refused(first)
}

/// The state of a batch that failed while it ran, with these errors. Requests without an answer may be sent again.
pub(super) fn broken_off(vendor: &Vendor, errors: Option<&Value>) -> BatchState {
    let why = match entries(errors).first().map(ErrorBody::from_error) {
        None => format!("{} broke the batch off without a reason", vendor.name),
        Some(error) => {
            let why = error.text(vendor.name, "said");
            format!("the batch failed before this request was worked on: {why}")
        }
    };
    BatchState::Failed(Error::new(ErrorKind::Transient, why))
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

/// The requests that the fields of an error name. Other fields may repeat what was sent.
fn names_in(error: &Value) -> Vec<RequestName> {
    let fields = match error {
        Value::Array(list) => return list.iter().flat_map(names_in).collect(),
        Value::Object(fields) => fields,
        _ => return Vec::new(),
    };
    // A line with a column is of a text within a request, and one of a file may be of a program.
    let is_other = fields
        .keys()
        .any(|name| name.starts_with("col") || name == "file");
    let name = |(field, value): (&String, &Value)| match (&**field, value) {
        ("line" | "line_number", _) if !is_other => {
            let line = whole(value).filter(|line| *line > 0);
            line.map(RequestName::Line).into_iter().collect()
        }
        ("param" | "field" | "custom_id", Value::String(text)) => {
            name_of(text).into_iter().collect()
        }
        // Of FastAPI.
        ("loc", Value::Array(parts)) => {
            let parts: Vec<String> = parts.iter().map(|part| word(Some(part))).collect();
            name_of(&parts.join(".")).into_iter().collect()
        }
        ("error" | "errors" | "data" | "detail" | "details" | "fieldViolations", _) => {
            names_in(value)
        }
        _ => Vec::new(),
    };
    fields.iter().flat_map(name).collect()
}

/// The request that a key or the path of a field names: `requests.5.params`, `requests[5]`, `/requests/5`.
fn name_of(text: &str) -> Option<RequestName> {
    if text.starts_with("bw-") {
        return Some(RequestName::Key(text.to_owned()));
    }
    let parts = text.split(['.', '[', ']', '/']);
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let mut pairs = parts.windows(2);
    let index = pairs.find_map(|pair| match pair {
        ["requests", index] => index.parse::<u64>().ok(),
        _ => None,
    })?;
    Some(RequestName::Line(index.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_its_key_or_by_the_path_of_a_field() {
        for (path, line) in [
            ("requests.5.params.max_tokens", 6),
            ("requests[5].params", 6),
            ("batch.requests.requests[3].request", 4),
            ("/requests/7/params", 8),
            ("body.requests.0.params", 1),
            ("messages.0.content", 0),
            ("requests", 0),
            ("requests.x", 0),
            ("5", 0),
        ] {
            let line = Some(RequestName::Line(line)).filter(|_| line > 0);
            assert_eq!(name_of(path), line, "{path}");
        }
        let key = "bw-0123456789abcdef0123456789abcdef-17";
        assert_eq!(name_of(key), Some(RequestName::Key(key.to_owned())));
    }

    #[test]
    fn all_names_in_fields_are_read_and_each_has_a_short_text() {
        let vendor = Vendor::named("openai").unwrap();
        for (number, longest) in [(1, 16 * 1024), (50, 16 * 1024), (8_000, 512)] {
            let lines: Vec<Value> = (1..=number)
                .map(|n| serde_json::json!({"line": n}))
                .collect();
            let why = format!("no url {}", "so ".repeat(10_000));
            let error = serde_json::json!({"message": why, "errors": lines});
            let RefusalOutcome::Named(names) = in_batch(vendor, &error).outcome else {
                panic!("{number}");
            };
            assert_eq!(names.len(), number);
            let (_, last) = &names[number - 1];
            assert!(last.message().ends_with(" …"));
            assert!((longest / 2..longest + 4).contains(&last.message().len()));
        }
    }
}
