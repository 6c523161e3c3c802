//! Prompts and answers: types, clients, the transport, and one file per wire format.

pub mod batch;
pub mod client;
pub mod hash;
pub mod notes;
pub mod providers;
pub mod request;
mod request_json;
pub mod response;
pub mod route;
pub mod schema;
pub mod schema_given;
pub mod shape;
pub mod shaped;
pub mod transport;
