//! batchwright over HTTP, on blocking threads: a job API, a Batch endpoint in OpenAI's format, and a dashboard,
//! together with a worker that processes the jobs.
//!
//! ```
//! use batchwright::{Handler, JobQueue, Worker};
//! use batchwright_server::Server;
//! let folder = tempfile::tempdir()?;
//! let queue = JobQueue::open(&folder.path().join("llm_jobs.db"))?;
//! let worker = Worker::new(&queue).handle("shout", Handler::new(|job, _| {
//!     Ok(job.parse::<String>()?.to_uppercase())
//! }));
//! let server = Server::new(queue, worker).address(([127, 0, 0, 1], 0).into()).start()?;
//! println!("listening at http://{}", server.address());
//! server.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
#[cfg(test)]
mod access_tests;
mod api;
mod app;
mod background;
mod dashboard;
mod events;
mod http;
mod observe;
mod openai;
mod problem;
mod records;
mod restore;
mod route;
mod router;
mod server;
mod settings;
mod shapes;
#[cfg(test)]
#[path = "../../../src/base/steps.rs"]
mod steps;
mod watcher;
mod webhooks;

pub use access::{Role, new_token};
pub use restore::{has_batch, restore};
pub use server::{RunningServer, Server, raise_file_limit};
