//! Single jobs, pages of them, and pausing work.

use std::time::{Duration, Instant};

use batchwright::queue::{JobFilter, JobState, JobStatus, PRIORITIES};
use batchwright::unstable::Optional;
use batchwright::{Job, JobId, ProcessId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::lines::{self, LONGEST_NAME, refuse_unknown};
use super::{once, processes};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::shapes::{ShownJob, time};

/// Longest wait for the end of a job.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Interval of checks of a job that a client waits for, because workers of other OS processes send no notification
/// here.
const LOOK: Duration = Duration::from_millis(250);
/// The body of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewJob {
    r#type: String,
    payload: Value,
    priority: Option<u8>,
    max_retries: Option<u8>,
    item_id: Option<String>,
    process_id: Option<ProcessId>,
}

/// `POST /api/v1/jobs`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let key = once::named(app, call)?;
    let body: Value = call.json()?;
    let request = once::hash(&[body.to_string().as_bytes()]);
    let new: NewJob = serde_json::from_value(body)
        .map_err(|error| Problem::invalid(format!("the body is not a valid job: {error}")))?;
    let named = new.process_id;
    let job = job(app, new)?;
    let Some(process) = key else {
        if let Some(process) = named {
            check_open(app, process)?;
        }
        let process = named.unwrap_or_else(ProcessId::new);
        let id = app.queue.enqueue(process, [job])?.first().copied();
        let id = id.ok_or_else(|| Problem::new(500, "internal_error", "the job got no id"))?;
        return Ok(created(app, process, id, JobStatus::Pending));
    };
    if named.is_some() {
        let why =
            "process_id: the idempotency key names the process of the job: send one of the two";
        return Err(Problem::invalid(why).param("process_id"));
    }
    let is_known = app.queue.process(process)?.is_some();
    once::enqueue(&app.queue, process, &request, [Ok(job)])?;
    let jobs = app.queue.items(process, None, 1)?;
    let Some(job) = jobs.first() else {
        let why = format!("process {process} has ended: its result was fetched or deleted");
        return Err(Problem::conflict(why));
    };
    let response = created(app, process, job.job_id, job.status);
    Ok(once::replayed(response, is_known))
}

fn created(app: &App, process: ProcessId, job: JobId, status: JobStatus) -> Response {
    app.observer.touch(process);
    if !status.is_final() {
        app.tell_end(process);
    }
    let answer = json!({"job_id": job, "process_id": process, "status": status});
    Response::json(201, &answer).header("location", format!("/api/v1/jobs/{job}"))
}

/// # Errors
/// When a process accepts no jobs of clients.
fn check_open(app: &App, process: ProcessId) -> Result<(), Problem> {
    let Some(known) = app.queue.process(process)? else {
        return Ok(());
    };
    let why = match (known.cancelled, known.info.collector, known.info.parent) {
        (true, ..) => "was cancelled and accepts no more jobs".to_owned(),
        (_, Some(owner), _) => format!("belongs to {owner}, which adds its jobs itself"),
        (.., Some(_)) => "belongs to a job, which adds its jobs itself".to_owned(),
        _ => return Ok(()),
    };
    Err(Problem::conflict(format!("process {process} {why}")).param("process_id"))
}

/// The requested job after validation.
fn job(app: &App, new: NewJob) -> Result<Job, Problem> {
    let kind = new.r#type;
    refuse_unknown(app, &kind)?;
    let settings = lines::prompt_settings(&kind);
    let (mut job, name) = lines::job(app, &kind, &settings, &new.payload.to_string())
        .map_err(|problem| problem.param_or("payload"))?;
    if let Some(priority) = new.priority {
        if !PRIORITIES.contains(&priority) {
            return Err(Problem::invalid("priority: write a number from 1 to 10").param("priority"));
        }
        job = job.priority(priority);
    }
    job = job.set(new.max_retries, Job::max_retries);
    if let Some(name) = new.item_id.or(name) {
        if name.is_empty() || name.chars().count() > LONGEST_NAME {
            let why = format!("item_id: write a text of 1 to {LONGEST_NAME} characters");
            return Err(Problem::invalid(why).param("item_id"));
        }
        job = job.item_id(name);
    }
    Ok(job)
}

pub(super) fn find(app: &App, id: JobId) -> Result<JobState, Problem> {
    let gone = || {
        let why = format!("the job {id} does not exist, or its result was fetched");
        Problem::not_found(why)
    };
    app.queue.job(id)?.ok_or_else(gone)
}

pub(super) fn shown(job: &JobState) -> Response {
    Response::json(200, &ShownJob::of(job))
}

/// `GET /api/v1/jobs/{job_id}`: with `wait` it waits so many seconds for the end.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["wait"])?;
    let id: JobId = call.param("job_id")?;
    let wait = match call.query::<f64>("wait")? {
        None => Duration::ZERO,
        Some(seconds) if (0.0..=LONGEST_WAIT.as_secs_f64()).contains(&seconds) => {
            Duration::from_secs_f64(seconds)
        }
        Some(_) => {
            let most = LONGEST_WAIT.as_secs();
            let why = format!("wait: write a number of seconds from 0 to {most}");
            return Err(Problem::invalid(why).param("wait"));
        }
    };
    let process = find(app, id)?.process_id;
    let waiter = (!wait.is_zero()).then(|| app.waiting.begin(process));
    let waiter = waiter.and_then(Result::ok);
    let until = Instant::now() + wait;
    loop {
        let job = find(app, id)?;
        let left = until.saturating_duration_since(Instant::now());
        let ends = job.status.is_final() || left.is_zero() || app.events.is_closed();
        let Some(waiter) = waiter.as_ref().filter(|_| !ends) else {
            return Ok(shown(&job));
        };
        waiter.wait(left.min(LOOK));
    }
}

/// `POST /api/v1/jobs/{job_id}/cancel`: 200 if the job has ended, also by this request. 202 if it is running, alone in
/// its process: its call is billed, so the job keeps the result of it, but is not retried.
pub(super) fn cancel(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let id: JobId = call.param("job_id")?;
    let job = find(app, id)?;
    if job.status.is_final() {
        return Ok(shown(&job));
    }
    let process = processes::find(app, job.process_id)?;
    processes::of_no_job(&process)?;
    if process.counts.total == 1 {
        // Also the processes for which the job waits.
        app.queue.cancel(job.process_id)?;
    } else if app.queue.cancel_jobs(&[id])? == 0 {
        let why = "the job is running, and other jobs are in its process: its result is kept; cancel the process, or \
                   this job again when it waits";
        return Err(Problem::conflict(why));
    }
    app.observer.touch(job.process_id);
    let job = find(app, id)?;
    let mut response = shown(&job);
    if !job.status.is_final() {
        response.status = 202;
    }
    Ok(response)
}

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
    let page = app
        .queue
        .find(&filter, call.query::<JobId>("after")?, most)?;
    let found: Vec<Value> = page.jobs.iter().map(brief).collect();
    Ok(Response::json(
        200,
        &json!({"data": found, "next": page.next}),
    ))
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
        "created_at": time(job.created_at),
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
    let job = find(app, id)?;
    let payload = app.queue.payload(id)?;
    let answer = json!({"job_id": id, "type": job.kind, "payload": payload});
    Ok(Response::json(200, &answer))
}

/// `POST /api/v1/jobs/{job_id}/retry`: requeues a job that failed or was cancelled.
pub(super) fn retry(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let id: JobId = call.param("job_id")?;
    let process = find(app, id)?.process_id;
    let is_retried = app.queue.retry_job(id)?;
    let job = find(app, id)?;
    if !is_retried && job.status.is_final() {
        let why = match job.status {
            JobStatus::Completed => "the job is completed: its answer was billed".to_owned(),
            _ => format!(
                "the job changed meanwhile, or its process was cancelled; to requeue all failed and cancelled jobs of \
                 that: POST /api/v1/processes/{process}/retry"
            ),
        };
        return Err(Problem::conflict(why));
    }
    app.observer.touch(process);
    Ok(shown(&job))
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
