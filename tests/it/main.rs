//! Behaviour through the public API.

mod architecture;
#[cfg(feature = "queue")]
mod bulk;
#[cfg(feature = "queue")]
mod capabilities;
#[expect(
    dead_code,
    unused_imports,
    reason = "the tests of the program use the rest"
)]
mod common;
mod conformance;
mod decoders;
mod embed_replies;
mod every_provider;
#[cfg(feature = "queue")]
mod examples;
mod fallback;
mod hang;
mod judge;
mod library;
mod manager;
#[cfg(feature = "files")]
mod processing;
mod provider;
#[cfg(feature = "queue")]
mod queue;
#[cfg(feature = "queue")]
#[cfg(feature = "queue")]
mod queue_crowd;
#[cfg(feature = "queue")]
mod reference;
mod regress_bulk;
mod regress_file;
mod replies;
mod speech;
#[cfg(feature = "queue")]
mod spent;
mod tools;
