//! For people who operate the queue: pages of jobs, requeueing single ones, and pausing work.

use std::time::{Duration, Instant};

use batchwright::queue::{JobFilter, JobState, JobStatus};
use batchwright::{JobId, ProcessId};
use serde_json::{Value, json};

use super::jobs;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::shapes::time;

/// A request looks at jobs for about this time. After that it returns what it has found, and where to continue.
const LONGEST_SEARCH: Duration = Duration::from_millis(500);

/// `GET /api/v1/jobs`: the jobs of a process, a state and a type, a page at a time.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["process_id", "status", "type", "after", "limit"])?;
    let (status, at_provider) = status(call)?;
    let filter = JobFilter {
        process: call.query::<ProcessId>("process_id")?,
        status,
        at_provider,
        // An empty type selects all jobs.
        kind: call
            .query::<String>("type")?
            .filter(|kind| !kind.is_empty()),
    };
    let most = call.limit(100, 1_000)?;
    let mut after = call.query::<JobId>("after")?;
    let (mut found, until) = (Vec::new(), Instant::now() + LONGEST_SEARCH);
    loop {
        let page = app.queue.find(&filter, after, most - found.len())?;
        found.extend(page.jobs.iter().map(brief));
        after = page.next;
        if after.is_none() || found.len() == most || Instant::now() >= until {
            return Ok(Response::json(200, &json!({"data": found, "next": after})));
        }
    }
}

/// A job without its payload and its result.
fn brief(job: &JobState) -> Value {
    json!({
        "job_id": job.job_id,
        "process_id": job.process_id,
        "type": job.kind,
        "model": job.lane,
        "item_id": job.item_id,
        "status": job.status,
        "at_provider": job.at_provider,
        "attempts": job.attempts,
        "created_at": time::text(job.created_at),
        "error": job.error,
    })
}

/// The wanted state, and whether the jobs are in a batch at a provider.
fn status(call: &Call<'_>) -> Result<(Option<JobStatus>, Option<bool>), Problem> {
    let text = call.query::<String>("status")?.unwrap_or_default();
    match text.as_str() {
        "" => Ok((None, None)),
        "at_provider" => Ok((Some(JobStatus::InProgress), Some(true))),
        "in_progress" => Ok((Some(JobStatus::InProgress), Some(false))),
        other => match serde_json::from_value(json!(other)) {
            Ok(status) => Ok((Some(status), None)),
            Err(_) => {
                let why = format!(
                    "status: write pending, in_progress, at_provider, completed, failed or cancelled, not {other:?}"
                );
                Err(Problem::invalid(why).param("status"))
            }
        },
    }
}

/// `GET /api/v1/jobs/{job_id}/payload`: what the job was asked to do.
pub(super) fn payload(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let id: JobId = call.param("job_id")?;
    let job = jobs::find(app, id)?;
    let payload = app.queue.payload(id)?;
    let answer = json!({"job_id": id, "type": job.kind, "payload": payload});
    Ok(Response::json(200, &answer))
}

/// `POST /api/v1/jobs/{job_id}/retry`: requeues a job that failed or was cancelled.
pub(super) fn retry(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let id: JobId = call.param("job_id")?;
    let process = jobs::find(app, id)?.process_id;
    let is_retried = app.queue.retry_job(id)?;
    let job = jobs::find(app, id)?;
    if !is_retried && job.status.is_final() {
        let cancelled = app
            .queue
            .process(process)?
            .is_some_and(|process| process.cancelled);
        let why = match job.status {
            JobStatus::Completed => "the job is completed: its answer was billed".to_owned(),
            _ if cancelled => format!(
                "process {process} was cancelled; to requeue all its failed and cancelled jobs: POST \
                 /api/v1/processes/{process}/retry"
            ),
            _ => "the job changed meanwhile; send the request again".to_owned(),
        };
        return Err(Problem::conflict(why));
    }
    app.observer.touch(process);
    Ok(jobs::shown(&job))
}

/// `POST /api/v1/pause`: no worker starts a job until the queue is resumed.
pub(super) fn pause(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    app.queue.pause()?;
    app.overview.forget();
    Ok(Response::json(200, &json!({"paused": true})))
}

/// `POST /api/v1/resume`.
pub(super) fn resume(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    app.queue.resume()?;
    app.overview.forget();
    Ok(Response::json(200, &json!({"paused": false})))
}
