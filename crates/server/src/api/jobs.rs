//! Single jobs.

use std::time::{Duration, Instant};

use batchwright::queue::{JobState, JobStatus, PRIORITIES};
use batchwright::unstable::Optional;
use batchwright::{Job, JobId, ProcessId};
use serde::Deserialize;
use serde_json::Value;

use super::types::{LONGEST_NAME, refuse_unknown};
use super::{lines, once, processes};
use crate::app::App;
use crate::events::{Filter, Next};
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{Asked, Claim, HeldKey, Makes, ReadEnd, busy, hash};
use crate::shapes::ShownJob;

/// Longest wait for the end of a job.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Interval of checks of a job that a client waits for, because workers of other OS processes send no notification
/// here.
const LOOK: Duration = Duration::from_millis(250);
/// The clock of a database server, which sets the times of jobs, may be behind that of this machine by this much.
const CLOCKS: Duration = Duration::from_secs(10);

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
    let sent = once::key(call)?;
    let body: Value = call.json()?;
    let request = hash(&[body.to_string().as_bytes()]);
    let new: NewJob = serde_json::from_value(body)
        .map_err(|error| Problem::invalid(format!("the body is not a valid job: {error}")))?;
    let named = new.process_id;
    // A job in a shared process must be identified by a key, even if its client sent none. With a webhook, a key shows
    // that its message can be recorded before the job is created.
    let needs_key = named.is_some() || app.records.webhook.is_some();
    let Some(key) = sent.or_else(|| needs_key.then(once::any_key)) else {
        let job = job(app, new)?;
        let process = ProcessId::new();
        let id = enqueue(app, process, false, job)?;
        return Ok(once::created(&once::job_answer(id, process)));
    };
    let asked = Asked {
        request: Some(request),
        process: named,
        makes: Makes::Job,
    };
    match once::claim(app, key, asked)? {
        Claim::Busy(_) => Err(busy().into()),
        Claim::Answered(before, answer) => {
            let answer = once::replayed(before, request, &answer)?;
            Ok(once::again(&answer))
        }
        Claim::Mine(held) => {
            once::refuse_another(held.request, request)?;
            let made = create_once(app, new, &held, named.is_some());
            match made {
                Ok(id) => {
                    let answer = once::job_answer(id, held.process);
                    once::tell_end(&app.records, held.process)?;
                    once::answered(&held, &answer)
                }
                Err(problem) => {
                    once::give_up(&held, &problem)?;
                    Err(problem)
                }
            }
        }
    }
}

/// Enqueues the job, unless an earlier request with the key did.
fn create_once(
    app: &App,
    new: NewJob,
    held: &HeldKey<'_>,
    is_named: bool,
) -> Result<JobId, Problem> {
    let mut job = job(app, new)?;
    let mut parts = job.clone().into_parts();
    if is_named && parts.request_hash.is_none() {
        let own = held.mark();
        job = job.request_hash(&own);
        parts.request_hash = Some(own);
    }
    if held.resumed {
        let mut last = None;
        loop {
            let jobs = app.queue.items(held.process, last, 1_000)?;
            let Some(end) = jobs.last() else { break };
            last = Some(end.job_id);
            for known in &jobs {
                let like =
                    known.request_hash == parts.request_hash && known.item_id == parts.item_id;
                let answer = || once::job_answer(known.job_id, held.process).to_string();
                let fits = || -> Result<bool, Problem> {
                    let state = app.queue.job(known.job_id)?;
                    let after =
                        state.is_some_and(|state| state.created_at.after(CLOCKS) >= held.since);
                    Ok(after && !app.records.is_answer(&answer())?)
                };
                if !is_named || (like && fits()?) {
                    return Ok(known.job_id);
                }
            }
        }
    }
    enqueue(app, held.process, is_named, job)
}

fn enqueue(app: &App, process: ProcessId, is_named: bool, job: Job) -> Result<JobId, Problem> {
    if is_named && let Some(known) = app.queue.process(process)? {
        if known.cancelled {
            let why = format!("process {process} was cancelled and accepts no more jobs");
            return Err(Problem::conflict(why).param("process_id"));
        }
        if let Some(collector) = known.info.collector {
            let why =
                format!("process {process} belongs to {collector}, which adds its jobs itself");
            return Err(Problem::conflict(why).param("process_id"));
        }
        if known.info.parent.is_some() {
            let why = format!("process {process} belongs to a job, which adds its jobs itself");
            return Err(Problem::conflict(why).param("process_id"));
        }
    }
    let ids = app.queue.enqueue(process, [job])?;
    app.observer.touch(process);
    let id = ids.first().copied();
    id.ok_or_else(|| Problem::new(500, "internal_error", "the job got no id"))
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

/// The job for a client that reads its result.
fn read(app: &App, job: &JobState) -> Response {
    note_read(app, job, job.status != JobStatus::Completed);
    shown(job)
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
    if wait.is_zero() {
        return Ok(read(app, &find(app, id)?));
    }
    let place = app.waiters.enter();
    let deadline = match place {
        Some(_) => Instant::now() + wait,
        None => Instant::now(),
    };
    let mut told = app.events.last();
    loop {
        let job = find(app, id)?;
        if job.status.is_final() || Instant::now() >= deadline {
            return Ok(read(app, &job));
        }
        // Until a notification arrives, or the next check is due.
        let look = deadline.min(Instant::now() + LOOK);
        loop {
            let left = look.saturating_duration_since(Instant::now());
            match app.events.after(&mut told, Filter::Job(id), left) {
                Next::Events(_) => break,
                Next::Lost => {}
                Next::Nothing => break,
                Next::Closed => return Ok(read(app, &job)),
            }
        }
    }
}

/// `POST /api/v1/jobs/{job_id}/cancel`: 200 if the job has ended, also by this request. 202 if it is running: its call
/// is billed, so the job keeps the result of it, but is not retried.
pub(super) fn cancel(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let id: JobId = call.param("job_id")?;
    let job = find(app, id)?;
    if job.status.is_final() {
        return Ok(read(app, &job));
    }
    let process = processes::find(app, job.process_id)?;
    processes::of_no_job(&process)?;
    if process.counts.total == 1 {
        // Also the processes for which the job waits.
        app.queue.cancel(job.process_id)?;
    } else if app.queue.cancel_jobs(&[id])? == 0 {
        app.cancelled_jobs.lock().insert(id);
    }
    app.observer.touch(job.process_id);
    let job = find(app, id)?;
    let mut response = read(app, &job);
    if !job.status.is_final() {
        response.status = 202;
    }
    Ok(response)
}

/// `DELETE /api/v1/jobs/{job_id}`: a job that has ended, with its result. If the job does not exist, it may have been
/// deleted by an earlier request whose reply was lost.
pub(super) fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let id: JobId = call.param("job_id")?;
    let deleted = || Ok(Response::empty(204));
    let Some(job) = app.queue.job(id)? else {
        return deleted();
    };
    let Some(process) = app.queue.process(job.process_id)? else {
        return deleted();
    };
    let queue = processes::queue_to_delete(app, &process)?;
    let Some(receipt) = job.receipt else {
        let why = format!("the job is open: cancel it first, by POST /api/v1/jobs/{id}/cancel");
        return Err(Problem::conflict(why));
    };
    let read = app
        .records
        .read_failures(job.process_id, receipt.job..=receipt.job)?;
    let is_read = read.iter().all(|(_, read)| *read == receipt);
    if !is_read || (queue.ack(&[receipt])? == 0 && app.queue.job(id)?.is_some()) {
        let why = "the job was put back after its failure was read: read its new result before you delete it";
        return Err(Problem::conflict(why));
    }
    note_read(app, &job, false);
    app.observer.touch(job.process_id);
    deleted()
}

/// Records the end of a job that a client reads, or that the end is deleted. If it cannot be recorded, the client can
/// read it anyway.
fn note_read(app: &App, job: &JobState, failed: bool) {
    let end = job.receipt.map(|receipt| ReadEnd {
        id: job.job_id,
        receipt,
        failed,
    });
    if let Err(error) = app.records.note_read(job.process_id, end.as_slice()) {
        log::warn!("the end of a job is read that is not noted as read: {error}");
    }
}
