//! Outcomes: read, consumed, and why those that failed did so.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use batchwright::queue::{DeliveredResult, JobReceipt, JobStatus};
use batchwright::{Error, JobId, JobQueue, ProcessId};
use serde_json::json;

use super::processes;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::ReadEnd;
use crate::shapes::result_line;

/// Outcomes that are read at a time.
const CHUNK: usize = 500;
/// Maximum number of lines per request.
pub(super) const MOST_LINES: usize = 1_000_000_000;
/// Maximum number of failed jobs that are read.
const MOST_FAILED: u64 = 10_000;
/// Maximum number of jobs that are searched for failed ones.
const MOST_LOOKED_AT: usize = 200_000;
/// Jobs that are named of each failure.
const NAMED: usize = 5;

/// `GET …/{process_id}/results`: a line each, as they are read, up to the first job that is open: whoever goes on behind
/// the last line misses none. With `open=skip` also those behind open jobs.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["after", "limit", "open"])?;
    let process = processes::find(app, call.param("process_id")?)?.process_id;
    let mut after = call.query::<JobId>("after")?;
    let skips = match call.query::<String>("open")?.as_deref() {
        None | Some("stop") => false,
        Some("skip") => true,
        Some(other) => {
            let why = format!("open: write stop or skip, not {other:?}");
            return Err(Problem::invalid(why).param("open"));
        }
    };
    let mut left = call.limit(MOST_LINES, MOST_LINES)?;
    let (queue, records) = (app.queue.clone(), Arc::clone(&app.records));
    let write = move |out: &mut dyn Write| {
        while left > 0 {
            let most = CHUNK.min(left);
            let chunk = if skips {
                queue.peek_after(process, after, most)
            } else {
                without_gap(&queue, process, after, most)
            };
            let chunk = chunk.map_err(io::Error::other)?;
            let Some(last) = chunk.last() else { break };
            after = Some(last.result.job_id);
            left -= chunk.len();
            let ends: Vec<ReadEnd> = chunk.iter().map(read_end).collect();
            // Recorded before they are sent, so that every client that has read one is protected. If it cannot be
            // recorded, they are sent anyway, because reading and deleting results frees space on a full disk.
            if let Err(error) = records.note_read(process, &ends) {
                log::warn!("failures are read that are not noted as read: {error}");
            }
            for delivered in &chunk {
                writeln!(out, "{}", result_line(&delivered.result))?;
            }
            out.flush()?;
        }
        Ok(())
    };
    Ok(Response::stream(lines_type(call), write))
}

/// The type of a body of JSON lines: generated clients request bytes, because they do not know the other one.
fn lines_type(call: &Call<'_>) -> &'static str {
    let bytes = "application/octet-stream";
    let accepted = call.head.header("accept").unwrap_or_default();
    if accepted.trim().starts_with(bytes) {
        bytes
    } else {
        "application/jsonl"
    }
}

fn read_end(delivered: &DeliveredResult) -> ReadEnd {
    ReadEnd {
        id: delivered.result.job_id,
        receipt: delivered.receipt,
        failed: delivered.result.status != JobStatus::Completed,
    }
}

/// The next outcomes, up to the first open job.
fn without_gap(
    queue: &JobQueue,
    process: ProcessId,
    after: Option<JobId>,
    most: usize,
) -> Result<Vec<DeliveredResult>, Error> {
    // Jobs are read first, so that a job that ends or is requeued in between leaves no gap.
    let jobs = queue.items(process, after, most)?;
    let mut chunk = queue.peek_after(process, after, most)?;
    let pairs = jobs.iter().zip(&chunk);
    let whole = pairs.take_while(|(job, one)| job.job_id == one.result.job_id);
    chunk.truncate(whole.count());
    Ok(chunk)
}

/// `DELETE …/{process_id}/results`: deletes outcomes that were saved, up to the job `through`.
pub(super) fn consume(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["through"])?;
    let process = processes::find(app, call.param("process_id")?)?;
    let id = process.process_id;
    let queue = processes::queue_to_delete(app, &process)?;
    let Some(through) = call.query::<JobId>("through")? else {
        let why = "through: send the job_id of the last line that you have saved; later results are not deleted";
        return Err(Problem::invalid(why).param("through"));
    };
    let through = last_of_saved(app, id, through)?;
    let read: HashMap<JobId, JobReceipt> = app
        .records
        .read_failures(id, 0..=through.job)?
        .into_iter()
        .collect();
    for (job, read) in &read {
        let now = app.queue.job(*job)?.and_then(|job| job.receipt);
        if now.is_some_and(|now| now != *read) {
            return Err(unread(*job));
        }
    }
    let (mut after, mut consumed) = (None, 0);
    loop {
        let chunk = app.queue.peek_after(id, after, CHUNK)?;
        let Some(last) = chunk.last() else { break };
        // It may have ended anew just now.
        let anew = chunk.iter().find(|one| {
            let read = read.get(&one.result.job_id);
            read.is_some_and(|read| *read != one.receipt)
        });
        if let Some(anew) = anew {
            return Err(unread(anew.result.job_id));
        }
        after = Some(last.result.job_id);
        let is_last = last.receipt.job >= through.job;
        let receipts = chunk.iter().map(|one| one.receipt);
        let receipts: Vec<_> = receipts.take_while(|one| one.job <= through.job).collect();
        consumed += queue.ack(&receipts)?;
        if is_last {
            break;
        }
    }
    app.records.forget_read(id, through.job)?;
    app.observer.touch(id);
    Ok(Response::json(200, &json!({"consumed": consumed})))
}

/// The present end of this job was not read: the job was requeued after its failure was read.
fn unread(job: JobId) -> Problem {
    let why = format!(
        "through: job {job} was put back after its failure was read, and has ended anew: read its result, with the \
         others from there on, and send this again"
    );
    Problem::conflict(why).param("through")
}

/// The receipt of the job up to which outcomes were saved.
///
/// # Errors
/// When it has no outcome in the process, or a job before it is open: its outcome was in nothing that was read.
fn last_of_saved(app: &App, process: ProcessId, through: JobId) -> Result<JobReceipt, Problem> {
    let open = |job: JobId| {
        let why = format!(
            "through: job {job} has not ended, so nobody has read its outcome; name one before it, or delete single jobs \
             by DELETE /api/v1/jobs/JOB"
        );
        Problem::conflict(why).param("through")
    };
    let known = app.queue.job(through)?;
    let Some(known) = known.filter(|known| known.process_id == process) else {
        let why = format!(
            "through: the job {through} is not in the process, or its result was already deleted"
        );
        return Err(Problem::not_found(why).param("through"));
    };
    let receipt = known.receipt.ok_or_else(|| open(through))?;
    let mut after = None;
    loop {
        let page = app.queue.items(process, after, CHUNK)?;
        let mut saved = page.iter().take_while(|job| job.job_id != through);
        if let Some(job) = saved.find(|job| !job.status.is_final()) {
            return Err(open(job.job_id));
        }
        match page.last() {
            Some(last) if page.iter().all(|job| job.job_id != through) => {
                after = Some(last.job_id);
            }
            _ => return Ok(receipt),
        }
    }
}

/// `GET …/{process_id}/failures`: what jobs failed with, the most frequent first.
pub(super) fn failures(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let process = processes::find(app, call.param("process_id")?)?;
    let mut groups: HashMap<(&'static str, String), (u64, Vec<JobId>)> = HashMap::new();
    let (mut after, mut seen, mut looked_at) = (None, 0, 0);
    let most = process.counts.failed.min(MOST_FAILED);
    'pages: while seen < most && looked_at < MOST_LOOKED_AT {
        let page = app.queue.items(process.process_id, after, 1_000)?;
        let Some(last) = page.last() else { break };
        after = Some(last.job_id);
        looked_at += page.len();
        for job in page.iter().filter(|job| job.status == JobStatus::Failed) {
            let state = app.queue.job(job.job_id)?;
            if let Some(error) = state.and_then(|state| state.error) {
                let named = (error.kind().as_str(), error.message().to_owned());
                let group = groups.entry(named).or_default();
                group.0 += 1;
                if group.1.len() < NAMED {
                    group.1.push(job.job_id);
                }
            }
            seen += 1;
            if seen == most {
                break 'pages;
            }
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(a, (more, _)), (b, (less, _))| (less, a).cmp(&(more, b)));
    let shown = groups.into_iter().map(|((kind, message), (count, jobs))| {
        json!({"kind": kind, "message": message, "count": count, "job_ids": jobs})
    });
    let shown: Vec<_> = shown.collect();
    let truncated = process.counts.failed > MOST_FAILED || looked_at >= MOST_LOOKED_AT;
    Ok(Response::json(
        200,
        &json!({"data": shown, "truncated": truncated}),
    ))
}
