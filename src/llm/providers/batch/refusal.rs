//! Why a provider rejected an input or a batch: named requests, one that is not named, its size, or the account.
//!
//! A text names requests by our keys, by a line of the input ("line 4"), or by an index of the list of requests
//! ("requests.5.params"). Ranges and lists are not read: a batch whose refusal names none is halved.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use serde_json::Value;

use crate::base::json_read::table;
use crate::base::{Error, ErrorKind, Optional};
use crate::llm::batch::{BatchRefusal, BatchState, RequestName};
use crate::llm::providers::fields::whole;
use crate::llm::providers::rules::{ErrorBody, LONGEST_WORD, cut_to};
use crate::llm::providers::vendor::Vendor;

/// The kind of the failure of a batch or of one of its requests, also without a status.
pub(super) fn kind(vendor: &Vendor, error_body: &ErrorBody) -> ErrorKind {
    let status = error_body.status;
    if let Some(status) = status.filter(|status| (400..600).contains(status)) {
        return vendor.rule(status, error_body).kind;
    }
    let codes = error_body.words.iter().map(|word| word.to_lowercase());
    let codes: Vec<String> = codes.collect();
    if codes.iter().any(|code| code.contains("rate_limit")) {
        return ErrorKind::RateLimited;
    }
    let text = error_body.message.to_lowercase();
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    let of_input = text.contains("invalid")
        || text.contains("input file")
        || words.any(|word| matches!(word, "line" | "lines"));
    // Some report a text without a code.
    let is_coded = codes.iter().any(|code| says(code, "server_codes"));
    if is_coded || !of_input && says(&text, "server_texts") {
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
            BatchRefusal::Named(more) => names.extend(more),
            BatchRefusal::Unnamed(_) if !names.is_empty() => break,
            BatchRefusal::Busy(error) => return BatchState::Failed(error),
            other => return BatchState::Refused(other),
        }
    }
    BatchState::Refused(if names.is_empty() {
        let why = format!("{} rejected the batch without a reason", vendor.name);
        BatchRefusal::Unnamed(Error::new(ErrorKind::Invalid, why))
    } else {
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        names.dedup_by(|(later, _), (first, _)| later == first);
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
    let line = entry.get("line").and_then(whole);
    let line = line.filter(|line| *line > 0 && !has_other_line(entry));
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
        _ => {
            let why = error.message().to_owned() + &places_of(entry);
            of(error.reworded(why))
        }
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
pub(crate) fn of(error: Error) -> BatchRefusal {
    let text = error.message().to_lowercase();
    let names = named(&text);
    // They may be thousands, and each has the text.
    let most = ((1 << 20) / names.len().max(1)).clamp(512, LONGEST_WORD);
    let why = cut_to(most, error.message().to_owned());
    let error = error.reworded(why);
    let says = |meaning| says(&text, meaning);
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let kind = match error.kind() {
        ErrorKind::Quota => return account(error, BILLING),
        // It says nothing about requests.
        _ if error.status() == Some(429) => ErrorKind::RateLimited,
        kind => kind,
    };
    let concerns_requests = matches!(
        kind,
        ErrorKind::Invalid | ErrorKind::Blocked | ErrorKind::UnknownModel | ErrorKind::Auth
    );
    if concerns_requests && !names.is_empty() {
        // What concerns the key does not concern a request.
        let is_key = kind == ErrorKind::Auth;
        let error = error.when(is_key, |error| with_kind(error, ErrorKind::Invalid));
        let names = names.into_iter();
        return BatchRefusal::Named(names.map(|name| (name, error.clone())).collect());
    }
    let limits = says("limit");
    if says("storage") && (limits || error.status() == Some(507)) {
        return account(error, DELETE_FILES);
    }
    let queue = says("queue") && limits || kind == ErrorKind::RateLimited && has(&["quota"]);
    if queue || has(&["token_limit_exceeded", "enqueued token"]) {
        let why = format!("{error}; {WAIT}");
        return BatchRefusal::TooMuchQueued(with_kind(error, ErrorKind::RateLimited).reworded(why));
    }
    let counts_requests = has(&["requests", "lines", "bytes", "size"]);
    if limits && (says("batches") || has(&["batches"]) && !counts_requests) {
        return account(error, WAIT);
    }
    let is_key = kind == ErrorKind::Auth && has(&["key has", "key was"]);
    let is_other = is_key || has(&["model", "parameter", "field"]);
    let is_closed = says("closed") && says("accounts") && !is_other;
    if says("money") || is_closed {
        return account(error, BILLING);
    }
    let is_amount = says("too_large") && says("sizes") && !has(&["token", "context"]);
    match kind {
        ErrorKind::Auth | ErrorKind::UnknownModel => BatchRefusal::Whole(error),
        // "Too many requests" is a rate, not a size.
        ErrorKind::RateLimited | ErrorKind::Transient | ErrorKind::Malformed => {
            BatchRefusal::Busy(error)
        }
        _ if says("not_yet") => BatchRefusal::Busy(error),
        _ if error.status() == Some(413) || is_amount => BatchRefusal::TooLarge(error),
        _ if has(&["file"]) && says("gone") => {
            BatchRefusal::NoFile(with_kind(error, ErrorKind::Transient))
        }
        _ if is_of_model(&text) => BatchRefusal::Whole(with_kind(error, ErrorKind::UnknownModel)),
        _ => BatchRefusal::Unnamed(error),
    }
}

/// Whether a text says that a model cannot be used.
fn is_of_model(text: &str) -> bool {
    text.contains("model") && says(text, "no_model") && !says(text, "fields")
}

const DELETE_FILES: &str = "delete files there that you no longer need";
const WAIT: &str = "wait until earlier batches there have ended, or cancel some";
const BILLING: &str = "add credit or raise the limit in the billing settings of the account";

/// A refusal that concerns the account, with what to do.
fn account(error: Error, advice: &str) -> BatchRefusal {
    let why = format!("{error}; {advice}");
    BatchRefusal::Account(with_kind(error, ErrorKind::Quota).reworded(why))
}

fn with_kind(error: Error, kind: ErrorKind) -> Error {
    let other = Error::new(kind, error.message())
        .with_sent(error.sent())
        .with_retry_after(error.retry_after())
        .with_request_id(error.request_id());
    other.set(error.status(), Error::with_status)
}

/// The requests that the fields of a refusal name, for its message: a line, or a parameter or key that names one.
pub(super) fn places_of(refusal: &Value) -> String {
    match refusal {
        Value::Array(list) => list.iter().map(places_of).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.filter(|(k, _)| !k.starts_with("line") || !has_other_line(refusal));
            fields.map(place_in).collect()
        }
        _ => String::new(),
    }
}

/// Whether a line there is not one of the input: one with a column is of a text within a request, and one of a file may
/// be of a program.
fn has_other_line(entry: &Value) -> bool {
    let mut fields = entry.as_object().into_iter().flatten();
    fields.any(|(name, _)| name.starts_with("col") || name == "file")
}

fn place_in((name, value): (&String, &Value)) -> String {
    match (&**name, value) {
        ("line" | "line_number", _) if whole(value) > Some(0) => format!(" (line {value})"),
        ("param" | "field" | "custom_id", Value::String(text)) if !named(text).is_empty() => {
            format!(" ({text})")
        }
        ("error" | "errors" | "data" | "detail" | "details" | "fieldViolations", _) => {
            places_of(value)
        }
        // Others may repeat what was sent.
        _ => String::new(),
    }
}

/// The provider's message about a batch or a part of it.
pub(super) fn message(vendor: &Vendor, error_body: &ErrorBody) -> String {
    error_body.text(vendor.name, "said")
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

/// The requests that a text names, without repetitions. The key of a request is exact, so that then nothing else counts.
fn named(text: &str) -> BTreeSet<RequestName> {
    let text = text.to_ascii_lowercase();
    match keys(&text) {
        keys if keys.is_empty() => lines(&text).map(RequestName::Line).collect(),
        keys => keys,
    }
}

/// Our keys: a label, which is `bw-` and 32 hexadecimal digits, and a number.
fn keys(text: &str) -> BTreeSet<RequestName> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("bw-") {
        let rest = &text[at + 3..];
        let hex = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        let Some(number) = rest.get(hex..).and_then(|rest| rest.strip_prefix('-')) else {
            continue;
        };
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        if hex != 32 || digits == 0 {
            continue;
        }
        let key = text[at..at + 3 + hex + 1 + digits].to_owned();
        found.insert(RequestName::Key(key));
    }
    found
}

/// What a number from 1 follows: "line 4", "row #4", "item number 4".
const COUNTED: [&str; 6] = ["line", "row", "record", "entry", "item", "request"];
/// Lists of requests, and what stands between one and an index from 0: "requests.5.params", "/requests/5",
/// "('body', 'requests', 5)".
const LISTS: [&str; 3] = ["requests", "items", "records"];
const PATHS: [&str; 6] = [".", "[", "/", " -> ", "', ", "\","];

/// The named lines, from 1.
fn lines(text: &str) -> impl Iterator<Item = u64> {
    let counted = COUNTED.into_iter().flat_map(|name| after(text, name));
    let counted = counted.filter_map(|(before, rest)| {
        if let Some(index) = rest.strip_prefix(" at index ") {
            return Some(place(index)?.0.saturating_add(1));
        }
        let rest = rest.trim_start_matches(['_', ' ']);
        let rest = rest.strip_prefix("number").unwrap_or(rest);
        let number = rest.trim_start_matches([' ', '#', ':', '=', '"']);
        let (line, rest) = place(number)?;
        // A parser that reads one line reports each fault in line 1 of it.
        let is_column = rest
            .trim_start_matches([',', ' ', ':', '('])
            .starts_with("col");
        (!before.ends_with("bad ") && (line > 1 || !is_column)).then_some(line.max(1))
    });
    let indexed = LISTS.into_iter().flat_map(|list| after(text, list));
    let indexed = indexed.filter_map(|(_, rest)| {
        let mut paths = PATHS.into_iter();
        place(paths.find_map(|path| rest.strip_prefix(path))?)
    });
    counted.chain(indexed.map(|(index, _)| index.saturating_add(1)))
}

/// What stands before and after each occurrence of a word.
fn after<'t>(text: &'t str, word: &'static str) -> impl Iterator<Item = (&'t str, &'t str)> {
    let parts = text.match_indices(word);
    let parts = parts.map(|(at, _)| (&text[..at], &text[at + word.len()..]));
    parts.filter(|(before, after)| {
        let is_word = |c: char| c.is_alphanumeric();
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// A number at the beginning that is the place of a request, and the rest: it is not a part of a word, a fraction or an
/// amount.
fn place(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let mut next = rest.chars();
    match next.next() {
        Some(c) if c.is_alphanumeric() || matches!(c, '_' | '%') => return None,
        Some('.' | ',') if next.next().is_some_and(|c| c.is_ascii_digit()) => return None,
        _ => {}
    }
    let word = rest.strip_prefix(' ').unwrap_or_default();
    let is_amount = WORDS["units"].iter().any(|unit| word.starts_with(unit));
    Some((number.parse().ok()?, rest)).filter(|_| !is_amount)
}

/// Words of refusals by what they mean: `tables/refusals.json`.
static WORDS: LazyLock<HashMap<&str, Vec<&str>>> =
    LazyLock::new(|| table(include_str!("../tables/refusals.json")));

/// Whether a text in lower case says one of the words with this meaning.
fn says(text: &str, meaning: &str) -> bool {
    WORDS[meaning].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cases::cases;

    #[track_caller]
    fn names(text: &str, lines: &[u64]) {
        let lines: BTreeSet<_> = lines.iter().copied().map(RequestName::Line).collect();
        assert_eq!(named(text), lines, "{text}");
    }

    #[test]
    fn a_line_is_named_by_its_number_or_index_and_by_no_other_number() {
        for (text, lines) in cases(include_str!("named_cases.txt")) {
            let lines = lines.split(' ').filter_map(|line| line.parse().ok());
            names(text, &lines.collect::<Vec<u64>>());
        }
    }

    #[test]
    fn a_key_of_ours_is_exact() {
        let label = "bw-0123456789abcdef0123456789abcdef";
        let text = format!("Duplicate custom_id '{label}-17' on line 4, first seen as {label}-17");
        let key = RequestName::Key(format!("{label}-17"));
        assert_eq!(named(&text), [key].into());
        names(&format!("the file {label}.jsonl is empty"), &[]);
    }

    #[test]
    fn all_names_in_fields_are_read_and_each_has_a_short_text() {
        let label = "bw-0123456789abcdef0123456789abcdef";
        let key = |number| serde_json::json!({"custom_id": format!("{label}-{number}")});
        for (number, longest) in [(1, 16 * 1024), (50, 16 * 1024), (8_000, 512)] {
            let errors: Vec<Value> = (0..number).map(key).collect();
            let places = places_of(&serde_json::json!({"errors": errors}));
            let why = format!("no url {}{places}", "so ".repeat(10_000));
            let BatchRefusal::Named(names) = of(Error::new(ErrorKind::Invalid, why)) else {
                panic!("{number}");
            };
            assert_eq!(names.len(), number);
            let (_, last) = &names[number - 1];
            assert!(last.message().starts_with("no url so") && last.message().ends_with(" …"));
            assert!((longest / 2..longest + 4).contains(&last.message().len()));
        }
        let why = format!("refused{}", " so".repeat(10_000));
        let BatchRefusal::Unnamed(error) = of(Error::new(ErrorKind::Invalid, why)) else {
            panic!("named");
        };
        assert!(error.message().len() < 17 * 1024);
    }
}
