//! Writing and checking the input of a batch: the lines of its jobs. Jobs that do not fit are returned.

use std::sync::Arc;

use crate::base::cancel::Context;
use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchClient, BatchLimits};
use crate::llm::prompt_cache::is_warm;
use crate::llm::request::Request;
use crate::queue::owners::OWNER_AGAIN;
use crate::queue::store::{BatchNo, ClaimOutcome, ClaimedJob, Settlement};

use super::budget::{SharedReservation, reserve};
use super::context::{BatchContext, check};
use super::fill::fill;
use super::machine::{Record, State, Written, key};
use super::settle_items::{AskedProvider, request, untried};

/// Jobs that are read at once.
pub(super) const CHUNK: usize = 500;
pub(super) const CHUNK_BYTES: usize = 8 << 20;

/// Moves jobs into a batch unless it already has them, and writes its input.
pub(crate) fn write_input(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    client: &Arc<dyn BatchClient>,
    limits: BatchLimits,
    ctx: &Context,
) -> Result<Written, Error> {
    if record.state == State::Forming {
        let mut room = limits;
        if context.is_used_up() {
            // Only to find out whether any fits.
            room.requests = room.requests.min(CHUNK);
        }
        fill(context, no, room, ctx)?;
    }
    write(context, no, record, client, limits, ctx)
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
    let mut shared = SharedReservation::of(context, record);
    let mut after = None;
    loop {
        check(ctx)?;
        let jobs = context.store.batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
        let Some(last) = jobs.last() else {
            break;
        };
        after = Some(last.receipt.job);
        let affordable = reserve(context, no, record, &jobs)?;
        let needs = shared.needs(&jobs[..affordable])?;
        let fitting = shared.take(&needs)?;
        // Otherwise, the budgets that other programs share are used up, and no further jobs are read.
        let any_fits = fitting.contains(&true);
        // The ends of jobs that are rejected or returned.
        let mut ends: Vec<Settlement> = Vec::new();
        let mut full = None;
        let mut left_out = Vec::new();
        for (at, claimed) in jobs.iter().enumerate() {
            let fits = fitting.get(at).copied();
            if fits == Some(false) && (any_fits || claimed.owner.is_some()) {
                // Others that need less do not wait for it.
                ends.push(match claimed.owner {
                    Some(_) => later(claimed, context.settler.clock.wall()),
                    None => untried(claimed),
                });
                continue;
            }
            if fits != Some(true) {
                full = Some(claimed.receipt.job - 1);
                break;
            }
            let key = key(label, claimed.receipt.number());
            let mut request = needs[at].clone().and_then(|_| request(claimed));
            if let Ok(request) = &mut request {
                forget_cold_cache(request, claimed, record, context.settler.clock.wall());
            }
            // Files that would not fit are not read.
            let files = request.as_ref().map_or(0, Request::encoded_files);
            // A batch has one endpoint; jobs for another endpoint go into the next batch.
            let endpoint = request
                .as_ref()
                .ok()
                .and_then(|request| client.endpoint(request));
            if request.is_ok() && written.items > 0 && endpoint != written.endpoint {
                ends.push(untried(claimed));
                left_out.push(at);
                continue;
            }
            if files > 0 && written.items > 0 && written.bytes + files > limits.bytes {
                full = Some(claimed.receipt.job - 1);
                break;
            }
            let line = request.and_then(|request| client.line(&key, &request));
            let line = line.and_then(|line| {
                if line.len() as u64 > limits.bytes {
                    Err(too_long(line.len(), limits.bytes))
                } else {
                    Ok(line)
                }
            });
            match line {
                Err(error) => {
                    ends.push(context.settler.settlement(claimed, &asked, Err(error)));
                    left_out.push(at);
                }
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
        context.settle(&ends, &asked)?;
        for at in left_out {
            shared.leave_out(&needs[at]);
        }
        if let Some(last) = full {
            let sent = jobs[..affordable].partition_point(|job| job.receipt.job <= last);
            let unsent = needs[sent..].iter().zip(&fitting[sent..]);
            unsent
                .filter(|(_, fits)| **fits)
                .for_each(|(need, _)| shared.leave_out(need));
            let wall = context.settler.clock.wall();
            context
                .store
                .give_back(context.worker, no, Some(last), None, wall)?;
            break;
        }
    }
    draft.keep()?;
    shared.finish()?;
    Ok(written)
}

/// Returns a job that is tried again later.
fn later(claimed: &ClaimedJob, now: Timestamp) -> Settlement {
    let due_at = Some(now.after(OWNER_AGAIN));
    Settlement {
        outcome: ClaimOutcome::Snooze { due_at },
        ..untried(claimed)
    }
}

fn too_long(bytes: usize, most: u64) -> Error {
    let why = format!("the request has {bytes} bytes; the limit of a batch is {most}");
    Error::new(ErrorKind::Invalid, why)
}

/// Removes the mark of a request that has waited so long that its prompt cache is gone: each request of the batch would
/// write the cache again, which costs more than a request without a mark.
fn forget_cold_cache(request: &mut Request, claimed: &ClaimedJob, record: &Record, now: Timestamp) {
    if request.cache_prefix.is_none() {
        return;
    }
    let model = request.model.as_deref().or(record.intent.model.as_deref());
    let queued = claimed.job_id.created_at();
    if !queued.is_some_and(|queued| is_warm(model.unwrap_or_default(), queued, now)) {
        request.cache_prefix = None;
    }
}
