//! Processes: jobs that were submitted together.

use std::io::{self, Read as _};
use std::path::Path;

use batchwright::queue::{EnqueueError, ProcessBudget, ProcessInfo, ProcessState};
use batchwright::{Error, ErrorKind, JobQueue, ProcessId, Usd};
use serde_json::{Value, json};

use super::lines::{LONGEST_NAME, Lines, refuse_unknown};
use super::once;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{BatchRecord, Stored as _};
use crate::shapes;

/// A process that is there.
pub(super) fn find(app: &App, id: ProcessId) -> Result<ProcessState, Problem> {
    let gone = || {
        let why = format!("the process {id} does not exist, or all its results were fetched");
        Problem::not_found(why)
    };
    app.queue.process(id)?.ok_or_else(gone)
}

fn shown(app: &App, process: &ProcessState) -> Value {
    let pace = app.observer.pace(process.process_id);
    shapes::process(process, pace.as_ref())
}

/// `POST /api/v1/processes`: a job for each line of the body, all of them or none.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["type", "name", "budget_usd"])?;
    let limit = budget_of(call, "budget_usd")?;
    let kind = call.query::<String>("type")?;
    let kind = kind.unwrap_or_else(|| "completion".to_owned());
    refuse_unknown(app, &kind)?;
    let mut info = ProcessInfo::new();
    info.name = name_of(call)?;
    info.budget = limit.map(ProcessBudget::of);
    let Some(process) = once::named(app, call)? else {
        let process = ProcessId::new();
        let lines = Lines::new(app, &kind, &mut call.body);
        let queue = app.queue.described(info);
        let added = queue
            .try_enqueue_iter(process, lines)
            .map_err(|error| match error {
                EnqueueError::Source(problem) => problem,
                EnqueueError::Queue(error) => error.into(),
            });
        if added.is_err() {
            app.queue.delete(process)?;
        }
        return created(app, process, added?, None);
    };
    // Read whole before anything is added: its hash tells whether it is the request that was sent before.
    let mut spool = app.storage.create()?;
    let mut bounded = (&mut call.body).take(app.line_bytes + 1);
    if io::copy(&mut bounded, &mut spool)? > app.line_bytes {
        return Err(Problem::too_large(app.line_bytes));
    }
    let name = info.name.as_deref().unwrap_or_default();
    let limit = limit.map_or_else(String::new, |limit| limit.to_string());
    let parts = [kind.as_bytes(), name.as_bytes(), limit.as_bytes()];
    let request = once::hash(&[&parts[..], &[&spool.hash()]].concat());
    let known = app.queue.process(process)?;
    if known.is_none() {
        // A line that is no job leaves nothing behind.
        for job in Lines::new(app, &kind, spool.reader()?) {
            job?;
        }
    }
    let lines = Lines::new(app, &kind, spool.reader()?);
    let total = once::enqueue(&app.queue.described(info), process, &request, lines)?;
    let response = created(app, process, total, known.as_ref())?;
    Ok(once::replayed(response, known.is_some()))
}

fn created(
    app: &App,
    process: ProcessId,
    total: u64,
    known: Option<&ProcessState>,
) -> Result<Response, Problem> {
    if total == 0 {
        let why = "the body has no line: send a job on each";
        return Err(Problem::invalid(why));
    }
    app.observer.touch(process);
    if !known.is_some_and(ProcessState::is_finished) {
        app.tell_end(process);
    }
    let answer = json!({"process_id": process, "total": total});
    Ok(Response::json(201, &answer).header("location", format!("/api/v1/processes/{process}")))
}

/// A limit in US dollars in a query parameter.
fn budget_of(call: &Call<'_>, name: &str) -> Result<Option<Usd>, Problem> {
    let Some(dollars) = call.query::<f64>(name)? else {
        return Ok(None);
    };
    let limit = Usd::from_dollars(dollars);
    let limit = limit.filter(|limit| dollars >= 0.000_001 && limit.picos() < u64::MAX);
    let why = format!("{name}: write a number of US dollars, from 0.000001 to 18 million");
    let invalid = || Problem::invalid(why).param(name.to_owned());
    limit.map(Some).ok_or_else(invalid)
}

/// `POST /api/v1/processes/{process_id}/budget`: a new limit, which resumes the process.
pub(super) fn set_budget(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["usd"])?;
    let id = find(app, call.param("process_id")?)?.process_id;
    let Some(limit) = budget_of(call, "usd")? else {
        return Err(Problem::invalid("write the new limit: ?usd=12.50"));
    };
    let set = app.queue.set_budget(id, limit);
    set.map_err(|error| match error.kind() {
        ErrorKind::Invalid => Problem::conflict(error.message().to_owned()),
        _ => error.into(),
    })?;
    app.observer.touch(id);
    app.overview.forget();
    Ok(Response::json(200, &shown(app, &find(app, id)?)))
}

fn name_of(call: &Call<'_>) -> Result<Option<String>, Problem> {
    let name = call.query::<String>("name")?;
    let length = name.as_ref().map_or(0, |name| name.chars().count());
    if length > LONGEST_NAME {
        let most = LONGEST_NAME;
        let why = format!("name: write a text of at most {most} characters");
        return Err(Problem::invalid(why).param("name"));
    }
    Ok(name)
}

/// `GET /api/v1/processes`: newest first, a page at a time.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["state", "after", "limit"])?;
    let most = call.limit(50, 500)?;
    let state = call.query::<String>("state")?;
    let finished = match state.as_deref() {
        None => None,
        Some("open") => Some(false),
        Some("finished") => Some(true),
        Some(other) => {
            let why = format!("state: write open or finished, not {other:?}");
            return Err(Problem::invalid(why).param("state"));
        }
    };
    let after = call.query::<u64>("after")?;
    let page = app.queue.newest_processes(after, finished, most)?;
    let next = page.last().filter(|_| page.len() == most);
    let next = next.map(|(number, _)| number.to_string());
    let data = page.iter().map(|(_, process)| shown(app, process));
    let data: Vec<Value> = data.collect();
    Ok(Response::json(200, &json!({"data": data, "next": next})))
}

/// `GET /api/v1/processes/{process_id}`.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let process = find(app, call.param("process_id")?)?;
    Ok(Response::json(200, &shown(app, &process)))
}

/// `DELETE /api/v1/processes/{process_id}`: with all its jobs.
pub(super) fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["force"])?;
    let process = find(app, call.param("process_id")?)?;
    let queue = queue_to_delete(app, &process)?;
    let counts = &process.counts;
    let has_work = !process.is_finished() || counts.finished() > counts.consumed;
    if has_work && !call.query::<bool>("force")?.unwrap_or(false) {
        let why = "jobs of the process are open, or their results were not fetched; to delete them anyway, send \
                   force=true";
        return Err(Problem::conflict(why));
    }
    let id = process.process_id;
    let deleted = queue.delete(id)?;
    app.observer.touch(id);
    Ok(Response::json(200, &json!({"deleted": deleted})))
}

/// `POST /api/v1/processes/{process_id}/cancel`.
pub(super) fn cancel(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    of_no_job(&find(app, call.param("process_id")?)?)?;
    let cancelled = change(app, call, |id| app.queue.cancel(id))?;
    Ok(Response::json(200, &json!({"cancelled": cancelled})))
}

/// `POST /api/v1/processes/{process_id}/retry`.
pub(super) fn retry(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let retried = change(app, call, |id| app.queue.retry_failed(id))?;
    Ok(Response::json(200, &json!({"retried": retried})))
}

/// Rejects jobs that another job waits for: without their results it would run, and pay for, them again.
pub(super) fn of_no_job(process: &ProcessState) -> Result<(), Problem> {
    match process.info.parent {
        None => Ok(()),
        Some(parent) => {
            let why = format!(
                "job {} waits for the results of this process: cancel or delete that one",
                parent.job_id
            );
            Err(Problem::conflict(why))
        }
    }
}

/// The queue to delete results or jobs of a process with.
///
/// # Errors
/// 409 if a job or a batch collects the results.
pub(super) fn queue_to_delete(app: &App, process: &ProcessState) -> Result<JobQueue, Problem> {
    of_no_job(process)?;
    let Some(collector) = &process.info.collector else {
        return Ok(app.queue.clone());
    };
    if BatchRecord::get(&app.records.single(), collector)?.is_some() {
        let why = format!(
            "process {} belongs to {collector}, which collects its results: read them with GET …/results, or cancel \
             or delete {collector}",
            process.process_id
        );
        return Err(Problem::conflict(why));
    }
    if !Path::new(app.queue.location()).is_file() {
        let why = format!(
            "process {} belongs to {collector} of another server",
            process.process_id
        );
        return Err(Problem::conflict(why));
    }
    // Its record is lost, for example with a damaged `server.db`: nothing else would ever collect the results.
    Ok(app.queue.described(ProcessInfo::new().collector(collector)))
}

fn change(
    app: &App,
    call: &Call<'_>,
    change: impl FnOnce(ProcessId) -> Result<u64, Error>,
) -> Result<u64, Problem> {
    let id = find(app, call.param("process_id")?)?.process_id;
    let changed = change(id)?;
    app.observer.touch(id);
    Ok(changed)
}

/// `GET /api/v1/batches`: those of a process, or all.
pub(super) fn batches(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["process_id"])?;
    let process = call.query::<ProcessId>("process_id")?;
    let batches = app.queue.batches(process)?;
    Ok(Response::json(200, &json!({"data": batches})))
}
