//! Batches of Mistral. The job names the model, and its lines have only a body.

use serde_json::{Value, json};

use crate::base::{Error, Timestamp};
use crate::llm::batch::{BatchCounts, BatchInput, BatchState, BatchStatus, ListedBatches};
use crate::llm::providers::access::escaped;
use crate::llm::providers::content::invalid;
use crate::llm::providers::vendor::Vendor;

use super::files::{ListPage, Search};
use super::http::{Page, named};
use super::refusal;
use super::reply::{count, text, texts};
use super::{Submission, Wire, expected};

const PAGE: usize = 100;

/// The wire.
pub(super) struct Mistral;

/// The path of a page of the jobs that were created after a time.
fn page_at(after: Timestamp, page: usize) -> String {
    let after = std::time::UNIX_EPOCH + std::time::Duration::from_millis(after.0.max(0) as u64);
    let after = humantime::format_rfc3339_seconds(after).to_string();
    let after = escaped(&after);
    format!("/batch/jobs?page={page}&page_size={PAGE}&created_after={after}")
}

impl Wire for Mistral {
    fn create(&self, batch: &Submission<'_>, _: &mut dyn BatchInput) -> Result<String, Error> {
        let model = batch.intent.model.as_deref();
        let model = model.ok_or_else(|| invalid("a batch of no model".to_owned()))?;
        let job = json!({
            "endpoint": "/v1/chat/completions",
            "model": model,
            "input_files": [batch.file],
            "metadata": {"label": batch.intent.label},
            "timeout_hours": 24,
        });
        named(&batch.http.post("/batch/jobs", &job)?, &["id"])
    }

    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error> {
        let (mut page, mut seen) = (0, 0);
        let first = page_at(search.since, 0);
        let pages = batch.http.pages(first, |list| -> Option<Page> {
            let entries = list.get("data").and_then(Value::as_array).cloned();
            // The last page may leave out its empty list.
            let total = list.get("total").and_then(count);
            let entries = entries.or_else(|| total.map(|_| Vec::new()))?;
            page += 1;
            seen += entries.len();
            let more = match total {
                Some(total) => (seen as u64) < total && !entries.is_empty(),
                None => entries.len() >= PAGE,
            };
            Some((entries, more.then(|| page_at(search.since, page))))
        });
        search.through(pages, |entry| {
            let label = entry.get("metadata").and_then(|m| text(m, "label"));
            let files = entry.get("input_files").and_then(Value::as_array);
            let is_ours = |id: &Value| id.as_str() == Some(batch.file);
            let ours = files.is_some_and(|files| files.iter().any(is_ours));
            let ours = ours || label == Some(&batch.intent.label);
            ListPage::read(entry, text(entry, "id"), ours, &["created_at"])
        })
    }

    fn path(&self, id: &str) -> String {
        format!("/batch/jobs/{}", escaped(id))
    }

    fn status_of(&self, vendor: &Vendor, job: &Value, _: Option<Timestamp>) -> Option<BatchStatus> {
        let word = text(job, "status")?;
        let results = texts(job, &["output_file", "error_file"]);
        let state = match word {
            "QUEUED" | "RUNNING" => BatchState::Running,
            "CANCELLATION_REQUESTED" => BatchState::Cancelling,
            "SUCCESS" => BatchState::Completed,
            "TIMEOUT_EXCEEDED" => BatchState::Expired,
            "CANCELLED" => BatchState::Cancelled,
            // It failed while it ran: requests with results were processed and billed.
            "FAILED" if !results.is_empty() => BatchState::Completed,
            "FAILED" => refusal::refused(vendor, job.get("errors")),
            other => BatchState::Unknown(other.to_owned()),
        };
        let of = |field| job.get(field).and_then(count);
        let counts = of("total_requests").map(|total| BatchCounts {
            total,
            completed: of("succeeded_requests").unwrap_or(0),
            failed: of("failed_requests").unwrap_or(0),
        });
        let reported = counts.filter(|_| word != "FAILED");
        Some(BatchStatus {
            expected: expected(&state, reported),
            state,
            counts,
            results,
            poll_after: None,
        })
    }
}

#[cfg(test)]
#[path = "mistral_tests.rs"]
mod tests;
