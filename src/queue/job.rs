//! What the queue stores: jobs, their processes, and the state of each.

use derive_setters::Setters;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::brief::{Bytes, Many, Name};
use crate::base::{Day, Error, ErrorKind, JobId, ProcessId, Timestamp, Usd};
use crate::llm::outcome::Outcome;

use super::info::{ProcessBudget, ProcessInfo};

/// The kind of prompts.
pub const COMPLETION_KIND: &str = "completion";
/// The kind of prompts that never go into a batch, see [`Job::direct`].
pub const DIRECT_COMPLETION_KIND: &str = "completion_direct";
/// The kind of texts to embed.
pub const EMBEDDING_KIND: &str = "embedding";

/// A unit of work for the queue: a kind, which names its handler, and a payload in JSON, which only the handler
/// reads. Its `Debug` output omits the payload.
#[derive(Clone, derive_more::Debug, Setters)]
#[setters(strip_option)]
pub struct Job {
    /// The kind, which selects the handler.
    #[debug("{:?}", Name(kind))]
    #[setters(skip)]
    pub kind: String,
    /// Input of the handler, in JSON.
    #[debug("{:?}", Bytes(payload.get().len()))]
    #[setters(skip)]
    pub payload: Box<RawValue>,
    /// The name of the quota that it shares with other jobs of its kind; for prompts, the model. If a quota is
    /// exhausted, its jobs wait without delaying others. Default: none.
    #[setters(into)]
    #[debug("{:?}", lane.as_deref().map(Name))]
    pub lane: Option<String>,
    /// Your own name for it, which is returned with the result. Default: none.
    #[setters(into)]
    #[debug("{:?}", item_id.as_deref().map(Name))]
    pub item_id: Option<String>,
    /// A hash of the request, which is returned with the result. Default: none.
    #[setters(into)]
    #[debug(skip)]
    pub request_hash: Option<String>,
    /// One of [`PRIORITIES`]; set by [`Job::priority`].
    #[setters(skip)]
    pub priority: u8,
    /// Retries after failures, at each step of its route. Default: the worker's.
    pub max_retries: Option<u8>,
}

/// Allowed priorities; higher ones run first.
pub const PRIORITIES: std::ops::RangeInclusive<u8> = 1..=10;

impl Job {
    /// The priority of jobs that set none.
    pub const DEFAULT_PRIORITY: u8 = 5;

    /// A job of a kind.
    ///
    /// # Errors
    /// If the payload cannot be written as JSON.
    pub fn new(
        kind: impl Into<String>,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<Self, Error> {
        let payload = serde_json::value::to_raw_value(payload).map_err(|error| {
            let why = format!("the payload is not JSON: {error}");
            Error::new(ErrorKind::Invalid, why)
        })?;
        Ok(Self::raw(kind, payload))
    }

    /// A job of a kind whose payload is already JSON.
    pub fn raw(kind: impl Into<String>, payload: Box<RawValue>) -> Self {
        Self {
            kind: kind.into(),
            payload,
            lane: None,
            item_id: None,
            request_hash: None,
            priority: Self::DEFAULT_PRIORITY,
            max_retries: None,
        }
    }

    /// Makes a prompt an individual call under every strategy, because a client waits for it. Jobs of other kinds are
    /// unchanged. Default: a prompt may go into a batch.
    pub fn direct(mut self) -> Self {
        if self.kind == COMPLETION_KIND {
            self.kind = DIRECT_COMPLETION_KIND.to_owned();
        }
        self
    }

    /// 1 to 10, higher ones first: critical 10, high 7 to 9, normal 4 to 6, low 1 to 3. One of every 8 jobs that a
    /// worker starts is the oldest due job of any priority. So a job waits for at most 8 starts per job that came due
    /// before it, regardless of jobs with a higher priority. Default: 5.
    ///
    /// # Panics
    /// If the priority is not one of [`PRIORITIES`].
    pub fn priority(mut self, priority: u8) -> Self {
        assert!(
            PRIORITIES.contains(&priority),
            "a priority must be between 1 and 10"
        );
        self.priority = priority;
        self
    }
}

/// Number of jobs of a process by state. Always `total = pending + in_progress + at_provider + completed + failed +
/// cancelled`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobCounts {
    /// All jobs that were enqueued, including those whose results were consumed.
    pub total: u64,
    /// Waiting.
    pub pending: u64,
    /// A worker processes them.
    pub in_progress: u64,
    /// In a batch at the provider.
    pub at_provider: u64,
    /// With a result.
    pub completed: u64,
    /// Failed permanently.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Jobs whose results were consumed; they are no longer stored, and are included in the previous three.
    pub consumed: u64,
}

impl JobCounts {
    /// Jobs with an outcome.
    pub fn finished(&self) -> u64 {
        self.completed + self.failed + self.cancelled
    }

    /// Whether every job has an outcome.
    pub fn is_finished(&self) -> bool {
        self.finished() == self.total
    }
}

/// Tokens and cost of the jobs of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spent {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// The cost, without the `unpriced` jobs; `None` if there are no others.
    pub cost_usd: Option<Usd>,
    /// Jobs of unknown cost.
    pub unpriced: u64,
}

/// A process of the queue with the states of its jobs: the jobs that a caller enqueued under a [`ProcessId`]. It is
/// not an OS process, and outlives the OS process that enqueued it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ProcessState {
    /// Its id.
    pub process_id: ProcessId,
    /// False while an iterator is being enqueued, or after that was interrupted. Jobs added after the last seal do
    /// not start then.
    pub sealed: bool,
    /// True once it was cancelled.
    #[serde(rename = "is_cancelled")]
    pub cancelled: bool,
    /// Number of jobs by state.
    #[serde(flatten)]
    pub counts: JobCounts,
    /// What its jobs have used.
    #[serde(flatten)]
    pub spent: Spent,
    /// When its first job was enqueued.
    pub created_at: Timestamp,
    /// When one of its jobs last changed.
    pub changed_at: Timestamp,
    /// The host's description.
    #[serde(flatten)]
    pub info: ProcessInfo,
    /// Its budget, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<ProcessBudget>,
}

impl ProcessState {
    /// True if it is sealed and every job has ended.
    pub fn is_finished(&self) -> bool {
        self.sealed && self.counts.is_finished()
    }
}

/// Number of jobs of a queue by state, and of their processes, including child jobs and their processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueTotals {
    /// Number of jobs by state.
    pub jobs: JobCounts,
    /// Processes that have jobs or results in the queue.
    pub processes: u64,
    /// Those that are not finished.
    pub open: u64,
    /// What the jobs have cost, without the `unpriced` ones; `None` if there are no others.
    pub cost_usd: Option<Usd>,
    /// Jobs of unknown cost.
    pub unpriced: u64,
}

/// A claim on a job. Each change of the job raises the number, so an old receipt has no effect on a later claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobReceipt {
    /// The job's key: the number of its process in the store, shifted left by 32 bits, plus its index in the process,
    /// from 0. Never reused.
    pub job: i64,
    /// The number of the claim.
    pub claim: i64,
}

impl JobReceipt {
    /// Index of the job in its process; unique while the job is stored.
    pub fn number(&self) -> u32 {
        (self.job & i64::from(u32::MAX)) as u32
    }
}

/// One job, as [`JobQueue::job`](crate::queue::Store::job) returns it. Its `Debug` output omits the result.
// More than 15 fields: each is public, and a field of the JSON that a caller reads.
#[derive(Clone, derive_more::Debug, Serialize)]
#[non_exhaustive]
pub struct JobState {
    /// Its id.
    pub job_id: JobId,
    /// The process it belongs to.
    pub process_id: ProcessId,
    /// Its kind.
    #[debug("{:?}", Name(kind))]
    pub kind: String,
    /// Its [lane](Job::lane); for prompts, the model that they name.
    #[debug("{:?}", lane.as_deref().map(Name))]
    pub lane: Option<String>,
    /// Your own name for the job.
    #[debug("{:?}", item_id.as_deref().map(Name))]
    pub item_id: Option<String>,
    /// Its state.
    pub status: JobStatus,
    /// Whether it is in a batch at a provider.
    pub at_provider: bool,
    /// 1 to 10.
    pub priority: u8,
    /// Its step of the route.
    pub step: u8,
    /// Calls made for it so far.
    pub attempts: u32,
    /// How often its worker crashed while it had the job.
    pub crashes: u8,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When it may start, while it waits.
    pub due_at: Option<Timestamp>,
    /// Its result, if it is completed.
    #[debug("{:?}", result.as_ref().map(|json| Bytes(json.get().len())))]
    pub result: Option<Box<RawValue>>,
    /// Its error, if it failed.
    pub error: Option<Error>,
    /// Errors of earlier attempts; the last five.
    #[debug("{:?}", Many(errors.len()))]
    pub errors: Vec<AttemptError>,
    /// States of its [child jobs](crate::queue::Children), of all stages so far; `None` without children, and once it
    /// has its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<JobCounts>,
    /// Receipt for [`ack`](crate::JobQueue::ack), once it has its outcome.
    #[serde(skip)]
    pub receipt: Option<JobReceipt>,
}

/// Error of an attempt that was not the last one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttemptError {
    /// The step of the route.
    pub step: u8,
    /// End of the attempt.
    pub at: Timestamp,
    /// Kind, status and message; the message is cut to 300 characters.
    pub error: Error,
}

/// Which jobs [`JobQueue::find`](crate::queue::Store::find) returns: those that meet all conditions that are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only jobs of this process.
    pub process: Option<ProcessId>,
    /// Only jobs in this state.
    pub status: Option<JobStatus>,
    /// Only jobs in a batch at a provider (true), or only jobs that are not (false).
    pub at_provider: Option<bool>,
    /// Only jobs of this kind.
    pub kind: Option<String>,
}

/// Some of the jobs that a [`JobFilter`] selects.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    /// The jobs, without their results and without the errors of earlier attempts.
    pub jobs: Vec<JobState>,
    /// Where the search continues, if it has not looked at all jobs. It can be set although this page is empty.
    pub next: Option<JobId>,
}

/// The result line of a job of the host's own kind.
#[derive(Serialize)]
struct HostLine<'a> {
    id: &'a str,
    success: bool,
    kind: &'a str,
    result: Option<&'a RawValue>,
    attempts: u32,
    request_hash: Option<&'a str>,
    error: Option<Error>,
}

/// The result of a job. Its `Debug` output shows only the length of the result.
#[derive(Clone, derive_more::Debug, Serialize)]
pub struct JobResult {
    /// The job.
    pub job_id: JobId,
    /// The process it belongs to.
    pub process_id: ProcessId,
    /// Your own name for the job.
    #[debug("{:?}", item_id.as_deref().map(Name))]
    pub item_id: Option<String>,
    /// Your own hash of the request.
    #[debug(skip)]
    pub request_hash: Option<String>,
    /// Its kind.
    #[debug("{:?}", Name(kind))]
    pub kind: String,
    /// Completed, failed or cancelled.
    pub status: JobStatus,
    /// The result of its handler; for the built-in kinds the result line, also after a failure.
    #[debug("{:?}", result.as_ref().map(|json| Bytes(json.get().len())))]
    pub result: Option<Box<RawValue>>,
    /// Its error, if it failed.
    pub error: Option<Error>,
    /// Calls made for it.
    pub attempts: u32,
}

impl JobResult {
    /// True when the job was completed.
    pub fn is_success(&self) -> bool {
        self.status == JobStatus::Completed
    }

    /// The result line without its line end: for the built-in kinds what [`Outcome`](crate::Outcome) serializes to.
    /// Lines of other kinds have `kind` and `result` instead of the fields of an answer.
    pub fn line(&self) -> String {
        let built_in =
            [COMPLETION_KIND, DIRECT_COMPLETION_KIND, EMBEDDING_KIND].contains(&self.kind.as_str());
        let made = self.result.as_ref().map(|result| result.get());
        // A host may have its own handler under that name, whose results are not result lines.
        if let Some(line) = made.filter(|line| built_in && line.starts_with("{\"id\":\"")) {
            return line.to_owned();
        }
        let id = self.item_id.clone();
        let id = id.unwrap_or_else(|| self.job_id.to_string());
        let error = self.error.clone();
        let line = match (built_in && made.is_none(), error) {
            (true, Some(error)) => {
                let outcome = Outcome {
                    request_hash: self.request_hash.clone(),
                    attempts: self.attempts,
                    ..Outcome::new(Some(id), Err(error))
                };
                serde_json::to_string(&outcome)
            }
            (_, error) => serde_json::to_string(&HostLine {
                id: &id,
                success: self.is_success(),
                kind: &self.kind,
                result: self.result.as_deref(),
                attempts: self.attempts,
                request_hash: self.request_hash.as_deref(),
                error,
            }),
        };
        // Serializing strings, numbers and valid JSON cannot fail. JSON strings contain no line ends, and elsewhere
        // they are whitespace.
        line.unwrap_or_default().replace(['\n', '\r'], " ")
    }

    /// The result as your own type.
    ///
    /// # Errors
    /// The job's own error if it has no result; [`ErrorKind::Malformed`] if the result does not have this type.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let text = self.result.as_ref().map_or("null", |result| result.get());
        serde_json::from_str(text).map_err(|error| {
            let why = format!("the result of job {}: {error}", self.job_id);
            Error::new(ErrorKind::Malformed, why)
        })
    }
}

// The states of a job.

/// The state of a job.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobStatus {
    /// The job waits for a worker, for its due time, or until its process is sealed.
    Pending,
    /// A worker processes it.
    InProgress,
    /// It has its result.
    Completed,
    /// The job failed permanently.
    Failed,
    /// The job was cancelled before it ended.
    Cancelled,
}

impl JobStatus {
    /// True if the state is final, except for a requeue.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// What was spent on calls.

/// What was spent on a model on a day. It stays in the queue when the jobs and their results are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DaySpent {
    /// The day (UTC) on which the ends of the calls were recorded.
    pub day: Day,
    /// The model, as named by the replies, or by the requests if the replies name none; empty if it is unknown.
    pub model: String,
    /// Calls that were billed, failed ones included. Each request in a batch counts.
    pub calls: u64,
    /// Input and output tokens.
    pub tokens: u64,
    /// The cost of the calls whose cost is known.
    pub cost_usd: Usd,
}
