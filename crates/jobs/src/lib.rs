//! Types of jobs that services around models have in common, for the [queue](batchwright::queue) of batchwright.
//!
//! A type says what a payload may hold, how urgent its jobs are by default, and how they are carried out: by code, or by a
//! call of a model with the quota, fallback and retries of its route. [`JobTypes`] has the built-in types and takes a
//! host's own; those who enqueue jobs and those who work on them use the same. The [recipes](guide) show a payload and a
//! result of each.
//!
//! ```
//! use batchwright::{Extract, JobQueue, ProcessId, Route, Worker};
//! use batchwright_jobs::JobTypes;
//! use serde_json::{Value, json};
//! let types = JobTypes::new();
//! let queue = JobQueue::in_memory()?;
//! let process = ProcessId::new();
//! let article = json!({"article_id": "a-1", "content": "It rained all day. Nobody went out."});
//! queue.enqueue(process, [types.job("summarize", article)?])?;
//! // `LlmManager::job_types` uses the route of your settings instead.
//! Worker::new(&queue).job_types(&types, Route::new(Extract)).until_empty(true).run()?;
//! for result in queue.get_results(process) {
//!     println!("{}", result?.parse::<Value>()?["summary"]);
//! }
//! // A wrong payload is refused before it is on the queue, with its field named.
//! let error = types.job("summarize", json!({"article_id": 7})).unwrap_err();
//! assert_eq!(error.field, "article_id");
//! # Ok::<(), batchwright::Error>(())
//! ```
//!
//! | to | use |
//! |---|---|
//! | have all types, and add your own | [`JobTypes`], [`JobType`] |
//! | know why a payload is refused | [`PayloadError`] |

mod articles;
mod audio;
mod batch_process;
mod calculate_similarity;
mod extract_content;
mod fields;
mod generate_podcast;
mod job_type;
mod prompts;
#[cfg(test)]
mod refused_payloads_tests;
mod script;
mod speech;
mod summarize;
mod text;
mod time;
mod types;
mod validate_summary;

pub use fields::PayloadError;
pub use job_type::JobType;
pub use types::JobTypes;

#[doc = include_str!("../../../docs/jobs.md")]
pub mod guide {}
