//! The providers: which there are, how they differ, and which of them can be used here.
//!
//! A wire format is one file; a vendor of an existing format is one row of [`VENDORS`].

pub mod config;
pub mod extract;
pub mod local;
mod local_reply;
pub mod openai;
pub mod survey;
pub mod vendor;
