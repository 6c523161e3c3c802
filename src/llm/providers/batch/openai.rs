//! Batches of OpenAI, and of Groq, which took them over.

use std::collections::HashSet;
use std::io::Write;

use serde_json::{Value, json};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchIntent, BatchLine, BatchState, BatchStatus, ListedBatches,
};
use crate::llm::providers::vendor::Vendor;
use crate::llm::request::Request;

use super::Wire;
use super::expected;
use super::files::{ListPage, search};
use super::http::{Http, Page, escaped, json, named, poll_after, unusable};
use super::reply::{count, text};
use super::{lines, refusal};

const ENDPOINT: &str = "/v1/chat/completions";

/// The wire.
pub(super) struct OpenAi {
    /// The path of the list's pages, to which where to go on is added.
    list: &'static str,
}

pub(super) static OPENAI: OpenAi = OpenAi {
    list: "/batches?limit=100&",
};

/// Its pages have the length that it likes.
pub(super) static GROQ: OpenAi = OpenAi { list: "/batches?" };

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
        lines::write(vendor, key, request, model, Some(ENDPOINT))
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
            "endpoint": ENDPOINT,
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
        let state = match word {
            "validating" => BatchState::Validating,
            "in_progress" | "finalizing" => BatchState::Running,
            "cancelling" => BatchState::Cancelling,
            "completed" => BatchState::Completed,
            "expired" => BatchState::Expired,
            "cancelled" => BatchState::Cancelled,
            "failed" => refusal::refused(http.api.vendor, batch.get("errors")),
            other => BatchState::Unknown(other.to_owned()),
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

    fn download(
        &self,
        http: &Http<'_>,
        _: &str,
        file: &str,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        http.download(&format!("/files/{}/content", escaped(file)), sink)
    }

    fn read(&self, vendor: &Vendor, line: &[u8]) -> Result<BatchLine, Error> {
        lines::read(vendor, line)
    }

    fn cancel(&self, id: &str) -> String {
        format!("/batches/{}/cancel", escaped(id))
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
