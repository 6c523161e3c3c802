//! Batches of OpenAI, and of those who took them over: Groq, DeepInfra, Azure.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchIntent, BatchState, BatchStatus, ListedBatches, is_unknown,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::native;
use crate::llm::providers::vendor::Vendor;
use crate::llm::request::Request;

use super::Wire;
use super::expected;
use super::files::{ListPage, search};
use super::http::{Http, Page, json, named, poll_after, unusable};
use super::reply::{count, text};
use super::{lines, refusal};

/// Where requests in the words of OpenAI's newer API go.
const RESPONSES: &str = "/v1/responses";

/// The wire.
pub(super) struct OpenAi {
    /// The path of the list's pages, to which where to go on is added.
    list: &'static str,
    /// What lines and batches name as the place of their requests.
    endpoint: &'static str,
    /// Whether a file has to be processed before a batch may name it.
    processes_files: bool,
}

pub(super) static OPENAI: OpenAi = OpenAi {
    list: "/batches?limit=100&",
    endpoint: "/v1/chat/completions",
    processes_files: false,
};

/// Its pages have the length that it likes.
pub(super) static GROQ: OpenAi = OpenAi {
    list: "/batches?",
    ..OPENAI
};

/// learn.microsoft.com, "Getting started with Azure OpenAI batch deployments".
pub(super) static AZURE: OpenAi = OpenAi {
    endpoint: "/chat/completions",
    processes_files: true,
    ..OPENAI
};

/// A file may not be seen everywhere for so long after its upload.
const FILE_LAG: Duration = Duration::from_secs(60);

impl OpenAi {
    fn page(&self, list: &Value) -> Option<Page> {
        let entries = list.get("data")?.as_array()?.clone();
        let cursor = list.get("paging").and_then(|p| text(p, "next_cursor"));
        let more = list.get("has_more").and_then(Value::as_bool) == Some(true);
        let last = text(list, "last_id").or_else(|| text(entries.last()?, "id"));
        let then = match (cursor, more) {
            (Some(cursor), _) => Some(format!("{}cursor={}", self.list, escaped(cursor))),
            // A list that goes on, and does not say where, is not known to its end.
            (None, true) => Some(format!("{}after={}", self.list, escaped(last?))),
            (None, false) => None,
        };
        Some((entries, then))
    }
}

impl Wire for OpenAi {
    fn line(
        &self,
        vendor: &Vendor,
        key: &str,
        request: &Request,
        model: &str,
    ) -> Result<Vec<u8>, Error> {
        let url = Wire::endpoint(self, vendor, request).unwrap_or(self.endpoint);
        lines::write(vendor, key, request, model, Some(url))
    }

    fn endpoint(&self, vendor: &Vendor, request: &Request) -> Option<&'static str> {
        native::own(vendor, request).map(|_| RESPONSES)
    }

    fn check_input(
        &self,
        http: &Http<'_>,
        intent: &BatchIntent,
        file: &str,
        uploaded: Option<Timestamp>,
    ) -> Result<(), Error> {
        if !self.processes_files {
            return Ok(());
        }
        let name = http.api.vendor.name;
        let not_yet = |why: String| Error::new(ErrorKind::Transient, why).with_sent(Sent::No);
        let is_new = uploaded.is_some_and(|uploaded| intent.begun.since(uploaded) < FILE_LAG);
        let reply = http.get(&format!("/files/{}", escaped(file)));
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
            // What is wrong with it the batch says, line by line.
            _ => Ok(()),
        }
    }

    fn create(
        &self,
        http: &Http<'_>,
        intent: &BatchIntent,
        file: &str,
        _: &mut dyn BatchInput,
    ) -> Result<String, Error> {
        let job = json!({
            "input_file_id": file,
            "endpoint": intent.endpoint.as_deref().unwrap_or(self.endpoint),
            "completion_window": "24h",
            "metadata": {"label": intent.label},
        });
        let reply = http.post("/batches", &job)?;
        named(&reply, &["id"])
    }

    fn find(
        &self,
        http: &Http<'_>,
        intent: &BatchIntent,
        file: &str,
        since: Timestamp,
        known: &HashSet<String>,
    ) -> Result<ListedBatches, Error> {
        let first = self.list.trim_end_matches(['&', '?']).to_owned();
        let pages = http.pages(first, |list| self.page(list));
        search(pages, since, known, |entry| {
            let label = entry.get("metadata").and_then(|m| text(m, "label"));
            let ours = text(entry, "input_file_id") == Some(file) || label == Some(&intent.label);
            ListPage::read(entry, text(entry, "id"), ours, &["created_at"])
        })
    }

    fn status(&self, http: &Http<'_>, id: &str) -> Result<BatchStatus, Error> {
        let reply = http.get(&format!("/batches/{}", escaped(id)))?;
        let batch = json(&reply)?;
        let word = text(&batch, "status").ok_or_else(|| unusable("no status", &reply))?;
        // Azure has been seen to begin them with a capital.
        let state = match word.to_ascii_lowercase().as_str() {
            "validating" => BatchState::Validating,
            "in_progress" | "finalizing" => BatchState::Running,
            "cancelling" => BatchState::Cancelling,
            "completed" => BatchState::Completed,
            "expired" => BatchState::Expired,
            "cancelled" => BatchState::Cancelled,
            "failed" => refusal::refused(http.api.vendor, batch.get("errors")),
            _ => BatchState::Unknown(word.to_owned()),
        };
        let counts = batch
            .get("request_counts")
            .filter(|counts| counts.is_object());
        let counts = counts.map(|counts| {
            let of = |field| counts.get(field).and_then(count).unwrap_or(0);
            BatchCounts {
                total: of("total"),
                completed: of("completed"),
                failed: of("failed"),
            }
        });
        let files = ["output_file_id", "error_file_id"];
        let results = files.iter().filter_map(|file| text(&batch, file));
        Ok(BatchStatus {
            expected: expected(&state, counts),
            results: results.map(str::to_owned).collect(),
            state,
            counts,
            poll_after: poll_after(&reply),
        })
    }

    fn cancel(&self, id: &str) -> String {
        format!("/batches/{}/cancel", escaped(id))
    }
}

#[cfg(test)]
#[path = "azure_tests.rs"]
mod azure_tests;
#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
