//! `/v1/chat/completions` and `/v1/embeddings`: requests whose client waits at the connection. Each is a job of a high
//! priority that is never part of a batch; each text of embeddings is one, and the worker sends many with one call.
//!
//! If the client disconnects, the jobs of a request with an idempotency key go on, and the next request with the key gets
//! their answer. So does the automatic retry of OpenAI's clients. Otherwise calls that have not started are cancelled; calls
//! in flight finish, and their answers are discarded.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use batchwright::queue::JobResult;
use batchwright::unstable::Optional;
use batchwright::{Error, ErrorKind, Job, JobQueue, ProcessId, Request};
use serde_json::{Map, Value, json};

use super::answer::{self, Reply};
use super::parts::{MOST_BYTES, Parts};
use super::waiting::{Waiter, Waiting};
use super::{CHAT, EMBEDDINGS};
use crate::api::once;
use crate::app::{App, trusted};
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{DirectCalls, Records, id_of};

/// Before all jobs that no client waits for, and after critical ones.
const PRIORITY: u8 = 9;
/// Interval of checks whether the client is still there,
const LOOK: Duration = Duration::from_millis(250);
/// and whether jobs have ended: other programs may carry them out, too.
const ASK: Duration = Duration::from_secs(1);
/// How long a caller waits while its provider is not asked at all, as after a refused key, or cannot be reached.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer to a request with a key is kept, in seconds.
const KEPT: u64 = 24 * 3600;

/// Carries out the parts of a request, or finds what an earlier request with its key has come to, and answers with that.
///
/// # Errors
/// When the parts cannot be enqueued, too many clients wait already, the client disconnects, the key was sent before with
/// another request, or the server stops or their provider fails all along before they were begun.
fn answered(
    app: &App,
    call: &mut Call<'_>,
    endpoint: &str,
    parts: Parts,
    response: impl FnOnce(&Reply) -> Response,
) -> Result<Response, Problem> {
    if app.events.is_closed() {
        return Err(stopping());
    }
    let key = once::named(app, call)?;
    let mut like = match endpoint {
        EMBEDDINGS => Request::embedding(""),
        _ => Request::new(""),
    };
    like.model.clone_from(&parts.model);
    let jobs = parts.requests.into_iter().map(Job::from);
    let jobs: Vec<Job> = jobs.map(|job| job.direct().priority(PRIORITY)).collect();
    let count = jobs.len();
    let hashes = jobs.iter().map(|job| job.request_hash.clone());
    let hashes: String = hashes.map(Option::unwrap_or_default).collect();
    let request = once::hash(&[&[parts.as_base64.into()], hashes.as_bytes()]);
    let retry = Retry::of(call, &request).filter(|_| key.is_none());
    let joined = retry.as_ref().map(|retry| retry.join(&app.waiting));
    let joined = joined.transpose()?.flatten();
    let is_joined = joined.is_some();
    let begin = || app.waiting.begin(key.unwrap_or_else(ProcessId::new));
    let mut waiter = joined.map_or_else(begin, Ok)?;
    let process = waiter.process;
    if !is_joined {
        // Before the jobs: what is left of them after a crash is found by it.
        let kept_until = key.map_or(0, |_| app.time().1 + KEPT);
        DirectCalls::insert(&app.records, process, kept_until)?;
    }
    let is_replayed = match key {
        Some(_) => begin_once(app, process, &request, jobs)?,
        None if is_joined => false,
        None => {
            app.queue.enqueue(process, jobs)?;
            false
        }
    };
    call.body.release();
    if let Err(problem) = wait(app, call, &waiter, &like, key.is_some()) {
        if problem.status == 499 {
            waiter.left = retry.map(|retry| retry.request);
        }
        drop(waiter);
        app.batches.wake();
        return Err(problem);
    }
    let results = app.queue.get_results(process);
    let results: Vec<JobResult> = results.collect::<Result<_, _>>()?;
    let created = app.queue.process(process)?.ok_or_else(deleted)?.created_at;
    if results.len() != count {
        return Err(deleted());
    }
    let answers = results.iter().map(answer::outcome).collect();
    let id = id_of(answer::COMPLETION, process);
    let created = u64::try_from(created.0 / 1000).unwrap_or_default();
    let model = parts.model.unwrap_or_default();
    let reply = answer::reply(endpoint, id, created, &model, answers, parts.as_base64);
    if key.is_none() {
        // The answer is delivered in any case; the tidying thread tries again.
        let discarded = app.queue.delete(process);
        if let Err(error) = discarded.and_then(|_| DirectCalls::delete(&app.records, process)) {
            log::warn!("process {process} is deleted later: {error}");
        }
    }
    let response = match &reply {
        Ok(reply) => response(reply),
        Err(error) => refused(error),
    };
    Ok(once::replayed(response, is_replayed))
}

/// A request without a key of one of OpenAI's clients, which may send it again by itself.
struct Retry {
    /// What tells it from others, also of those with another token.
    request: String,
    /// How many attempts there were.
    count: u64,
}

impl Retry {
    fn of(call: &Call<'_>, request: &str) -> Option<Self> {
        let count = call.head.header("x-stainless-retry-count")?.parse().ok()?;
        let token = call.head.header("authorization").unwrap_or_default();
        let path = call.head.path.as_bytes();
        let request = once::hash(&[path, request.as_bytes(), token.as_bytes()]);
        Some(Self { request, count })
    }

    /// Goes on with the attempt that the client has left. It may not have been noticed yet that the client did.
    fn join(&self, waiting: &Arc<Waiting>) -> Result<Option<Waiter>, Problem> {
        if self.count == 0 {
            return Ok(None);
        }
        if let Some(waiter) = waiting.join(&self.request)? {
            return Ok(Some(waiter));
        }
        thread::sleep(2 * waiting.pause(LOOK));
        waiting.join(&self.request)
    }
}

/// Enqueues the jobs of a request with a key, unless an earlier one did. Then those that failed are tried again. Returns
/// whether there was one.
fn begin_once(
    app: &App,
    process: ProcessId,
    request: &str,
    jobs: Vec<Job>,
) -> Result<bool, Problem> {
    let known = app.queue.process(process)?;
    let jobs = jobs.into_iter().map(Ok);
    once::enqueue(&app.queue, process, request, jobs)?;
    if known
        .as_ref()
        .is_some_and(|known| known.is_finished() && known.counts.completed < known.counts.total)
    {
        app.queue.retry_failed(process)?;
    }
    Ok(known.is_some())
}

/// Waits until all jobs of a process have ended.
///
/// # Errors
/// When the client is gone, the server stops before they have, or they were cancelled because they would not be answered
/// soon.
fn wait(
    app: &App,
    call: &Call<'_>,
    waiter: &Waiter,
    like: &Request,
    has_key: bool,
) -> Result<(), Problem> {
    // An earlier request with the key may have been answered.
    let (mut asked, mut told) = (Instant::now(), has_key);
    let mut stuck = None;
    loop {
        if call.is_gone() {
            let why = "the client has disconnected";
            return Err(Problem::new(499, "client_closed_request", why));
        }
        let stops = app.events.is_closed();
        if told || stops || asked.elapsed() >= app.waiting.pause(ASK) {
            asked = Instant::now();
            let state = app.queue.process(waiter.process)?.ok_or_else(deleted)?;
            if state.is_finished() {
                return Ok(());
            }
            let idle = state.counts.in_progress == 0;
            // While one of its jobs probes the provider, the time goes on.
            if idle {
                let since = stuck.map_or(asked, |(since, _)| since);
                stuck = trouble(app, like).map(|why| (since, why));
            }
            let why = match &stuck {
                // No worker begins anything any more. With a key the next server goes on.
                _ if stops && idle && has_key => return Err(stopping()),
                _ if stops && idle => Some(stopping()),
                Some((since, why)) if idle && since.elapsed() >= PATIENCE => Some(why.clone()),
                _ => None,
            };
            if let Some(why) = why
                && app.queue.cancel(waiter.process)? > 0
            {
                let left = app.queue.process(waiter.process)?.ok_or_else(deleted)?;
                if left.is_finished() && left.counts.completed == state.counts.completed {
                    return Err(why);
                }
                // One was begun meanwhile: its answer is not lost, so the others follow it.
                app.queue.retry_failed(waiter.process)?;
            }
        }
        told = waiter.wait(app.waiting.pause(LOOK));
    }
}

fn deleted() -> Problem {
    let why = "the request was deleted; send it again";
    Problem::new(503, "request_deleted", why)
}

fn stopping() -> Problem {
    let why = "the server stops before this has ended; send it again";
    Problem::new(503, "stopping", why).header("retry-after", "1")
}

/// Why a request that waits will not be answered soon: its providers reject what it needs, or no call is answered.
fn trouble(app: &App, like: &Request) -> Option<Problem> {
    let refusal = app.overview.limits.refusal(like);
    let status = refusal.as_ref().and_then(Error::status);
    let why = match refusal {
        Some(refusal) if refusal.kind() == ErrorKind::Invalid && status.is_none() => {
            return Some(Problem::invalid(refusal.message()));
        }
        Some(refusal) => refusal.message().to_owned(),
        None => app.observer.trouble()?,
    };
    // What a gateway says to every request is said as it is; a key or an account is not the client's.
    let status = status.filter(|status| matches!(status, 403..=428 | 430..=499));
    // Retries are behind it, and a call that nobody has answered may have been paid for.
    let problem = Problem::new(
        status.unwrap_or(503),
        "provider_unavailable",
        format!("the provider does not answer: {why}"),
    );
    let problem = problem.header("retry-after", "10");
    Some(problem.header("x-should-retry", "false"))
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
    for process in DirectCalls::due(records, trusted(queue).0)? {
        if waiting.has(process) {
            continue;
        }
        match queue.process(process)? {
            Some(state) if !state.is_finished() => {
                if !state.cancelled {
                    queue.cancel(process)?;
                }
                left = true;
            }
            _ => {
                queue.delete(process)?;
                DirectCalls::delete(records, process)?;
            }
        }
    }
    Ok(left)
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

/// `POST /v1/chat/completions`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let is_streamed = takes_stream(&mut body)?;
    let options = body.remove("stream_options").unwrap_or_default();
    let with_usage = options["include_usage"] == true;
    let parts = Parts::of(CHAT, body)?;
    answered(app, call, CHAT, parts, |reply| match reply {
        Reply::Json(completion) if is_streamed => {
            let events = events(completion, with_usage);
            Response::full(200, "text/event-stream", events.into_bytes())
        }
        reply => Response::json(200, reply),
    })
}

/// `POST /v1/embeddings`.
pub(super) fn embeddings(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let body = call.object(MOST_BYTES)?;
    let parts = Parts::of(EMBEDDINGS, body)?;
    answered(app, call, EMBEDDINGS, parts, |vectors| {
        Response::json(200, vectors)
    })
}

/// Takes the field `stream`; false if it is missing.
fn takes_stream(body: &mut Map<String, Value>) -> Result<bool, Problem> {
    match body.remove("stream") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(Problem::invalid("stream is true or false").param("stream")),
    }
}

/// A completion as a stream of one chunk.
fn events(completion: &Value, with_usage: bool) -> String {
    let mut chunk = completion.clone();
    chunk["object"] = "chat.completion.chunk".into();
    for choice in chunk["choices"].as_array_mut().into_iter().flatten() {
        let mut delta = choice["message"].take();
        let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (number, call) in calls.into_iter().flatten().enumerate() {
            call["index"] = number.into();
        }
        *choice = json!({
            "index": choice["index"], "delta": delta, "logprobs": choice["logprobs"],
            "finish_reason": choice["finish_reason"],
        });
    }
    if let Some(fields) = chunk.as_object_mut()
        && !with_usage
    {
        fields.remove("usage");
    }
    format!("data: {chunk}\n\ndata: [DONE]\n\n")
}

#[cfg(test)]
mod tests {
    use batchwright::Context;
    use batchwright::queue::Durability;

    use super::*;

    #[test]
    fn what_a_dead_server_was_asked_for_is_cancelled_and_what_somebody_waits_for_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
        let open = || {
            let path = folder.path().join("server.db");
            Records::open(&path, Durability::Normal, &Context::new()).unwrap()
        };
        let asked = |records: &Records| {
            let process = ProcessId::new();
            DirectCalls::insert(records, process, 0).unwrap();
            let job = Job::new("shout", &"hi").unwrap();
            queue.enqueue(process, [job]).unwrap();
            process
        };
        let cancelled = |process| queue.process(process).unwrap().unwrap().cancelled;
        let first = asked(&open());
        let starts = open();
        let waiting = Waiting::new(9);
        let second = asked(&starts);
        let waits = waiting.begin(second).unwrap();
        assert!(settle_abandoned(&queue, &starts, &waiting).unwrap());
        assert_eq!((cancelled(first), cancelled(second)), (true, false));
        assert!(!settle_abandoned(&queue, &starts, &waiting).unwrap());
        assert!(queue.process(first).unwrap().is_none());
        drop(waits);
        assert!(settle_abandoned(&queue, &starts, &waiting).unwrap());
        assert!(cancelled(second));
    }
}

#[cfg(test)]
mod stream_tests {
    use super::*;

    #[test]
    fn a_completion_is_one_chunk_and_the_end() {
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let message =
            json!({"role": "assistant", "content": "hi", "refusal": null, "tool_calls": [call]});
        let completion = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 9, "model": "m",
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "tool_calls"}],
            "usage": {"total_tokens": 3}, "system_fingerprint": null,
        });
        let chunk = |with_usage| {
            let events = events(&completion, with_usage);
            let chunk = events.strip_prefix("data: ").unwrap();
            let chunk = chunk.strip_suffix("\n\ndata: [DONE]\n\n").unwrap();
            serde_json::from_str::<Value>(chunk).unwrap()
        };
        let mut call = call;
        call["index"] = 0.into();
        let delta =
            json!({"role": "assistant", "content": "hi", "refusal": null, "tool_calls": [call]});
        let mut expected = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 9, "model": "m",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": "tool_calls"}],
            "system_fingerprint": null,
        });
        assert_eq!(chunk(false), expected);
        expected["usage"] = json!({"total_tokens": 3});
        assert_eq!(chunk(true), expected);
    }
}
