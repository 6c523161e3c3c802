//! Gemini's batches.
//!
//! The input's file has a name that is chosen beforehand, so what an upload came to can be asked for,
//! and the batch shows our name in the list. A batch is Google's "long-running operation": where it
//! stands is said in its metadata and, once it is done, by an error or a response. Source:
//! ai.google.dev "Batch API" and "Files API", and the types of Google's Python SDK.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::error::{Error, ErrorKind, Sent};
use crate::llm::batch::{
    BatchCounts, BatchEnd, BatchLimits, BatchLine, BatchState, BatchStatus, Refused,
};
use crate::llm::request::{Request, Task};

use super::super::answer::{count_in, malformed};
use super::super::content::invalid;
use super::super::gemini::{content, read as read_content};
use super::super::said::{Said, word};
use super::super::vendor::Vendor;

/// A file may have 2 GB, and the number of requests is not limited. But a batch that expires leaves
/// nothing of what it has done.
pub(super) const LIMITS: BatchLimits = BatchLimits {
    requests: 20_000,
    bytes: 1_000_000_000,
};

/// How long to wait when a creation is refused for its pace and no time is named.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The results of a batch that has them in itself.
const INLINE: &str = "inline";

pub(super) fn line(vendor: &Vendor, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
    if request.task == Task::Embed {
        return Err(invalid(
            "gemini makes no embeddings in a batch of answers".to_owned(),
        ));
    }
    let request = content(vendor, request)?;
    let line = serde_json::json!({"key": key, "request": request});
    Ok(format!("{line}\n").into_bytes())
}

/// Where a batch stands.
fn status_of(vendor: &Vendor, batch: &Value) -> BatchStatus {
    let metadata = &batch["metadata"];
    let said = word(metadata.get("state").or_else(|| batch.get("state")));
    let state = ["BATCH_STATE_", "JOB_STATE_"]
        .iter()
        .find_map(|prefix| said.strip_prefix(prefix))
        .unwrap_or(&said);
    let done = batch.get("done").and_then(Value::as_bool) == Some(true);
    let error = batch.get("error").filter(|error| error.is_object());
    let results: Vec<String> = results_in(batch).into_iter().collect();
    let state = match state {
        "CANCELLED" => BatchState::Cancelled,
        "EXPIRED" => BatchState::Expired,
        "FAILED" => failed(vendor, error),
        // It is done before it says where its results are.
        "SUCCEEDED" | "PARTIALLY_SUCCEEDED" if !done && results.is_empty() => BatchState::Running,
        _ if done => match error {
            Some(error) if code_of(error) == Some(1) => BatchState::Cancelled,
            Some(error) => failed(vendor, Some(error)),
            None if results.is_empty() => BatchState::Failed(
                Error::new(
                    ErrorKind::Malformed,
                    "gemini says that the batch is done, and not where its results are",
                )
                .with_sent(Sent::Answered),
            ),
            None => BatchState::Completed,
        },
        "SUCCEEDED" | "PARTIALLY_SUCCEEDED" => BatchState::Completed,
        "PENDING" | "QUEUED" | "RUNNING" | "PAUSED" | "UPDATING" => BatchState::Running,
        "CANCELLING" => BatchState::Cancelling,
        _ => BatchState::Unknown(said.clone()),
    };
    let stats = &metadata["batchStats"];
    let total = count_in(stats, "requestCount");
    let of = |name| count_in(stats, name).unwrap_or(0);
    let whole = matches!(state, BatchState::Completed) && !said.ends_with("PARTIALLY_SUCCEEDED");
    BatchStatus {
        counts: total.map(|total| BatchCounts {
            total,
            completed: of("successfulRequestCount"),
            failed: of("failedRequestCount"),
        }),
        results: match state.is_final() {
            true => results,
            false => Vec::new(),
        },
        expected: total.filter(|_| whole),
        poll_after: None,
        state,
    }
}

/// Where a batch's results are: in a file, or in the batch itself.
fn results_in(batch: &Value) -> Option<String> {
    let mut places = [batch.get("response"), batch["metadata"].get("output")]
        .into_iter()
        .flatten();
    places.find_map(|place| {
        let file = place.get("responsesFile").and_then(Value::as_str);
        let inline = || place.get("inlinedResponses").map(|_| INLINE);
        file.or_else(inline).map(str::to_owned)
    })
}

/// The results that a batch has in itself.
fn inlined(batch: &Value) -> Option<&Vec<Value>> {
    let mut places = [batch.get("response"), batch["metadata"].get("output")]
        .into_iter()
        .flatten();
    places.find_map(|place| {
        let list = place.get("inlinedResponses")?;
        list.get("inlinedResponses").unwrap_or(list).as_array()
    })
}

/// Why a batch failed as a whole.
fn failed(vendor: &Vendor, error: Option<&Value>) -> BatchState {
    let Some(error) = error else {
        let error = Error::new(
            ErrorKind::Transient,
            "gemini gave no reason for the failure",
        );
        return BatchState::Failed(error.with_sent(Sent::Answered));
    };
    let said = Said::from_error(error);
    let failure = failure(vendor, error);
    match (code_of(error), failure.kind()) {
        (Some(8), _) if said.mentions(&["quota", "enqueued"]) => {
            BatchState::Refused(Refused::TooMuchQueued(failure))
        }
        (_, ErrorKind::UnknownModel) => BatchState::Refused(Refused::Whole(failure)),
        (_, ErrorKind::Auth | ErrorKind::Quota) => BatchState::Failed(failure),
        (Some(3), _) => BatchState::Refused(Refused::SomeLine(failure)),
        _ => {
            let message = failure.message().to_owned();
            let error = Error::new(ErrorKind::Transient, message);
            BatchState::Failed(error.with_sent(Sent::Answered))
        }
    }
}

/// Google's numbers for errors: what they are called, and the statuses they have over HTTP.
const CODES: [(u16, &str, u16); 16] = [
    (1, "CANCELLED", 499),
    (2, "UNKNOWN", 500),
    (3, "INVALID_ARGUMENT", 400),
    (4, "DEADLINE_EXCEEDED", 504),
    (5, "NOT_FOUND", 404),
    (6, "ALREADY_EXISTS", 409),
    (7, "PERMISSION_DENIED", 403),
    (8, "RESOURCE_EXHAUSTED", 429),
    (9, "FAILED_PRECONDITION", 400),
    (10, "ABORTED", 409),
    (11, "OUT_OF_RANGE", 400),
    (12, "UNIMPLEMENTED", 501),
    (13, "INTERNAL", 500),
    (14, "UNAVAILABLE", 503),
    (15, "DATA_LOSS", 500),
    (16, "UNAUTHENTICATED", 401),
];

fn code_of(error: &Value) -> Option<u64> {
    count_in(error, "code")
}

/// An error that is one of Google's, under its own number or that of HTTP.
fn failure(vendor: &Vendor, error: &Value) -> Error {
    let mut said = Said::from_error(error);
    let code = code_of(error);
    let known = CODES.iter().find(|(own, ..)| code == Some(u64::from(*own)));
    let status = match (known, code) {
        (Some((_, name, status)), _) => {
            if !said.words.iter().any(|word| word == name) {
                said.words.insert(0, (*name).to_owned());
            }
            *status
        }
        (None, Some(code @ 400..600)) => code as u16,
        // What is not known to be the request's fault is worth another try.
        (None, _) => 500,
    };
    let rule = vendor.rule(status, &said);
    let error = Error::new(rule.kind, said.text(vendor.name, status))
        .with_status(status)
        .with_sent(Sent::Answered)
        .with_retry_after(said.wait.or(rule.patience));
    match rule.of_model {
        true => error.with_model_only(),
        false => error,
    }
}

#[derive(Deserialize)]
struct Line<'b> {
    key: Option<String>,
    metadata: Option<Value>,
    #[serde(borrow)]
    response: Option<&'b RawValue>,
    error: Option<Value>,
}

pub(super) fn read(vendor: &Vendor, line: &[u8]) -> Result<BatchLine, Error> {
    let parsed: Line<'_> = serde_json::from_slice(line).map_err(|error| malformed(error, line))?;
    let inner = parsed.metadata.as_ref();
    let inner = || Some(inner?.get("key")?.as_str()?.to_owned());
    let Some(key) = parsed.key.or_else(inner) else {
        return Err(malformed("a result without a key", line));
    };
    let end = match (&parsed.error, parsed.response) {
        (Some(error), _) if code_of(error) == Some(1) => {
            BatchEnd::NotProcessed(failure(vendor, error))
        }
        (Some(error), _) => BatchEnd::Answered(Box::new(Err(failure(vendor, error)))),
        (None, Some(response)) => {
            BatchEnd::Answered(Box::new(read_content(vendor, response.get().as_bytes())))
        }
        (None, None) => {
            let what = malformed("neither a response nor an error", line);
            BatchEnd::Answered(Box::new(Err(what)))
        }
    };
    Ok(BatchLine { key, end })
}

#[cfg(test)]
#[path = "gemini_tests.rs"]
mod tests;
