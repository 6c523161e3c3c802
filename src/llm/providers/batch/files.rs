//! Code shared by providers that take the input as a file and list their batches in pages.

use std::collections::HashSet;
use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use crate::base::{Error, ErrorKind, Timestamp};
use crate::llm::batch::{BatchInput, BatchIntent, BatchRefusal, BatchStage, ListedBatches};

use super::Submission;
use super::http::{named, served_at, time};

/// Clocks differ, and some providers report only the date.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// Uploads the input in a form.
pub(super) fn upload(
    batch: &Submission<'_>,
    input: &mut dyn BatchInput,
) -> Result<BatchStage, BatchRefusal> {
    let intent = batch.intent;
    let before = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; \
         filename=\"{}.jsonl\"\r\nContent-Type: application/jsonl\r\n\r\n",
        intent.label
    );
    let after = format!("\r\n--{BOUNDARY}--\r\n");
    let length = intent.bytes + (before.len() + after.len()) as u64;
    let form = format!("multipart/form-data; boundary={BOUNDARY}");
    let headers = [("content-type".into(), form)];
    let file = before.as_bytes().chain(input.open()?);
    let mut body = file.chain(after.as_bytes());
    let http = &batch.http;
    let reply = http.upload("/files", &headers, &mut body, length)?;
    Ok(BatchStage::Uploaded {
        file: named(&reply, &["id"])?,
        time: served_at(&reply),
    })
}

/// The earliest creation time of a batch of this intent.
pub(super) fn since(intent: &BatchIntent, stage: &BatchStage) -> Timestamp {
    let begun = match stage {
        BatchStage::Uploaded {
            time: Some(time), ..
        } => *time,
        _ => intent.begun,
    };
    Timestamp(begun.0.saturating_sub(SKEW.as_millis() as i64))
}

/// A search for a batch among those of the account.
pub(super) struct Search<'a> {
    /// The earliest creation time of the batch.
    pub since: Timestamp,
    /// The ids of other batches of this queue.
    pub known: &'a HashSet<String>,
}

/// A list of batches: its address, and the places of what identifies one in an entry.
pub(super) struct Listing {
    pub path: &'static str,
    /// The name of the list in a page.
    pub entries: &'static str,
    /// The parameter for the last id of the page before, if it has one.
    pub after: &'static str,
    pub ids: &'static [&'static str],
    pub label: &'static str,
    pub created: &'static [&'static str],
}

/// Searches a list for the batches with our file or our label until all entries of a page are too old. It does not depend on
/// the order within a page.
pub(super) fn find(
    batch: &Submission<'_>,
    list: &Listing,
    search: &Search<'_>,
) -> Result<ListedBatches, Error> {
    let created = |entry: &Value| {
        let mut places = list.created.iter();
        places.find_map(|place| time(entry.pointer(place)?))
    };
    let is_old = |entry: &Value| created(entry).is_some_and(|created| created < search.since);
    let mut found: Vec<(Option<Timestamp>, String)> = Vec::new();
    for page in batch.http.pages(list.path, list.entries, list.after) {
        let page = page?;
        for entry in &page {
            let text = |place: &str| {
                entry
                    .pointer(place)?
                    .as_str()
                    .filter(|text| !text.is_empty())
            };
            if text("/input_file_id") != Some(batch.file)
                && text(list.label) != Some(&batch.intent.label)
            {
                continue;
            }
            let id = list.ids.iter().find_map(|place| text(place));
            let id = id.ok_or_else(|| {
                let why = "the list contains a batch of this queue without its id";
                Error::new(ErrorKind::Malformed, why).with_status(200)
            })?;
            if !search.known.contains(id) && found.iter().all(|(_, other)| other != id) {
                found.push((created(entry), id.to_owned()));
            }
        }
        if !page.is_empty() && page.iter().all(is_old) {
            break;
        }
    }
    found.sort_by_key(|(created, _)| created.unwrap_or(Timestamp(i64::MAX)));
    let ids = found.into_iter().map(|(_, id)| id);
    Ok(ListedBatches::of(ids.collect()))
}

/// JSON escapes line breaks, so no line of JSON contains a line break followed by this.
const BOUNDARY: &str = "batchwright-boundary-5f2c9d3e71a84b06";
