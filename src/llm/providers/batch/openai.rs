//! Batches of OpenAI, and of Groq, DeepInfra and Azure, which use the same format.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base::{Error, ErrorKind, Sent, Timestamp};
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchRefusal, BatchState, BatchStatus, ListedBatches, is_unknown,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::fields::whole;
use crate::llm::providers::vendor::Vendor;

use super::files::{self, Listing, Search};
use super::http::{json, named, poll_after, text};
use super::refusal;
use super::{Submission, Wire, status};

/// The wire.
pub(super) struct OpenAi {
    list: &'static Listing,
    /// The endpoint that lines and batches name.
    endpoint: &'static str,
    /// Whether the provider must process a file before a batch can use it.
    processes_files: bool,
}

const LIST: Listing = Listing {
    path: "/batches?limit=100",
    entries: "data",
    after: "after",
    ids: &["/id"],
    label: "/metadata/label",
    created: &["/created_at"],
};

pub(super) static OPENAI: OpenAi = OpenAi {
    list: &LIST,
    endpoint: "/v1/chat/completions",
    processes_files: false,
};

/// Groq itself chooses the length of a page of its list.
pub(super) static GROQ: OpenAi = OpenAi {
    list: &Listing {
        path: "/batches",
        ..LIST
    },
    ..OPENAI
};

/// learn.microsoft.com, "Getting started with Azure OpenAI batch deployments".
pub(super) static AZURE: OpenAi = OpenAi {
    endpoint: "/chat/completions",
    processes_files: true,
    ..OPENAI
};

/// After an upload the provider may reply for this long that the file does not exist.
const FILE_LAG: Duration = Duration::from_secs(60);

impl Wire for OpenAi {
    fn url(&self) -> &'static str {
        self.endpoint
    }

    fn create(
        &self,
        batch: &Submission<'_>,
        _: &mut dyn BatchInput,
    ) -> Result<String, BatchRefusal> {
        if self.processes_files {
            check_input(batch)?;
        }
        let intent = batch.intent;
        let body = json!({
            "input_file_id": batch.file,
            "endpoint": self.endpoint,
            "completion_window": "24h",
            "metadata": {"label": intent.label},
        });
        Ok(named(&batch.http.post("/batches", &body)?, &["id"])?)
    }

    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error> {
        files::find(batch, self.list, search)
    }

    fn read(&self, vendor: &Vendor, batch: &Value, _: Option<Timestamp>) -> Option<BatchStatus> {
        let word = text(batch, "status")?;
        // Azure sometimes capitalizes them.
        let counts = batch.get("request_counts").and_then(Value::as_object);
        let counts = counts.map(|counts| {
            let of = |field| counts.get(field).and_then(whole).unwrap_or(0);
            BatchCounts {
                total: of("total"),
                completed: of("completed"),
                failed: of("failed"),
            }
        });
        let has_answers = text(batch, "output_file_id").is_some()
            || counts.is_some_and(|counts| counts.completed > 0);
        let state = match word.to_ascii_lowercase().as_str() {
            "validating" => BatchState::Validating,
            "in_progress" | "finalizing" => BatchState::Running,
            "cancelling" => BatchState::Cancelling,
            "completed" => BatchState::Completed,
            "expired" => BatchState::Expired,
            "cancelled" => BatchState::Cancelled,
            // It failed while it ran: the answers were billed, and no line of the input is at fault.
            "failed" if has_answers => refusal::broken_off(vendor, batch.get("errors")),
            "failed" => refusal::refused(vendor, batch.get("errors")),
            _ => BatchState::Unknown(word.to_owned()),
        };
        let files = ["output_file_id", "error_file_id"].into_iter();
        let files = files.filter_map(|file| text(batch, file).map(str::to_owned));
        Some(status(state, counts, files.collect()))
    }
}

/// Refuses a file that a batch may not name yet.
fn check_input(batch: &Submission<'_>) -> Result<(), Error> {
    let name = batch.http.api.vendor.name;
    let not_yet = |why: String| Error::new(ErrorKind::Transient, why).with_sent(Sent::No);
    let is_new = batch
        .uploaded
        .is_some_and(|uploaded| batch.intent.begun.since(uploaded) < FILE_LAG);
    let reply = batch.http.get(&format!("/files/{}", escaped(batch.file)));
    let reply = reply.map_err(|error| {
        if is_unknown(&error) || error.is_not_found() && is_new {
            not_yet(error.message().to_owned()).with_retry_after(error.retry_after())
        } else {
            error
        }
    })?;
    let found = json(&reply).map_err(|error| not_yet(error.message().to_owned()))?;
    match text(&found, "status") {
        Some("pending" | "running" | "notRunning") => {
            let why = format!("{name} has not processed the input file yet");
            Err(not_yet(why).with_retry_after(poll_after(&reply)))
        }
        // The batch reports errors of the file line by line.
        _ => Ok(()),
    }
}
