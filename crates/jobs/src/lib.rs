//! Types of jobs that are common in services around models, for the [queue](batchwright::queue) of batchwright.
//!
//! A type defines the fields of a payload, the default priority of its jobs, and how they are run: by code, or by a
//! model call with the quota, fallback and retries of its route. [`JobTypes`] contains the built-in types, and a
//! host can add its own; programs that enqueue jobs and workers use the same one. The [recipes](guide) show a
//! payload and a result of each type.
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
//! | read the lines of a file, and name their jobs | [`JobLines`], [`JobNames`] |
//! | know why a payload is refused | [`PayloadError`] |

mod articles;
mod audio;
mod batch_process;
mod calculate_similarity;
mod extract_content;
mod fields;
mod generate_podcast;
mod job_type;
mod lines;
#[cfg(feature = "pages")]
mod page;
mod prompts;
#[cfg(test)]
mod refused_payloads_tests;
mod summarize;
mod text;
mod types;
mod validate_summary;

pub use fields::PayloadError;
pub use job_type::JobType;
pub use lines::{JobLines, JobNames};
pub use types::JobTypes;

#[doc = include_str!("../../../docs/jobs.md")]
pub mod guide {}
