//! The transport over real sockets.
//!
//! One agent per client keeps connections open. A wrapper of ureq's transport finds out three facts that ureq does not
//! report: whether the complete request was sent when a call failed, whether the server had closed a kept connection,
//! and which socket to shut down so that a cancelled call returns from a blocked read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind, RAW_LIMIT, Sent};
use crate::base::secret::redacted_url;

use super::body::{Body, BodyReader, nameless};
use super::encoding::Encoding;
use super::exchange::{
    ERROR_LIMIT, HttpHeaders, HttpReply, HttpRequest, HttpTransfer, Transport, unwrapped,
};
use super::head::{MOST_BYTES, MOST_LINES};
use super::proxy::proxy_for;
use super::resolver::CachingResolver;
use super::timeouts::BEYOND;
use super::wire::{Call, Current, Tracking, Trust, not_the_servers_time, take_large_head};

/// Common servers close idle connections after 5 s. It is unknown whether a request that is sent at that moment was
/// processed, so idle connections are closed earlier.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER: usize = 16 * 1024;

/// The transport over real sockets.
pub struct HttpTransport {
    pub(super) agent: ureq::Agent,
    trust: Trust,
    timeout: Duration,
    connect_timeout: Duration,
}

impl HttpTransport {
    /// A transport that keeps up to `connections` idle connections to the server of `base_url`.
    /// `timeout` is the usual one of its requests; another one costs a little each time.
    /// Proxies follow `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; loopback addresses
    /// are reached directly. Certificates are checked against the system's store.
    pub fn new(base_url: &str, connections: usize, timeout: Duration) -> Self {
        Self::connecting_within(CONNECT_TIMEOUT, base_url, connections, timeout)
    }

    /// The same with a time limit for connecting other than 10 s.
    pub(crate) fn connecting_within(
        connect_timeout: Duration,
        base_url: &str,
        connections: usize,
        timeout: Duration,
    ) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy_for(base_url, |name| std::env::var(name).ok()))
            .tls_config(tls)
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_idle_connections(connections.max(1))
            .max_idle_connections_per_host(connections.max(1))
            .max_idle_age(IDLE_LIMIT)
            .timeout_connect(Some(connect_timeout.min(timeout)))
            .timeout_per_call(Some(timeout.saturating_add(BEYOND)))
            .build();
        let trust = Trust::default();
        let tracking = Tracking::new(trust.clone());
        Self {
            agent: ureq::Agent::with_parts(config, tracking, CachingResolver::default()),
            trust,
            timeout,
            connect_timeout,
        }
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: &HttpRequest<'_>, ctx: &Context) -> Result<HttpReply, Error> {
        ctx.check()?;
        let timeout = ctx
            .remaining()
            .map_or(request.timeout, |left| left.min(request.timeout));
        let (head, body) = self.tracked(request.url, &|_| timeout, ctx, || {
            self.exchange(request, timeout, ctx)
        })?;
        let Head {
            status,
            headers,
            whole,
        } = head;
        let body = match Encoding::of(&headers) {
            Some(encoding) => decoded(request, status, &encoding, body, ctx)?,
            None => body.into_memory(request.url, request.memory, ctx)?,
        };
        if !is_success(status) {
            return Ok(HttpReply {
                status,
                headers,
                body,
            });
        }
        if body.len() as u64 > request.reply_limit {
            return Err(too_large(request, status, body));
        }
        if !whole {
            return Err(unusable(large_head(request.url), status, body));
        }
        Ok(HttpReply {
            status,
            headers,
            body,
        })
    }

    fn transfer(&self, transfer: HttpTransfer<'_>, ctx: &Context) -> Result<HttpReply, Error> {
        self.stream(transfer, ctx)
    }
}

impl HttpTransport {
    /// Makes a call that is aborted with its context, and explains how it failed.
    pub(super) fn tracked<T>(
        &self,
        url: &str,
        timeout: &dyn Fn(ureq::Timeout) -> Duration,
        ctx: &Context,
        exchange: impl FnOnce() -> Result<T, ureq::Error>,
    ) -> Result<T, Error> {
        let call = Arc::new(Call::default());
        let _abort = ctx.on_abort({
            let call = call.clone();
            move || call.abort()
        });
        let current = Current::set(call.clone());
        let result = exchange();
        drop(current);
        result.map_err(|error| {
            // The server may close other kept connections too: for a while each call opens a new one.
            if call.was_forsaken() && !matches!(error, ureq::Error::Timeout(_)) {
                self.trust.lose();
            }
            let sent = if call.awaited.load(Ordering::SeqCst) {
                Sent::Maybe
            } else {
                Sent::No
            };
            match ctx.check() {
                Err(ended) => ended.with_sent(sent),
                Ok(()) => {
                    let connected = call.connected.load(Ordering::SeqCst);
                    let patience = match error {
                        ureq::Error::Timeout(of) if connected => timeout(of),
                        ureq::Error::Timeout(of) => self.connect_timeout.min(timeout(of)),
                        _ => Duration::ZERO,
                    };
                    explain(error, sent, connected, url, patience)
                }
            }
        })
    }

    fn exchange(
        &self,
        request: &HttpRequest<'_>,
        timeout: Duration,
        ctx: &Context,
    ) -> Result<(Head, Body), ureq::Error> {
        let left = ctx.remaining().unwrap_or(Duration::MAX);
        let before_deadline = left.saturating_sub(timeout);
        macro_rules! ready {
            ($builder:expr) => {{
                let mut builder = $builder;
                for (name, value) in request.headers {
                    builder = builder.header(&**name, value);
                }
                // A request with a separate setting has a copy of all settings.
                if timeout == self.timeout {
                    builder
                } else {
                    builder
                        .config()
                        .timeout_connect(Some(self.connect_timeout.min(timeout)))
                        .timeout_per_call(Some(timeout.saturating_add(BEYOND)))
                        .build()
                }
            }};
        }
        let reply = match request.body {
            Some(body) => ready!(self.agent.post(request.url)).send(body)?,
            None => ready!(self.agent.get(request.url)).call()?,
        };
        let (head, body) = reply.into_parts();
        let head = Head::of(head);
        let encoded = Encoding::of(&head.headers).is_some();
        let most = most_of(request, head.status);
        let reading = BodyReader {
            announced: body.content_length(),
            most,
            encoded,
            share: request.memory,
            ctx,
            file: nameless,
            paused: &|time| not_the_servers_time(time.min(before_deadline)),
        };
        let reader = body.into_with_config().limit(u64::MAX).reader();
        let body = reading.read(reader).map_err(unwrapped)?;
        Ok((head, body))
    }
}

/// The head of a reply: all before its body.
pub(super) struct Head {
    pub status: u16,
    pub headers: HttpHeaders,
    /// Its size is within the limits.
    pub whole: bool,
}

impl Head {
    /// The head of the reply to the call of this thread.
    pub fn of(head: ureq::http::response::Parts) -> Self {
        let large = take_large_head();
        Self {
            status: head.status.as_u16(),
            whole: large.as_ref().is_none_or(|large| large.whole),
            headers: HttpHeaders::new(large.map_or(head.headers, |large| large.headers)),
        }
    }
}

/// The maximum number of bytes to read of a body. A failure needs few, because its status is enough.
fn most_of(request: &HttpRequest<'_>, status: u16) -> u64 {
    if is_success(status) {
        request.reply_limit.saturating_add(1)
    } else {
        ERROR_LIMIT
    }
}

/// The decompressed body. A proxy that decompresses may leave the header, so a body that is text is used unchanged.
fn decoded(
    request: &HttpRequest<'_>,
    status: u16,
    encoding: &Encoding,
    body: Body,
    ctx: &Context,
) -> Result<Vec<u8>, Error> {
    let reading = BodyReader {
        announced: None,
        most: most_of(request, status),
        encoded: false,
        share: request.memory,
        ctx,
        file: nameless,
        paused: &|_| (),
    };
    match body.decoded(encoding, &reading) {
        Ok(body) => body.into_memory(request.url, request.memory, ctx),
        Err((_, came)) if std::str::from_utf8(&came).is_ok() => Ok(came),
        // The beginning of the body and the status are enough.
        Err((_, came)) if !is_success(status) => Ok(encoding.decoded(&came, ERROR_LIMIT).0),
        Err((_, came)) if came.len() as u64 > request.reply_limit => {
            Err(too_large(request, status, came))
        }
        Err((error, came)) => {
            let host = redacted_url(request.url);
            let why = format!("the reply of {host} cannot be decompressed: {error}");
            Err(unusable(why, status, came))
        }
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// The failure of a reply that exceeds the limit. It was billed, and a retry would get a reply of the same length.
fn too_large(request: &HttpRequest<'_>, status: u16, mut body: Vec<u8>) -> Error {
    let (host, most) = (redacted_url(request.url), request.reply_limit as f64);
    let why = format!(
        "the reply of {host} is larger than {:.1} MiB, the most that is read of one; to read more: \
         batchwright config set llm.max_reply_mib",
        most / 1_048_576.0
    );
    body.truncate(RAW_LIMIT);
    unusable(why, status, body)
}

fn large_head(url: &str) -> String {
    format!(
        "the reply of {} has more than {} KiB or {MOST_LINES} lines of headers",
        redacted_url(url),
        MOST_BYTES / 1024
    )
}

/// The failure of a complete success reply. It was paid for, so the request is not sent again.
fn unusable(why: String, status: u16, body: Vec<u8>) -> Error {
    Error::new(ErrorKind::Malformed, why)
        .with_status(status)
        .with_sent(Sent::Answered)
        .with_unusable_reply(body)
}

fn explain(error: ureq::Error, sent: Sent, connected: bool, url: &str, timeout: Duration) -> Error {
    let host = redacted_url(url);
    let transient = |message: String| Error::new(ErrorKind::Transient, message).with_sent(sent);
    match error {
        ureq::Error::Timeout(_) if !connected => transient(format!(
            "no connection to {host} within {} s",
            timeout.as_secs_f64()
        ))
        .with_unreachable(),
        ureq::Error::Timeout(ureq::Timeout::PerRead | ureq::Timeout::PerWrite) => {
            transient(format!(
                "no byte moved to or from {host} for {} s",
                timeout.as_secs_f64()
            ))
            .with_timed_out()
        }
        ureq::Error::Timeout(_) => transient(format!(
            "no reply from {host} within {} s",
            timeout.as_secs_f64()
        ))
        .with_timed_out(),
        ureq::Error::BadUri(_) => {
            Error::new(ErrorKind::Invalid, format!("not a usable URL: {host}"))
        }
        // The text may quote a header, and with it the key.
        ureq::Error::Http(_) => {
            Error::new(ErrorKind::Invalid, format!("not a valid request to {host}"))
        }
        // Bought and useless; asking again would buy the same.
        ureq::Error::BodyExceedsLimit(_) => Error::new(
            ErrorKind::Invalid,
            format!("the reply of {host} is larger than may be read of one (llm.max_reply_mib)"),
        )
        .with_sent(sent),
        ureq::Error::LargeResponseHeader(..) => Error::new(ErrorKind::Malformed, large_head(url))
            .with_sent(Sent::Answered)
            .with_unusable_reply(""),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData && connected => {
            transient(format!("the reply of {host} cannot be read: {error}"))
        }
        ureq::Error::HostNotFound => {
            transient(format!("host not found: {host}")).with_unreachable()
        }
        other if !connected => {
            let why = other.to_string();
            let hint = if host.starts_with("https:") && no_tls(&why) {
                " (does the server speak TLS? else http://…)"
            } else {
                ""
            };
            transient(format!("cannot reach {host}{hint}: {why}")).with_unreachable()
        }
        other => transient(format!("connection lost to {host}: {other}")),
    }
}

/// Whether a handshake was answered with something else, such as plain HTTP.
fn no_tls(why: &str) -> bool {
    why.contains("InvalidContentType")
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
