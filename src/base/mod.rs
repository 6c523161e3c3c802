//! The basics that all other folders use: errors, time, cancellation, secrets.
//!
//! It imports nothing else from the crate.

pub mod answer_listener;
pub(crate) mod atomic_file;
pub mod brief;
pub mod cancel;
pub mod charge;
pub mod clock;
pub(crate) mod day;
pub mod disk;
pub mod error;
mod error_kind;
pub mod hints;
pub(crate) mod host;
pub mod id;
pub(crate) mod json_text;
pub(crate) mod json_value;
pub mod memory;
pub mod names;
#[cfg(feature = "mysql")]
pub(crate) mod password;
pub mod private;
pub(crate) mod rescue;
pub mod secret;
#[cfg(test)]
pub(crate) mod seeds;
#[cfg(feature = "queue")]
pub(crate) mod sqlite_header;
pub mod store_path;
pub(crate) mod thread;
pub mod usage;
pub mod usd;
pub(crate) mod warn_once;
pub(crate) mod zstd;
