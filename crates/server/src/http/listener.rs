//! Accepts connections, up to a maximum number; the one that has been idle longest is closed for a new one.
//! A new connection is not idle at once, because its first request may still arrive: further ones wait for it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::call::new_request_id;
use super::connection;
use super::permits::Permits;
use super::shared::{Connections, Limits, Open, Register, Service, Shared};
use super::threads::thread;

/// With several threads, one is more likely to get a processor while clients keep all others busy.
const ACCEPTORS: usize = 2;
/// Time for bodies that are being received when the server stops.
const UPLOADS_END: Duration = Duration::from_secs(2);
/// Pause after the machine has no resources for another connection.
const RETRY: Duration = Duration::from_millis(50);
/// The interval at which a new connection looks for a free place.
const LOOK: Duration = Duration::from_millis(10);
/// How long a client may send on after its last response, and after it was turned away.
const LINGER: Duration = Duration::from_secs(1);
const REFUSED: Duration = Duration::from_millis(20);
/// Maximum number of bytes that it may send then.
const MOST_BYTES: usize = 1 << 20;

/// Accepts connections until it is dropped.
pub(crate) struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Vec<JoinHandle<()>>,
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
        let mut this = Self {
            address: listener.local_addr()?,
            shared,
            accepting: Vec::new(),
        };
        for n in 0..ACCEPTORS {
            let (listener, shared) = (listener.try_clone()?, Arc::clone(&this.shared));
            let first = n as u64;
            let accept = move || accept(&listener, &shared, first);
            this.accepting.push(thread("http-accept", accept)?);
        }
        Ok(this)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().len()
    }

    /// Accepts no more connections, closes idle ones, and waits this long for the others; the remaining ones are then
    /// closed.
    pub fn stop(&mut self, wait: Duration) {
        if !self.shared.stopping.swap(true, Ordering::SeqCst) {
            self.wake_acceptors();
            self.accepting
                .drain(..)
                .for_each(|thread| drop(thread.join()));
        }
        let deadline = Instant::now() + wait;
        let mut connections = self.shared.connections.lock();
        for open in connections.values() {
            if open.idle.lock().is_some() {
                let _ = open.stream.shutdown(Shutdown::Both);
            }
        }
        let brief = deadline.min(Instant::now() + UPLOADS_END);
        (self.shared.connections).wait_for_all(&mut connections, brief);
        self.shared.permits.close();
        for open in connections.values() {
            if open.receiving.load(Ordering::Relaxed) {
                let _ = open.stream.shutdown(Shutdown::Read);
            }
        }
        (self.shared.connections).wait_for_all(&mut connections, deadline);
        for open in connections.values() {
            let _ = open.stream.shutdown(Shutdown::Both);
        }
    }

    /// The standard library cannot interrupt an accept, but a connection ends one.
    fn wake_acceptors(&self) {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        while !self.accepting.iter().all(JoinHandle::is_finished) {
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

fn accept(listener: &TcpListener, shared: &Arc<Shared>, first: u64) {
    let mut number = first;
    while !shared.stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) if !shared.stopping.load(Ordering::SeqCst) => {
                number += ACCEPTORS as u64;
                admit(shared, stream, number);
            }
            Ok(_) => {}
            Err(error) => {
                // As a rule no more file descriptors: an idle connection gives one back.
                log::warn!("a connection could not be accepted: {error}");
                make_room(&mut shared.connections.lock(), shared.limits.fresh);
                std::thread::park_timeout(RETRY);
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, number: u64) {
    let open = Arc::new(Open {
        stream,
        idle: Mutex::new(Some(Instant::now())),
        used: AtomicBool::new(false),
        receiving: AtomicBool::new(false),
    });
    {
        // One lock for check and entry: several accepting threads could see the same last free place.
        let mut connections = shared.connections.lock();
        let Limits {
            connections: most,
            fresh,
            ..
        } = shared.limits;
        let deadline = Instant::now() + fresh;
        while connections.len() >= most && !make_room(&mut connections, fresh) {
            let is_new = |open: &Arc<Open>| !open.used.load(Ordering::Relaxed);
            if Instant::now() >= deadline || !connections.values().any(is_new) {
                drop(connections);
                return turn_away(shared, &open.stream);
            }
            shared.connections.gone.wait_for(&mut connections, LOOK);
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
        // Its place is free for others meanwhile.
        held.set_idle(true);
        see_off(&held.stream, LINGER);
    };
    if let Err(error) = thread("http", serve) {
        log::warn!("a connection could not be served: {error}");
        shared.connections.lock().remove(&number);
        turn_away(shared, &open.stream);
    }
}

/// Reports that the server is busy, without waiting.
fn turn_away(shared: &Shared, mut stream: &TcpStream) {
    let most = shared.limits.connections;
    let why = format!("{most} connections are open, the limit of --max-connections\n");
    let full = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {}\r\nconnection: close\r\nx-request-id: {}\r\n\
         content-type: text/plain\r\ncontent-length: {}\r\n\r\n{why}",
        shared.service.retry_after(),
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

/// Ends the connection that has been idle longest, if there is one.
fn make_room(connections: &mut Connections, fresh: Duration) -> bool {
    let idle = connections.iter();
    let idle = idle.filter_map(|(number, open)| Some((open.idle_since(fresh)?, *number)));
    let Some((_, number)) = idle.min() else {
        return false;
    };
    if let Some(open) = connections.remove(&number) {
        let _ = open.stream.shutdown(Shutdown::Both);
    }
    true
}

/// A connection's entry in the list, removed however its thread ends.
struct Entry(Arc<Register>, u64);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
        self.0.gone.notify_all();
    }
}
