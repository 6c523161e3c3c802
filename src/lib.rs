//! batchwright
#![forbid(unsafe_code)]
#![warn(missing_docs)]
mod base;
mod bulk;
mod engine;
mod llm;
mod observe;
#[cfg(feature = "simulate")]
pub mod simulate;
pub mod testing;
pub use base::cancel::{Context, Subscription};
pub use base::clock::{Clock, SystemClock, Time, Wake};
pub use base::error::{Error, ErrorKind, Sent};
pub use base::hints::{RateHints, Window};
pub use base::secret::{Secret, shown_url};
pub use bulk::file::{FileRun, FileRunError, FileRunOptions, Output, Plan, Report};
pub use bulk::prompts::{PromptSettings, Prompts};
pub use bulk::{Bulk, BulkError, Outcomes, execute_bulk_sync};
pub use engine::dispatch::{Bounds, ErrorPolicy, StopReason};
pub use engine::limit::{Limits, QuotaKey};
pub use engine::route::RetryPolicy;
pub use llm::client::{LlmClient, client_fn};
pub use llm::hash::request_hash;
pub use llm::providers::config::{Client, LlmConfig};
pub use llm::providers::extract::{EXTRACT_CHARS, Extract};
pub use llm::providers::survey::{ProviderStatus, inspect, survey};
pub use llm::request::{Message, Params, Request, ResponseFormat, Role};
pub use llm::response::{FinishReason, Outcome, Response, Usage};
pub use llm::route::Route;
pub use llm::transport::{Headers, HttpReply, HttpRequest, HttpTransport, Transport};
pub use observe::progress::{Phase, Progress, ProgressNotifier};
pub use observe::tally::Summary;
