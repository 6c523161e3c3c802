//! Requests whose client waits at the connection: jobs of a high priority that are never part of a batch.
//!
//! If the client disconnects, the jobs of a request with an idempotency key go on, and the next request with the key gets
//! their answer. Jobs of a client that may retry are kept for a moment, and the retry joins them. Otherwise calls that have
//! not started are cancelled; calls in flight finish, and their answers are discarded.

use std::time::{Duration, Instant};

use batchwright::queue::{JobResult, ProcessInfo};
use batchwright::unstable::Optional;
use batchwright::{Error, ErrorKind, Job, JobQueue, ProcessId, Request};
use serde_json::Value;

use super::answer::{self, Answers, Reply};
use super::caller::{Caller, LOOK, stopping};
use super::endpoints::EMBEDDINGS;
use super::parts::Parts;
use super::waiting::{Waiter, Waiting};
use crate::api::once::REPLAYED;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::batches::DirectCalls;
use crate::records::files::id_of;
use crate::records::{Claim, Hash, HeldKey, Records, hash, settled};

/// Before all jobs that no client waits for, and after critical ones.
const PRIORITY: u8 = 9;
/// Interval of checks whether jobs have ended: other programs may carry them out, too.
const ASK: Duration = Duration::from_secs(1);

/// How long a caller waits while its provider is not asked at all, as after a refused key, or cannot be reached.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a retry waits until the server notices that the client has left its earlier attempt.
const NOTICED: Duration = Duration::from_secs(1);
/// Jobs of a request that are looked at for what they have failed with.
const LOOKED_AT: usize = 10;
/// Largest answer that is stored with its idempotency key, in bytes. Larger ones stay in the queue until the key expires.
const MOST_STORED: usize = 1 << 20;

/// What a request has come to.
struct Ended {
    reply: Result<Reply, Error>,
    /// It was answered before.
    is_replayed: bool,
}

/// Carries out the parts of a request, and answers with what they come to.
///
/// # Errors
/// As [`run`].
pub(super) fn answered(
    app: &App,
    call: &mut Call<'_>,
    endpoint: &str,
    parts: Parts,
    response: impl FnOnce(&Reply) -> Response,
) -> Result<Response, Problem> {
    let mut like = match endpoint {
        EMBEDDINGS => Request::embedding(""),
        _ => Request::new(""),
    };
    like.model.clone_from(&parts.model);
    let mut caller = Caller { app, call, like };
    let ended = run(&mut caller, endpoint, parts)?;
    let response = match &ended.reply {
        Ok(reply) => response(reply),
        Err(error) => refused(error),
    };
    Ok(response.when(ended.is_replayed, |response| {
        response.header(REPLAYED.0, REPLAYED.1)
    }))
}

/// Carries out the parts of a request and waits for them, or finds what an earlier request has come to.
///
/// # Errors
/// When they cannot be enqueued, too many wait already, the client disconnects, the key was sent before with another
/// request, or the server stops or their provider fails all along before they were begun.
fn run(caller: &mut Caller<'_, '_>, endpoint: &str, parts: Parts) -> Result<Ended, Problem> {
    let app = caller.app;
    if app.events.is_closed() {
        return Err(stopping());
    }
    let Some(_place) = app.waiters.enter() else {
        return Err(app.waiters.full());
    };
    let model = parts.model.unwrap_or_default();
    let jobs = parts.requests.into_iter().map(Job::from);
    let jobs: Vec<Job> = jobs.map(|job| job.direct().priority(PRIORITY)).collect();
    let request = {
        let format: &[u8] = if parts.as_base64 { b"base64" } else { b"" };
        let hashes = jobs.iter().map(|job| job.clone().into_parts().request_hash);
        let hashes: Vec<String> = hashes.map(Option::unwrap_or_default).collect();
        let path = caller.call.head.path.as_bytes();
        hash(&[path, format, hashes.concat().as_bytes()])
    };
    let held = match caller.claim(request)? {
        Some(Claim::Answered(_, answer)) => return replayed(&answer),
        Some(Claim::Mine(held)) => Some(held),
        _ => None,
    };
    carry_out(
        caller,
        held.as_ref(),
        request,
        jobs,
        |mut answers, process| {
            answers.as_base64 = parts.as_base64;
            let id = id_of(answer::COMPLETION, process);
            answer::reply(endpoint, id, &model, answers)
        },
    )
}

/// Carries out the jobs of a request and makes a reply of what they come to.
///
/// # Errors
/// As [`run`].
fn carry_out(
    caller: &mut Caller<'_, '_>,
    held: Option<&HeldKey<'_>>,
    request: Hash,
    jobs: Vec<Job>,
    reply: impl FnOnce(Answers, ProcessId) -> Result<Reply, Error>,
) -> Result<Ended, Problem> {
    let (app, count) = (caller.app, jobs.len());
    let mut waiter = begin(caller, held, request, jobs)?;
    let process = waiter.process;
    caller.call.body.release();
    let given_up = match wait(caller, &waiter, held.is_some()) {
        Ok(given_up) => given_up,
        Err(problem) => {
            waiter.may_retry = problem.status == 499 && caller.retries().is_some();
            drop(waiter);
            app.openai.wake.wake();
            return Err(problem);
        }
    };
    if let Some(why) = given_up {
        discard_now(app, held, process)?;
        return Err(why);
    }
    let results = app.queue.get_results(process);
    let results: Vec<JobResult> = results.collect::<Result<_, _>>()?;
    if results.len() != count {
        discard_now(app, held, process)?;
        return Err(deleted());
    }
    let mut answers = Answers::default();
    for result in &results {
        answers.add(answer::outcome(result));
    }
    let reply = reply(answers, process);
    match (held, &reply) {
        (Some(held), Ok(reply)) => {
            // The answer is delivered in any case, and stays in the queue for the next request with the key.
            if let Err(error) = store(app, held, process, reply) {
                log::warn!("an answer is not stored with its key: {error}");
            }
        }
        // The answer is delivered in any case; the tidying thread tries again.
        _ => {
            if let Err(error) = discard_now(app, held, process) {
                log::warn!("process {process} is deleted later: {error}");
            }
        }
    }
    Ok(Ended {
        reply,
        is_replayed: false,
    })
}

fn replayed(answer: &str) -> Result<Ended, Problem> {
    let reply: Value = serde_json::from_str(answer)
        .map_err(|error| Error::new(ErrorKind::Malformed, format!("server.db: {error}")))?;
    Ok(Ended {
        reply: Ok(Reply::Json(reply)),
        is_replayed: true,
    })
}

/// Enqueues the jobs of a request, unless it goes on with those of an earlier one.
fn begin(
    caller: &Caller<'_, '_>,
    held: Option<&HeldKey<'_>>,
    request: Hash,
    jobs: Vec<Job>,
) -> Result<Waiter, Problem> {
    let (app, head) = (caller.app, &caller.call.head);
    let (waiting, retries) = (&app.openai.waiting, caller.retries());
    let joins = |process| {
        log::info!("request {} joins process {process}", head.request_id);
        // It may have ended.
        waiting.ended(process);
    };
    let waiter = match held {
        Some(held) => {
            let waiter = waiting.begin(held.process, None);
            if held.resumed && app.queue.process(held.process)?.is_some() {
                joins(held.process);
                return Ok(waiter);
            }
            waiter
        }
        None => {
            let request = caller.retry_hash(request);
            if retries.is_some_and(|count| count > 0)
                && let Some(waiter) = waiting.join(request, NOTICED)
            {
                joins(waiter.process);
                return Ok(waiter);
            }
            let waiter = waiting.begin(ProcessId::new(), retries.map(|_| request));
            // Before the jobs: what is left of them after a crash is found by it.
            DirectCalls::insert(&app.records, waiter.process)?;
            waiter
        }
    };
    let name = format!("{} {} {}", head.method, head.path, head.request_id);
    let info = ProcessInfo::new().name(name);
    app.queue.described(info).enqueue(waiter.process, jobs)?;
    Ok(waiter)
}

/// Waits until all jobs of a process have ended. Returns the reason if the jobs were cancelled because they would not be
/// answered soon.
fn wait(
    caller: &mut Caller<'_, '_>,
    waiter: &Waiter,
    has_key: bool,
) -> Result<Option<Problem>, Problem> {
    let (app, process) = (caller.app, waiter.process);
    let mut asked = Instant::now();
    let (mut stuck, mut given_up) = (None, None);
    loop {
        waiter.wait(app.waiters.pause(LOOK));
        let told = waiter.take_ended();
        caller.check()?;
        let stops = app.events.is_closed();
        if !told && !stops && asked.elapsed() < app.waiters.pause(ASK) {
            continue;
        }
        asked = Instant::now();
        let state = app.queue.process(process)?.ok_or_else(deleted)?;
        let done = state.counts.completed + state.counts.failed > 0;
        if state.is_finished() {
            return Ok(given_up.filter(|_| state.counts.cancelled > 0));
        }
        let idle = state.counts.in_progress == 0;
        // While one of its jobs probes the provider, the time goes on.
        if idle {
            let trouble = trouble(app, process, &caller.like)?;
            stuck = trouble.map(|why| (stuck.map_or(asked, |(since, _)| since), why));
        }
        let why = match &stuck {
            // No worker begins anything any more. With a key the next server goes on.
            _ if stops && idle && has_key => return Err(stopping()),
            _ if stops && idle && done => Some(stopping().header("x-should-retry", "false")),
            _ if stops && idle => Some(stopping()),
            Some((since, _)) if idle && since.elapsed() >= PATIENCE => {
                stuck.take().map(|(_, why)| why)
            }
            _ => None,
        };
        if why.is_some() {
            given_up = why;
            app.queue.cancel(process)?;
        }
    }
}

/// Stores the answer with the key of its request. A large one stays in the queue.
fn store(app: &App, held: &HeldKey<'_>, process: ProcessId, reply: &Reply) -> Result<(), Error> {
    let json = serde_json::to_string(reply).expect("a reply has a form in JSON");
    if json.len() > MOST_STORED {
        return Ok(());
    }
    held.note_answer(&json)?;
    app.queue.delete(process).map(drop)
}

/// Deletes a process that has ended, and with it what the records have of it.
fn discard_now(app: &App, held: Option<&HeldKey<'_>>, process: ProcessId) -> Result<(), Error> {
    app.queue.delete(process)?;
    match held {
        Some(held) => held.forget(),
        None => DirectCalls::delete(&app.records, process),
    }
}

fn deleted() -> Problem {
    let why = "the request was deleted; send it again";
    Problem::new(503, "request_deleted", why)
}

/// Why a request that waits will not be answered soon: its providers reject what it needs, or a call of it has failed and
/// nothing has succeeded since. Rate limits and failures of other requests do not count.
fn trouble(app: &App, process: ProcessId, like: &Request) -> Result<Option<Problem>, Error> {
    if let Some(refusal) = app.limits.refusal(like) {
        let why = refusal.message();
        return Ok(Some(match refusal.kind() {
            ErrorKind::Invalid => Problem::invalid(why),
            _ => unavailable(why),
        }));
    }
    if app.observer.trouble().is_none() {
        return Ok(None);
    }
    for job in app.queue.items(process, None, LOOKED_AT)? {
        let job = app.queue.job(job.job_id)?;
        let open = job.filter(|job| !job.status.is_final());
        let last = open.and_then(|job| job.errors.into_iter().last());
        if let Some(last) = last.filter(|it| it.error.kind() != ErrorKind::RateLimited) {
            return Ok(Some(unavailable(last.error.message())));
        }
    }
    Ok(None)
}

fn unavailable(trouble: &str) -> Problem {
    let why = format!("the provider does not answer: {trouble}");
    // Retries are behind it, and a call that nobody has answered may have been paid for.
    Problem::new(503, "provider_unavailable", why)
        .header("retry-after", "10")
        .header("x-should-retry", "false")
}

/// Cancels jobs whose client has disconnected or whose server has crashed, and those whose key has expired, and removes
/// what has ended of them. Returns true while some of them still run.
///
/// # Errors
/// When the queue or the records cannot be read or written.
pub(crate) fn settle_abandoned(
    queue: &JobQueue,
    records: &Records,
    waiting: &Waiting,
) -> Result<bool, Error> {
    let mut left = false;
    for process in DirectCalls::all(records)? {
        if waiting.has(process) {
            continue;
        }
        if discard(queue, process)? {
            DirectCalls::delete(records, process)?;
        } else {
            left = true;
        }
    }
    for (key, process) in records.expired_answers(settled::time())? {
        if discard(queue, process)? {
            records.forget_answer(&key)?;
        } else {
            left = true;
        }
    }
    Ok(left)
}

/// Cancels what waits of a process, and deletes it if it has ended. False while its calls are in flight.
fn discard(queue: &JobQueue, process: ProcessId) -> Result<bool, Error> {
    match queue.process(process)? {
        Some(state) if !state.is_finished() => {
            if !state.cancelled {
                queue.cancel(process)?;
            }
            return Ok(false);
        }
        Some(_) => drop(queue.delete(process)?),
        None => {}
    }
    Ok(true)
}

/// The answer to a request that has failed. All retries and providers are behind it, so clients are told not to try
/// again by themselves.
fn refused(error: &Error) -> Response {
    let (status, body) = answer::failure(error);
    let wait = error.retry_after();
    let wait = wait.map(|wait| wait.as_secs().max(1).to_string());
    Response::json(status, &body)
        .header("x-should-retry", "false")
        .set(wait, |response, wait| response.header("retry-after", wait))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use batchwright::queue::Durability;

    use super::*;

    #[test]
    fn what_a_dead_server_was_asked_for_is_cancelled_and_what_somebody_waits_for_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
        let open = || Records::open(&folder.path().join("server.db"), Durability::Normal).unwrap();
        let asked = |records: &Records| {
            let process = ProcessId::new();
            DirectCalls::insert(records, process).unwrap();
            let job = Job::new("shout", &"hi").unwrap();
            queue.enqueue(process, [job]).unwrap();
            process
        };
        let cancelled = |process| queue.process(process).unwrap().unwrap().cancelled;
        let first = asked(&open());
        let starts = open();
        let waiting = Arc::new(Waiting::default());
        let second = asked(&starts);
        let waits = waiting.begin(second, None);
        assert!(settle_abandoned(&queue, &starts, &waiting).unwrap());
        assert_eq!((cancelled(first), cancelled(second)), (true, false));
        assert!(!settle_abandoned(&queue, &starts, &waiting).unwrap());
        assert!(queue.process(first).unwrap().is_none());
        drop(waits);
        assert!(settle_abandoned(&queue, &starts, &waiting).unwrap());
        assert!(cancelled(second));
    }
}
