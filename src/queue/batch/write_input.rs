//! Filling a batch: jobs are moved into it, and their lines written and checked.

use std::sync::Arc;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchClient, BatchLimits};
use crate::llm::request::Request;
use crate::queue::store::{BatchNo, ClaimedJob, Settlement};

use super::context::{BatchContext, check};
use super::machine::{Record, State, Written, key};
use super::settle_items::{AskedProvider, request, untried};

/// Jobs that are moved, or read, in one go.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
/// Lines are somewhat longer than what the queue keeps of their requests.
const ROOM_FOR_PAYLOADS: u64 = 8;

/// Moves jobs into a batch, unless it has those it is to have, and writes its input.
pub(crate) fn write_input(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    client: &Arc<dyn BatchClient>,
    limits: BatchLimits,
    ctx: &Context,
) -> Result<Written, Error> {
    if record.state == State::Forming {
        fill(context, no, limits, ctx)?;
    }
    write(context, no, record, client, limits, ctx)
}

fn fill(
    context: &BatchContext,
    no: BatchNo,
    limits: BatchLimits,
    ctx: &Context,
) -> Result<(), Error> {
    // What an earlier try has moved already.
    let own = context.store.batches(None)?;
    let own = own.iter().find(|batch| batch.no == no);
    let mut jobs = own.map_or(0, |batch| usize::try_from(batch.jobs).unwrap_or(usize::MAX));
    let mut bytes = limits.bytes / 10 * ROOM_FOR_PAYLOADS;
    let mut after = None;
    let mut files = Files::default();
    while jobs < limits.requests && bytes > 0 && files.bytes < limits.bytes {
        check(ctx)?;
        let most = (limits.requests - jobs).min(files.chunk());
        let wall = context.settler.clock.wall();
        let filled = context
            .store
            .fill_batch(context.worker, no, after, most, bytes, wall)?;
        jobs += usize::try_from(filled.jobs).unwrap_or(usize::MAX);
        bytes = bytes.saturating_sub(filled.bytes);
        files.count(context, no)?;
        after = filled.next;
        if after.is_none() || filled.jobs == 0 {
            break;
        }
    }
    Ok(())
}

/// The files that the jobs of a batch name, of which their payloads hold but the paths. So that a batch is
/// not given many times what it can hold, they are measured as it is filled; nothing is read for that.
#[derive(Default)]
struct Files {
    /// Of those that were measured, as base64.
    bytes: u64,
    measured: Option<i64>,
    /// Whether the first jobs name any. Where they do not, nobody looks at the others.
    named: Option<bool>,
}

impl Files {
    fn chunk(&self) -> usize {
        match self.named {
            Some(false) => 2 * CHUNK,
            _ => CHUNK / 5,
        }
    }

    fn count(&mut self, context: &BatchContext, no: BatchNo) -> Result<(), Error> {
        while self.named != Some(false) {
            let jobs = context
                .store
                .batch_jobs(no, self.measured, CHUNK, CHUNK_BYTES)?;
            let Some(last) = jobs.last() else {
                break;
            };
            self.measured = Some(last.receipt.job);
            let files: u64 = jobs.iter().map(named_files).sum();
            self.bytes = self.bytes.saturating_add(files);
            self.named.get_or_insert(files > 0);
        }
        Ok(())
    }
}

/// How much base64 the files of a job become.
fn named_files(job: &ClaimedJob) -> u64 {
    // Most name none, which shows without reading all of it.
    match job.payload.get().contains("\"sha256\"") {
        true => request(job).map_or(0, |request| request.encoded_files()),
        false => 0,
    }
}

fn write(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    client: &Arc<dyn BatchClient>,
    limits: BatchLimits,
    ctx: &Context,
) -> Result<Written, Error> {
    let label = &record.intent.label;
    let asked = AskedProvider::from(record);
    let mut draft = context.spool.draft(context.spool.input(label))?;
    let mut written = Written::default();
    let mut after = None;
    loop {
        check(ctx)?;
        let jobs = context.store.batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
        let Some(last) = jobs.last() else {
            break;
        };
        after = Some(last.receipt.job);
        let mut refused: Vec<Settlement> = Vec::new();
        let mut full = None;
        for claimed in &jobs {
            let key = key(label, claimed.receipt.number());
            let request = request(claimed);
            // Files that would not fit are not read.
            let files = request.as_ref().map_or(0, Request::encoded_files);
            // All of a batch goes to one place; what goes elsewhere is the next one's.
            let endpoint = request
                .as_ref()
                .ok()
                .and_then(|request| client.endpoint(request));
            if request.is_ok() && written.items > 0 && endpoint != written.endpoint {
                refused.push(untried(claimed));
                continue;
            }
            if files > 0 && written.items > 0 && written.bytes + files > limits.bytes {
                full = Some(claimed.receipt.job - 1);
                break;
            }
            let line = request.and_then(|request| client.line(&key, &request));
            let line = line.and_then(|line| match line.len() as u64 > limits.bytes {
                true => Err(too_long(line.len(), limits.bytes)),
                false => Ok(line),
            });
            match line {
                Err(error) => refused.push(context.settler.settlement(claimed, &asked, Err(error))),
                Ok(line)
                    if written.bytes + line.len() as u64 > limits.bytes
                        || written.items >= limits.requests as u64 =>
                {
                    full = Some(claimed.receipt.job - 1);
                    break;
                }
                Ok(line) => {
                    draft.write(&line)?;
                    written.endpoint = endpoint;
                    written.bytes += line.len() as u64;
                    written.items += 1;
                }
            }
        }
        context.settle(&refused)?;
        if let Some(last) = full {
            let wall = context.settler.clock.wall();
            context
                .store
                .give_back(context.worker, no, Some(last), None, wall)?;
            break;
        }
    }
    draft.keep()?;
    Ok(written)
}

fn too_long(bytes: usize, most: u64) -> Error {
    let why = format!("the request takes {bytes} bytes, and a batch at most {most}");
    Error::new(ErrorKind::Invalid, why)
}
