//! Requests that are performed once, however often they are sent with the same `Idempotency-Key`.

use std::time::Duration;

use batchwright::{Error, JobId, JobQueue, ProcessId};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::{Call, Response, is_visible};
use crate::problem::Problem;
use crate::records::{Abandoned, Asked, Claim, Hash, HeldKey, Makes, Records, busy, hash, settled};

/// Longest key, in bytes.
const LONGEST: usize = 255;
/// How long another request with the same key is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The header of a stored response.
pub(crate) const REPLAYED: (&str, &str) = ("idempotency-replayed", "true");

/// The client's key of a request, hashed together with its path, if the client sent one.
///
/// # Errors
/// When it is empty, too long or of other characters, of which some would be taken for the same.
pub(crate) fn key(call: &Call<'_>) -> Result<Option<Hash>, Problem> {
    let Some(key) = call.head.header("idempotency-key") else {
        return Ok(None);
    };
    if key.len() > LONGEST || !is_visible(key) {
        let why = format!("idempotency-key: send from 1 to {LONGEST} visible characters of ASCII");
        return Err(Problem::invalid(why).param("idempotency-key"));
    }
    Ok(Some(hash(&[call.head.path.as_bytes(), key.as_bytes()])))
}

/// A random key for a request without a key, which will not be repeated.
pub(super) fn any_key() -> Hash {
    hash(&[&ProcessId::new().bytes()])
}

/// Takes the key for a request.
pub(super) fn claim(app: &App, key: Hash, asked: Asked) -> Result<Claim<'_>, Problem> {
    Ok(app
        .records
        .claim_key(key, asked, settled::time(), PATIENCE)?)
}

/// Rejects a request that differs from the first one with this key.
pub(crate) fn refuse_another(before: Option<Hash>, request: Hash) -> Result<(), Problem> {
    if before.is_none_or(|before| before == request) {
        return Ok(());
    }
    let why = "this idempotency key was sent before with another request: use a new key for a new request";
    Err(Problem::new(422, "idempotency_key_reused", why).param("idempotency-key"))
}

/// Performs a request of `/v1` that makes an object, once. `make` reads the request, passes its hash to the function that
/// it gets, and then makes the object with this id, unless an earlier request with the key did. Without an id it only
/// reads.
///
/// # Errors
/// That of `make`, or when the key was sent before with another request.
pub(crate) fn made(
    app: &App,
    key: Option<Hash>,
    make: impl FnOnce(Option<ProcessId>, &dyn Fn(Hash) -> Result<(), Problem>) -> Result<Value, Problem>,
) -> Result<Response, Problem> {
    let Some(key) = key else {
        let made = make(Some(ProcessId::new()), &|_| Ok(()))?;
        return Ok(Response::json(200, &made));
    };
    let asked = Asked {
        makes: Makes::Object,
        ..Asked::default()
    };
    match claim(app, key, asked)? {
        Claim::Busy(_) => Err(busy().into()),
        Claim::Answered(before, answer) => {
            make(None, &|request| refuse_another(before, request))?;
            let response = Response::full(200, "application/json", answer.into_bytes());
            Ok(response.header(REPLAYED.0, REPLAYED.1))
        }
        Claim::Mine(held) => {
            let check = |request| {
                refuse_another(held.request, request)?;
                Ok(held.note_request(request)?)
            };
            match make(Some(held.process), &check) {
                Ok(made) => {
                    held.note_answer(&made.to_string())?;
                    Ok(Response::json(200, &made))
                }
                Err(problem) => {
                    give_up(&held, &problem)?;
                    Err(problem)
                }
            }
        }
    }
}

/// Ends a request with a key that had no answer. An earlier request with the key may have enqueued its job, and so may one
/// that failed in between.
pub(super) fn give_up(held: &HeldKey<'_>, problem: &Problem) -> Result<(), Error> {
    if !held.resumed && (400..500).contains(&problem.status) {
        held.forget()
    } else {
        Ok(())
    }
}

/// The body of the earlier response to the same request.
///
/// # Errors
/// When that was another request.
pub(super) fn replayed(
    before: Option<Hash>,
    request: Hash,
    answer: &str,
) -> Result<Value, Problem> {
    refuse_another(before, request)?;
    serde_json::from_str(answer)
        .map_err(|error| Problem::new(500, "internal_error", format!("server.db: {error}")))
}

/// The earlier response, sent again.
pub(super) fn again(answer: &Value) -> Response {
    created(answer).header(REPLAYED.0, REPLAYED.1)
}

/// Has the end of a process told that was created.
pub(super) fn tell_end(records: &Records, process: ProcessId) -> Result<(), Error> {
    records.tell_end(&mut records.single(), &process.to_string())?;
    records.wake_sender();
    Ok(())
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

/// Completes requests that nobody performs any more: if the job or process exists, its response is recorded; otherwise nothing of
/// it remains.
pub(crate) fn settle_abandoned(queue: &JobQueue, records: &Records) -> Result<(), Error> {
    records.forget_read_of_others(|process| Ok(queue.process(process)?.is_some()))?;
    for Abandoned { held, makes } in records.abandoned()? {
        let answer = match queue.process(held.process)? {
            None => None,
            Some(process) if !process.sealed => {
                queue.delete(held.process)?;
                None
            }
            Some(_) if makes == Makes::Job => {
                let jobs = queue.items(held.process, None, 1)?;
                jobs.first().map(|job| job_answer(job.job_id, held.process))
            }
            Some(process) => Some(process_answer(held.process, process.counts.total)),
        };
        match answer {
            Some(answer) => {
                tell_end(records, held.process)?;
                held.note_answer(&answer.to_string())?;
            }
            None => held.forget()?,
        }
    }
    Ok(())
}
