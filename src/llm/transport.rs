//! Bytes to a provider and back, on ureq.

mod body;
mod client;
mod encoding;
mod exchange;
mod head;
mod memory;
mod proxy;
mod public;
mod resolver;
mod timeouts;
mod transfer;
mod wire;

pub use self::client::HttpTransport;
pub(crate) use self::exchange::is_callable;
pub use self::exchange::{
    HttpHeaders, HttpMethod, HttpReply, HttpRequest, HttpTransfer, Transport,
};
pub use self::memory::ReplyShare;
pub use self::public::{PublicResolver, is_public_address};
