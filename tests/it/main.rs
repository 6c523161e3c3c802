//! Behaviour through the public API and the real binary.

mod bulk;
#[cfg(feature = "simulate")]
mod provider;
