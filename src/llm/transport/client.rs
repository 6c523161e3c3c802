//! The transport over real sockets.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::de::IgnoredAny;

use crate::base::error::RAW_LIMIT;
use crate::base::secret::redacted_url;
use crate::base::{Context, Error, ErrorKind, Optional, Sent};

use super::body::BodyReader;
use super::call::Call;
use super::coding::{coding_of, decoder, unasked};
use super::connect::Connector;
use super::fault::{Fault, Limit, Patience};
use super::head::{ENDLESS, Head, is_success};
use super::pool::Pool;
use super::target::{Target, proxy_for};
use super::{ERROR_LIMIT, HttpReply, HttpRequest, HttpTransfer, Transport};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The transport over real sockets.
pub struct HttpTransport {
    pool: Pool,
    connector: Connector,
    last_target: Mutex<Option<Arc<Target>>>,
    connect_timeout: Duration,
}

impl HttpTransport {
    /// A transport that keeps up to `connections` idle connections to the server of `base_url`.
    /// `timeout` is the usual one of its requests. Connecting takes no longer than that, and at most 10 s.
    /// Proxies follow `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; loopback addresses
    /// are reached directly. Certificates are checked against the system's store.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the environment names a proxy that is not at an `http://` address.
    pub fn new(base_url: &str, connections: usize, timeout: Duration) -> Result<Self, Error> {
        let proxy = proxy_for(base_url, |name| std::env::var(name).ok())?;
        Ok(Self {
            pool: Pool::new(connections),
            connector: Connector { proxy },
            last_target: Mutex::default(),
            connect_timeout: CONNECT_TIMEOUT.min(timeout),
        })
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: &HttpRequest<'_>, ctx: &Context) -> Result<HttpReply, Error> {
        ctx.check()?;
        let timeout = ctx
            .remaining()
            .map_or(request.timeout, |left| left.min(request.timeout));
        let patience = Patience::new(Some(timeout));
        let mut call = self.begin(request.url, patience, ctx)?;
        let (head, body) = match Self::exchange(&mut call, request, ctx) {
            Ok(reply) => reply,
            Err(fault) => return Err(self.failed(call, fault, request.url, &|_| timeout, ctx)),
        };
        call.finish();
        if is_success(head.status) && body.len() as u64 > request.reply_limit {
            return Err(too_large(request, head.status, body));
        }
        if is_success(head.status)
            && let Some(coding) = coding_of(&head.headers, &body, false)
            && std::str::from_utf8(&body).is_err()
        {
            let (host, why) = (redacted_url(request.url), unasked(&coding));
            let why = format!("the reply of {host} cannot be read: {why}");
            return Err(unusable(why, Some(head.status), body));
        }
        Ok(HttpReply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    fn transfer(&self, transfer: HttpTransfer<'_>, ctx: &Context) -> Result<HttpReply, Error> {
        self.stream(transfer, ctx)
    }
}

impl HttpTransport {
    /// Begins an exchange with the limits in `patience`, which its context can abort.
    pub(super) fn begin(
        &self,
        url: &str,
        patience: Patience,
        ctx: &Context,
    ) -> Result<Call<'_>, Error> {
        let Some(target) = self.target(url) else {
            let why = format!("not a usable URL: {}", redacted_url(url));
            return Err(Error::new(ErrorKind::Invalid, why));
        };
        let (left, _) = patience.left(Instant::now(), Duration::ZERO);
        let connect = self.connect_timeout.min(left);
        let call = Call::open(&self.pool, &self.connector, &target, patience, connect, ctx);
        call.map_err(|fault| {
            ctx.check()
                .err()
                .unwrap_or_else(|| unconnected(fault, url, connect))
        })
    }

    /// The error of a call whose exchange has failed.
    pub(super) fn failed(
        &self,
        call: Call<'_>,
        fault: Fault,
        url: &str,
        limits: &dyn Fn(Limit) -> Duration,
        ctx: &Context,
    ) -> Error {
        let sent = call.sent();
        call.fail(&fault);
        if let Err(ended) = ctx.check() {
            return ended.with_sent(sent);
        }
        broken_off(fault, sent, url, limits)
    }

    /// The parts of a URL, which is nearly always the same.
    fn target(&self, url: &str) -> Option<Arc<Target>> {
        let mut last = self.last_target.lock();
        if let Some(target) = &*last
            && target.url == url
        {
            return Some(target.clone());
        }
        Some(last.insert(Arc::new(Target::parse(url)?)).clone())
    }

    fn exchange(
        call: &mut Call<'_>,
        request: &HttpRequest<'_>,
        ctx: &Context,
    ) -> Result<(Head, Vec<u8>), Fault> {
        let method = if request.body.is_some() {
            "POST"
        } else {
            "GET"
        };
        let mut body = request.body;
        let body = body.as_mut().map(|bytes| {
            let length = bytes.len() as u64;
            (bytes as &mut dyn Read, length)
        });
        let head = match call.send(method, request.headers, body)? {
            Some(early) => early,
            None => call.head()?,
        };
        let mut reading = BodyReader {
            announced: call.announced(),
            most: most_of(request, head.status),
            share: request.memory,
            ctx,
        };
        let mut body = Vec::new();
        let read = reading.read(call, &mut body);
        if let Some(coding) = coding_of(&head.headers, &body, false) {
            let mut plain = Vec::new();
            // Its length is unknown. What the packed body holds is given back before this waits for memory.
            reading.announced = None;
            let unpacked = decoder(&coding, &body, io::empty());
            match unpacked.and_then(|body| reading.read(body, &mut plain)) {
                Err(error) if ctx.is_aborted() => return Err(error.into()),
                // Other bytes may follow.
                unpacked if unpacked.is_ok() || is_answer(&plain) => body = plain,
                _ => {}
            }
        }
        if let Err(error) = read {
            if !is_success(head.status) || ctx.is_aborted() || !is_answer(&body) {
                return Err(error.into());
            }
            log::info!("a reply is kept, although its transfer is not complete: {error}");
        }
        Ok((head, body))
    }
}

/// Whether a body is a complete object that has an answer, or begins a stream of one, which is paid for also if it was cut.
/// It may also be a word of a proxy, or the first line of many.
fn is_answer(body: &[u8]) -> bool {
    // A stream of events may begin with a comment.
    let mut lines = body.split(|byte| *byte == b'\n');
    if !body.starts_with(b"{") && lines.any(|line| line.starts_with(b"data:")) {
        return true;
    }
    let read = serde_json::from_slice::<HashMap<&str, Option<IgnoredAny>>>(body);
    let mut answers = ["choices", "content", "candidates", "data", "embeddings"].into_iter();
    read.is_ok_and(|fields| answers.any(|name| matches!(fields.get(name), Some(Some(_)))))
}

/// The maximum number of bytes to read of a body. A failure needs few, because its status is enough.
fn most_of(request: &HttpRequest<'_>, status: u16) -> u64 {
    if is_success(status) {
        request.reply_limit.saturating_add(1)
    } else {
        ERROR_LIMIT
    }
}

/// The failure of a reply that exceeds the limit. It was billed, and a retry would get a reply of the same length.
fn too_large(request: &HttpRequest<'_>, status: u16, mut body: Vec<u8>) -> Error {
    let (host, most) = (redacted_url(request.url), request.reply_limit as f64);
    let why = format!(
        "the reply of {host} is larger than {:.1} MiB, the most that is read of one",
        most / 1_048_576.0
    );
    body.truncate(RAW_LIMIT);
    unusable(why, Some(status), body)
}

/// The failure of a complete success reply. It was billed, so the request is not sent again.
fn unusable(why: String, status: Option<u16>, body: Vec<u8>) -> Error {
    Error::new(ErrorKind::Malformed, why)
        .with_sent(Sent::Answered)
        .with_unusable_reply(body)
        .set(status, Error::with_status)
}

/// The error of a call that has no connection.
fn unconnected(fault: Fault, url: &str, timeout: Duration) -> Error {
    let host = redacted_url(url);
    let why = match fault {
        Fault::Late(_) => format!("no connection to {host} within {} s", timeout.as_secs_f64()),
        Fault::Refused(proxy, 407) => return login_wanted(&proxy),
        other => {
            let why = other.to_string();
            if why.contains("invalid peer certificate") {
                let why = format!(
                    "the certificate of {host} is not trusted ({why}); if your own authority has issued it, name the \
                     authority's file in the variable SSL_CERT_FILE"
                );
                return setting(why);
            }
            // A handshake was answered with something else, such as plain HTTP.
            let hint = if host.starts_with("https:") && why.contains("InvalidContentType") {
                " (does the server speak TLS? else http://…)"
            } else {
                ""
            };
            format!("cannot reach {host}{hint}: {why}")
        }
    };
    Error::new(ErrorKind::Transient, why)
        .with_sent(Sent::No)
        .with_unreachable()
}

/// The error of a call whose proxy wants to know who calls.
fn login_wanted(proxy: &str) -> Error {
    setting(format!(
        "the proxy {proxy} wants a login (407): write it into the variable that names the proxy, as in \
         http://USER:PASSWORD@{proxy}"
    ))
}

/// The error of a call that the settings prevent, as they prevent all others.
fn setting(why: String) -> Error {
    Error::new(ErrorKind::Invalid, why)
        .with_sent(Sent::No)
        .with_critical()
}

/// The error of a call whose connection was open.
fn broken_off(fault: Fault, sent: Sent, url: &str, limits: &dyn Fn(Limit) -> Duration) -> Error {
    let host = redacted_url(url);
    let transient = |message: String| Error::new(ErrorKind::Transient, message).with_sent(sent);
    match fault {
        Fault::Late(limit) => {
            let seconds = limits(limit).as_secs_f64();
            let why = match limit {
                Limit::Idle => format!("no byte moved to or from {host} for {seconds} s"),
                Limit::Call | Limit::Reply => format!("no reply from {host} within {seconds} s"),
            };
            transient(why).with_timed_out()
        }
        Fault::Refused(proxy, 407) => login_wanted(&proxy),
        // The header itself may be the key.
        Fault::BadRequest => {
            Error::new(ErrorKind::Invalid, format!("not a valid request to {host}"))
        }
        Fault::Tls => setting(format!(
            "{host} speaks TLS: its address begins with https://"
        )),
        // It was billed, and a retry would be billed again.
        Fault::EndlessHead => {
            let most = ENDLESS / 1024;
            let why = format!("the reply of {host} has more than {most} KiB of headers");
            unusable(why, None, Vec::new())
        }
        Fault::BadReply(why) => transient(format!("the reply of {host} cannot be read: {why}")),
        Fault::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::Unsupported
            ) =>
        {
            transient(format!("the reply of {host} cannot be read: {error}"))
        }
        other => transient(format!("connection lost to {host}: {other}")),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
