//! The durable queue: jobs in a database, workers that process them, and hosts that enqueue them and fetch the results.
//!
//! [`JobQueue`](crate::JobQueue) is the interface for hosts, [`Worker`](crate::Worker) the one for workers. Start with
//! the [guide](crate::queue_guide).
//!
//! | to | use |
//! |---|---|
//! | describe a process for people | [`ProcessInfo`] |
//! | see the progress of a process | [`ProcessState`], [`JobCounts`], [`Spent`]; of all processes, [`QueueTotals`]; as progress with [`ProcessTracker`] |
//! | see what was spent on each model on each day | [`DaySpent`], by [`JobQueue::spent_since`](crate::queue::Store::spent_since) |
//! | look at one job | [`JobState`], [`JobStatus`], [`AttemptError`]; briefly [`JobSummary`] |
//! | read jobs by process, state and kind | [`JobFilter`], [`JobPage`] |
//! | limit what the jobs of a process may cost | [`ProcessBudget`] |
//! | fetch results | [`JobResult`]; in two steps [`DeliveredResult`], [`JobReceipt`] |
//! | see why enqueueing or fetching ended early | [`EnqueueError`], [`ConsumeError`] |
//! | set the number of jobs at once, retries and intervals | [`WorkerScale`], [`WorkerSettings`] |
//! | see what a worker did | [`WorkerReport`] |
//! | see the limits of a running worker's providers | [`WorkerLimits`] |
//! | make each job of a kind one call of a model | [`ModelCall`] |
//! | add several kinds of jobs to a worker | [`JobKinds`] |
//! | let a job wait for other jobs that it creates | [`Children`]; their process names its [`ParentJob`] |
//! | see which jobs share a quota | [`JobLane`] |
//! | see the kinds of prompts, and the priorities of jobs | [`COMPLETION_KIND`], [`DIRECT_COMPLETION_KIND`], [`EMBEDDING_KIND`], [`PRIORITIES`] |
//! | set how the database is opened | [`Store`], [`SqliteOptions`], [`Durability`] |
#![cfg_attr(
    feature = "mysql",
    doc = "| use a database server, for workers on many machines | [`MysqlOptions`] |"
)]
#![cfg_attr(
    feature = "redis",
    doc = "| wake the workers of such a server | [`RedisHub`], [`RedisOptions`] |"
)]
//! | delete nothing for its age because of a wrong clock | [`TrustedTime`] |
//! | check the health of the queue | [`HealthFinding`], [`Severity`] |

pub(crate) mod account;
mod backlog;
pub(crate) mod batch;
pub(crate) mod budgets;
mod claim_plan;
mod consume;
pub(crate) mod controls;
#[cfg(test)]
mod fleet_simulation;
pub(crate) mod handler;
mod history;
pub(crate) mod host;
#[cfg(feature = "redis")]
pub(crate) mod hub;
pub(crate) mod info;
pub(crate) mod job;
pub(crate) mod kind;
pub(crate) mod kinds;
mod maintenance;
#[cfg(feature = "metrics")]
mod metrics;
mod operate;
pub(crate) mod progress_reporter;
pub(crate) mod prompt_job;
pub(crate) mod prompts;
pub(crate) mod run;
pub(crate) mod scale;
#[cfg(test)]
mod simulation;
pub(crate) mod store;
#[cfg(test)]
mod store_use_tests;
mod work;
pub(crate) mod worker;
pub(crate) mod worker_run;

pub use crate::base::trusted_time::TrustedTime;
#[cfg(feature = "redis")]
pub use crate::queue::hub::{RedisHub, RedisOptions};
pub use consume::ConsumeError;
pub use controls::WorkerLimits;
pub use handler::Children;
pub use host::EnqueueError;
pub use info::{ParentJob, ProcessBudget, ProcessInfo};
pub use job::{
    AttemptError, COMPLETION_KIND, DIRECT_COMPLETION_KIND, DaySpent, EMBEDDING_KIND, JobCounts,
    JobFilter, JobPage, JobResult, JobState, JobStatus, PRIORITIES, ProcessState, QueueTotals,
    Spent,
};
pub use kind::{JobKinds, ModelCall};
pub use kinds::WorkerSettings;
pub use progress_reporter::ProcessTracker;
pub use scale::WorkerScale;
#[cfg(feature = "mysql")]
pub use store::mysql::MysqlOptions;
pub use store::sqlite::{Durability, SqliteOptions};
pub use store::{DeliveredResult, HealthFinding, JobLane, JobReceipt, JobSummary, Severity, Store};
pub use work::WorkerReport;
