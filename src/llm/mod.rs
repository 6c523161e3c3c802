//! Prompts and answers: types, clients, the transport, and one file per wire format.

pub mod attachment;
pub mod batch;
pub mod carried;
pub mod client;
pub mod estimate;
pub mod hash;
pub mod native;
pub mod outcome;
pub(crate) mod pack;
pub mod params;
pub mod price_table;
pub mod prices;
pub mod pricing;
pub mod prompt_cache;
pub mod provider_limits;
pub mod providers;
pub mod reply_details;
pub mod request;
pub(crate) mod request_json;
mod request_size;
pub mod response;
pub mod route;
pub mod schema;
#[cfg(feature = "schema")]
mod schema_compiled;
pub mod structured_output;
pub mod transport;
