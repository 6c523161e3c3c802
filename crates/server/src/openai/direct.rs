//! Requests whose caller waits at the connection: jobs of a high priority that are never part of a batch. Whoever
//! leaves takes along what was not begun; what was is answered once, and the answer dropped.

use std::time::{Duration, Instant};

use batchwright::queue::{JobResult, ProcessInfo};
use batchwright::{Job, ProcessId};

use super::answer;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::batches::DirectCalls;

/// Ahead of all that nobody waits for, behind what is critical.
const PRIORITY: u8 = 9;
/// How often it is looked whether the caller is still there,
const LOOK: Duration = Duration::from_millis(250);
/// and, since other programs may carry out jobs too, whether they have ended.
const ASK: Duration = Duration::from_secs(1);

/// Carries out jobs and waits for them; their results are in their order.
///
/// # Errors
/// When they cannot be enqueued, or nobody waits any more.
pub(super) fn results(
    app: &App,
    call: &Call<'_>,
    jobs: Vec<Job>,
) -> Result<Vec<JobResult>, Problem> {
    let process = ProcessId::new();
    let waiter = app.openai.waiting.begin(process);
    // Before the jobs: what is left of them after a crash is found by it.
    DirectCalls::insert(&app.records.lock(), process)?;
    let jobs: Vec<Job> = jobs
        .into_iter()
        .map(|job| job.direct().priority(PRIORITY))
        .collect();
    let info = ProcessInfo::new().name(format!("{} {}", call.head.method, call.head.path));
    app.queue.described(info).enqueue(process, jobs)?;
    let mut asked = Instant::now();
    loop {
        let told = waiter.wait(LOOK);
        if told || asked.elapsed() >= ASK {
            asked = Instant::now();
            match app.queue.process(process)? {
                Some(state) if state.is_finished() => break,
                Some(_) => {}
                None => {
                    let why = "somebody has deleted the request; ask again";
                    return Err(Problem::new(503, "request_deleted", why));
                }
            }
        }
        if call.is_gone() {
            drop(waiter);
            app.queue.cancel(process)?;
            app.openai.wake();
            return Err(Problem::new(499, "client_closed_request", "nobody waits"));
        }
    }
    let mut results = Vec::new();
    app.queue
        .consume_as(process, "the caller waits", |some| {
            results.extend_from_slice(some);
            Ok::<(), batchwright::Error>(())
        })
        .map_err(|error| match error {
            batchwright::queue::ConsumeError::Save(error)
            | batchwright::queue::ConsumeError::Queue(error) => error,
        })?;
    DirectCalls::delete(&app.records.lock(), process)?;
    Ok(results)
}

/// The answer to a request that has failed. All retries and providers are behind it, so clients are told not to try
/// again by themselves.
pub(super) fn refused(error: &batchwright::Error) -> Response {
    let (status, body) = answer::failure(error);
    let response = Response::json(status, &body).header("x-should-retry", "false");
    match error.retry_after() {
        Some(wait) => response.header("retry-after", wait.as_secs().max(1).to_string()),
        None => response,
    }
}
