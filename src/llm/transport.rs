//! Bytes to a provider and back: HTTP/1.1 on blocking sockets.
//!
//! [`client`] makes a request of its parts and an error of each fault; [`transfer`] does so for bodies that stream. Both
//! make a [`call`] on a [`connection`], which the [`pool`] kept or [`connect`] opened. A [`head`] tells the
//! [`body_length`]; [`body`] reads what it says into memory.

mod body;
mod body_length;
mod call;
mod client;
mod connect;
mod connection;
mod exchange;
mod fault;
mod head;
mod headers;
mod input;
mod memory;
mod pool;
mod proxy;
mod public;
#[cfg(test)]
pub(crate) mod raw_server;
mod target;
mod timeouts;
mod transfer;

pub use self::client::HttpTransport;
pub(crate) use self::exchange::is_callable;
pub use self::exchange::{HttpMethod, HttpReply, HttpRequest, HttpTransfer, Transport};
pub use self::headers::HttpHeaders;
pub use self::memory::ReplyShare;
pub(crate) use self::proxy::is_loopback_url;
pub use self::public::{PublicResolver, is_public_address};
