//! Single jobs.

use std::time::{Duration, Instant};

use batchwright::queue::{JobState, JobStatus, JobSummary, PRIORITIES, ProcessInfo};
use batchwright::{Job, JobId, JobQueue, ProcessId};
use batchwright_jobs::PayloadError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{limit, once};
use crate::app::App;
use crate::events::Next;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{Asked, Claim, HeldKey, hash};
use crate::shapes::ShownJob;
use crate::tokens::Caller;

/// Longest name of an item or a process, in characters.
pub(super) const LONGEST_NAME: usize = 256;
/// Longest wait for the end of a job.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Interval of checks of a job that a client waits for, because workers of other OS processes send no notification
/// here.
const LOOK: Duration = Duration::from_millis(250);
/// Maximum number of jobs that a filtered request reads.
const MOST_LOOKED_AT: usize = 20_000;
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
    if let Some(process) = named
        && app.queue.process(process)?.is_some()
        && !app.sees(&call.caller, process)?
    {
        let why = format!("process {process} belongs to another token");
        return Err(Problem::not_found(why).param("process_id"));
    }
    let caller = &call.caller;
    // A job in a shared process must be identified by a key, even if its client sent none.
    let Some(key) = sent.or_else(|| named.map(|_| once::any_key())) else {
        let job = job(app, new)?;
        let process = ProcessId::new();
        let id = enqueue(app, &app.queue, caller, process, false, job)?;
        return Ok(once::created(&once::job_answer(id, process)));
    };
    let asked = Asked {
        request: Some(request),
        process: named,
        many: false,
    };
    match once::claim(app, key, asked)? {
        Claim::Answered(before, answer) => once::replayed(before, request, &answer),
        Claim::Mine(held) => {
            once::refuse_another(held.request, request)?;
            let made = create_once(app, new, caller, &held, named.is_some());
            match made {
                Ok(id) => once::answered(&held, &once::job_answer(id, held.process)),
                Err(problem) => {
                    // The previous owner of the key may have enqueued the job, and so may a request that failed in
                    // between.
                    if !held.resumed && (400..500).contains(&problem.status) {
                        held.forget()?;
                    }
                    Err(problem)
                }
            }
        }
    }
}

/// Enqueues the job, unless the previous owner of the key did.
fn create_once(
    app: &App,
    new: NewJob,
    caller: &Caller,
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
    let queue = held.queue(&app.queue);
    enqueue(app, &queue, caller, held.process, is_named, job)
}

fn enqueue(
    app: &App,
    queue: &JobQueue,
    caller: &Caller,
    process: ProcessId,
    is_named: bool,
    job: Job,
) -> Result<JobId, Problem> {
    app.check_open_jobs(caller, 1)?;
    let mut queue = queue.clone();
    if is_named && let Some(known) = app.queue.process(process)? {
        if known.cancelled {
            let why = format!("process {process} was cancelled and accepts no more jobs");
            return Err(Problem::conflict(why).param("process_id"));
        }
        if known.info.parent.is_some() {
            let why = format!("process {process} belongs to a job, which adds its jobs itself");
            return Err(Problem::conflict(why).param("process_id"));
        }
    } else if let Some(owner) = caller.owner() {
        queue = queue.described(ProcessInfo::new().owner(owner));
    }
    let ids = queue.enqueue(process, [job])?;
    app.observer.touch(process);
    let id = ids.first().copied();
    id.ok_or_else(|| Problem::new(500, "internal_error", "the job got no id"))
}

/// The requested job after validation.
fn job(app: &App, new: NewJob) -> Result<Job, Problem> {
    let mut job = of_type(app, &new.r#type, new.payload)?;
    if let Some(priority) = new.priority {
        if !PRIORITIES.contains(&priority) {
            return Err(Problem::invalid("priority: write a number from 1 to 10").param("priority"));
        }
        job = job.priority(priority);
    }
    if let Some(retries) = new.max_retries {
        job = job.max_retries(retries);
    }
    if let Some(name) = new.item_id {
        if name.is_empty() || name.chars().count() > LONGEST_NAME {
            let why = format!("item_id: write a text of 1 to {LONGEST_NAME} characters");
            return Err(Problem::invalid(why).param("item_id"));
        }
        job = job.item_id(name);
    }
    Ok(job)
}

/// A job of this type, which the worker carries out.
pub(super) fn of_type(app: &App, name: &str, payload: Value) -> Result<Job, Problem> {
    refuse_unknown(app, name)?;
    let at = |error: PayloadError| {
        let field = match error.field.as_str() {
            "" => "payload".to_owned(),
            field => format!("payload.{field}"),
        };
        Problem::invalid(format!("{field}: {}", error.message)).param(field)
    };
    match app.types.get(name) {
        Ok(known) => known.job(payload).map_err(at),
        Err(_) => Ok(Job::new(name, &payload)?),
    }
}

/// The types of jobs that clients can create: those that the worker supports. A name with a dot belongs to an internal
/// part of a type.
pub(super) fn offered(app: &App) -> impl Iterator<Item = &str> {
    let kinds = app.kinds.iter().map(String::as_str);
    kinds.filter(|kind| !kind.contains('.'))
}

/// Rejects a type that the worker does not support, and lists the supported ones.
pub(super) fn refuse_unknown(app: &App, name: &str) -> Result<(), Problem> {
    if offered(app).any(|kind| kind == name) {
        return Ok(());
    }
    let known: Vec<&str> = offered(app).collect();
    let why = format!("type: unknown type; known types: {}", known.join(", "));
    Err(Problem::invalid(why).param("type"))
}

fn find(app: &App, id: JobId) -> Result<JobState, Problem> {
    let gone = || {
        let why = format!("the job {id} does not exist, or its result was fetched");
        Problem::not_found(why)
    };
    app.queue.job(id)?.ok_or_else(gone)
}

fn shown(job: &JobState) -> Response {
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
        return Ok(shown(&find(app, id)?));
    }
    let place = app.waiters.enter();
    let deadline = match place {
        Some(_) => Instant::now() + wait,
        None => Instant::now(),
    };
    let mut told = app.events.last();
    let text = id.to_string();
    loop {
        let job = find(app, id)?;
        if job.status.is_final() || Instant::now() >= deadline {
            return Ok(shown(&job));
        }
        // Until a notification arrives, or the next check is due.
        let look = deadline.min(Instant::now() + LOOK);
        loop {
            let left = look.saturating_duration_since(Instant::now());
            match app.events.after(told, left) {
                Next::Events(some) => {
                    told = some.last().map_or(told, |event| event.number);
                    if some
                        .iter()
                        .any(|event| event.name == "job" && event.data.contains(&text))
                    {
                        break;
                    }
                }
                Next::Lost(last) => told = last,
                Next::Nothing => break,
                Next::Closed => return Ok(shown(&job)),
            }
        }
    }
}

/// `DELETE /api/v1/jobs/{job_id}`: cancels a job that is open, consumes one that has ended.
pub(super) fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let id: JobId = call.param("job_id")?;
    // If the job changes in between, it is read again.
    for _ in 0..3 {
        let job = find(app, id)?;
        let process = job.process_id;
        app.observer.touch(process);
        if let Some(receipt) = job.receipt {
            if is_child(app, process)? {
                let why = format!("a job waits for the result of job {id} and collects it");
                return Err(Problem::conflict(why));
            }
            if app.queue.ack(&[receipt])? == 1 {
                return Ok(shown(&job));
            }
            continue;
        }
        if app.queue.cancel_jobs(&[id])? == 1 {
            return Ok(shown(&find(app, id)?));
        }
        let alone = app.queue.process(process)?;
        if alone.is_some_and(|process| process.counts.total == 1) {
            // The job is running: it is not retried, and keeps its result.
            app.queue.cancel(process)?;
            return Ok(shown(&find(app, id)?));
        }
        if job.status == JobStatus::InProgress {
            let why = "the job is being carried out; send this again when it has ended";
            return Err(Problem::conflict(why).header("retry-after", "1"));
        }
    }
    let why = "the job changed during the deletion; send the request again";
    Err(Problem::conflict(why).header("retry-after", "1"))
}

fn is_child(app: &App, process: ProcessId) -> Result<bool, Problem> {
    let known = app.queue.process(process)?;
    Ok(known.is_some_and(|process| process.info.parent.is_some()))
}

/// `GET /api/v1/jobs?process_id=…`: the jobs of a process, a page at a time.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["process_id", "status", "after", "limit"])?;
    let Some(process) = call.query::<ProcessId>("process_id")? else {
        let why = "process_id: name the process whose jobs to list";
        return Err(Problem::invalid(why).param("process_id"));
    };
    let status = call.query::<String>("status")?;
    let fits = fits(status.as_deref())?;
    let mut after = call.query::<JobId>("after")?;
    let most = limit(call, 100, 1_000)?;
    let (mut found, mut looked_at) = (Vec::new(), 0);
    let next = 'pages: loop {
        let page = app.queue.items(process, after, 1_000)?;
        looked_at += page.len();
        if page.is_empty() {
            break None;
        }
        for job in page {
            after = Some(job.job_id);
            if fits(&job) {
                found.push(json!({
                    "job_id": job.job_id,
                    "item_id": job.item_id,
                    "status": job.status,
                    "at_provider": job.at_provider,
                }));
                if found.len() == most {
                    break 'pages after;
                }
            }
        }
        if looked_at >= MOST_LOOKED_AT {
            break after;
        }
    };
    Ok(Response::json(200, &json!({"data": found, "next": next})))
}

/// Which jobs a status selects.
fn fits(status: Option<&str>) -> Result<impl Fn(&JobSummary) -> bool + use<>, Problem> {
    let (wanted, at_provider) = match status {
        None => (None, None),
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
    };
    Ok(move |job: &JobSummary| {
        wanted.is_none_or(|wanted| wanted == job.status)
            && at_provider.is_none_or(|at| at == job.at_provider)
    })
}
