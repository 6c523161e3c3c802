//! Settings: which there are, where the value of each comes from, and where they are kept.
//!
//! A new setting is a row of [`key::KEYS`] and a getter in `typed`.

pub(crate) mod choices;
mod credential;
pub mod key;
pub mod settings;
#[cfg(feature = "queue")]
pub mod sqlite;
pub mod store;
mod typed;
mod value;
pub mod watch;
