//! The basics that all other folders use: errors, time, cancellation, secrets.
//!
//! It imports nothing else from the crate. Other folders import its types from here, and its functions from their modules.

pub(crate) mod atomic_file;
pub mod brief;
pub mod cancel;
#[cfg(test)]
pub(crate) mod cases;
pub mod clock;
pub(crate) mod day;
pub mod disk;
pub mod error;
mod error_kind;
pub mod form;
pub(crate) mod host;
pub mod id;
pub(crate) mod json_mend;
pub(crate) mod json_read;
pub(crate) mod json_text;
pub mod memory;
#[cfg(feature = "queue")]
pub mod migrations;
pub mod named_file;
pub mod names;
pub mod optional;
pub mod private;
pub(crate) mod random;
pub mod secret;
pub(crate) mod secret_file;
#[cfg(test)]
pub(crate) mod seeds;
#[cfg(test)]
pub(crate) mod steps;
pub(crate) mod thread;
pub(crate) mod trusted_time;
pub mod usage;
pub mod verdict;
pub(crate) mod warn_once;

pub use atomic_file::AtomicFile;
pub use cancel::{CancelHook, Context};
pub use clock::{Clock, SystemClock, Time, Timestamp};
pub use day::Day;
pub use disk::LockedFile;
pub use error::{Error, ErrorKind};
pub use id::{JobId, ProcessId};
pub use memory::MemoryManager;
pub use optional::Optional;
pub use secret::Secret;
pub use usage::{Charge, RateHints, RateWindow, Usage, Usd};
pub use verdict::Sent;

pub(crate) use error::Mark;
pub(crate) use usage::Paid;
pub(crate) use warn_once::WarnOnce;
