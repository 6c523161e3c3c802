//! For people who operate the queue: finding jobs, requeueing single ones, and pausing work.

use std::time::{Duration, Instant, UNIX_EPOCH};

use batchwright::progress::Timestamp;
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
/// Longest text to search for, in characters.
const LONGEST_TEXT: usize = 256;

/// `GET /api/v1/jobs`: the jobs that meet all conditions, a page at a time.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[
        "process_id",
        "status",
        "type",
        "model",
        "name",
        "error",
        "created_from",
        "created_before",
        "after",
        "limit",
    ])?;
    let (status, at_provider) = status(call)?;
    let filter = JobFilter {
        process: call.query::<ProcessId>("process_id")?,
        status,
        at_provider,
        kind: text(call, "type")?,
        lane: text(call, "model")?,
        item_id: text(call, "name")?,
        error: text(call, "error")?,
        created_from: moment(call, "created_from")?,
        created_before: moment(call, "created_before")?,
    };
    let most = call.limit(100, 1_000)?;
    let mut after = call.query::<JobId>("after")?;
    let (mut found, until) = (Vec::new(), Instant::now() + LONGEST_SEARCH);
    loop {
        let page = app.queue.find(&filter, after, most - found.len())?;
        for job in &page.jobs {
            if app.sees(&call.caller, job.process_id)? {
                found.push(brief(job));
            }
        }
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

/// A text of the query; an empty one selects all jobs.
fn text(call: &Call<'_>, name: &str) -> Result<Option<String>, Problem> {
    let text = call.query::<String>(name)?.filter(|text| !text.is_empty());
    match text {
        Some(text) if text.chars().count() > LONGEST_TEXT => {
            let why = format!("{name}: write a text of at most {LONGEST_TEXT} characters");
            Err(Problem::invalid(why).param(name))
        }
        text => Ok(text),
    }
}

fn moment(call: &Call<'_>, name: &str) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = call.query::<String>(name)? else {
        return Ok(None);
    };
    // `humantime` rejects times before 1970. No job is that old, so only the rest of such a time is checked.
    let is_old = text.get(..5).is_some_and(|year| {
        year.bytes().take(4).all(|byte| byte.is_ascii_digit()) && year < "1970-"
    });
    let since = if is_old {
        humantime::parse_rfc3339(&format!("2000{}", &text[4..])).map(|_| UNIX_EPOCH)
    } else {
        humantime::parse_rfc3339(&text)
    };
    let since = since.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let millis = since.and_then(|since| i64::try_from(since.as_millis()).ok());
    let wrong = || {
        let why = format!("{name}: write a time in UTC, for example 2026-11-25T16:30:00Z");
        Problem::invalid(why).param(name)
    };
    millis.map(Timestamp).map(Some).ok_or_else(wrong)
}

/// The wanted state, and whether the jobs are in a batch at a provider.
fn status(call: &Call<'_>) -> Result<(Option<JobStatus>, Option<bool>), Problem> {
    Ok(match call.query::<String>("status")?.as_deref() {
        None | Some("") => (None, None),
        Some("pending") => (Some(JobStatus::Pending), None),
        Some("in_progress") => (Some(JobStatus::InProgress), Some(false)),
        Some("at_provider") => (Some(JobStatus::InProgress), Some(true)),
        Some("completed") => (Some(JobStatus::Completed), None),
        Some("failed") => (Some(JobStatus::Failed), None),
        Some("cancelled") => (Some(JobStatus::Cancelled), None),
        Some(other) => {
            let why = format!(
                "status: write pending, in_progress, at_provider, completed, failed or cancelled, not {other:?}"
            );
            return Err(Problem::invalid(why).param("status"));
        }
    })
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
    app.check_quotas(&call.caller, 1)?;
    let retried = app.queue.retry_jobs(&[id])?;
    let job = jobs::find(app, id)?;
    if retried == 0 && job.status.is_final() {
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
