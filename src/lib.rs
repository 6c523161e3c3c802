//! batchwright
#![forbid(unsafe_code)]
#![warn(missing_docs)]
mod base;
mod engine;
pub use base::cancel::Context;
pub use base::secret::{Secret, shown_url};
pub use engine::limit::QuotaKey;
