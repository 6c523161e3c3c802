//! Batches of Together: lines without method and address, no label on a batch, and a list of one page
//! (docs.together.ai, "Batch inference", and its OpenAPI description).

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::llm::batch::{
    BatchInput, BatchIntent, BatchStage, BatchState, BatchStatus, ListedBatches,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::vendor::Vendor;
use crate::llm::request::Request;

use super::Wire;
use super::files::{self, ListPage, search};
use super::http::{Http, json, poll_after, unusable};
use super::reply::text;
use super::{lines, refusal};

/// The wire.
pub(super) struct Together;

impl Wire for Together {
    fn line(
        &self,
        vendor: &Vendor,
        key: &str,
        request: &Request,
        model: &str,
    ) -> Result<Vec<u8>, Error> {
        lines::write(vendor, key, request, model, None)
    }

    fn upload(
        &self,
        http: &Http<'_>,
        intent: &BatchIntent,
        input: &mut dyn BatchInput,
    ) -> Result<BatchStage, Error> {
        let name = files::name_of(intent);
        let fields = [
            ("purpose", "batch-api"),
            ("file_name", name.as_str()),
            ("file_type", "jsonl"),
        ];
        files::upload_to(http, "/files/upload", &fields, intent, input)
    }

    fn create(
        &self,
        http: &Http<'_>,
        _: &BatchIntent,
        file: &str,
        _: &mut dyn BatchInput,
    ) -> Result<String, Error> {
        let batch = json!({
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        });
        let reply = http.post("/batches", &batch)?;
        let answer = json(&reply)?;
        let job = answer.get("job").unwrap_or(&answer);
        let id = text(job, "id").ok_or_else(|| unusable("no id", &reply))?;
        Ok(id.to_owned())
    }

    fn find(
        &self,
        http: &Http<'_>,
        _: &BatchIntent,
        file: &str,
        since: Timestamp,
        known: &HashSet<String>,
    ) -> Result<ListedBatches, Error> {
        let pages = http.pages("/batches".to_owned(), |list| {
            let entries = list.as_array().or_else(|| list.get("data")?.as_array())?;
            Some((entries.clone(), None))
        });
        // Its file is all that tells it from others.
        search(pages, since, known, |entry| {
            let ours = text(entry, "input_file_id") == Some(file);
            ListPage::read(entry, text(entry, "id"), ours, &["created_at"])
        })
    }

    fn status(&self, http: &Http<'_>, id: &str) -> Result<BatchStatus, Error> {
        let reply = http.get(&format!("/batches/{}", escaped(id)))?;
        let batch = json(&reply)?;
        let word = text(&batch, "status").ok_or_else(|| unusable("no status", &reply))?;
        let files = ["output_file_id", "error_file_id"];
        let results = files.iter().filter_map(|file| text(&batch, file));
        let results: Vec<String> = results.map(str::to_owned).collect();
        let state = match word {
            "VALIDATING" => BatchState::Validating,
            "IN_PROGRESS" => BatchState::Running,
            "COMPLETED" => BatchState::Completed,
            "EXPIRED" => BatchState::Expired,
            "CANCELLED" => BatchState::Cancelled,
            // It failed on the way: what is in its files was worked on, and paid for.
            "FAILED" if !results.is_empty() => BatchState::Completed,
            "FAILED" => refusal::refused(http.api.vendor, batch.get("error").filter(says)),
            other => BatchState::Unknown(other.to_owned()),
        };
        // It tells a share of what is done, and no counts.
        let begun = batch.get("progress").and_then(Value::as_f64) > Some(0.0);
        let cut_short = matches!(state, BatchState::Expired | BatchState::Cancelled);
        Ok(BatchStatus {
            expected: (cut_short && begun && results.is_empty()).then_some(1),
            counts: None,
            state,
            results,
            poll_after: poll_after(&reply),
        })
    }

    fn cancel(&self, id: &str) -> String {
        format!("/batches/{}/cancel", escaped(id))
    }
}

fn says(error: &&Value) -> bool {
    error.as_str() != Some("")
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
