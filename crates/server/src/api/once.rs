//! Requests that are performed once, however often they are sent with the same `Idempotency-Key`.

use batchwright::{Error, JobId, JobQueue, ProcessId};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{Asked, Claim, Hash, HeldKey, Records, hash};
use crate::shapes::now;

/// Longest key, in bytes.
const LONGEST: usize = 255;

/// The client's key of a request, hashed together with its path and the owner, if the client sent one.
///
/// # Errors
/// When it is empty, too long or of other characters, of which some would be taken for the same.
pub(super) fn key(call: &Call<'_>) -> Result<Option<Hash>, Problem> {
    let Some(key) = call.head.header("idempotency-key") else {
        return Ok(None);
    };
    let is_plain = key.bytes().all(|byte| byte.is_ascii_graphic());
    if key.is_empty() || key.len() > LONGEST || !is_plain {
        let why = format!("idempotency-key: send from 1 to {LONGEST} visible characters of ASCII");
        return Err(Problem::invalid(why).param("idempotency-key"));
    }
    let path = call.head.path.as_bytes();
    Ok(Some(match &call.caller.name {
        Some(owner) => hash(&[path, key.as_bytes(), owner.as_bytes()]),
        None => hash(&[path, key.as_bytes()]),
    }))
}

/// A random key for a request without a key, which will not be repeated.
pub(super) fn any_key() -> Hash {
    hash(&[&ProcessId::new().bytes()])
}

/// Takes the key for a request.
pub(super) fn claim(app: &App, key: Hash, asked: Asked) -> Result<Claim<'_>, Problem> {
    Ok(app.records.claim_key(key, asked, now())?)
}

/// Rejects a request that differs from the first one with this key.
pub(super) fn refuse_another(before: Option<Hash>, request: Hash) -> Result<(), Problem> {
    if before.is_none_or(|before| before == request) {
        return Ok(());
    }
    let why = "this idempotency key was sent before with another request: use a new key for a new request";
    Err(Problem::new(422, "idempotency_key_reused", why).param("idempotency-key"))
}

/// The earlier response to the same request.
///
/// # Errors
/// When that was another request.
pub(super) fn replayed(
    before: Option<Hash>,
    request: Hash,
    answer: &str,
) -> Result<Response, Problem> {
    refuse_another(before, request)?;
    let answer: Value = serde_json::from_str(answer)
        .map_err(|error| Problem::new(500, "internal_error", format!("server.db: {error}")))?;
    Ok(created(&answer).header("idempotency-replayed", "true"))
}

/// 201 with the created object and its location.
pub(super) fn created(answer: &Value) -> Response {
    let place = match (answer["job_id"].as_str(), answer["process_id"].as_str()) {
        (Some(job), _) => format!("/api/v1/jobs/{job}"),
        (None, process) => format!("/api/v1/processes/{}", process.unwrap_or_default()),
    };
    Response::json(201, answer).header("location", place)
}

/// The response to the creation of a job.
pub(super) fn job_answer(job: JobId, process: ProcessId) -> Value {
    json!({"job_id": job, "process_id": process, "status": "pending"})
}

/// The response to the creation of a process.
pub(super) fn process_answer(process: ProcessId, total: u64) -> Value {
    json!({"process_id": process, "total": total})
}

/// Records the response of a completed request.
pub(super) fn answered(held: &HeldKey<'_>, answer: &Value) -> Result<Response, Problem> {
    held.note_answer(&answer.to_string())?;
    Ok(created(answer))
}

/// Completes requests of crashed servers: if the job or process exists, its response is recorded; otherwise nothing of
/// it remains.
pub(crate) fn settle_abandoned(queue: &JobQueue, records: &Records) -> Result<(), Error> {
    records.forget_read_of_others(|process| Ok(queue.process(process)?.is_some()))?;
    for one in records.abandoned()? {
        if !records.take_over(&one)? {
            continue;
        }
        let answer = match queue.process(one.process)? {
            None => None,
            Some(process) if !process.sealed => {
                queue.delete(one.process)?;
                None
            }
            Some(_) if !one.many => {
                let jobs = queue.items(one.process, None, 1)?;
                jobs.first().map(|job| job_answer(job.job_id, one.process))
            }
            Some(process) => Some(process_answer(one.process, process.counts.total)),
        };
        let answer = answer.map(|answer| answer.to_string());
        records.settle_abandoned(&one, answer.as_deref())?;
    }
    Ok(())
}
