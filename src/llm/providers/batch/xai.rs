//! Batches of xAI. The input is a file in OpenAI's format. A batch has no field for its state, so the state is derived
//! from its counts and times. The results are read page by page.

use std::io::Write;

use serde_json::{Value, json};

use crate::base::{Error, ErrorKind, Timestamp};
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchRefusal, BatchState, BatchStatus, ListedBatches,
};
use crate::llm::providers::fields::whole;
use crate::llm::providers::vendor::Vendor;

use super::files::{self, Listing, Search};
use super::http::{Http, end, named, text};
use super::lines::says_something;
use super::{Submission, Wire, refusal, status};

/// The name of the results: there is no file.
const RESULTS: &str = "results";
/// A page is held in memory, so it has few results.
const RESULTS_A_PAGE: usize = 100;

/// The wire.
pub(super) struct Xai;

const LIST: Listing = Listing {
    path: "/batches?limit=100",
    entries: "batches",
    after: "",
    ids: &["/batch_id", "/id"],
    label: "/name",
    created: &["/create_time", "/created_at"],
};

impl Wire for Xai {
    fn url(&self) -> &'static str {
        "/v1/chat/completions"
    }

    fn create(
        &self,
        batch: &Submission<'_>,
        _: &mut dyn BatchInput,
    ) -> Result<String, BatchRefusal> {
        let body = json!({"name": batch.intent.label, "input_file_id": batch.file});
        let reply = batch.http.post("/batches", &body)?;
        Ok(named(&reply, &["batch_id", "id"])?)
    }

    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error> {
        files::find(batch, &LIST, search)
    }

    fn read(&self, vendor: &Vendor, batch: &Value, now: Option<Timestamp>) -> Option<BatchStatus> {
        text(batch, "batch_id").or(text(batch, "id"))?;
        // A count that is zero may be absent.
        let of = |field| {
            let counter = batch.get("state").and_then(|state| state.get(field));
            counter.and_then(whole).unwrap_or(0)
        };
        let [total, pending] = [of("num_requests"), of("num_pending")];
        let [success, failed] = [of("num_success"), of("num_error")];
        let finished = success.saturating_add(failed);
        // The time until which the results are kept.
        let mut until = ["expire_time", "expires_at"].iter();
        let until = until.find_map(|field| end(batch.get(field)?));
        let over = now.zip(until).is_some_and(|(now, until)| now > until);
        let was_cancelled = batch.get("cancel_time").is_some_and(|time| !time.is_null());
        let message = batch.get("cancel_by_xai_message");
        let message = message.filter(|message| was_cancelled && says_something(message));
        let derived = match message {
            Some(_) if finished > 0 && pending > 0 && !over => BatchState::Cancelling,
            Some(_) if finished > 0 => BatchState::Cancelled,
            Some(message) => refusal::refused(vendor, Some(message)),
            None if was_cancelled && pending > 0 && !over => BatchState::Cancelling,
            None if was_cancelled => BatchState::Cancelled,
            // The work may go on after this time, but later results are not kept.
            None if over && (total == 0 || pending > 0) => BatchState::Expired,
            None if total == 0 => BatchState::Validating,
            None if pending > 0 => BatchState::Running,
            None => BatchState::Completed,
        };
        let counts = Some(BatchCounts {
            total,
            completed: success,
            failed,
        });
        let has_results = derived.is_final() && finished > 0;
        let results = has_results.then(|| RESULTS.to_owned());
        Some(status(derived, counts, results.into_iter().collect()))
    }

    fn download(
        &self,
        http: &Http<'_>,
        id: &str,
        _: &str,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        let path = format!("{}/results?limit={RESULTS_A_PAGE}", self.path(id));
        for results in http.pages(&path, "results", "") {
            for result in results? {
                writeln!(sink, "{result}").map_err(|error| {
                    let why = format!("cannot write the results of xai: {error}");
                    Error::new(ErrorKind::Invalid, why)
                })?;
            }
        }
        Ok(())
    }

    fn cancel(&self, id: &str) -> String {
        format!("{}:cancel", self.path(id))
    }
}
