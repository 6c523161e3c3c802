//! HTTP/1.1 on blocking threads: accepts connections within limits, and handles one request at a time on each.
//!
//! `http-net` parses the protocol without sockets and time; both are here.

mod call;
mod connection;
mod listener;
#[cfg(test)]
mod tests;

pub(crate) use call::{Body, Call, Head, Incoming, Response, decoded, is_visible};
pub(crate) use connection::{Answer, DEFAULT_CONNECTIONS, Limits, Service};
pub(crate) use listener::Listener;
