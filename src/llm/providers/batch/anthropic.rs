//! Anthropic's Message Batches.
//!
//! No input file is uploaded: the requests are the body of the call that creates the batch, and a batch has no label.
//! A batch that may have been created is therefore identified by its creation time and its number of requests and,
//! once it has ended, by the keys in its results. Source: Anthropic's documentation "Batch processing" and the types
//! of its Python SDK.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::time::SystemTime;

use serde_json::Value;

use crate::base::{Error, ErrorKind, Sent, Timestamp};
use crate::llm::batch::{
    BatchCounts, BatchInput, BatchIntent, BatchRefusal, BatchState, BatchStatus, ListedBatches,
};
use crate::llm::providers::access::escaped;
use crate::llm::providers::fields::whole;
use crate::llm::providers::rules::word;
use crate::llm::providers::vendor::Vendor;

use super::files::Search;
use super::http::{Http, json as body_of, named, served_at, text, time};
use super::{Submission, Wire, status};

const BATCHES: &str = "/messages/batches";
/// As many as a page of the list takes.
const PAGE: usize = 1000;

/// The one file of results.
const RESULTS: &str = "results";

/// The wire.
pub(super) struct Anthropic;

impl Wire for Anthropic {
    fn uploads(&self) -> bool {
        false
    }

    fn create(
        &self,
        batch: &Submission<'_>,
        input: &mut dyn BatchInput,
    ) -> Result<String, BatchRefusal> {
        let (mut body, length) = body(input.open()?, batch.intent.bytes);
        let reply = batch.http.upload(BATCHES, &[], &mut body, length)?;
        Ok(named(&reply, &["id"])?)
    }

    /// Compares the entries of the list, and reads the first result of candidates that have ended.
    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error> {
        let Submission { http, intent, .. } = batch;
        let (mut ours, mut open) = (Vec::new(), Vec::new());
        for (id, batch) in candidates(http, intent, search.known)? {
            match is_ours(http, intent, &id, &batch)? {
                Some(true) => ours.push(id),
                Some(false) => {}
                None => open.push(id),
            }
        }
        // The list has the newest first.
        ours.reverse();
        Ok(match (ours.is_empty(), open.len()) {
            (false, _) => ListedBatches::of(ours),
            (true, 0 | 1) => ListedBatches::of(open),
            (true, several) => ListedBatches::Undecidable(format!(
                "anthropic has {several} batches of {} requests from that time; which one it is shows \
                 when they have ended: {}",
                intent.items,
                open.join(", ")
            )),
        })
    }

    /// There are no files.
    fn discard(&self, _: &Http<'_>, _: &str) -> Result<(), Error> {
        Ok(())
    }

    fn path(&self, id: &str) -> String {
        format!("{BATCHES}/{}", escaped(id))
    }

    fn read(&self, _: &Vendor, batch: &Value, _: Option<Timestamp>) -> Option<BatchStatus> {
        text(batch, "processing_status").map(|_| status_of(batch))
    }

    fn download(
        &self,
        http: &Http<'_>,
        id: &str,
        _: &str,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        let batch = body_of(&http.get(&self.path(id))?)?;
        if !status_of(&batch).state.is_final() {
            let why = "anthropic shows the batch as not ended yet";
            return Err(Error::new(ErrorKind::Transient, why).with_sent(Sent::Answered));
        }
        let Some(results) = results_of(http, id, &batch) else {
            let why =
                "anthropic no longer has the results of this batch: it keeps them for 29 days";
            let gone = Error::new(ErrorKind::Invalid, why).with_status(410);
            return Err(gone.with_sent(Sent::Answered));
        };
        http.download(&results, sink)
    }
}

const HEAD: &[u8] = br#"{"requests":["#;
const TAIL: &[u8] = b"]}";

/// The body that creates a batch from `bytes` of lines, and its length.
fn body<'r>(lines: impl Read + 'r, bytes: u64) -> (impl Read + 'r, u64) {
    // The line break of the last line is left out: no comma follows the last element.
    let bytes = bytes.saturating_sub(1);
    let body = HEAD.chain(Commas(lines.take(bytes))).chain(TAIL);
    (body, bytes + (HEAD.len() + TAIL.len()) as u64)
}

/// Lines as the elements of a list: commas replace their line breaks. JSON escapes line breaks inside of a line.
struct Commas<R>(R);

impl<R: Read> Read for Commas<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        for byte in &mut buffer[..count] {
            if *byte == b'\n' {
                *byte = b',';
            }
        }
        Ok(count)
    }
}

/// The status of a batch.
fn status_of(batch: &Value) -> BatchStatus {
    let ended = word(batch.get("processing_status"));
    let state = match &*ended {
        "in_progress" => BatchState::Running,
        "canceling" => BatchState::Cancelling,
        // The results report which requests were cancelled or expired.
        "ended" => BatchState::Completed,
        _ => BatchState::Unknown(ended),
    };
    let total = total(batch);
    let of = |name| whole(&batch["request_counts"][name]).unwrap_or(0);
    let over = state.is_final();
    // Until the batch has ended, all requests are counted as `processing`.
    let counts = total.filter(|_| over).map(|total| BatchCounts {
        total,
        completed: of("succeeded"),
        failed: of("errored"),
    });
    let results = over.then(|| RESULTS.to_owned());
    status(state, counts, results.into_iter().collect())
}

/// The names of the counts; their sum is the number of requests, from the start.
const COUNTED: [&str; 5] = ["processing", "succeeded", "errored", "canceled", "expired"];
/// The number of requests of a batch.
fn total(batch: &Value) -> Option<u64> {
    let counts = batch.get("request_counts")?.as_object()?;
    let counts: Vec<u64> = COUNTED
        .iter()
        .filter_map(|name| whole(counts.get(*name)?))
        .collect();
    (!counts.is_empty()).then(|| counts.into_iter().fold(0, u64::saturating_add))
}

/// The path of the results of a batch that has ended, unless they were deleted.
fn results_of(http: &Http<'_>, id: &str, batch: &Value) -> Option<String> {
    let url = text(batch, "results_url").filter(|_| text(batch, "archived_at").is_none())?;
    // The credential may be sent only to the base URL.
    let below = url.strip_prefix(&http.api.access.base_url);
    let below = below.filter(|path| path.starts_with('/'));
    Some(below.map_or_else(|| format!("{}/results", Anthropic.path(id)), str::to_owned))
}

/// The batches with a matching creation time and number of requests, newest first.
fn candidates(
    http: &Http<'_>,
    intent: &BatchIntent,
    known: &HashSet<String>,
) -> Result<Vec<(String, Value)>, Error> {
    let clock = served_at(&http.get(&format!("{BATCHES}?limit=1"))?);
    let ahead = clock.map_or(0, |there| there.0 - Timestamp::from(SystemTime::now()).0);
    let since = since(intent, ahead);
    let created = |batch: &Value| time(batch.get("created_at")?);
    let older = |batch: &Value| created(batch).is_some_and(|time| time < since);
    let mut found = Vec::new();
    for page in http.pages(&format!("{BATCHES}?limit={PAGE}"), "data", "after_id") {
        let page = page?;
        let is_last = !page.is_empty() && page.iter().all(older);
        found.extend(page.into_iter().filter_map(|batch| {
            let id = text(&batch, "id").filter(|id| !known.contains(*id))?;
            let fits = total(&batch) == Some(intent.items) && !older(&batch);
            fits.then(|| (id.to_owned(), batch.clone()))
        }));
        if is_last {
            break;
        }
    }
    Ok(found)
}

/// Whether the first result of a batch has a key of ours, if it has ended and its results are still
/// there.
fn is_ours(
    http: &Http<'_>,
    intent: &BatchIntent,
    id: &str,
    batch: &Value,
) -> Result<Option<bool>, Error> {
    let ended = status_of(batch).state.is_final();
    let Some(results) = results_of(http, id, batch).filter(|_| ended) else {
        return Ok(None);
    };
    let mut first = FirstLine::default();
    match http.download(&results, &mut first) {
        Err(error) if matches!(error.status(), Some(404 | 410)) => return Ok(None),
        Err(error) if !first.full => return Err(error),
        _ if first.line.is_empty() || first.line.len() >= FirstLine::MOST_LINE_BYTES => {
            return Ok(None);
        }
        _ => {}
    }
    // A line of our own batch would have the known fields.
    let line: Value = serde_json::from_slice(&first.line).unwrap_or_default();
    let key = text(&line, "custom_id");
    Ok(Some(key.is_some_and(|key| key.starts_with(&intent.label))))
}

/// Holds the first line, up to a bound. The write that completes it fails, so that the download ends.
#[derive(Default)]
struct FirstLine {
    line: Vec<u8>,
    full: bool,
}

impl FirstLine {
    const MOST_LINE_BYTES: usize = 1 << 20;
}

impl Write for FirstLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = memchr::memchr(b'\n', bytes);
        let line = &bytes[..end.unwrap_or(bytes.len())];
        let room = Self::MOST_LINE_BYTES - self.line.len();
        self.line.extend_from_slice(&line[..line.len().min(room)]);
        self.full |= end.is_some() || line.len() >= room;
        if self.full {
            Err(io::Error::other("the first line is enough"))
        } else {
            Ok(bytes.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The earliest creation time of a batch of this intent, by the provider's clock, which is now `ahead` milliseconds
/// ahead of this machine's. There is no latest time, because the process may be suspended between the intent and the
/// call.
fn since(intent: &BatchIntent, ahead: i64) -> Timestamp {
    let begun = intent.begun.0;
    let there = begun.saturating_add(ahead);
    // A clock that is far off now may have been off in the other direction then.
    let skew = SKEW.max(ahead.saturating_abs());
    Timestamp(begun.min(there).saturating_sub(skew))
}

/// The difference, in milliseconds, that correct clocks may have.
const SKEW: i64 = 10 * 60 * 1000;
