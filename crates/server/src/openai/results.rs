//! The output and the error file of a batch: lines are appended and synced before the queue deletes the results. The
//! files themselves show the progress, so no separate record of it can be lost or wrong.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader};

use batchwright::queue::{JobResult, JobStatus};
use batchwright::{Error, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::Reply;
use super::lines::{Key, key};
use super::storage::{GrowingFile, Storage};
use super::{answer, parts};
use crate::problem::Problem;
use crate::records::{BatchRecord, BatchState, BatchTotals, now};

/// The files of a batch that is being finished.
pub(super) struct ResultFiles<'s> {
    storage: &'s Storage,
    pub output: GrowingFile<'s>,
    pub errors: GrowingFile<'s>,
    pub totals: BatchTotals,
    /// In both.
    pub lines: u64,
    /// What was written before, and may be given again: by a server that died, or was put back to an earlier moment.
    in_output: HashSet<Key>,
    /// With whether each counts as failed: cancelled requests do not.
    in_errors: HashMap<Key, bool>,
    endpoint: String,
    model: String,
    cancelled: &'static str,
}

/// What a line that is there says that its request used.
fn usage_of(usage: &Value) -> Usage {
    let number = |name: &str| usage.pointer(name).and_then(Value::as_u64).unwrap_or(0);
    Usage {
        input_tokens: number("/prompt_tokens"),
        cached_input_tokens: number("/prompt_tokens_details/cached_tokens"),
        output_tokens: number("/completion_tokens"),
        reasoning_tokens: number("/completion_tokens_details/reasoning_tokens"),
        ..Usage::default()
    }
}

impl<'s> ResultFiles<'s> {
    /// The files as far as they were written.
    ///
    /// # Errors
    /// When they cannot be read or made.
    pub fn resume(storage: &'s Storage, batch: &BatchRecord) -> io::Result<Self> {
        let mut files = Self {
            storage,
            output: storage.append(&batch.output_file)?,
            errors: storage.append(&batch.error_file)?,
            totals: BatchTotals::default(),
            lines: 0,
            in_output: HashSet::new(),
            in_errors: HashMap::new(),
            endpoint: batch.endpoint.clone(),
            model: batch.model.clone().unwrap_or_default(),
            cancelled: if batch.has_been(BatchState::Expired)
                && !batch.has_been(BatchState::Cancelling)
            {
                "batch_expired"
            } else {
                "batch_cancelled"
            },
        };
        storage.sync()?;
        files.read_back()?;
        for side in [&files.output, &files.errors] {
            // A server that died may not have come to that, and what is there is not written again.
            side.sync()?;
        }
        Ok(files)
    }

    /// The files of a batch that is to begin, if there are any: then it has been further than its record.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn existing(storage: &'s Storage, batch: &BatchRecord) -> io::Result<Option<Self>> {
        let has_any = storage.has(&batch.output_file) || storage.has(&batch.error_file);
        has_any.then(|| Self::resume(storage, batch)).transpose()
    }

    /// Whether a request has a reply, which was paid for.
    pub fn has(&self, custom_id: &str) -> bool {
        let key = key(custom_id);
        self.in_output.contains(&key) || self.in_errors.get(&key) == Some(&true)
    }

    /// Reads what is there, and cuts off what was not written to its end.
    ///
    /// # Errors
    /// When a line is damaged that others come behind: they are paid for, and the queue has them no more.
    fn read_back(&mut self) -> io::Result<()> {
        for is_output in [true, false] {
            let side = if is_output {
                &mut self.output
            } else {
                &mut self.errors
            };
            let bytes = side.bytes;
            let mut reader = BufReader::with_capacity(256 << 10, side.reader()?);
            let (mut line, mut whole) = (Vec::new(), 0);
            let mut is_torn = false;
            loop {
                line.clear();
                let read = reader.read_until(b'\n', &mut line)?;
                if read == 0 {
                    break;
                }
                let said: Value = serde_json::from_slice(&line).unwrap_or_default();
                let id = said["custom_id"].as_str();
                let Some(id) = id.filter(|_| line.ends_with(b"\n")) else {
                    // Written to its end, it may have left the queue.
                    if line.ends_with(b"\n") {
                        return Err(damaged(whole, "what comes next").into());
                    }
                    is_torn = true;
                    continue;
                };
                if is_torn {
                    return Err(damaged(whole, id).into());
                }
                whole += read as u64;
                let (id, has_reply) = (key(id), said["response"].is_object());
                let is_new = if is_output {
                    self.in_output.insert(id)
                } else {
                    !self.in_output.contains(&id) && self.in_errors.insert(id, has_reply).is_none()
                };
                if !is_new {
                    continue;
                }
                self.lines += 1;
                if has_reply {
                    let totals = &mut self.totals;
                    if is_output {
                        totals.completed += 1
                    } else {
                        totals.failed += 1
                    }
                    totals.usage += usage_of(&said["response"]["body"]["usage"]);
                }
            }
            drop(reader);
            if whole < bytes {
                side.cut(whole)?;
            }
        }
        Ok(())
    }

    /// Appends the lines of these results, except of those that have one, and has them survive a power cut.
    ///
    /// # Errors
    /// When there is no room, or they could not be written: then what was written is found again.
    pub fn write(&mut self, results: &[JobResult]) -> Result<(), Problem> {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let (mut totals, mut lines) = (self.totals, self.lines);
        for result in results {
            let id = answer::id_of("batch_req_", result.job_id);
            let key = key(result.item_id.as_deref().unwrap_or_default());
            if self.in_output.contains(&key) {
                continue;
            }
            let mut sum = totals;
            let made = self.made(result, &mut sum);
            let failure = self.in_errors.get(&key).copied();
            if failure.is_some() && !made.as_ref().is_ok_and(NewReply::is_answer) {
                continue;
            }
            totals = sum;
            if let Some(counts) = failure {
                // Somebody has retried its job since then: it counts once, and the failure stays in the error file.
                totals.failed -= u64::from(counts);
                lines -= 1;
            }
            let (response, error) = match made {
                Ok(reply) => (Some(reply), None),
                Err(error) => (None, Some(error)),
            };
            let is_answer = response.as_ref().is_some_and(NewReply::is_answer);
            let bytes = if is_answer { &mut output } else { &mut errors };
            let line = NewLine {
                id,
                custom_id: result.item_id.as_deref(),
                response,
                error,
            };
            serde_json::to_writer(&mut *bytes, &line).map_err(io::Error::from)?;
            bytes.push(b'\n');
            lines += 1;
        }
        for (side, bytes) in [(&mut self.output, &output), (&mut self.errors, &errors)] {
            side.append(bytes)?;
        }
        (self.totals, self.lines) = (totals, lines);
        Ok(())
    }

    /// The reply to a request; an error if it was cancelled.
    fn made(&self, result: &JobResult, totals: &mut BatchTotals) -> Result<NewReply, Value> {
        if result.status == JobStatus::Cancelled {
            let why = match self.cancelled {
                "batch_expired" => {
                    "This request could not be executed before the completion window expired."
                }
                _ => "This request was not executed: the batch was cancelled.",
            };
            return Err(json!({"code": self.cancelled, "message": why}));
        }
        let (made, used) = self.reply(result);
        totals.usage += used.unwrap_or_default();
        let (status_code, body) = match made {
            Ok(body) => {
                totals.completed += 1;
                (200, body)
            }
            Err(error) => {
                totals.failed += 1;
                let (status, mut body) = answer::failure(&error);
                if used.is_some() {
                    // So that what was paid for is still known when the file is read back.
                    body["usage"] = answer::usage(used);
                }
                (status, Reply::Json(body))
            }
        };
        let request_id = answer::id_of("req_", result.job_id);
        Ok(NewReply {
            status_code,
            request_id,
            body,
        })
    }

    /// The reply to a request, or what it failed with; and what it used.
    fn reply(&self, result: &JobResult) -> (Result<Reply, Error>, Option<Usage>) {
        if result.kind == parts::KIND {
            if let Some(body) = &result.result {
                #[derive(Deserialize)]
                struct Said {
                    usage: Value,
                }
                let said = serde_json::from_str::<Said>(body.get()).ok();
                let used = said.map(|said| usage_of(&said.usage));
                return (Ok(Reply::Written(body.clone())), used);
            }
            if let Some(error) = result.error.as_ref().and_then(parts::failure) {
                return (Err(error), None);
            }
        }
        let outcome = answer::outcome(result);
        let used = answer::used(&outcome);
        let id = answer::id_of(answer::COMPLETION, result.job_id);
        let made = answer::reply(&self.endpoint, id, now(), &self.model, vec![outcome], false);
        (made, used)
    }

    /// Ends the files; empty ones go.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn end(&self) -> io::Result<()> {
        for side in [&self.output, &self.errors] {
            if side.bytes == 0 {
                self.storage.remove(&side.id)?;
            }
        }
        Ok(())
    }
}

/// A file of results that is damaged between its beginning and a whole line.
fn damaged(whole: u64, next: &str) -> Problem {
    let why = format!(
        "a file of its results is damaged between byte {whole} and the line of {next}: restore it in the folder files of the \
         server from a backup, or remove what is no line of JSON"
    );
    Problem::new(500, "file_damaged", why)
}

/// A line as it is written.
#[derive(Serialize)]
struct NewLine<'l> {
    id: String,
    custom_id: Option<&'l str>,
    response: Option<NewReply>,
    error: Option<Value>,
}

#[derive(Serialize)]
struct NewReply {
    status_code: u16,
    request_id: String,
    body: Reply,
}

impl NewReply {
    fn is_answer(&self) -> bool {
        self.status_code == 200
    }
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
