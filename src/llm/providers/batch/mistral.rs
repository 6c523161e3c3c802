//! Batches of Mistral: the model stands on the job, and its lines have only a body.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchIntent, BatchState, BatchStatus, ListedBatches,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::content::invalid;
use crate::llm::providers::vendor::Vendor;
use crate::llm::request::Request;

use super::Wire;
use super::expected;
use super::files::{ListPage, search};
use super::http::{Http, Page, json, named, poll_after, unusable};
use super::reply::{count, text};
use super::{lines, refusal};

const PAGE: usize = 100;

/// The wire.
pub(super) struct Mistral;

/// The address of a page of what was created after a time.
fn page_at(after: Timestamp, page: usize) -> String {
    let after = std::time::UNIX_EPOCH + std::time::Duration::from_millis(after.0.max(0) as u64);
    let after = humantime::format_rfc3339_seconds(after).to_string();
    let after = escaped(&after);
    format!("/batch/jobs?page={page}&page_size={PAGE}&created_after={after}")
}

impl Wire for Mistral {
    fn line(
        &self,
        vendor: &Vendor,
        key: &str,
        request: &Request,
        model: &str,
    ) -> Result<Vec<u8>, Error> {
        lines::write(vendor, key, request, model, None)
    }

    fn create(
        &self,
        http: &Http<'_>,
        intent: &BatchIntent,
        file: &str,
        _: &mut dyn BatchInput,
    ) -> Result<String, Error> {
        let model = intent.model.as_deref();
        let model = model.ok_or_else(|| invalid("a batch of no model".to_owned()))?;
        let job = json!({
            "endpoint": "/v1/chat/completions",
            "model": model,
            "input_files": [file],
            "metadata": {"label": intent.label},
            "timeout_hours": 24,
        });
        let reply = http.post("/batch/jobs", &job)?;
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
        let (mut page, mut seen) = (0, 0);
        let pages = http.pages(page_at(since, 0), |list| -> Option<Page> {
            let entries = list.get("data").and_then(Value::as_array).cloned();
            // The last page may come without its empty list.
            let total = list.get("total").and_then(count);
            let entries = entries.or_else(|| total.map(|_| Vec::new()))?;
            page += 1;
            seen += entries.len();
            let more = match total {
                Some(total) => (seen as u64) < total && !entries.is_empty(),
                None => entries.len() >= PAGE,
            };
            Some((entries, more.then(|| page_at(since, page))))
        });
        search(pages, since, known, |entry| {
            let label = entry.get("metadata").and_then(|m| text(m, "label"));
            let files = entry.get("input_files").and_then(Value::as_array);
            let has_file = |files: &Vec<Value>| files.iter().any(|id| id.as_str() == Some(file));
            let ours = files.is_some_and(has_file) || label == Some(&intent.label);
            ListPage::read(entry, text(entry, "id"), ours, &["created_at"])
        })
    }

    fn status(&self, http: &Http<'_>, id: &str) -> Result<BatchStatus, Error> {
        let reply = http.get(&format!("/batch/jobs/{}", escaped(id)))?;
        let job = json(&reply)?;
        let word = text(&job, "status").ok_or_else(|| unusable("no status", &reply))?;
        let files = ["output_file", "error_file"];
        let results = files.iter().filter_map(|file| text(&job, file));
        let results: Vec<String> = results.map(str::to_owned).collect();
        let state = match word {
            "QUEUED" | "RUNNING" => BatchState::Running,
            "CANCELLATION_REQUESTED" => BatchState::Cancelling,
            "SUCCESS" => BatchState::Completed,
            "TIMEOUT_EXCEEDED" => BatchState::Expired,
            "CANCELLED" => BatchState::Cancelled,
            // It failed on the way: what is in its files was worked on, and paid for.
            "FAILED" if !results.is_empty() => BatchState::Completed,
            "FAILED" => refusal::refused(http.api.vendor, job.get("errors")),
            other => BatchState::Unknown(other.to_owned()),
        };
        let of = |field| job.get(field).and_then(count);
        let counts = of("total_requests").map(|total| BatchCounts {
            total,
            completed: of("succeeded_requests").unwrap_or(0),
            failed: of("failed_requests").unwrap_or(0),
        });
        let reported = counts.filter(|_| word != "FAILED");
        Ok(BatchStatus {
            expected: expected(&state, reported),
            state,
            counts,
            results,
            poll_after: poll_after(&reply),
        })
    }

    fn cancel(&self, id: &str) -> String {
        format!("/batch/jobs/{}/cancel", escaped(id))
    }
}

#[cfg(test)]
#[path = "mistral_tests.rs"]
mod tests;
