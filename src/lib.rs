//! Runs thousands of LLM prompts, resumes after a crash, and pays for each answer once.
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
//! | take settings from flags, environment and a store, and follow its changes | [`Settings`], [`LlmManager`]; changes with [`config::SettingsWatch`] and [`LlmManager::follow`] |
#![cfg_attr(
    feature = "queue",
    doc = "| hand prompts to a queue that survives restarts | [`JobQueue`] and [`Worker`]; the [guide](queue_guide) |
| pay half, and have the answers by tomorrow | [`Worker::batches`], [`LlmManager::run_bulk`]; the [guide](batch_guide) |
| carry out work of your own kinds on that queue | [`Handler`] |"
)]
//! | ask a service of your own | implement [`LlmClient`], or wrap a closure with [`client_fn`] |
//!
//! # Where to find what
//!
//! At the root stands what a first program needs. The rest has a module by its topic:
//!
//! | module | what is there |
//! |---|---|
//! | [`client`] | for clients of your own: quotas, limits that replies name; the finer parts of requests, answers and errors |
//! | [`provider`] | which providers can be used here, and why the others cannot; local servers |
//! | [`files`] | runs from a file of prompts to a file of results |
#![cfg_attr(
    feature = "queue",
    doc = "| [`queue`] | processes, jobs and results of the durable queue; SQLite |"
)]
//! | [`batch`] | Batch APIs, and batches that are under way |
//! | [`config`] | settings, where their values come from, and where they are kept |
//! | [`plan`] | from settings to work: providers, strategy, routes, workers |
//! | [`progress`] | what a run is doing, and what holds it up |
#![cfg_attr(
    feature = "files",
    doc = "| [`processing`] | files processed in bulk, by a function of yours or by a model |
| [`sources`] | source files below a folder: found, filtered, split into functions, classes or lines |"
)]
//! | [`testing`] | for tests of your programs: a client with a script, a clock moved by hand, rules for job stores |
//! | [`unstable`] | seams that may change in any release: [`Transport`](unstable::Transport), [`Clock`](unstable::Clock), [`BatchClient`](unstable::BatchClient), `JobStore` |
//!
//! # What decides what
//!
//! A provider's client classifies each failure as an [`ErrorKind`]; the kind decides whether the
//! item is tried again, goes to the next provider of its [`Route`], or fails. A rate-limit answer
//! pauses everything that shares its quota ([`client::QuotaKey`]), unless others of it are being answered:
//! then fewer calls are made at once. So does a server that still loads its model ([`Error::with_not_ready`]); any other `Retry-After` delays that item alone. A waiting item
//! holds no thread. [`ErrorPolicy`] says what one item's failure means for the others, a
//! [`Context`] carries cancellation, deadline and grace.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `queue` | yes | the durable queue in an SQLite file, batches, and settings in a file that processes share |
//! | `bundled` | yes | SQLite compiled in; without it, `queue` links the system's library |
//! | `metrics` | no | counts and times in the text format of Prometheus |
//! | `mysql` | no | the queue in MySQL or MariaDB, for workers on many machines |
//! | `redis` | no | wake-ups and shared limits of such workers, through Redis or Valkey |
//! | `parquet` | no | Parquet files as inputs and as tables of results |
//! | `excel` | no | the same for `.xlsx` files |
//! | `files` | no | folders of source files: found, filtered and split, see `sources`; processed, see `processing`; its parsers need a C compiler |
//! | `templates` | no | blocks and filters in templates of prompts, in the language of Jinja |
//! | `schema` | no | answers are checked against the JSON Schema asked for, at the price of forty crates more; without it, only for being JSON |
//!
//! A provider on the loopback interface for your tests, with latency, limits and trouble, is the crate
//! `batchwright-simulate`; types of jobs that services have in common are `batchwright-jobs`; `batchwright-exec` runs commands in
//! parallel, each in a sandbox; the program `batchwright` is the crate `batchwright-cli`.
//!
//! # Logging
//!
//! Through the `log` crate: `warn` for what somebody should know, such as settings that are ignored and providers
//! that are not asked any more; `info` for retries, moves to the next provider, and repairs. Prompts, answers and credentials are never logged.

mod base;
pub mod batch;
#[cfg(test)]
mod brief_tests;
mod bulk;
pub mod client;
pub mod config;
mod engine;
mod export;
pub mod files;
#[cfg(feature = "redis")]
mod hub;
mod llm;
mod manager;
mod observe;
pub mod plan;
mod pool;
#[cfg(feature = "files")]
pub mod processing;
pub mod progress;
pub mod provider;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "queue")]
mod queue_run;
#[cfg(feature = "files")]
pub mod sources;
pub mod testing;
pub mod unstable;

pub use base::cancel::Context;
pub use base::error::{Error, ErrorKind};
pub use base::id::{JobId, ProcessId};
pub use base::secret::Secret;
pub use base::usage::Usage;
pub use bulk::file::FileRun;
pub use bulk::options::FileRunOptions;
pub use bulk::prompts::Prompts;
pub use bulk::run::{Bulk, BulkError, Outcomes, execute_bulk_sync};
pub use config::choices::Strategy;
pub use config::settings::Settings;
pub use engine::dispatch::{ErrorPolicy, StopReason};
pub use engine::limiter::Limits;
pub use engine::route::RetryPolicy;
pub use llm::client::{LlmClient, client_fn};
pub use llm::outcome::Outcome;
pub use llm::params::{Params, ResponseFormat};
pub use llm::providers::config::{Client, LlmConfig};
pub use llm::providers::extract::Extract;
pub use llm::request::{Message, Request, Role};
pub use llm::response::{FinishReason, Response};
pub use llm::route::Route;
pub use manager::LlmManager;
pub use observe::progress::{Progress, ProgressNotifier};
pub use observe::tally::Summary;
#[cfg(feature = "queue")]
pub use queue::handler::{Handler, RunningJob};
#[cfg(feature = "queue")]
pub use queue::host::JobQueue;
#[cfg(feature = "queue")]
pub use queue::job::Job;
#[cfg(feature = "queue")]
pub use queue::worker::{RunningWorker, Worker};

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
    #[doc = include_str!("../docs/tables.md")]
    struct Tables;
}
