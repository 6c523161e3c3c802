//! Bytes to a provider and back: HTTP/1.1 on blocking sockets.
//!
//! [`client`] makes a request of its parts and an error of each fault; [`transfer`] does so for bodies that stream. Both
//! make a [`call`] on a [`connection`], which the [`pool`] kept or [`connect`] opened. A [`head`] tells the
//! [`body_length`]; [`body`] reads what it says into memory.

mod body;
mod body_length;
mod call;
mod client;
mod coding;
mod connect;
mod connection;
mod fault;
mod head;
mod headers;
mod input;
mod memory;
mod pool;
mod public;
#[cfg(test)]
pub(crate) mod raw_server;
mod target;
mod transfer;

use std::borrow::Cow;
use std::io::{Read, Write};
use std::time::Duration;

use crate::base::brief::Bytes;
use crate::base::secret::redacted_url;
use crate::base::{Context, Error, ErrorKind};

pub use self::client::HttpTransport;
pub use self::headers::HttpHeaders;
pub(crate) use self::headers::is_name as is_header_name;
pub use self::memory::ReplyShare;
pub use self::public::{PublicResolver, is_public_address};
pub(crate) use self::target::{is_callable, is_loopback_url};

/// Maximum size of a reply to a step of a batch, for example of a page of a list.
const REPLY_LIMIT: u64 = 64 * 1024 * 1024;
/// Maximum size of an error reply.
const ERROR_LIMIT: u64 = 1024 * 1024;

/// A request as bytes.
#[derive(derive_more::Debug)]
#[debug("HttpRequest({:?}, {timeout:?})", redacted_url(url))]
pub struct HttpRequest<'a> {
    /// The complete URL.
    pub url: &'a str,
    /// Header names and values; values may hold secrets.
    pub headers: &'a [(Cow<'static, str>, String)],
    /// The body of a POST request; `None` for a GET request.
    pub body: Option<&'a [u8]>,
    /// Maximum duration of the whole exchange, from the lookup of the host to the last byte.
    pub timeout: Duration,
    /// Maximum number of bytes of the body of a success reply; further bytes are not read.
    pub reply_limit: u64,
    /// The account from which [`HttpTransport`](crate::unstable::HttpTransport) takes the memory of a large reply. Drop
    /// it after decoding the reply.
    pub memory: &'a ReplyShare,
}

/// A complete reply. `Debug` shows its length, not its contents.
#[derive(Clone, derive_more::Debug)]
pub struct HttpReply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HttpHeaders,
    /// The complete body.
    #[debug("{:?}", Bytes(body.len()))]
    pub body: Vec<u8>,
}

/// The method of an [`HttpTransfer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "UPPERCASE")]
pub enum HttpMethod {
    /// GET.
    Get,
    /// POST.
    Post,
    /// DELETE.
    Delete,
}

/// An exchange whose bodies stream.
#[derive(derive_more::Debug)]
#[debug("HttpTransfer({method:?} {:?})", redacted_url(url))]
pub struct HttpTransfer<'a> {
    /// The method.
    pub method: HttpMethod,
    /// The complete URL.
    pub url: &'a str,
    /// Header names and values; values may hold secrets.
    pub headers: &'a [(Cow<'static, str>, String)],
    /// The source of the body of a POST request, and its exact number of bytes.
    pub body: Option<(&'a mut dyn Read, u64)>,
    /// The destination of the body of a success reply. Without it, and for any other status, the body is kept in
    /// [`HttpReply::body`].
    pub into: Option<&'a mut dyn Write>,
    /// Maximum time in which no byte is transferred.
    pub idle: Duration,
    /// Maximum time from the end of the request to the beginning of the reply, and then to the end of a reply that is
    /// kept in memory.
    pub reply: Duration,
}

/// Transfers bytes to a provider. Unstable: tests replace it, other uses may break.
pub trait Transport: Send + Sync {
    /// Makes one exchange. A reply with an error status is returned like any other.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] if no complete reply arrived; then [`Error::sent`] reports whether the request may have
    /// been processed. [`ErrorKind::Cancelled`] if the context ended the exchange.
    fn send(&self, request: &HttpRequest<'_>, ctx: &Context) -> Result<HttpReply, Error>;

    /// Makes one exchange whose bodies may be larger than memory, and which may take any time while bytes are
    /// transferred. Default: an error.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`ErrorKind::Invalid`] if the body cannot be read, or the reply cannot be written.
    fn transfer(&self, transfer: HttpTransfer<'_>, _: &Context) -> Result<HttpReply, Error> {
        let why = format!("this transport does not stream: {transfer:?}");
        Err(Error::new(ErrorKind::Invalid, why))
    }
}
