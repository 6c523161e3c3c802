//! The durable queue: jobs in a database, workers that carry them out, and hosts that enqueue them and
//! take the results.
//!
//! [`JobQueue`](crate::JobQueue) is the host's side, [`Worker`](crate::Worker) the other. Start with the
//! [guide](crate::queue_guide).
//!
//! | to | use |
//! |---|---|
//! | say what a process is for, for people | [`ProcessInfo`] |
//! | see how far a process is | [`ProcessState`], [`JobCounts`], [`Spent`]; all together [`QueueTotals`]; as progress with [`ProcessTracker`] |
//! | see where the time of a process went | [`ProcessTime`] |
//! | look at one job | [`JobState`], [`JobStatus`], [`AttemptError`]; briefly [`JobSummary`] |
//! | take results | [`ProcessResults`], [`JobResult`]; in two steps [`DeliveredResult`], [`JobReceipt`] |
//! | see why adding or taking ended early | [`EnqueueError`], [`ConsumeError`] |
//! | say how many jobs run at once, and how patiently | [`WorkerScale`], [`WorkerSettings`] |
//! | see what a worker did | [`WorkerReport`] |
//! | see which workers there are, and what they hold | [`WorkerInfo`], [`WorkerStatus`] |
//! | see what the providers of a running worker allow | [`WorkerLimits`] |
//! | have each job of a kind be one call of a model | [`ModelCall`] |
//! | give a worker several kinds of jobs together | [`JobKinds`] |
//! | have a job wait for others that it makes | [`Children`]; the process of these names its [`ParentJob`] |
//! | know what shares a quota | [`JobLane`] |
//! | know the kinds of prompts, and the priorities that jobs may have | [`COMPLETION_KIND`], [`DIRECT_COMPLETION_KIND`], [`EMBEDDING_KIND`], [`PRIORITIES`] |
//! | choose how the database is opened | [`SqliteOptions`], [`Durability`], [`SqliteStore`] |
#![cfg_attr(
    feature = "mysql",
    doc = "| have it on a server, for workers on many machines | [`MysqlOptions`], [`MysqlStore`]; its settings: [`MysqlConfig`] |"
)]
#![cfg_attr(
    feature = "redis",
    doc = "| have the workers of such a server wake each other | [`RedisHub`], [`RedisOptions`] |"
)]
//! | look at its health | [`HealthFinding`], [`Severity`] |
//! | move a queue to another store | [`MoveOptions`], [`MoveProgress`], [`MoveReport`] |
//! | put the queue on a database of your own | [`unstable::JobStore`](crate::unstable::JobStore) |

mod backlog;
pub(crate) mod batch;
pub(crate) mod children;
mod claim_plan;
mod consume;
pub(crate) mod controls;
mod due_times;
#[cfg(all(test, feature = "redis"))]
mod fleet_simulation;
pub(crate) mod handler;
mod history;
pub(crate) mod host;
pub(crate) mod info;
pub(crate) mod job;
pub(crate) mod job_kinds;
mod kind;
mod kinds;
mod live;
mod maintenance;
#[cfg(feature = "metrics")]
mod metrics;
pub(crate) mod model_call;
mod moving;
pub(crate) mod process_time;
mod progress_reporter;
mod prompt_job;
pub(crate) mod prompts;
pub(crate) mod scale;
pub(crate) mod settings;
#[cfg(test)]
mod simulation;
pub(crate) mod store;
mod task;
pub(crate) mod tracker;
mod work;
pub(crate) mod worker;
mod worker_limits;
pub(crate) mod worker_run;

#[cfg(feature = "redis")]
pub use crate::hub::{RedisHub, RedisOptions};
pub use children::Children;
pub use consume::{ConsumeError, ProcessResults};
pub use host::EnqueueError;
pub use info::{ParentJob, ProcessInfo};
pub use job::{
    AttemptError, COMPLETION_KIND, DIRECT_COMPLETION_KIND, EMBEDDING_KIND, JobCounts, JobResult,
    JobState, JobStatus, PRIORITIES, ProcessState, QueueTotals, Spent,
};
pub use job_kinds::JobKinds;
pub use model_call::ModelCall;
pub use moving::{MoveOptions, MoveProgress, MoveReport};
pub use process_time::ProcessTime;
pub use scale::WorkerScale;
pub use settings::WorkerSettings;
#[cfg(feature = "mysql")]
pub use store::mysql::{MysqlConfig, MysqlOptions, MysqlStore};
pub use store::sqlite::{Durability, SqliteOptions, SqliteStore};
pub use store::{
    DeliveredResult, HealthFinding, JobLane, JobReceipt, JobSummary, Severity, WorkerInfo,
    WorkerStatus,
};
pub use tracker::ProcessTracker;
pub use worker_limits::WorkerLimits;
pub use worker_run::WorkerReport;
