//! Code shared by providers that take the input as a file and list their batches in pages.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use crate::base::{Error, ErrorKind, Timestamp};
use crate::llm::batch::{BatchInput, BatchIntent, BatchStage, ListedBatches};

use super::Submission;
use super::http::{named, served_at};
use super::reply::time;

/// Clocks differ, and some providers report only the date.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// The file name of a batch's input.
pub(super) fn name_of(intent: &BatchIntent) -> String {
    format!("{}.jsonl", intent.label)
}

/// Uploads the input in a form.
pub(super) fn upload(
    batch: &Submission<'_>,
    input: &mut dyn BatchInput,
) -> Result<BatchStage, Error> {
    let form = Form::new(
        &[("purpose", "batch")],
        &name_of(batch.intent),
        batch.intent.bytes,
    );
    let mut body = form.around(input.open()?);
    let headers = [form.content_type()];
    let reply = batch
        .http
        .upload("/files", &headers, &mut body, form.length())?;
    Ok(BatchStage::Uploaded {
        file: named(&reply, &["id"])?,
        time: served_at(&reply),
    })
}

/// The entry of a batch in a list.
pub(super) struct ListPage {
    pub id: Option<String>,
    /// Whether it has our file or our label.
    pub ours: bool,
    pub created: Option<Timestamp>,
}

impl ListPage {
    /// Reads an entry, with the creation time in one of the fields `created`.
    pub fn read(entry: &Value, id: Option<&str>, ours: bool, created: &[&str]) -> Self {
        let mut times = created.iter().filter_map(|field| time(entry.get(field)?));
        Self {
            id: id.map(str::to_owned),
            ours,
            created: times.next(),
        }
    }
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

impl Search<'_> {
    /// Reads a list until all entries of a page are too old. It does not depend on the order within a page.
    pub fn through(
        &self,
        pages: impl Iterator<Item = Result<Vec<Value>, Error>>,
        read: impl Fn(&Value) -> ListPage,
    ) -> Result<ListedBatches, Error> {
        let mut found: Vec<(Option<Timestamp>, String)> = Vec::new();
        for page in pages {
            let page: Vec<ListPage> = page?.iter().map(&read).collect();
            let old =
                |listed: &ListPage| listed.created.is_some_and(|created| created < self.since);
            let last = !page.is_empty() && page.iter().all(old);
            for listed in page.into_iter().filter(|listed| listed.ours) {
                let id = listed.id.ok_or_else(|| {
                    let why = "the list contains a batch of this queue without its id";
                    Error::new(ErrorKind::Malformed, why).with_status(200)
                })?;
                if !self.known.contains(&id) && found.iter().all(|(_, other)| *other != id) {
                    found.push((listed.created, id));
                }
            }
            if last {
                break;
            }
        }
        found.sort_by_key(|(created, _)| created.unwrap_or(Timestamp(i64::MAX)));
        let mut ids: Vec<String> = found.into_iter().map(|(_, id)| id).collect();
        Ok(match ids.len() {
            0 => ListedBatches::None,
            1 => ListedBatches::One(ids.remove(0)),
            _ => ListedBatches::Many(ids),
        })
    }
}

/// JSON escapes line breaks, so no line of JSON contains a line break followed by this.
const BOUNDARY: &str = "batchwright-boundary-5f2c9d3e71a84b06";

/// A form with one file, which comes last.
struct Form {
    before: String,
    after: String,
    file: u64,
}

impl Form {
    /// A form with text fields, and a file of this name and length.
    pub fn new(fields: &[(&str, &str)], filename: &str, length: u64) -> Self {
        let mut before = String::new();
        for (name, value) in fields {
            before.push_str(&format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            ));
        }
        before.push_str(&format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; \
             filename=\"{filename}\"\r\nContent-Type: application/jsonl\r\n\r\n"
        ));
        Self {
            before,
            after: format!("\r\n--{BOUNDARY}--\r\n"),
            file: length,
        }
    }

    /// The header of a request with this form.
    pub fn content_type(&self) -> (Cow<'static, str>, String) {
        let value = format!("multipart/form-data; boundary={BOUNDARY}");
        ("content-type".into(), value)
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.file + (self.before.len() + self.after.len()) as u64
    }

    /// The body, with the content of the file.
    pub fn around<'a>(&'a self, file: impl Read + 'a) -> impl Read + 'a {
        let before = self.before.as_bytes();
        before.chain(file).chain(self.after.as_bytes())
    }
}
