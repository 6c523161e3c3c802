//! Batches of Together. Lines have no method and no URL, batches have no label, and the list has a single page.
//! Source: docs.together.ai "Batch inference", and its OpenAPI description.

use serde_json::{Value, json};

use crate::base::{Error, Timestamp};
use crate::llm::batch::{BatchInput, BatchStage, BatchState, BatchStatus, ListedBatches};
use crate::llm::providers::vendor::Vendor;

use super::files::{self, ListPage, Search};
use super::http::{json, unusable};
use super::refusal;
use super::reply::{text, texts};
use super::{Submission, Wire};

/// The wire.
pub(super) struct Together;

impl Wire for Together {
    fn upload(
        &self,
        batch: &Submission<'_>,
        input: &mut dyn BatchInput,
    ) -> Result<BatchStage, Error> {
        let name = files::name_of(batch.intent);
        let fields = [
            ("purpose", "batch-api"),
            ("file_name", name.as_str()),
            ("file_type", "jsonl"),
        ];
        files::upload(batch, "/files/upload", &fields, input)
    }

    fn create(&self, batch: &Submission<'_>, _: &mut dyn BatchInput) -> Result<String, Error> {
        let body = json!({
            "input_file_id": batch.file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        });
        let reply = batch.http.post("/batches", &body)?;
        let answer = json(&reply)?;
        let job = answer.get("job").unwrap_or(&answer);
        let id = text(job, "id").ok_or_else(|| unusable("no id", &reply))?;
        Ok(id.to_owned())
    }

    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error> {
        let pages = batch.http.pages("/batches".to_owned(), |list| {
            let entries = list.as_array().or_else(|| list.get("data")?.as_array())?;
            Some((entries.clone(), None))
        });
        // Only its input file identifies a batch.
        search.through(pages, |entry| {
            let ours = text(entry, "input_file_id") == Some(batch.file);
            ListPage::read(entry, text(entry, "id"), ours, &["created_at"])
        })
    }

    fn status_of(
        &self,
        vendor: &Vendor,
        batch: &Value,
        _: Option<Timestamp>,
    ) -> Option<BatchStatus> {
        let results = texts(batch, &["output_file_id", "error_file_id"]);
        let state = match text(batch, "status")? {
            "VALIDATING" => BatchState::Validating,
            "IN_PROGRESS" => BatchState::Running,
            "COMPLETED" => BatchState::Completed,
            "EXPIRED" => BatchState::Expired,
            "CANCELLED" => BatchState::Cancelled,
            // It failed while it ran: requests with results were processed and billed.
            "FAILED" if !results.is_empty() => BatchState::Completed,
            "FAILED" => refusal::refused(vendor, batch.get("error").filter(says)),
            other => BatchState::Unknown(other.to_owned()),
        };
        // It reports a percentage instead of counts.
        let begun = batch.get("progress").and_then(Value::as_f64) > Some(0.0);
        let cut_short = matches!(state, BatchState::Expired | BatchState::Cancelled);
        Some(BatchStatus {
            expected: (cut_short && begun && results.is_empty()).then_some(1),
            counts: None,
            state,
            results,
            poll_after: None,
        })
    }
}

fn says(error: &&Value) -> bool {
    error.as_str() != Some("")
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
