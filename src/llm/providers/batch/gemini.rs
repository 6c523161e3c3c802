//! Gemini's batches.
//!
//! The client chooses the name of the input file, so it can check whether an upload succeeded. The list shows our
//! label of the batch. A batch is a "long-running operation" of Google: its metadata has its state, and once it is
//! done, it has an error or a response. Source: ai.google.dev "Batch API" and "Files API", and the types of Google's
//! Python SDK.

use std::io::Write;

use serde_json::{Value, json};

use crate::base::{Error, ErrorKind, Optional, Sent, Timestamp};
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchIntent, BatchRefusal, BatchStage, BatchState, BatchStatus,
    ListedBatches, RefusalOutcome,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::content::invalid;
use crate::llm::providers::fields::whole;
use crate::llm::providers::gemini;
use crate::llm::providers::rules::word;
use crate::llm::providers::vendor::Vendor;
use crate::llm::transport::HttpReply;

use super::files::{self, Listing, Search};
use super::http::{Http, json as body_of, named, served_at, text, time, unusable};
use super::{Submission, Wire, refusal, status};

/// The wire.
pub(super) struct Gemini;

impl Wire for Gemini {
    /// Uploads the input, unless an earlier attempt did.
    fn upload(
        &self,
        batch: &Submission<'_>,
        input: &mut dyn BatchInput,
    ) -> Result<BatchStage, BatchRefusal> {
        if let Some(uploaded) = uploaded(batch)? {
            return Ok(uploaded);
        }
        match send(batch, input) {
            // Another attempt was faster.
            Err(conflict) if conflict.error.status() == Some(409) => {
                uploaded(batch)?.ok_or(conflict)
            }
            sent => sent,
        }
    }

    fn create(
        &self,
        batch: &Submission<'_>,
        _: &mut dyn BatchInput,
    ) -> Result<String, BatchRefusal> {
        let model = batch.intent.model.as_deref();
        let model = model.ok_or_else(|| invalid("a batch of gemini needs a model"))?;
        let path = format!("/{}:batchGenerateContent", gemini::resource(model)?);
        let (label, file) = (&batch.intent.label, batch.file);
        let body = json!({"displayName": label, "inputConfig": {"fileName": file}});
        let reply = batch.http.post(&path, &json!({"batch": body}))?;
        Ok(named(&reply, &["name"])?)
    }

    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error> {
        files::find(batch, &LIST, search)
    }

    fn discard(&self, http: &Http<'_>, file: &str) -> Result<(), Error> {
        match http.delete(&path(file)) {
            Err(error) if is_denied(&error) => Ok(()),
            deleted => deleted,
        }
    }

    fn path(&self, id: &str) -> String {
        path(id)
    }

    fn read(&self, vendor: &Vendor, batch: &Value, _: Option<Timestamp>) -> Option<BatchStatus> {
        Some(status_of(vendor, batch))
    }

    fn download(
        &self,
        http: &Http<'_>,
        _: &str,
        file: &str,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        let url = http.root(&format!(
            "/download/v1beta{}:download?alt=media",
            path(file)
        ));
        http.download(&url, sink).map_err(|error| {
            let is_denied = is_denied(&error);
            error.when(is_denied, |error| error.with_status(410))
        })
    }

    fn cancel(&self, id: &str) -> String {
        format!("{}:cancel", path(id))
    }
}

const LIST: Listing = Listing {
    path: "/batches?pageSize=100",
    entries: "operations",
    after: "",
    ids: &["/name"],
    label: "/metadata/displayName",
    created: &["/metadata/createTime"],
};

/// The path of a resource such as `batches/x`.
fn path(resource: &str) -> String {
    let parts = resource
        .split('/')
        .map(|part| format!("/{}", escaped(part)));
    parts.collect()
}

fn file_of(intent: &BatchIntent) -> String {
    format!("files/{}", intent.label)
}

/// The stage after an earlier upload, if one succeeded.
fn uploaded(batch: &Submission<'_>) -> Result<Option<BatchStage>, Error> {
    match batch.http.get(&path(&file_of(batch.intent))) {
        Err(error) if error.is_not_found() || is_denied(&error) => Ok(None),
        reply => {
            let reply = reply?;
            accepted(batch, &reply, &body_of(&reply)?).map(Some)
        }
    }
}

/// The stage of the batch if this file is its complete input. An incomplete file is deleted.
fn accepted(batch: &Submission<'_>, reply: &HttpReply, file: &Value) -> Result<BatchStage, Error> {
    let name = text(file, "name").ok_or_else(|| unusable("a file without a name", reply))?;
    let whole = file.get("sizeBytes").and_then(whole) == Some(batch.intent.bytes);
    let transient = |why: &str| Err(Error::new(ErrorKind::Transient, why));
    match text(file, "state") {
        Some("ACTIVE") if whole => Ok(BatchStage::Uploaded {
            file: name.to_owned(),
            time: file
                .get("createTime")
                .and_then(time)
                .or_else(|| served_at(reply)),
        }),
        Some("PROCESSING") if whole => transient("gemini has not processed the input file yet"),
        _ => {
            Gemini.discard(&batch.http, name)?;
            transient(
                "the upload of the input file was interrupted; the incomplete file is deleted",
            )
        }
    }
}

/// Uploads in two calls: the first gets the URL, the second sends the bytes.
fn send(batch: &Submission<'_>, input: &mut dyn BatchInput) -> Result<BatchStage, BatchRefusal> {
    let Submission { http, intent, .. } = batch;
    let header = |name: &'static str, value: &str| (name.into(), value.to_owned());
    let start = [
        header("x-goog-upload-protocol", "resumable"),
        header("x-goog-upload-command", "start"),
        header(
            "x-goog-upload-header-content-length",
            &intent.bytes.to_string(),
        ),
        header("x-goog-upload-header-content-type", "application/jsonl"),
    ];
    let file = json!({"name": file_of(intent), "displayName": intent.label});
    let file = json!({"file": file}).to_string();
    let started = http.upload(
        &http.root("/upload/v1beta/files"),
        &start,
        &mut file.as_bytes(),
        file.len() as u64,
    )?;
    let session = started.headers.get("x-goog-upload-url");
    let session = session.ok_or_else(|| unusable("no x-goog-upload-url", &started))?;
    let session = http.named_place(session)?;
    let finish = [
        header("content-type", "application/jsonl"),
        header("x-goog-upload-offset", "0"),
        header("x-goog-upload-command", "upload, finalize"),
    ];
    let sent = http.upload(&session, &finish, &mut input.open()?, intent.bytes)?;
    let file = body_of(&sent)?;
    let file = file.get("file").ok_or_else(|| unusable("no file", &sent))?;
    Ok(accepted(batch, &sent, file)?)
}

/// Gemini replies 403 for a file that does not exist, because it might belong to another project.
fn is_denied(error: &Error) -> bool {
    error.status() == Some(403) && error.kind() == ErrorKind::Invalid
}

/// The status of a batch.
fn status_of(vendor: &Vendor, batch: &Value) -> BatchStatus {
    let metadata = &batch["metadata"];
    let error_body = word(metadata.get("state").or_else(|| batch.get("state")));
    let state = ["BATCH_STATE_", "JOB_STATE_"]
        .iter()
        .find_map(|prefix| error_body.strip_prefix(prefix))
        .unwrap_or(&error_body);
    let done = batch.get("done").and_then(Value::as_bool) == Some(true);
    let error = batch.get("error").filter(|error| error.is_object());
    let results: Vec<String> = results_in(batch).into_iter().collect();
    let state = match state {
        "CANCELLED" => BatchState::Cancelled,
        "EXPIRED" => BatchState::Expired,
        "FAILED" => failed(vendor, error),
        // The state changes before the batch names its results.
        "SUCCEEDED" | "PARTIALLY_SUCCEEDED" if !done && results.is_empty() => BatchState::Running,
        _ if done => match error {
            Some(error) if code_of(error) == Some(1) => BatchState::Cancelled,
            Some(error) => failed(vendor, Some(error)),
            None => BatchState::Completed,
        },
        "SUCCEEDED" | "PARTIALLY_SUCCEEDED" => BatchState::Completed,
        "PENDING" | "QUEUED" | "RUNNING" | "PAUSED" | "UPDATING" => BatchState::Running,
        "CANCELLING" => BatchState::Cancelling,
        _ => BatchState::Unknown(error_body.clone()),
    };
    let stats = &metadata["batchStats"];
    let total = whole(&stats["requestCount"]);
    let of = |name| whole(&stats[name]).unwrap_or(0);
    let counts = total.map(|total| BatchCounts {
        total,
        completed: of("successfulRequestCount"),
        failed: of("failedRequestCount"),
    });
    let mut status = status(state, counts, results);
    // A batch that ended early may not keep the results that it had.
    if status.results.is_empty() {
        status.expected = None;
    }
    if !status.state.is_final() {
        status.results.clear();
    }
    status
}

/// The name of the file with a batch's results.
fn results_in(batch: &Value) -> Option<String> {
    let outputs = [batch.get("response"), batch["metadata"].get("output")];
    let mut outputs = outputs.into_iter().flatten();
    outputs.find_map(|place| Some(place.get("responsesFile")?.as_str()?.to_owned()))
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
    let refusal = refusal::in_batch(vendor, error);
    match refusal.outcome {
        // Google's code for an invalid input.
        RefusalOutcome::Unnamed if code_of(error) != Some(3) => {}
        RefusalOutcome::Wait { room: false } | RefusalOutcome::NoFile => {}
        _ => return BatchState::Refused(refusal),
    }
    let error = Error::new(ErrorKind::Transient, refusal.error.message());
    BatchState::Failed(error.with_sent(Sent::Answered))
}

fn code_of(error: &Value) -> Option<u64> {
    whole(error.get("code")?)
}
