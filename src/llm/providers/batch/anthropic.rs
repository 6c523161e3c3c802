//! Anthropic's Message Batches.
//!
//! Nothing travels ahead: the requests are the body of the call that creates the batch, which takes
//! no name. So a batch that may have been created is known again by when it was and how many requests
//! it has, and, once it has ended, by the keys in its results. Source: Anthropic's documentation
//! "Batch processing" and the types of its Python SDK.

use std::collections::HashSet;
use std::io::{self, Read};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::clock::Wall;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::llm::batch::{
    BatchCounts, BatchEnd, BatchIntent, BatchLimits, BatchLine, BatchState, BatchStatus,
};
use crate::llm::request::{Request, Task};

use super::super::answer::{count_in, malformed};
use super::super::anthropic::{message, read as read_message};
use super::super::content::invalid;
use super::super::said::{Said, word};
use super::super::vendor::Vendor;

/// 100,000 requests and 256 MB, whichever megabyte is meant; the body is a little longer than its
/// lines.
pub(super) const LIMITS: BatchLimits = BatchLimits {
    requests: 100_000,
    bytes: 255_000_000,
};

/// The one file of results.
const RESULTS: &str = "results";

/// What a message may ask for and a message in a batch may not.
const REFUSED: [&str; 5] = [
    "stream",
    "speed",
    "store",
    "previous_thread_event_id",
    "cache_hint",
];

pub(super) fn line(
    vendor: &Vendor,
    key: &str,
    request: &Request,
    model: &str,
) -> Result<Vec<u8>, Error> {
    if request.task == Task::Embed {
        return Err(invalid("anthropic makes no embeddings".to_owned()));
    }
    let params = message(vendor, request, model)?;
    if let Some(field) = REFUSED.iter().find(|field| params.get(**field).is_some()) {
        return Err(invalid(format!("anthropic takes no `{field}` in a batch")));
    }
    if params["max_tokens"].as_u64() == Some(0) {
        return Err(invalid(
            "anthropic takes no `max_tokens` of 0 in a batch".to_owned(),
        ));
    }
    let line = serde_json::json!({"custom_id": key, "params": params});
    Ok(format!("{line}\n").into_bytes())
}

const HEAD: &[u8] = br#"{"requests":["#;
const TAIL: &[u8] = b"]}";

/// The body that creates a batch from `bytes` of lines, and its length.
fn body<'r>(lines: impl Read + 'r, bytes: u64) -> (impl Read + 'r, u64) {
    // The last line's end gives way to that of the list.
    let bytes = bytes.saturating_sub(1);
    let body = HEAD.chain(Commas(lines.take(bytes))).chain(TAIL);
    (body, bytes + (HEAD.len() + TAIL.len()) as u64)
}

/// Lines as the elements of a list. A line has no line break inside: JSON escapes it.
struct Commas<R>(R);

impl<R: Read> Read for Commas<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        for byte in &mut buffer[..count] {
            if *byte == b'\n' {
                *byte = b',';
            }
        }
        Ok(count)
    }
}

/// Where a batch stands.
fn status_of(batch: &Value) -> BatchStatus {
    let ended = word(batch.get("processing_status"));
    let state = match &*ended {
        "in_progress" => BatchState::Running,
        "canceling" => BatchState::Cancelling,
        // That requests were cancelled or have expired is said of each.
        "ended" => BatchState::Completed,
        _ => BatchState::Unknown(ended),
    };
    let total = total(batch);
    let of = |name| count_in(&batch["request_counts"], name).unwrap_or(0);
    let over = state.is_final();
    BatchStatus {
        // All are called processing until the whole batch has ended.
        counts: total.filter(|_| over).map(|total| BatchCounts {
            total,
            completed: of("succeeded"),
            failed: of("errored"),
        }),
        results: over.then(|| RESULTS.to_owned()).into_iter().collect(),
        expected: total.filter(|_| over),
        poll_after: None,
        state,
    }
}

/// How many requests it has; known from the start.
fn total(batch: &Value) -> Option<u64> {
    let counts = batch.get("request_counts")?.as_object()?;
    let names = ["processing", "succeeded", "errored", "canceled", "expired"];
    let known = counts.keys().any(|name| names.contains(&&**name));
    let all = names
        .iter()
        .filter_map(|name| count_in(&batch["request_counts"], name));
    known.then(|| all.sum())
}

#[derive(Deserialize)]
struct Line<'b> {
    custom_id: String,
    #[serde(borrow)]
    result: Option<Ended<'b>>,
}

#[derive(Deserialize)]
struct Ended<'b> {
    #[serde(rename = "type")]
    kind: Option<Value>,
    #[serde(borrow)]
    message: Option<&'b RawValue>,
    #[serde(borrow)]
    error: Option<&'b RawValue>,
}

pub(super) fn read(vendor: &Vendor, line: &[u8]) -> Result<BatchLine, Error> {
    let Line { custom_id, result } =
        serde_json::from_slice(line).map_err(|error| malformed(error, line))?;
    let kind = word(result.as_ref().and_then(|result| result.kind.as_ref()));
    let unused =
        |kind, what| BatchEnd::NotProcessed(Error::new(kind, what).with_sent(Sent::Answered));
    let end = match (&*kind, &result) {
        ("succeeded", Some(result)) => {
            BatchEnd::Answered(Box::new(read_message(vendor, bytes(result.message))))
        }
        ("errored", Some(result)) => {
            BatchEnd::Answered(Box::new(Err(failure(vendor, bytes(result.error)))))
        }
        ("canceled", _) => unused(
            ErrorKind::Cancelled,
            "the batch was cancelled before its turn",
        ),
        ("expired", _) => unused(ErrorKind::Transient, "the batch expired before its turn"),
        _ => {
            let what = format!("an unknown kind of result, `{kind}`");
            BatchEnd::Answered(Box::new(Err(malformed(what, line))))
        }
    };
    Ok(BatchLine {
        key: custom_id,
        end,
    })
}

fn bytes(part: Option<&RawValue>) -> &[u8] {
    part.map_or("", RawValue::get).as_bytes()
}

/// The statuses that these errors have when they answer a call.
const STATUSES: [(&str, u16); 11] = [
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("conflict_error", 409),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("api_error", 500),
    ("timeout_error", 504),
    ("overloaded_error", 529),
];

/// The failure of one request.
fn failure(vendor: &Vendor, error: &[u8]) -> Error {
    let Some(said) = Said::from_body(error) else {
        return malformed("an error that says nothing", error);
    };
    let known = STATUSES
        .iter()
        .find(|(kind, _)| said.words.iter().any(|word| word == kind));
    // What is no fault of the request is worth another try.
    let status = known.map_or(500, |(_, status)| *status);
    let rule = vendor.rule(status, &said);
    let whole: Value = serde_json::from_slice(error).unwrap_or_default();
    Error::new(rule.kind, said.text(vendor.name, status))
        .with_status(status)
        .with_sent(Sent::Answered)
        .with_retry_after(said.wait.or(rule.patience))
        .with_request_id(whole.get("request_id").and_then(Value::as_str))
}

/// When a batch of this intent was created, by the provider's clock, if it was.
struct Window {
    from: Wall,
    to: Wall,
}

impl Window {
    /// `ahead` is how many milliseconds the provider's clock is ahead of this machine's now.
    fn of(intent: &BatchIntent, ahead: i64) -> Self {
        let begun = intent.begun.0;
        let (early, late) = (
            begun.min(begun.saturating_add(ahead)),
            begun.max(begun.saturating_add(ahead)),
        );
        let transfer = Duration::from_secs(intent.bytes / SLOWEST);
        Self {
            from: Wall(early.saturating_sub(BEFORE)),
            to: Wall(late).after(AFTER + transfer),
        }
    }

    fn holds(&self, time: Wall) -> bool {
        (self.from..=self.to).contains(&time)
    }
}

/// Milliseconds by which clocks may be apart beside what is known.
const BEFORE: i64 = 10 * 60 * 1000;
/// From the intent to the end of the exchange.
const AFTER: Duration = Duration::from_secs(20 * 60);
/// Bytes a second of a link that is slow, and still one.
const SLOWEST: u64 = 50_000;

#[cfg(test)]
#[path = "anthropic_tests.rs"]
mod tests;
