//! Batches of xAI. The input is a file in OpenAI's format. A batch has no field for its state, so the state is derived
//! from its counts and times. The results are read page by page.

use std::io::Write;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::json_object::JsonObject;
use crate::base::{Error, ErrorKind, Timestamp};
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchLine, BatchState, BatchStatus, ListedBatches,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::answer::malformed;
use crate::llm::providers::error_body::ErrorBody;
use crate::llm::providers::rules::RULES;
use crate::llm::providers::vendor::Vendor;
use crate::llm::response::Response;

use super::files::{ListPage, Search};
use super::http::{Http, Page, named};
use super::reply::{
    answer, answered, count, end, inside, leniently, list_entries, text, without_response,
};
use super::{Submission, Wire, expected, lines, refusal};

/// The name of the results: there is no file.
const RESULTS: &str = "results";
/// A page is held in memory, so it has few results.
const RESULTS_A_PAGE: usize = 100;

/// Google's code for it.
const CANCELLED: u64 = 1;

/// The wire.
pub(super) struct Xai;

/// A page of a list that has its entries under this name.
fn page(list: &Value, entries: &str, path: &str) -> Option<Page> {
    let token = text(list, "pagination_token");
    let entries = list_entries(list, entries, &["pagination_token"])?;
    let then = token.map(|token| format!("{path}&pagination_token={}", escaped(token)));
    Some((entries, then))
}

/// The time until which the results of a batch are kept.
fn kept_until(batch: &Value) -> Option<Timestamp> {
    let mut times = ["expire_time", "expires_at"].iter();
    times.find_map(|field| end(batch.get(field)?))
}

impl Wire for Xai {
    fn url(&self) -> &'static str {
        "/v1/chat/completions"
    }

    fn create(&self, batch: &Submission<'_>, _: &mut dyn BatchInput) -> Result<String, Error> {
        let body = json!({"name": batch.intent.label, "input_file_id": batch.file});
        named(&batch.http.post("/batches", &body)?, &["batch_id", "id"])
    }

    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error> {
        let path = "/batches?limit=100";
        let pages = batch
            .http
            .pages(path.to_owned(), |list| page(list, "batches", path));
        search.through(pages, |entry| {
            let ours = text(entry, "input_file_id") == Some(batch.file)
                || text(entry, "name") == Some(&batch.intent.label);
            let id = text(entry, "batch_id").or_else(|| text(entry, "id"));
            ListPage::read(entry, id, ours, &["create_time", "created_at"])
        })
    }

    fn status_of(
        &self,
        vendor: &Vendor,
        batch: &Value,
        served: Option<Timestamp>,
    ) -> Option<BatchStatus> {
        text(batch, "batch_id").or(text(batch, "id"))?;
        // A count that is zero may be absent.
        let of = |field| {
            let counter = batch.get("state").and_then(|state| state.get(field));
            counter.and_then(count).unwrap_or(0)
        };
        let [total, pending] = [of("num_requests"), of("num_pending")];
        let [success, failed] = [of("num_success"), of("num_error")];
        let finished = success.saturating_add(failed);
        let over = match (served, kept_until(batch)) {
            (Some(now), Some(until)) => now > until,
            _ => false,
        };
        let was_cancelled = batch.get("cancel_time").is_some_and(|time| !time.is_null());
        let message = batch.get("cancel_by_xai_message").filter(|_| was_cancelled);
        let message = message.filter(|message| message.as_str().is_none_or(|m| !m.is_empty()));
        let message = message.filter(|message| !message.is_null());
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
        Some(BatchStatus {
            expected: expected(&derived, counts),
            results: (derived.is_final() && finished > 0)
                .then(|| RESULTS.to_owned())
                .into_iter()
                .collect(),
            state: derived,
            counts,
            poll_after: None,
        })
    }

    fn download(
        &self,
        http: &Http<'_>,
        id: &str,
        _: &str,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        let path = format!("{}/results?limit={RESULTS_A_PAGE}", self.path(id));
        let pages = http.pages(path.clone(), |list| page(list, "results", &path));
        for results in pages {
            for result in results? {
                writeln!(sink, "{result}").map_err(|error| {
                    let why = format!("cannot write the results of xai: {error}");
                    Error::new(ErrorKind::Invalid, why)
                })?;
            }
        }
        Ok(())
    }

    fn read(&self, vendor: &Vendor, line: &[u8]) -> Result<BatchLine, Error> {
        leniently(line, |line| {
            let result: Value = serde_json::from_slice(line)?;
            Ok(judged(vendor, &result, line))
        })
    }

    fn body<'l>(&self, line: &'l str) -> Option<&'l RawValue> {
        let response = inside(line, &["batch_result", "response"]);
        let response = response.or_else(|| inside(line, &["response"]))?;
        let fields = JsonObject::parse(response.get())?;
        match fields.get("body", 0) {
            Some(body) => Some(body),
            None if fields.get("choices", 0).is_some() => Some(response),
            None => fields.fields().next().map(|(_, value)| value),
        }
    }

    fn cancel(&self, id: &str) -> String {
        format!("{}:cancel", self.path(id))
    }
}

fn judged(vendor: &Vendor, result: &Value, line: &[u8]) -> Result<BatchLine, Error> {
    let key = text(result, "batch_request_id").or_else(|| text(result, "custom_id"));
    let key = key.ok_or_else(|| malformed("a result without batch_request_id", line))?;
    let outcome = result.get("batch_result").unwrap_or(result);
    let error = outcome.get("error").filter(|error| !error.is_null());
    let end = match (error, outcome.get("response").and_then(Value::as_object)) {
        (Some(error), _) => {
            let mut error_body = ErrorBody::from_error(error);
            let code = error.get("code");
            if code.and_then(count) == Some(CANCELLED) {
                error_body.words.push("cancelled".to_owned());
            }
            lines::failed(vendor, error_body, code.and_then(http_status))
        }
        (None, Some(response)) => answered(decoded(vendor, response)),
        (None, None) => without_response(line),
    };
    let key = key.to_owned();
    Ok(BatchLine { key, result: end })
}

/// A response: in OpenAI's frame with a status, the bare body, or the body under the name of its endpoint.
fn decoded(vendor: &Vendor, response: &Map<String, Value>) -> Result<Response, Error> {
    let (status, body) = match (response.get("status_code"), response.get("body")) {
        (Some(status), Some(body)) => (count(status), body.clone()),
        _ if response.contains_key("choices") => (None, Value::Object(response.clone())),
        _ => (None, response.values().next().cloned().unwrap_or_default()),
    };
    let status = status.and_then(|status| u16::try_from(status).ok());
    answer(vendor, status.unwrap_or(200), body.to_string().as_bytes())
}

/// The HTTP status of one of Google's codes, a number or a word. An HTTP status is returned unchanged.
fn http_status(code: &Value) -> Option<u16> {
    let word = code.as_str().unwrap_or_default().to_ascii_uppercase();
    let number = count(code);
    let mut known = RULES.google_codes.iter();
    let known = known.find(|(own, name, _)| Some(*own) == number || *name == word);
    let status = known.map(|(.., status)| *status);
    status.or_else(|| u16::try_from(number?).ok())
}
