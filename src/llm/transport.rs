//! Bytes to a provider and back, on ureq.
//!
//! One agent per client keeps connections warm. Two things ureq does not tell are found out by
//! wrapping its transport: whether the whole request had gone out when a call failed, and which
//! socket to shut down so that a cancelled call returns from the middle of a read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::http;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, ShutdownHandle,
    Transport as Wire,
};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::secret::shown_url;

/// Replies larger than this are refused.
const REPLY_LIMIT: u64 = 64 * 1024 * 1024;
/// Common servers drop idle connections after 5 s; a request sent into that moment is of unknown
/// fate, so connections are given up before.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a resolved address is used.
const ADDRESS_LIFE: Duration = Duration::from_secs(60);
const BUFFER: usize = 16 * 1024;

/// A request as bytes.
pub struct HttpRequest<'a> {
    /// The whole URL.
    pub url: &'a str,
    /// Header names and values; values may hold secrets.
    pub headers: &'a [(&'static str, String)],
    /// The body to POST; `None` makes it a GET.
    pub body: Option<&'a [u8]>,
    /// The longest the whole exchange may take, from looking up the host to the last byte.
    pub timeout: Duration,
}

impl fmt::Debug for HttpRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("url", &shown_url(self.url))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Header fields of a reply; names are compared without case.
#[derive(Debug, Clone, Default)]
pub struct Headers(http::HeaderMap);

impl Headers {
    /// The first value of that name, if it is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter().filter_map(|(name, value)| {
            let name = http::HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, http::HeaderValue::from_str(value).ok()?))
        });
        Self(pairs.collect())
    }
}

/// A complete reply.
#[derive(Debug, Clone)]
pub struct HttpReply {
    /// The status.
    pub status: u16,
    /// The header.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

/// Carries bytes to a provider. Unstable: tests replace it, other uses may break.
pub trait Transport: Send + Sync {
    /// One exchange. An error status is a reply like any other.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] when no complete reply came, with [`Error::sent`] telling whether
    /// the request may have been carried out; [`ErrorKind::Cancelled`] when the context ended it.
    fn send(&self, request: &HttpRequest<'_>, ctx: &Context) -> Result<HttpReply, Error>;
}

/// The transport over real sockets.
pub struct HttpTransport {
    agent: ureq::Agent,
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

    /// The same with another limit than 10 s for a connection to come about.
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
            .timeout_connect(Some(connect_timeout))
            .timeout_per_call(Some(timeout))
            .build();
        Self {
            agent: ureq::Agent::with_parts(config, Tracking::default(), CachingResolver::default()),
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
        let call = Arc::new(Call::default());
        let _abort = ctx.on_abort({
            let call = call.clone();
            move || call.abort()
        });
        let current = Current::set(call.clone());
        let result = self.exchange(request, timeout);
        drop(current);
        result.map_err(|error| {
            let sent = if call.awaited.load(Ordering::SeqCst) {
                Sent::Maybe
            } else {
                Sent::No
            };
            match ctx.check() {
                Err(ended) => ended.with_sent(sent),
                Ok(()) => {
                    let connected = call.connected.load(Ordering::SeqCst);
                    let patience = match connected {
                        true => timeout,
                        false => self.connect_timeout.min(timeout),
                    };
                    explain(error, sent, connected, request, patience)
                }
            }
        })
    }
}

impl HttpTransport {
    fn exchange(
        &self,
        request: &HttpRequest<'_>,
        timeout: Duration,
    ) -> Result<HttpReply, ureq::Error> {
        macro_rules! ready {
            ($builder:expr) => {{
                let mut builder = $builder;
                for (name, value) in request.headers {
                    builder = builder.header(*name, value);
                }
                // A setting of its own makes the request carry a copy of all settings.
                if timeout == self.timeout {
                    builder
                } else {
                    builder.config().timeout_per_call(Some(timeout)).build()
                }
            }};
        }
        let reply = match request.body {
            Some(body) => ready!(self.agent.post(request.url)).send(body)?,
            None => ready!(self.agent.get(request.url)).call()?,
        };
        let (head, body) = reply.into_parts();
        // A server may announce more than it sends, so its word is good for a megabyte only.
        let expected = body.content_length().unwrap_or(2048).min(1 << 20);
        let mut bytes = Vec::with_capacity(expected as usize + 1);
        let mut reader = body.into_with_config().limit(REPLY_LIMIT).reader();
        reader.read_to_end(&mut bytes).map_err(|error| {
            // ureq wraps its own errors to pass them through `Read`.
            match error.downcast::<ureq::Error>() {
                Ok(own) => own,
                Err(io) => ureq::Error::Io(io),
            }
        })?;
        Ok(HttpReply {
            status: head.status.as_u16(),
            headers: Headers(head.headers),
            body: bytes,
        })
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

fn explain(
    error: ureq::Error,
    sent: Sent,
    connected: bool,
    request: &HttpRequest<'_>,
    timeout: Duration,
) -> Error {
    let host = shown_url(request.url);
    let transient = |message: String| Error::new(ErrorKind::Transient, message).with_sent(sent);
    match error {
        ureq::Error::Timeout(_) if !connected => transient(format!(
            "no connection to {host} within {} s",
            timeout.as_secs_f64()
        ))
        .with_unreachable(),
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
            format!("the reply of {host} is larger than 64 MiB"),
        )
        .with_sent(sent),
        ureq::Error::HostNotFound => {
            transient(format!("host not found: {host}")).with_unreachable()
        }
        other if !connected => {
            let why = other.to_string();
            let hint = match host.starts_with("https:") && no_tls(&why) {
                true => " (does the server speak TLS? else http://…)",
                false => "",
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

/// The proxy for a URL, by the usual variables: the one of its scheme, else `ALL_PROXY`.
fn proxy_for(url: &str, env: impl Fn(&str) -> Option<String>) -> Option<ureq::Proxy> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if loopback {
        return None;
    }
    let names: &[&str] = match uri.scheme_str() {
        Some("https") => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let setting = names
        .iter()
        .find_map(|name| env(name).filter(|value| !value.trim().is_empty()))?;
    let Ok(parsed) = ureq::Proxy::new(setting.trim()) else {
        log::warn!(
            "ignoring a proxy setting that is no URL: {}",
            shown_url(&setting)
        );
        return None;
    };
    let mut builder = ureq::Proxy::builder(parsed.protocol())
        .host(parsed.host())
        .port(parsed.port());
    if let Some(user) = parsed.username() {
        builder = builder.username(user);
    }
    if let Some(password) = parsed.password() {
        builder = builder.password(password);
    }
    let exempt = env("NO_PROXY")
        .or_else(|| env("no_proxy"))
        .unwrap_or_default();
    for entry in exempt.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        builder = builder.no_proxy(entry);
        // By custom a bare domain exempts its subdomains too.
        if !entry.starts_with(['*', '.']) {
            builder = builder.no_proxy(&format!(".{entry}"));
        }
    }
    builder.build().ok()
}

/// The sockets under a connection, to be shut down from another thread.
type Sockets = Arc<[Weak<dyn ShutdownHandle>]>;

/// What is found out about one call while ureq makes it.
#[derive(Default)]
struct Call {
    /// A connection was there to send on.
    connected: AtomicBool,
    /// The request had gone out whole: the call had begun to wait for the reply.
    awaited: AtomicBool,
    aborted: AtomicBool,
    sockets: Mutex<Sockets>,
}

impl Call {
    fn attach(&self, sockets: &Sockets) {
        let mut own = self.sockets.lock();
        own.clone_from(sockets);
        if self.aborted.load(Ordering::SeqCst) {
            shut_down(&own);
        }
    }

    /// Shuts the sockets down under their lock: once the call has let go of them, the pool may
    /// have lent them to somebody else.
    fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        shut_down(&self.sockets.lock());
    }

    fn let_go(&self) {
        *self.sockets.lock() = Sockets::default();
    }
}

fn shut_down(sockets: &[Weak<dyn ShutdownHandle>]) {
    for socket in sockets.iter().filter_map(Weak::upgrade) {
        socket.shutdown();
    }
}

thread_local! {
    /// ureq makes a call on the thread that asked for it, so its transports find their call here.
    static CURRENT: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

struct Current;

impl Current {
    fn set(call: Arc<Call>) -> Self {
        CURRENT.set(Some(call));
        Self
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if let Some(call) = CURRENT.take() {
            call.let_go();
        }
    }
}

fn with_current(f: impl FnOnce(&Call)) {
    CURRENT.with_borrow(|call| call.as_deref().map(f));
}

/// ureq's own connector, with its transports wrapped.
#[derive(Debug, Default)]
struct Tracking(DefaultConnector);

impl Connector<()> for Tracking {
    type Out = Tracked;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Tracked>, ureq::Error> {
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: {
                let (sockets, register) = (sockets.clone(), details.register_shutdown.clone());
                Arc::new(move |socket: Weak<dyn ShutdownHandle>| {
                    sockets.lock().push(socket.clone());
                    // A handshake may hang too, so the call learns of its socket at once.
                    with_current(|call| call.attach(&Arc::from([socket.clone()])));
                    register(socket)
                })
            },
        };
        let inner = self.0.connect(&details, chained);
        // Talking to a proxy or shaking hands is not yet sending, nor waiting for the answer.
        with_current(|call| {
            call.connected.store(false, Ordering::SeqCst);
            call.awaited.store(false, Ordering::SeqCst);
        });
        let sockets = sockets.lock().drain(..).collect();
        Ok(inner?.map(|inner| Tracked { inner, sockets }))
    }
}

struct Tracked {
    inner: Box<dyn Wire>,
    sockets: Sockets,
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Wire for Tracked {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        with_current(|call| {
            call.connected.store(true, Ordering::SeqCst);
            call.attach(&self.sockets);
        });
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        with_current(|call| call.awaited.store(true, Ordering::SeqCst));
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Looks a host up once a minute instead of before every request, and never on a thread of its
/// own, as ureq does for some time-outs.
#[derive(Debug, Default)]
struct CachingResolver {
    inner: DefaultResolver,
    known: Mutex<HashMap<http::uri::Authority, (Instant, Vec<SocketAddr>)>>,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(authority) = uri.authority() else {
            return Err(ureq::Error::HostNotFound);
        };
        let now = Instant::now();
        let mut found = self.empty();
        if let Some((until, addresses)) = self.known.lock().get(authority)
            && now < *until
        {
            addresses.iter().for_each(|a| found.push(*a));
            return Ok(found);
        }
        let addresses = self.inner.resolve(uri, config, NextTimeout::default())?;
        let entry = (now + ADDRESS_LIFE, addresses.iter().copied().collect());
        self.known.lock().insert(authority.clone(), entry);
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_request_that_is_queued_in_silence_is_not_cut_by_the_limit_for_connecting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let connect = Duration::from_millis(50);
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // What is tested is silence, and nothing but time makes it.
            std::thread::sleep(connect * 10);
            let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(reply).unwrap();
        });
        let long = Duration::from_secs(600);
        let http = HttpTransport::connecting_within(connect, &base, 1, long);
        let request = HttpRequest {
            url: &base,
            headers: &[],
            body: Some(b"{}"),
            timeout: long,
        };
        let reply = http.send(&request, &Context::new()).unwrap();
        assert_eq!(reply.body, b"ok");
        server.join().unwrap();
    }

    fn proxy(url: &str, vars: &[(&str, &str)]) -> Option<String> {
        let vars: HashMap<&str, &str> = vars.iter().copied().collect();
        let proxy = proxy_for(url, |name| vars.get(name).map(|v| (*v).to_owned()))?;
        let uri: http::Uri = url.parse().unwrap();
        (!proxy.is_no_proxy(&uri)).then(|| format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn the_proxy_follows_scheme_and_exemptions() {
        let vars = [
            ("HTTPS_PROXY", "http://me:pw@secure:1"),
            ("http_proxy", "http://plain:2"),
            ("NO_PROXY", "internal.test, .corp.test"),
        ];
        let on = |url| proxy(url, &vars);
        assert_eq!(on("https://api.test/v1").as_deref(), Some("secure:1"));
        assert_eq!(on("http://api.test/v1").as_deref(), Some("plain:2"));
        assert_eq!(on("https://internal.test/v1"), None);
        assert_eq!(on("https://a.internal.test/v1"), None);
        assert_eq!(on("https://a.corp.test/v1"), None);
        assert_eq!(on("http://127.0.0.1:8080/v1"), None);
        assert_eq!(on("http://localhost:8080/v1"), None);
    }

    #[test]
    fn no_variable_means_no_proxy() {
        assert_eq!(proxy("https://api.test", &[]), None);
        assert_eq!(proxy("https://api.test", &[("HTTPS_PROXY", "")]), None);
    }
}
