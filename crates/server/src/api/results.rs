//! Outcomes: read, consumed, and why those that failed did so.

use std::collections::HashMap;
use std::io::{self, Write};

use batchwright::queue::JobStatus;
use batchwright::{JobId, ProcessId};
use serde_json::json;

use super::{limit, processes};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::shapes::result_line;

/// Outcomes that are read at a time.
const CHUNK: usize = 500;
/// So many lines one request may ask for.
pub(super) const MOST_LINES: usize = 1_000_000_000;
/// Failed jobs that are looked at.
const MOST_FAILED: u64 = 10_000;
/// Jobs that are named of each failure.
const NAMED: usize = 5;

/// `GET …/{process_id}/results`: a line each, as they are read.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["after", "limit"])?;
    let process = processes::find(app, call.param("process_id")?)?.process_id;
    let mut after = call.query::<JobId>("after")?;
    let mut left = limit(call, MOST_LINES, MOST_LINES)?;
    let queue = app.queue.clone();
    let write = move |out: &mut dyn Write| {
        while left > 0 {
            let chunk = queue
                .peek_after(process, after, CHUNK.min(left))
                .map_err(io::Error::other)?;
            let Some(last) = chunk.last() else { break };
            after = Some(last.result.job_id);
            left -= chunk.len();
            for delivered in &chunk {
                writeln!(out, "{}", result_line(&delivered.result))?;
            }
            out.flush()?;
        }
        Ok(())
    };
    Ok(Response::stream("application/jsonl", write))
}

/// `DELETE …/{process_id}/results`: deletes outcomes that were saved, up to the job `through` or all there are.
pub(super) fn consume(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["through"])?;
    let process = processes::find(app, call.param("process_id")?)?;
    let id = process.process_id;
    if process.info.parent.is_some() {
        let why = "a job waits for the results of this process and collects them";
        return Err(Problem::conflict(why));
    }
    let through = call.query::<JobId>("through")?;
    if let Some(through) = through {
        refuse_open(app, id, through)?;
    }
    let (mut after, mut consumed) = (None, 0);
    loop {
        let mut chunk = app.queue.peek_after(id, after, CHUNK)?;
        let Some(last) = chunk.last() else { break };
        after = Some(last.result.job_id);
        let beyond = |through: JobId| {
            let at = chunk.iter().position(|one| one.result.job_id >= through)?;
            let is_it = chunk[at].result.job_id == through;
            Some(at + usize::from(is_it))
        };
        let end = through.and_then(beyond);
        chunk.truncate(end.unwrap_or(chunk.len()));
        let receipts: Vec<_> = chunk.iter().map(|one| one.receipt).collect();
        consumed += app.queue.ack(&receipts)?;
        if end.is_some() {
            break;
        }
    }
    app.observer.touch(id);
    Ok(Response::json(200, &json!({"consumed": consumed})))
}

/// Refuses a job that has no outcome in the process.
fn refuse_open(app: &App, process: ProcessId, job: JobId) -> Result<(), Problem> {
    let known = app.queue.job(job)?;
    match known.filter(|known| known.process_id == process) {
        Some(known) if known.status.is_final() => Ok(()),
        Some(_) => {
            let why = format!("through: job {job} has not ended");
            Err(Problem::conflict(why).param("through"))
        }
        None => {
            let why =
                format!("through: there is no job {job} in the process, or it was consumed before");
            Err(Problem::not_found(why).param("through"))
        }
    }
}

/// `GET …/{process_id}/failures`: what jobs failed with, the most frequent first.
pub(super) fn failures(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let process = processes::find(app, call.param("process_id")?)?;
    let mut groups: HashMap<(&'static str, String), (u64, Vec<JobId>)> = HashMap::new();
    let (mut after, mut seen) = (None, 0);
    let most = process.counts.failed.min(MOST_FAILED);
    'pages: while seen < most {
        let page = app.queue.items(process.process_id, after, 1_000)?;
        let Some(last) = page.last() else { break };
        after = Some(last.job_id);
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
    let truncated = process.counts.failed > MOST_FAILED;
    Ok(Response::json(
        200,
        &json!({"data": shown, "truncated": truncated}),
    ))
}
