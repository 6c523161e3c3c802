//! Connecting to the server of a URL, directly or through a proxy.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::Proxy;

use super::connection::Connection;
use super::fault::{Fault, Limit, Patience};
use super::head::USER_AGENT;
use super::headers::basic;
use super::target::Target;

/// Minimum time for one of several addresses of a host.
const LEAST_PER_ADDRESS: Duration = Duration::from_millis(10);

/// Where another thread finds the socket of a call, to end it.
#[derive(Default)]
pub(super) struct AbortHandle {
    socket: Mutex<Option<Arc<TcpStream>>>,
    aborted: AtomicBool,
}

impl AbortHandle {
    pub fn attach(&self, tcp: &Arc<TcpStream>) {
        let mut socket = self.socket.lock();
        *socket = Some(tcp.clone());
        if self.is_aborted() {
            shut_down(&socket);
        }
    }

    /// The call is over, and its connection may be used by another.
    pub fn detach(&self) {
        *self.socket.lock() = None;
    }

    /// Shuts the socket down while holding the lock, because another call may use it as soon as it is detached.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        shut_down(&self.socket.lock());
    }

    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }
}

fn shut_down(socket: &Option<Arc<TcpStream>>) {
    if let Some(socket) = socket {
        // An error means that it is closed already.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Opens connections.
pub(super) struct Connector {
    pub proxy: Option<Proxy>,
}

impl Connector {
    /// A connection on which a request can be sent at once, through the proxy if there is one. A handshake may hang too, so
    /// an abort ends it.
    pub fn connect(
        &self,
        target: &Target,
        patience: &Patience,
        abort: &AbortHandle,
    ) -> Result<Connection, Fault> {
        let proxy = self.proxy.as_ref();
        let proxy = proxy.filter(|proxy| !proxy.is_no_proxy(&target.uri));
        let (host, port) = match proxy {
            Some(proxy) => (proxy.host().trim_matches(['[', ']']), proxy.port()),
            None => (&*target.host, target.port),
        };
        let addresses = (host, port).to_socket_addrs().map_err(Fault::from);
        let reached = addresses.and_then(|all| reach(&all.collect::<Vec<_>>(), patience));
        let tcp = Arc::new(reached.map_err(|fault| match proxy {
            Some(proxy) if !fault.is_shortage() => Fault::NoProxy(name(proxy), fault.into()),
            _ => fault,
        })?);
        abort.attach(&tcp);
        let mut connection = Connection::new(tcp)?;
        match proxy {
            Some(proxy) if target.tls => pass_through(proxy, &mut connection, target, patience)?,
            Some(proxy) => connection.proxy = Some((name(proxy), login(proxy))),
            None => {}
        }
        if target.tls {
            connection.secure(&target.host, patience)?;
        }
        Ok(connection)
    }
}

/// Tries the addresses of a host in turn. Each but the last gets half of the time that is left.
fn reach(addresses: &[SocketAddr], patience: &Patience) -> Result<TcpStream, Fault> {
    let mut failure = None;
    for (n, address) in addresses.iter().enumerate() {
        let (left, limit) = patience.left(Instant::now(), Duration::ZERO);
        if left.is_zero() {
            return Err(Fault::Late(limit));
        }
        let is_last = n + 1 == addresses.len();
        let most = if is_last {
            left
        } else {
            (left / 2).max(LEAST_PER_ADDRESS)
        };
        let connected = TcpStream::connect_timeout(address, most);
        match &connected {
            Ok(_) => log::debug!("connected to {address}"),
            Err(error) => log::debug!("cannot connect to {address}: {error}"),
        }
        failure = Some(match connected {
            Ok(tcp) => return Ok(tcp),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Fault::Late(Limit::Call),
            Err(error) if is_of_this_address(&error) => Fault::Io(error),
            Err(error) => return Err(error.into()),
        });
    }
    Err(failure.unwrap_or_else(|| {
        let why = "the host has no address";
        Fault::Io(io::Error::new(io::ErrorKind::NotFound, why))
    }))
}

/// Whether another address of the host may work: no server listens at this one, or there is no route to it.
fn is_of_this_address(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
    )
}

/// The name of a proxy, for messages.
fn name(proxy: &Proxy) -> String {
    format!("{}:{}", proxy.host(), proxy.port())
}

/// The header with the user and the password of a proxy, with its line end; empty if it has none.
fn login(proxy: &Proxy) -> String {
    let (user, password) = (proxy.username(), proxy.password());
    if user.is_none() && password.is_none() {
        return String::new();
    }
    let (user, password) = (user.unwrap_or_default(), password.unwrap_or_default());
    let basic = basic(&format!("{user}:{password}"));
    format!("Proxy-Authorization: {basic}\r\n")
}

/// Asks a proxy to forward all bytes (CONNECT, RFC 9110, section 9.3.6).
fn pass_through(
    proxy: &Proxy,
    connection: &mut Connection,
    target: &Target,
    patience: &Patience,
) -> Result<(), Fault> {
    let host = target.uri.host().unwrap_or_default();
    let server = format!("{host}:{}", target.port);
    let mut request = format!(
        "CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: {USER_AGENT}\r\n\
         Proxy-Connection: Keep-Alive\r\n"
    );
    request += &login(proxy);
    request += "\r\n";
    connection.send(request.as_bytes(), patience)?;
    let head = loop {
        let head = connection.head(patience, &mut false)?;
        if !head.is_interim() {
            break head;
        }
    };
    match head.status {
        // The server has received no request yet, so more bytes can only be a reply that the proxy made up.
        200..300 if !connection.has_no_rest() => {
            Err(Fault::BadReply("the proxy sent more than its reply"))
        }
        200..300 => Ok(()),
        status => Err(Fault::Refused(name(proxy), status)),
    }
}
