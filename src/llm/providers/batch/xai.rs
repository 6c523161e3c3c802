//! Batches of xAI: made from a file of OpenAI's lines, without a word for their state, and with
//! results that are read by the page.

use std::collections::HashSet;
use std::io::{self, Write};

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchIntent, BatchLine, BatchLineResult, BatchState, BatchStatus,
    ListedBatches,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::answer::{malformed, unlike};
use crate::llm::providers::error_body::ErrorBody;
use crate::llm::providers::vendor::Vendor;
use crate::llm::request::Request;

use super::Wire;
use super::expected;
use super::files::{ListPage, search};
use super::http::{Http, Page, json, named, poll_after, served_at, unusable};
use super::reply::{answer, count, end, fields, inside, leniently, text};
use super::{lines, refusal};

const ENDPOINT: &str = "/v1/chat/completions";
/// What the results are called here: there is no file.
const RESULTS: &str = "results";
/// A page is held whole, so it is one of few results.
const RESULTS_A_PAGE: usize = 100;

/// Google's code for it.
const CANCELLED: u64 = 1;

/// The wire.
pub(super) struct Xai;

/// A list's page whose entries are under that name.
fn page(list: &Value, entries: &str, path: &str) -> Option<Page> {
    let token = text(list, "pagination_token");
    let entries = match list.get(entries) {
        Some(Value::Array(entries)) => entries.clone(),
        // Empty lists may be left out, but nothing else of a list is.
        None if list.as_object().is_some_and(only_a_list) => Vec::new(),
        _ => return None,
    };
    let then = token.map(|token| format!("{path}&pagination_token={}", escaped(token)));
    Some((entries, then))
}

fn only_a_list(fields: &Map<String, Value>) -> bool {
    fields.keys().all(|field| field == "pagination_token")
}

/// The time until which the results of a batch are kept.
fn kept_until(batch: &Value) -> Option<Timestamp> {
    let mut times = ["expire_time", "expires_at"].iter();
    times.find_map(|field| end(batch.get(field)?))
}

impl Wire for Xai {
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
        let batch = json!({"name": intent.label, "input_file_id": file});
        let reply = http.post("/batches", &batch)?;
        named(&reply, &["batch_id", "id"])
    }

    fn find(
        &self,
        http: &Http<'_>,
        intent: &BatchIntent,
        file: &str,
        since: Timestamp,
        known: &HashSet<String>,
    ) -> Result<ListedBatches, Error> {
        let path = "/batches?limit=100";
        let pages = http.pages(path.to_owned(), |list| page(list, "batches", path));
        search(pages, since, known, |entry| {
            let ours = text(entry, "input_file_id") == Some(file)
                || text(entry, "name") == Some(&intent.label);
            let id = text(entry, "batch_id").or_else(|| text(entry, "id"));
            ListPage::read(entry, id, ours, &["create_time", "created_at"])
        })
    }

    fn status(&self, http: &Http<'_>, id: &str) -> Result<BatchStatus, Error> {
        let reply = http.get(&format!("/batches/{}", escaped(id)))?;
        let batch = json(&reply)?;
        if text(&batch, "batch_id").or(text(&batch, "id")).is_none() {
            return Err(unusable("no batch", &reply));
        }
        // Those that are zero may be absent.
        let of = |field| {
            let counter = batch.get("state").and_then(|state| state.get(field));
            counter.and_then(count).unwrap_or(0)
        };
        let [total, pending] = [of("num_requests"), of("num_pending")];
        let [success, failed] = [of("num_success"), of("num_error")];
        let finished = success.saturating_add(failed);
        let over = match (served_at(&reply), kept_until(&batch)) {
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
            Some(message) => refusal::refused(http.api.vendor, Some(message)),
            None if was_cancelled && pending > 0 && !over => BatchState::Cancelling,
            None if was_cancelled => BatchState::Cancelled,
            // That is no limit to the work; but what is done afterwards, nobody keeps.
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
        Ok(BatchStatus {
            expected: expected(&derived, counts),
            results: (derived.is_final() && finished > 0)
                .then(|| RESULTS.to_owned())
                .into_iter()
                .collect(),
            state: derived,
            counts,
            poll_after: poll_after(&reply),
        })
    }

    fn download(
        &self,
        http: &Http<'_>,
        id: &str,
        _: &str,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        let path = format!("/batches/{}/results?limit={RESULTS_A_PAGE}", escaped(id));
        let pages = http.pages(path.clone(), |list| page(list, "results", &path));
        for results in pages {
            for result in results? {
                write_line(&result, sink).map_err(|error| {
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
        let mut fields = fields(response)?;
        match fields.remove("body") {
            Some(body) => Some(body),
            None if fields.contains_key("choices") => Some(response),
            None => fields.into_values().next(),
        }
    }

    fn cancel(&self, id: &str) -> String {
        format!("/batches/{}:cancel", escaped(id))
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
        (None, Some(response)) => BatchLineResult::Answered(Box::new(answered(vendor, response))),
        (None, None) => {
            let what = "neither a response nor an error";
            BatchLineResult::Answered(Box::new(Err(unlike(what, line))))
        }
    };
    let key = key.to_owned();
    Ok(BatchLine { key, result: end })
}

fn write_line(result: &Value, sink: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *sink, result)?;
    sink.write_all(b"\n")
}

/// A response as it stands, in OpenAI's frame, or as the one value under its endpoint's name.
fn answered(
    vendor: &Vendor,
    response: &Map<String, Value>,
) -> Result<crate::llm::response::Response, Error> {
    let (status, body) = match (response.get("status_code"), response.get("body")) {
        (Some(status), Some(body)) => (count(status), body.clone()),
        _ if response.contains_key("choices") => (None, Value::Object(response.clone())),
        _ => (None, response.values().next().cloned().unwrap_or_default()),
    };
    let status = status.and_then(|status| u16::try_from(status).ok());
    answer(vendor, status.unwrap_or(200), body.to_string().as_bytes())
}

/// The HTTP status of one of Google's codes, a number or a word; a status stands for itself.
fn http_status(code: &Value) -> Option<u16> {
    let word = code.as_str().unwrap_or_default().to_ascii_uppercase();
    let codes = [
        (2, "UNKNOWN", 500),
        (3, "INVALID_ARGUMENT", 400),
        (4, "DEADLINE_EXCEEDED", 504),
        (5, "NOT_FOUND", 404),
        (7, "PERMISSION_DENIED", 403),
        (8, "RESOURCE_EXHAUSTED", 429),
        (9, "FAILED_PRECONDITION", 400),
        (10, "ABORTED", 409),
        (11, "OUT_OF_RANGE", 400),
        (12, "UNIMPLEMENTED", 501),
        (13, "INTERNAL", 500),
        (14, "UNAVAILABLE", 503),
        (15, "DATA_LOSS", 500),
        (16, "UNAUTHENTICATED", 401),
    ];
    let number = count(code);
    let known = codes
        .iter()
        .find(|(own, name, _)| Some(*own) == number || *name == word);
    let status = known.map(|(.., status)| *status);
    status.or_else(|| u16::try_from(number?).ok())
}

#[cfg(test)]
#[path = "xai_tests.rs"]
mod tests;
