//! Takes thousands of LLM prompts to completion, loses none, and pays for each once.
//!
//! Blocking threads, no async runtime. One failure costs one item; retries, rate limits and
//! fallback are the engine's business; a run can be cancelled down to connections blocked in a
//! read.
//!
//! ```
//! use batchwright::{Context, Extract, Request, execute_bulk_sync};
//!
//! // `LlmConfig::new("openai").model("…").client()?` instead of `Extract` asks a real model.
//! let requests = ["Name a prime.", "Name a river."].map(Request::new);
//! for outcome in execute_bulk_sync(&Context::new(), &Extract, &requests, 5)? {
//!     match outcome.result {
//!         Ok(answer) => println!("{}", answer.text),
//!         Err(error) => println!("failed ({}): {error}", error.kind()),
//!     }
//! }
//! # Ok::<(), batchwright::BulkError>(())
//! ```
//!
//! # Ways in
//!
//! | to | use |
//! |---|---|
//! | run a list of prompts | [`execute_bulk_sync`], or [`Bulk::collect`] with options |
//! | run any number of prompts in little memory | [`Bulk::for_each`], or [`Bulk::spawn`] for an iterator over outcomes |
//! | make vectors of texts, many with each call | the same with [`Request::embedding`] |
//! | run a file with a resumable output, as the `batchwright` program does | [`Prompts`], [`FileRun`] |
//! | make one call with limits, retries and fallback | [`Route::complete`] |
//! | take settings from flags, environment and a store, and follow its changes | [`Settings`], [`SettingsWatch`] |
#![cfg_attr(
    feature = "queue",
    doc = "| hand prompts to a queue that survives restarts | [`JobQueue`] and [`Worker`]; the [guide](queue_guide) |
| pay half, and have the answers by tomorrow | [`Worker::batches`], [`LlmManager::run_bulk`]; the [guide](batch_guide) |
| carry out work of your own kinds on that queue | [`Handler`] |"
)]
//! | ask a service of your own | implement [`LlmClient`], or wrap a closure with [`client_fn`] |
//!
//! # What decides what
//!
//! A provider's client classifies each failure as an [`ErrorKind`]; the kind decides whether the
//! item is tried again, goes to the next provider of its [`Route`], or fails. A rate-limit answer
//! pauses everything that shares its quota ([`QuotaKey`]), and so does a server that still loads its
//! model ([`Error::with_not_ready`]); any other `Retry-After` delays that item alone. A waiting item
//! holds no thread. [`ErrorPolicy`] says what one item's failure means for the others, a
//! [`Context`] carries cancellation, deadline and grace.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `queue` | yes | the durable queue in an SQLite file, batches, and settings in a file that processes share |
//! | `bundled` | yes | SQLite compiled in; without it, `queue` links the system's library |
//! | `schema` | no | answers are checked against the JSON Schema asked for, at the price of forty crates more; without it, only for being JSON |
//!
//! A provider on the loopback interface for your tests, with latency, limits and trouble, is the crate
//! `batchwright-simulate`; the program `batchwright` is the crate `batchwright-cli`.
//!
//! # Logging
//!
//! Through the `log` crate: `warn` for settings and schemas that are ignored, `info` for repairs of an
//! output file. Prompts, answers and credentials are never logged.

mod base;
#[cfg(test)]
mod brief_tests;
mod bulk;
mod config;
mod engine;
mod llm;
mod manager;
mod observe;
#[cfg(feature = "queue")]
mod queue;
#[cfg(feature = "queue")]
mod queue_run;
pub mod testing;

pub use base::cancel::{Context, Subscription};
pub use base::clock::{Clock, SystemClock, Time, Wake, Wall};
pub use base::error::{Error, ErrorKind, Sent};
pub use base::hints::{RateHints, Window};
pub use base::id::{JobId, ProcessId};
pub use base::secret::{Secret, shown_url};
pub use base::sidecar_path::sidecar_path;
pub use base::usage::Usage;
pub use bulk::appender::ResultsAppender;
pub use bulk::file::FileRun;
pub use bulk::options::{FileRunError, FileRunOptions, Output, Plan, Report};
pub use bulk::prompts::{InputFormat, PromptSettings, Prompts};
pub use bulk::requests::Requests;
pub use bulk::run::{Bulk, BulkError, Outcomes, execute_bulk_sync};
pub use config::choices::{OnUnknown, Strategy};
pub use config::key::Key;
pub use config::settings::{Setting, Settings, Source};
#[cfg(feature = "queue")]
pub use config::sqlite::SqliteConfig;
pub use config::store::{ConfigStore, MemoryConfig};
pub use config::watch::SettingsWatch;
pub use engine::bottleneck::Bounds;
pub use engine::dispatch::{ErrorPolicy, StopReason};
pub use engine::limiter::{Limits, QuotaKey};
pub use engine::pack::PackLimits;
pub use engine::route::RetryPolicy;
pub use llm::batch::{
    BatchAccount, BatchClient, BatchCounts, BatchInput, BatchIntent, BatchLimits, BatchLine,
    BatchLineResult, BatchStage, BatchState, BatchStatus, Found, Refused,
};
pub use llm::client::{LlmClient, client_fn};
pub use llm::hash::request_hash;
pub use llm::providers::batch::BatchApi;
pub use llm::providers::config::{Client, LlmConfig};
pub use llm::providers::extract::{EXTRACT_CHARS, Extract};
pub use llm::providers::local::{LocalServer, ServerState};
pub use llm::providers::survey::{ProviderStatus, inspect, keys_set, survey};
pub use llm::request::{Message, Params, Request, ResponseFormat, Role, Task};
pub use llm::response::{Earlier, FinishReason, Outcome, Response};
pub use llm::route::Route;
pub use llm::transport::{
    Headers, HttpReply, HttpRequest, HttpTransport, Method, ReplyShare, Transfer, Transport,
};
pub use llm::user_data::UserData;
pub use manager::{Effective, LlmManager, clients_by_account, clients_by_address};
pub use observe::progress::{Phase, Progress, ProgressNotifier};
pub use observe::tally::Summary;
#[cfg(feature = "queue")]
pub use queue::batch::{BatchAdoption, BatchClients, BatchInfo, BatchSettings, UncollectedResults};
#[cfg(feature = "queue")]
pub use queue::handler::{Handler, RunningJob};
#[cfg(feature = "queue")]
pub use queue::host::{ConsumeError, EnqueueError, JobQueue, Results};
#[cfg(feature = "queue")]
pub use queue::info::ProcessInfo;
#[cfg(feature = "queue")]
pub use queue::job::{
    AttemptError, COMPLETION, Counts, EMBEDDING, Job, JobResult, JobState, JobStatus, PRIORITIES,
    ProcessState, Spent,
};
#[cfg(feature = "queue")]
pub use queue::scale::Scale;
#[cfg(feature = "queue")]
pub use queue::store::sqlite::{Durability, SqliteOptions, SqliteStore};
#[cfg(feature = "queue")]
pub use queue::store::{
    Batch, BatchNo, ClaimOutcome, Claimed, Claims, Delivery, Filled, Finding, Item, JobStore, Lane,
    MOST_CRASHES, OnWork, Receipt, SUSPECT_CRASHES, Settlement, Taking, Verdict, Waiting, Wanted,
    WorkerId,
};
#[cfg(feature = "queue")]
pub use queue::tracker::Tracker;
#[cfg(feature = "queue")]
pub use queue::worker::{RunningWorker, Worker};
#[cfg(feature = "queue")]
pub use queue::worker_run::WorkerReport;

#[cfg(feature = "queue")]
pub use queue_run::{QueuedReport, QueuedRun, Sidecar, Taken, file_id};

#[cfg(feature = "queue")]
#[doc = include_str!("../docs/queue.md")]
pub mod queue_guide {}

#[cfg(feature = "queue")]
#[doc = include_str!("../docs/batch.md")]
pub mod batch_guide {}

/// The programs in the README and in the book compile.
#[cfg(all(doctest, feature = "queue"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/library.md")]
    struct Library;
}
