//! Runs thousands of LLM prompts, resumes after a crash, and pays for each answer once.
//!
//! The crate uses blocking threads and no async runtime. One failure costs one item. The engine handles retries,
//! rate limits and fallback. Cancelling a run also ends connections that are blocked in a read.
//!
//! ```
//! use batchwright::{Context, Extract, Request, execute_bulk_sync};
//!
//! // For a real model, replace `Extract` by `LlmConfig::new("openai").model("…").client()?`.
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
//! # Choosing an entry point
//!
//! | to | use |
//! |---|---|
//! | run a list of prompts | [`execute_bulk_sync`], or [`Bulk::collect`] with options |
//! | run any number of prompts in little memory | [`Bulk::for_each`], or [`Bulk::spawn`] for an iterator over outcomes |
//! | embed texts, many with each call | the same with [`Request::embedding`] |
//! | run a file with a resumable output, as the `batchwright` program does | [`Prompts`], [`FileRun`] |
//! | make one call with limits, retries and fallback | [`Route::complete`] |
//! | read settings from flags, environment and a store, and follow changes of the store | [`Settings`], [`LlmManager`]; changes with [`config::SettingsWatch`] and [`LlmManager::follow`] |
#![cfg_attr(
    feature = "queue",
    doc = "| submit prompts to a queue that survives restarts | [`JobQueue`] and [`Worker`]; the [guide](queue_guide) |
| pay half the price and get the answers within a day | [`Worker::batches`], [`LlmManager::run_bulk`]; the [guide](batch_guide) |
| run your own kinds of jobs on that queue | [`Handler`] |"
)]
//! | call your own service | implement [`LlmClient`], or wrap a closure with [`client_fn`] |
//!
//! # Modules
//!
//! The root has the names that a first program needs. The other names are in modules by topic:
//!
//! | module | contents |
//! |---|---|
//! | [`client`] | for your own clients: quotas, limits in replies, details of requests, answers and errors |
//! | [`provider`] | which providers are usable, and what the others lack; local servers |
//! | [`files`] | runs from a file of prompts to a file of results |
#![cfg_attr(
    feature = "queue",
    doc = "| [`queue`] | processes, jobs and results of the durable queue; SQLite |"
)]
//! | [`batch`] | Batch APIs and open batches |
//! | [`config`] | settings, the sources of their values, and their stores |
//! | [`plan`] | from settings to work: providers, strategy, routes, workers |
//! | [`progress`] | the progress of a run, and what limits it |
#![cfg_attr(
    feature = "files",
    doc = "| [`processing`] | files processed in bulk, by your function or by a model |
| [`sources`] | source files below a folder: found, filtered, split into functions, classes or lines |"
)]
//! | [`testing`] | for tests of your programs: a scripted client, a manual clock, rules for job stores |
//! | [`unstable`] | traits and types that may change in any release: [`Transport`](unstable::Transport), [`Clock`](unstable::Clock), [`BatchClient`](unstable::BatchClient) |
//!
//! # Failures
//!
//! A provider's client classifies each failure as an [`ErrorKind`]. The kind decides whether the item is retried, fails
//! over to the next provider of its [`Route`], or fails. A 429 pauses all calls of its quota
//! ([`client::QuotaKey`]). If other calls of the quota are answered, it reduces the calls in flight instead. A server that
//! loads its model ([`Error::with_not_ready`]) pauses its quota too. Any other `Retry-After` delays only its item. A
//! waiting item occupies no thread. [`ErrorPolicy`] decides whether the failure of an item stops the run. A [`Context`]
//! has the cancellation, the deadline and the grace period.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `queue` | yes | the durable queue in an SQLite file, batches, and settings in a file that OS processes share |
//! | `bundled` | yes | SQLite compiled in; without it, `queue` links the system's library |
//! | `metrics` | no | counts and times in the text format of Prometheus |
//! | `mysql` | no | the queue in MySQL or MariaDB, for workers on many machines |
//! | `redis` | no | wake-ups of such workers, through Redis or Valkey |
//! | `tables` | no | Parquet and `.xlsx` files as inputs and as tables of results |
//! | `files` | no | folders of source files (module `sources`) and their processing (module `processing`); the parsers need a C compiler |
//! | `templates` | no | blocks and filters of Jinja in prompt templates |
//! | `schema` | no | checks answers against the requested JSON Schema, and adds 40 crates; without it, batchwright only checks that the answer is JSON |
//!
//! Related crates: `batchwright-simulate` is a simulated provider on the loopback interface for your tests, with latency,
//! limits and errors. `batchwright-jobs` has job types for services. `batchwright-exec` runs commands in parallel, each in a
//! sandbox. `batchwright-cli` is the program `batchwright`.
//!
//! # Logging
//!
//! The crate logs through the `log` crate. `warn` reports for example ignored settings and providers that are no longer
//! called. `info` reports retries, failovers and repairs. Prompts, answers and credentials are never logged.

// Without the queue, helpers that only it uses are dead code. Marking each of them would cost a hundred attributes.
#![cfg_attr(not(feature = "queue"), allow(dead_code, unused_imports))]

mod assembly;
mod base;
pub mod batch;
#[cfg(test)]
mod brief_tests;
mod bulk;
pub mod client;
pub mod config;
mod engine;
pub mod files;
mod llm;
mod observe;
pub mod plan;
mod pool;
#[cfg(feature = "files")]
pub mod processing;
pub mod progress;
pub mod provider;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "files")]
pub mod sources;
pub mod testing;
pub mod unstable;

pub use assembly::LlmManager;
pub use base::cancel::Context;
pub use base::error::{Error, ErrorKind};
pub use base::id::{JobId, ProcessId};
pub use base::secret::Secret;
pub use base::usage::{Usage, Usd};
pub use bulk::file::FileRun;
pub use bulk::options::FileRunOptions;
pub use bulk::prompts::Prompts;
pub use bulk::run::{Bulk, BulkError, Outcomes, execute_bulk_sync};
pub use config::choices::Strategy;
pub use config::settings::Settings;
pub use engine::budget::Budget;
pub use engine::dispatch::{ErrorPolicy, StopReason};
pub use engine::limiter::Limits;
pub use engine::route::RetryPolicy;
pub use llm::client::{Client, LlmClient, client_fn};
pub use llm::estimate::Estimate;
pub use llm::outcome::Outcome;
pub use llm::params::{Params, ResponseFormat};
pub use llm::prices::Prices;
pub use llm::providers::config::LlmConfig;
pub use llm::providers::extract::Extract;
pub use llm::request::{Message, Request, Role};
pub use llm::response::{FinishReason, Response};
pub use llm::route::Route;
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
