//! The providers: which there are, how they differ, and which of them can be used here.
//!
//! A wire format is one file; a vendor of an existing format is one row of `tables/vendors.json`.

mod access;
mod address;
mod answer;
mod anthropic;
mod anthropic_schema;
pub(crate) mod attached;
pub mod batch;
mod bounded;
mod cache_marks;
mod calls;
pub mod config;
mod content;
mod counts;
mod credential;
mod dialect;
mod embed;
mod ends;
mod error_body;
mod errors;
pub mod extract;
pub(crate) mod further;
mod gemini;
pub mod headers;
mod lenient;
pub(crate) mod limits;
pub mod local;
pub(crate) mod native;
mod openai;
mod openai_request;
pub mod remote;
#[cfg(test)]
mod request_tests;
mod rules;
mod sent_headers;
mod speech;
pub mod survey;
pub mod vendor;
