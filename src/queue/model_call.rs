//! Kinds of jobs that are one call of a model: how to make a request from a payload, and a result from the answer.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::base::{Context, Error, ErrorKind};
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;

use super::handler::RunningJob;

type Ask = dyn Fn(&RunningJob, &Context) -> Result<Request, Error> + Send + Sync;
type Make = dyn Fn(&RunningJob, &Response) -> Result<Box<RawValue>, Error> + Send + Sync;

/// A kind of jobs that are one call of a model each. Unlike a [`Handler`](crate::Handler) that makes a call itself,
/// such a job uses the quota, the fallback, the retries and the usage accounting of its
/// [route](crate::Worker::model_calls), and occupies no thread while it waits.
///
/// ```
/// use batchwright::queue::ModelCall;
/// use batchwright::{Context, Extract, Job, JobQueue, ProcessId, Request, Route, Worker};
/// let queue = JobQueue::in_memory()?;
/// let process = ProcessId::new();
/// queue.enqueue(process, [Job::new("headline", "Rain all day.\nIt rained.")?])?;
/// let headline = ModelCall::new(
///     |job, _: &Context| Ok(Request::new(job.parse::<String>()?).with_system("Write a headline.")),
///     |_, answer| Ok(answer.text.lines().next().map(str::to_owned)),
/// );
/// let worker = Worker::new(&queue).model_calls(Route::new(Extract), [("headline", headline)]);
/// worker.until_empty(true).run()?;
/// let results: Vec<_> = queue.get_results(process).collect::<Result<_, _>>()?;
/// assert_eq!(results[0].parse::<String>()?, "Rain all day.");
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("ModelCall")]
pub struct ModelCall {
    ask: Arc<Ask>,
    make: Arc<Make>,
    like: Option<Arc<Request>>,
}

impl ModelCall {
    /// Default time limit of a call of a [manager's](crate::LlmManager::job_types) job types: 30 s.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

    /// `ask` makes the request from a job's payload, on the thread that makes the call; its error counts as a failed
    /// call. `make` makes the job's result from the answer; an error of kind [`ErrorKind::Malformed`] is retried like
    /// an unusable answer.
    pub fn new<R: Serialize>(
        ask: impl Fn(&RunningJob, &Context) -> Result<Request, Error> + Send + Sync + 'static,
        make: impl Fn(&RunningJob, &Response) -> Result<R, Error> + Send + Sync + 'static,
    ) -> Self {
        let make = move |job: &RunningJob, answer: &Response| {
            let made = make(job, answer)?;
            to_raw_value(&made).map_err(|error| {
                let why = format!("the result is not JSON: {error}");
                Error::new(ErrorKind::Malformed, why)
            })
        };
        Self {
            ask: Arc::new(ask),
            make: Arc::new(make),
            like: None,
        }
    }

    /// Sets an example request with the features that the calls need, for example an answer in JSON, or speech. Clients
    /// of the route that [do not support](crate::LlmClient::can) them are skipped. Default: every client is called.
    pub fn like(mut self, request: Request) -> Self {
        self.like = Some(Arc::new(request));
        self
    }

    /// The route of its calls. If no client supports them, all are called, and their errors say why not.
    pub(crate) fn route(&self, all: &Arc<Route<'static>>) -> Arc<Route<'static>> {
        let fit = self.like.as_ref().and_then(|like| all.serving(like));
        fit.map_or_else(|| all.clone(), Arc::new)
    }

    pub(crate) fn request(&self, job: &RunningJob, ctx: &Context) -> Result<Request, Error> {
        (self.ask)(job, ctx)
    }

    pub(crate) fn result(
        &self,
        job: &RunningJob,
        answer: &Response,
    ) -> Result<Box<RawValue>, Error> {
        (self.make)(job, answer)
    }
}
