//! A kind of jobs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::base::{Charge, Context, Error, Time, Timestamp};
use crate::engine::work::{Take, Ticket};
use crate::llm::pack::{Pack, PackLimits};
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;

use super::account::Part;
use super::handler::{Handler, RunningJob, result_json};
use super::history::History;
use super::job::Spent;
use super::store::{ClaimOutcome, ClaimedJob, Settlement};

/// The code or route of the jobs of a kind.
pub(crate) enum Kind {
    /// Prompts, or jobs that are one call of a model, on a route.
    Prompts {
        route: Arc<Route<'static>>,
        task: RequestTask,
        /// How to make a request from a payload, and a result from its answer; `None` if the payload is the request.
        call: Option<ModelCall>,
    },
    /// The host's own code.
    Host(Handler),
}

impl Kind {
    pub(crate) fn pack_limits(&self) -> PackLimits {
        let prompts = self.prompts();
        prompts.map_or(PackLimits::ONE, |(route, task)| route.pack_limits(task))
    }

    /// The route of its calls, and what they ask; none for the host's own code.
    pub(crate) fn prompts(&self) -> Option<(&Arc<Route<'static>>, RequestTask)> {
        match self {
            Self::Prompts { route, task, .. } => Some((route, *task)),
            Self::Host(_) => None,
        }
    }

    pub(crate) fn model_call(&self) -> Option<&ModelCall> {
        match self {
            Self::Prompts { call, .. } => call.as_ref(),
            Self::Host(_) => None,
        }
    }
}

// Kinds of jobs with their code, for a worker.

/// Kinds of jobs with their code. A [`Worker`](crate::Worker) takes them together with the route for those that call
/// a model; an [`LlmManager`](crate::LlmManager) builds that route from its settings.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("{:?}", calls.iter().map(|(kind, _)| kind).chain(handlers.iter().map(|(kind, _)| kind)).collect::<Vec<_>>())]
pub struct JobKinds {
    pub(crate) calls: Vec<(String, ModelCall)>,
    pub(crate) handlers: Vec<(String, Handler)>,
}

impl JobKinds {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind whose jobs are one call of a model each.
    pub fn model_call(mut self, kind: impl Into<String>, call: ModelCall) -> Self {
        self.calls.push((kind.into(), call));
        self
    }

    /// Adds a kind whose jobs a handler processes.
    pub fn handler(mut self, kind: impl Into<String>, handler: Handler) -> Self {
        self.handlers.push((kind.into(), handler));
        self
    }

    /// Adds other kinds with their code.
    pub fn and(mut self, others: Self) -> Self {
        self.calls.extend(others.calls);
        self.handlers.extend(others.handlers);
        self
    }
}

// Kinds of jobs that are one call of a model: how to make a request from a payload, and a result from the answer.

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
    pub(crate) ask: Arc<Ask>,
    pub(crate) make: Arc<Make>,
    like: Option<Arc<Request>>,
}

impl ModelCall {
    /// Default time limit of a call of a [manager's](crate::LlmManager::job_types) job types: 30 s.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

    /// `ask` makes the request from a job's payload, on the thread that makes the call; its error counts as a failed
    /// call. `make` makes the job's result from the answer; an error of kind
    /// [`Malformed`](crate::ErrorKind::Malformed) is retried like an unusable answer.
    pub fn new<R: Serialize>(
        ask: impl Fn(&RunningJob, &Context) -> Result<Request, Error> + Send + Sync + 'static,
        make: impl Fn(&RunningJob, &Response) -> Result<R, Error> + Send + Sync + 'static,
    ) -> Self {
        let make = move |job: &RunningJob, answer: &Response| result_json(&make(job, answer)?);
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
}

// A job that a worker has claimed.

/// A claimed job.
pub(crate) struct JobTask {
    pub claimed: ClaimedJob,
    pub kind: Arc<Kind>,
    pub history: History,
    /// The request of a prompt, once its payload was read.
    pub request: OnceLock<Result<Arc<Request>, Error>>,
    /// Its part in the budget of its process.
    pub part: Mutex<Option<Part>>,
    /// Since when it has waited for capacity.
    pub waiting_since: Option<Time>,
    /// The version of the kinds at its claim.
    pub kinds_version: u64,
}

impl JobTask {
    /// Returns a job that was not tried, or waits for others; nothing was spent.
    pub(super) fn back(&self, calls: u32, due_at: Option<Timestamp>) -> Settlement {
        let calls = calls.max(self.history.calls());
        let outcome = ClaimOutcome::Snooze { due_at };
        Settlement::new(self.claimed.receipt, calls, outcome)
    }
}

/// A call for the jobs of a pack, and a part of a backlog.
pub(crate) type JobTicket = Ticket<Pack<JobTask>>;
pub(crate) type Taken = Take<Pack<JobTask>>;

/// The outcomes of a call, one per job of its pack.
pub(crate) type Done = Vec<JobEnd>;

/// The outcome of a job's call.
pub(crate) enum JobEnd {
    /// Its result, its usage, and what the call was billed.
    Result(Box<RawValue>, Option<Spent>, Option<Box<Charge>>),
    /// It failed although the call returned results for others.
    Failed(Error),
    /// It waits for other jobs, and looks again after this time.
    Wait(Duration),
}

impl JobEnd {
    /// The error of a failed job.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Result(..) | Self::Wait(_) => None,
        }
    }
}
