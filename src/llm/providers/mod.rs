//! The providers: which there are, how they differ, and which of them can be used here.
//!
//! A wire format is one file; a vendor of an existing format is one row of `tables/vendors.json`.

mod access;
mod answer;
mod anthropic;
mod anthropic_schema;
pub(crate) mod attached;
pub mod batch;
pub mod config;
mod content;
mod dialect;
mod embed;
mod errors;
pub mod extract;
mod fields;
pub(crate) mod further;
mod gemini;
pub mod headers;
pub(crate) mod limits;
mod openai;
mod openai_request;
pub mod remote;
#[cfg(test)]
mod request_tests;
mod rules;
mod speech;
mod stream;
pub mod survey;
pub mod vendor;
