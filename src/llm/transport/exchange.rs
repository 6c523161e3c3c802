//! Requests and replies as bytes, and the trait that carries them.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::time::Duration;

use ureq::http;

use crate::base::brief::Bytes;
use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::secret::redacted_url;

use super::headers::HttpHeaders;
use super::memory::ReplyShare;

/// What is kept of a reply to a step of a batch, such as a page of a list.
pub(super) const REPLY_LIMIT: u64 = 64 * 1024 * 1024;
/// What is kept of a reply that says what went wrong.
pub(super) const ERROR_LIMIT: u64 = 1024 * 1024;

/// Gets bytes while they arrive.
pub type ByteListener<'a> = dyn Fn(&[u8]) + 'a;

/// A request as bytes.
#[derive(derive_more::Debug)]
#[debug("HttpRequest({:?}, {timeout:?})", redacted_url(url))]
pub struct HttpRequest<'a> {
    /// The whole URL.
    pub url: &'a str,
    /// Header names and values; values may hold secrets.
    pub headers: &'a [(Cow<'static, str>, String)],
    /// The body to POST; `None` makes it a GET.
    pub body: Option<&'a [u8]>,
    /// The longest the whole exchange may take, from looking up the host to the last byte.
    pub timeout: Duration,
    /// The most bytes that the body of a success reply may have; more are not read.
    pub reply_limit: u64,
    /// Where [`HttpTransport`](crate::unstable::HttpTransport) takes the memory of a large reply; to be dropped once that is decoded.
    pub memory: &'a ReplyShare,
    /// Gets the bytes of a success reply that is a stream of events (`text/event-stream`), while they arrive.
    pub on_bytes: Option<&'a ByteListener<'a>>,
}

/// A complete reply. Its `Debug` says how long it is, not what it says.
#[derive(Clone, derive_more::Debug)]
pub struct HttpReply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HttpHeaders,
    /// The whole body.
    #[debug("{:?}", Bytes(body.len()))]
    pub body: Vec<u8>,
}

/// How a [`HttpTransfer`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// GET.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
}

/// An exchange whose bodies stream.
#[derive(derive_more::Debug)]
#[debug("HttpTransfer({method:?} {:?})", redacted_url(url))]
pub struct HttpTransfer<'a> {
    /// The method.
    pub method: HttpMethod,
    /// The whole URL.
    pub url: &'a str,
    /// Header names and values; values may hold secrets.
    pub headers: &'a [(Cow<'static, str>, String)],
    /// Where the body of a POST or PUT is read from, and how many bytes it has: no more and no fewer.
    pub body: Option<(&'a mut dyn Read, u64)>,
    /// Where the body of a success reply goes; without it, and for any other status, it is kept in
    /// [`HttpReply::body`].
    pub into: Option<&'a mut dyn Write>,
    /// The longest that no byte may move.
    pub idle: Duration,
    /// The longest wait for the reply to begin once the request is out, and then for the end of one that
    /// is kept.
    pub reply: Duration,
}

/// Carries bytes to a provider. Unstable: tests replace it, other uses may break.
pub trait Transport: Send + Sync {
    /// One exchange. An error status is a reply like any other.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] when no complete reply came, with [`Error::sent`] telling whether
    /// the request may have been carried out; [`ErrorKind::Cancelled`] when the context ended it.
    fn send(&self, request: &HttpRequest<'_>, ctx: &Context) -> Result<HttpReply, Error>;

    /// One exchange whose bodies may be larger than memory, and that may take as long as bytes move.
    /// Default: refused.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`ErrorKind::Invalid`] when the body cannot be read here, or the reply
    /// not be written.
    fn transfer(&self, transfer: HttpTransfer<'_>, _: &Context) -> Result<HttpReply, Error> {
        let why = format!("this transport does not stream: {transfer:?}");
        Err(Error::new(ErrorKind::Invalid, why))
    }
}

/// Whether a URL names a host, and a port that there is if it names one.
pub(crate) fn is_callable(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else {
        return false;
    };
    !host.is_empty() && (authority.as_str().ends_with(host) || uri.port_u16().is_some())
}
