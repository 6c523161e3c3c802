//! Accepts connections, up to a maximum number; further ones are turned away.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::call::{Permits, new_request_id};
use super::connection::{self, Limits, Open, Register, Service, Shared};

/// Enough for nested JSON; hundreds of threads should not reserve eight megabytes each.
const STACK_SIZE: usize = 1 << 20;
/// Pause after the machine has no resources for another connection.
const RETRY: Duration = Duration::from_millis(50);
/// How long a client may send on after its last response, and after it was turned away.
const LINGER: Duration = Duration::from_secs(1);
const REFUSED: Duration = Duration::from_millis(20);
/// Maximum number of bytes that it may send then.
const MOST_BYTES: usize = 1 << 20;

/// Accepts connections until it is dropped.
pub(crate) struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Listener {
    /// Begins to accept.
    pub fn start(
        listener: TcpListener,
        service: Arc<dyn Service>,
        limits: Limits,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            service,
            limits,
            stopping: AtomicBool::new(false),
            permits: Permits::default(),
            connections: Arc::default(),
        });
        let address = listener.local_addr()?;
        let all = Arc::clone(&shared);
        let accept = thread("http-accept", move || accept(&listener, &all))?;
        Ok(Self {
            address,
            shared,
            accepting: Some(accept),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.open.lock().len()
    }

    /// Accepts no more connections, closes idle ones, and waits this long for the others; the remaining ones are then
    /// closed.
    pub fn stop(&mut self, wait: Duration) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.take() {
            self.wake_acceptor(&accepting);
            drop(accepting.join());
        }
        let deadline = Instant::now() + wait;
        let mut connections = self.shared.connections.open.lock();
        for open in connections.values().filter(|open| *open.idle.lock()) {
            let _ = open.stream.shutdown(Shutdown::Both);
        }
        let gone = &self.shared.connections.gone;
        gone.wait_while_until(&mut connections, |open| !open.is_empty(), deadline);
        for open in connections.values() {
            let _ = open.stream.shutdown(Shutdown::Both);
        }
    }

    /// The standard library cannot interrupt an accept, but a connection ends one.
    fn wake_acceptor(&self, accepting: &JoinHandle<()>) {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        while !accepting.is_finished() {
            if TcpStream::connect_timeout(&address, RETRY).is_err() {
                std::thread::park_timeout(RETRY);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let builder = Builder::new().name(name.to_owned());
    builder.stack_size(STACK_SIZE).spawn(run)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut number = 0;
    while !shared.stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) if !shared.stopping.load(Ordering::SeqCst) => {
                number += 1;
                admit(shared, stream, number);
            }
            Ok(_) => {}
            Err(error) => {
                // As a rule no more file descriptors.
                log::warn!("a connection could not be accepted: {error}");
                std::thread::park_timeout(RETRY);
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, number: u64) {
    let open = Arc::new(Open {
        stream,
        idle: Mutex::new(true),
    });
    {
        let mut connections = shared.connections.open.lock();
        if connections.len() >= shared.limits.connections {
            drop(connections);
            return turn_away(shared, &open.stream);
        }
        connections.insert(number, Arc::clone(&open));
    }
    let all = Arc::clone(shared);
    let held = Arc::clone(&open);
    let serve = move || {
        let _entry = Entry(Arc::clone(&all.connections), number);
        // Ends before the entry, whose end is the end of the connection for who waits.
        let all = all;
        connection::serve(&held, &all);
        *held.idle.lock() = true;
        see_off(&held.stream, LINGER);
    };
    if let Err(error) = thread("http", serve) {
        log::warn!("a connection could not be served: {error}");
        shared.connections.open.lock().remove(&number);
        turn_away(shared, &open.stream);
    }
}

/// Reports that the server is busy, without waiting.
fn turn_away(shared: &Shared, mut stream: &TcpStream) {
    let most = shared.limits.connections;
    let why = format!("{most} connections are open, the limit of --max-connections\n");
    let full = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\nx-request-id: {}\r\n\
         content-type: text/plain\r\ncontent-length: {}\r\n\r\n{why}",
        new_request_id(),
        why.len()
    );
    let _ = stream.set_nonblocking(true);
    let _ = stream.write(full.as_bytes());
    let _ = stream.set_nonblocking(false);
    see_off(stream, REFUSED);
}

/// Closes a connection after its last response. A client that was answered before it had sent everything continues to
/// send. If the socket were closed then, the system would send a reset, and most clients would lose the response. So
/// further input is discarded until the client closes the connection, within limits.
fn see_off(mut stream: &TcpStream, time: Duration) {
    let _ = stream.shutdown(Shutdown::Write);
    let until = Instant::now() + time;
    let (mut buffer, mut left) = ([0; 16 << 10], MOST_BYTES);
    while left > 0 {
        let wait = until.saturating_duration_since(Instant::now());
        if wait.is_zero() || stream.set_read_timeout(Some(wait)).is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => left = left.saturating_sub(n),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A connection's entry in the list, removed however its thread ends.
struct Entry(Arc<Register>, u64);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
        self.0.gone.notify_all();
    }
}
