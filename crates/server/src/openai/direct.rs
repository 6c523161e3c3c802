//! Requests whose client waits at the connection: jobs of a high priority that are never part of a batch. If the client
//! disconnects, calls that have not started are cancelled; calls in flight finish, and their answers are discarded.

use std::time::{Duration, Instant};

use batchwright::queue::{ConsumeError, JobResult, ProcessInfo};
use batchwright::{Error, ErrorKind, Job, JobQueue, ProcessId, Request};

use super::answer::{Answers, Reply};
use super::endpoints::EMBEDDINGS;
use super::parts::Parts;
use super::waiting::Waiting;
use super::{answer, limits};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::Records;
use crate::records::batches::DirectCalls;
use crate::records::files::new_id;

/// Before all jobs that no client waits for, and after critical ones.
const PRIORITY: u8 = 9;
/// How often it is looked whether the caller is still there,
const LOOK: Duration = Duration::from_millis(250);
/// and, since other programs may carry out jobs too, whether they have ended.
const ASK: Duration = Duration::from_secs(1);

/// How long a caller waits while its provider is not asked at all, as after a refused key, or cannot be reached.
const PATIENCE: Duration = Duration::from_secs(10);
/// Jobs of a request that are looked at for what they have failed with.
const LOOKED_AT: usize = 10;

/// Carries out the parts of a request, and answers with what they come to.
///
/// # Errors
/// As [`results`].
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
    let model = parts.model.unwrap_or_default();
    let jobs = parts.requests.into_iter().map(Job::from).collect();
    let mut answers = Answers {
        as_base64: parts.as_base64,
        ..Answers::default()
    };
    for result in results(app, call, &like, jobs)? {
        answers.add(answer::outcome(&result));
    }
    let by = answers.parts.iter().flatten().next();
    let by = by.map(|answer| (answer.provider.clone(), answer.model.clone()));
    let id = new_id("chatcmpl-");
    let response = match answer::reply(endpoint, id, &model, answers) {
        Ok(reply) => response(&reply),
        Err(error) => refused(&error),
    };
    let by = by
        .as_ref()
        .map(|(by, model)| (by.as_str(), model.as_deref()));
    Ok(limits::told(app, &like, by, response))
}

/// Carries out jobs and waits for them; their results are in their order.
///
/// # Errors
/// When they cannot be enqueued, too many wait already, nobody waits any more, or the server stops or their provider
/// fails all along before they were begun.
fn results(
    app: &App,
    call: &mut Call<'_>,
    like: &Request,
    jobs: Vec<Job>,
) -> Result<Vec<JobResult>, Problem> {
    if app.events.is_closed() {
        return Err(stopping());
    }
    let Some(_place) = app.waiters.enter() else {
        return Err(app.waiters.full());
    };
    app.check_open_jobs(&call.caller, jobs.len() as u64)?;
    let process = ProcessId::new();
    let waiter = app.openai.waiting.begin(process);
    // Before the jobs: what is left of them after a crash is found by it.
    DirectCalls::insert(&app.records, process)?;
    let jobs: Vec<Job> = jobs
        .into_iter()
        .map(|job| job.direct().priority(PRIORITY))
        .collect();
    let count = jobs.len();
    let mut info = ProcessInfo::new().name(format!("{} {}", call.head.method, call.head.path));
    info.owner = call.caller.owner();
    app.queue.described(info).enqueue(process, jobs)?;
    call.body.release();
    let mut asked = Instant::now();
    let (mut stuck, mut given_up) = (None, None);
    let ask = if app.records.is_shared() { LOOK } else { ASK };
    loop {
        let told = waiter.wait(app.waiters.pause(LOOK));
        let stops = app.events.is_closed();
        if told || stops || asked.elapsed() >= app.waiters.pause(ask) {
            asked = Instant::now();
            let state = app.queue.process(process)?.ok_or_else(deleted)?;
            let done = state.counts.completed + state.counts.failed > 0;
            if state.is_finished() {
                match given_up {
                    Some(why) if state.counts.cancelled > 0 => {
                        drop(waiter);
                        app.openai.wake.wake();
                        return Err(why);
                    }
                    _ => break,
                }
            }
            let idle = state.counts.in_progress == 0;
            // While one of its jobs probes the provider, the time goes on.
            if idle {
                let trouble = trouble(app, process, like)?;
                stuck = trouble.map(|why| (stuck.map_or(asked, |(since, _)| since), why));
            }
            let why = match &stuck {
                // No worker begins anything any more.
                _ if stops && idle => Some(if done {
                    stopping().header("x-should-retry", "false")
                } else {
                    stopping()
                }),
                Some((since, why)) if idle && since.elapsed() >= PATIENCE => Some(unavailable(why)),
                _ => None,
            };
            if why.is_some() {
                given_up = why;
                app.queue.cancel(process)?;
                continue;
            }
        }
        if call.is_gone() {
            drop(waiter);
            app.queue.cancel(process)?;
            app.openai.wake.wake();
            return Err(Problem::new(499, "client_closed_request", "nobody waits"));
        }
    }
    let results = take(app, process)?;
    if results.len() == count {
        Ok(results)
    } else {
        Err(deleted())
    }
}

/// Takes the results of a process that has ended.
fn take(app: &App, process: ProcessId) -> Result<Vec<JobResult>, Error> {
    let mut results = Vec::new();
    app.queue
        .consume_as(process, "the caller waits", |some| {
            results.extend_from_slice(some);
            Ok::<(), Error>(())
        })
        .map_err(|error| match error {
            ConsumeError::Save(error) | ConsumeError::Queue(error) => error,
        })?;
    DirectCalls::delete(&app.records, process)?;
    Ok(results)
}

fn deleted() -> Problem {
    let why = "the request was deleted; send it again";
    Problem::new(503, "request_deleted", why)
}

/// Why a request that waits will not be answered soon: its providers reject what it needs, or a call of it has failed and
/// nothing has succeeded since. Rate limits and failures of other requests do not count.
fn trouble(app: &App, process: ProcessId, like: &Request) -> Result<Option<String>, Error> {
    if let Some(refusal) = app.limits.refusal(like) {
        return Ok(Some(refusal.message().to_owned()));
    }
    if app.observer.trouble().is_none() {
        return Ok(None);
    }
    for job in app.queue.items(process, None, LOOKED_AT)? {
        let job = app.queue.job(job.job_id)?;
        let open = job.filter(|job| !job.status.is_final());
        let last = open.and_then(|job| job.errors.into_iter().last());
        if let Some(last) = last.filter(|it| it.error.kind() != ErrorKind::RateLimited) {
            return Ok(Some(last.error.message().to_owned()));
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

fn stopping() -> Problem {
    let why = "the server stops and has not begun this; send it again";
    Problem::new(503, "stopping", why).header("retry-after", "1")
}

/// Cancels jobs whose client has disconnected or whose server has crashed, and removes those that have ended. Returns
/// true while some of them still run.
///
/// # Errors
/// When the queue or the records cannot be read or written.
pub(crate) fn settle_abandoned(
    queue: &JobQueue,
    records: &Records,
    waiting: &Waiting,
) -> Result<bool, Error> {
    let mut left = false;
    for process in DirectCalls::ours(records)? {
        if waiting.has(process) {
            continue;
        }
        match queue.process(process)? {
            Some(state) if !state.is_finished() => {
                if !state.cancelled {
                    queue.cancel(process)?;
                }
                left = true;
                continue;
            }
            Some(_) => {
                queue.delete(process)?;
            }
            None => {}
        }
        DirectCalls::delete(records, process)?;
    }
    Ok(left)
}

/// The answer to a request that has failed. All retries and providers are behind it, so clients are told not to try
/// again by themselves.
fn refused(error: &Error) -> Response {
    let (status, body) = answer::failure(error);
    let response = Response::json(status, &body).header("x-should-retry", "false");
    match error.retry_after() {
        Some(wait) => response.header("retry-after", wait.as_secs().max(1).to_string()),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use batchwright::queue::Durability;

    use super::*;

    #[test]
    fn what_a_dead_server_was_asked_for_is_cancelled_and_what_a_living_one_was_goes_on() {
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
        let (dies, lives) = (open(), open());
        let (first, second) = (asked(&dies), asked(&lives));
        drop(dies);
        let starts = open();
        let nobody = Waiting::default();
        assert!(settle_abandoned(&queue, &starts, &nobody).unwrap());
        assert_eq!((cancelled(first), cancelled(second)), (true, false));
        assert!(!settle_abandoned(&queue, &starts, &nobody).unwrap());
        assert!(queue.process(first).unwrap().is_none());
        // Its own that nobody waits for go, too.
        assert!(settle_abandoned(&queue, &lives, &nobody).unwrap());
        assert!(cancelled(second));
    }
}
