//! Who may connect: so many at once, and the one that has been idle longest makes room for a new one.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::connection;
use super::farewell::Farewells;
use super::memory::BodyMemory;
use super::{Call, Head, Response};

/// Answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// Judges a request by its head, before anything of its body is taken.
    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<(), Response>;
    /// Answers it.
    fn answer(&self, call: &mut Call<'_>) -> Response;
}

/// What a client may take up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long a client may let us wait for bytes of a body, or for room to send some.
    pub stall: Duration,
    /// Bytes a second that a client must bring or take, once it has taken longer than `stall` in all.
    pub slowest: u64,
    /// Bytes of a body that are read and thrown away so that a connection can be used again.
    pub leftover: u64,
    /// Bytes of memory that all bodies together may take, with what is made of them; small ones do not count.
    pub body_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(20),
            slowest: 1 << 10,
            leftover: 256 << 10,
            body_memory: 512 << 20,
        }
    }
}

/// Enough for nested JSON; hundreds of threads should not reserve eight megabytes each.
const STACK_SIZE: usize = 1 << 20;
/// With more of them it is likelier that one has a processor while clients keep all others busy.
const ACCEPTORS: usize = 2;
/// A body that is still on its way when the server stops has so long to come.
const UPLOADS_END: Duration = Duration::from_secs(2);
/// How long to rest when the machine has nothing left for one more connection.
const RETRY: Duration = Duration::from_millis(50);

/// A connection as the listener sees it.
pub(super) struct Open {
    pub stream: TcpStream,
    /// Since when nothing has been asked on it; `None` while something is.
    idle: Mutex<Option<Instant>>,
    /// True while it waits for bytes of a body.
    receiving: AtomicBool,
}

impl Open {
    pub fn set_idle(&self, idle: bool) {
        *self.idle.lock() = idle.then(Instant::now);
    }

    pub fn set_receiving(&self, receiving: bool) {
        self.receiving.store(receiving, Ordering::Relaxed);
    }
}

/// What all threads of a listener share.
pub(super) struct Shared {
    pub service: Arc<dyn Service>,
    pub limits: Limits,
    pub stopping: AtomicBool,
    pub memory: BodyMemory,
    pub farewells: Farewells,
    connections: Mutex<Connections>,
    gone: Condvar,
}

/// Accepts connections until it is dropped.
pub(crate) struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Vec<JoinHandle<()>>,
    farewell: Option<JoinHandle<()>>,
}

impl Listener {
    /// Begins to accept.
    pub fn start(
        listener: TcpListener,
        service: Arc<dyn Service>,
        limits: Limits,
    ) -> io::Result<Self> {
        let (farewells, farewell) = Farewells::start()?;
        let shared = Arc::new(Shared {
            service,
            limits,
            stopping: AtomicBool::new(false),
            // A quarter of the connections: those that wait for answers, and small requests, need the others.
            memory: BodyMemory::new(limits.body_memory, (limits.connections / 4).max(1)),
            farewells,
            connections: Mutex::default(),
            gone: Condvar::new(),
        });
        let mut this = Self {
            address: listener.local_addr()?,
            shared,
            accepting: Vec::new(),
            farewell: Some(farewell),
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

    /// The memory that all bodies take.
    #[cfg(test)]
    pub(super) fn memory(&self) -> &BodyMemory {
        &self.shared.memory
    }

    /// Accepts no more, ends connections that are idle, and waits this long for the others; those that are left
    /// then are cut off.
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
        self.shared.wait_for_all(&mut connections, brief);
        self.shared.memory.close();
        for open in connections.values() {
            if open.receiving.load(Ordering::Relaxed) {
                let _ = open.stream.shutdown(Shutdown::Read);
            }
        }
        self.shared.wait_for_all(&mut connections, deadline);
        for open in connections.values() {
            let _ = open.stream.shutdown(Shutdown::Both);
        }
        drop(connections);
        self.shared.farewells.close();
        if let Some(thread) = self.farewell.take() {
            drop(thread.join());
        }
    }

    /// The standard library cannot interrupt an accept, but a connection ends one.
    fn wake_acceptors(&self) {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.is_ipv4() {
                true => std::net::Ipv4Addr::LOCALHOST.into(),
                false => std::net::Ipv6Addr::LOCALHOST.into(),
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
                shared.admit(stream, number);
            }
            Ok(_) => {}
            Err(error) => {
                // As a rule no more file descriptors: an idle connection gives one back.
                log::warn!("a connection could not be accepted: {error}");
                make_room(&mut shared.connections.lock());
                std::thread::park_timeout(RETRY);
            }
        }
    }
}

type Connections = HashMap<u64, Arc<Open>>;

impl Shared {
    fn wait_for_all(&self, open: &mut MutexGuard<'_, Connections>, deadline: Instant) {
        while !open.is_empty() {
            if self.gone.wait_until(open, deadline).timed_out() {
                break;
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, number: u64) {
        let open = Arc::new(Open {
            stream,
            idle: Mutex::new(Some(Instant::now())),
            receiving: AtomicBool::new(false),
        });
        {
            // One look and one entry: of several that accept at once each would see the same last place.
            let mut connections = self.connections.lock();
            if connections.len() >= self.limits.connections && !make_room(&mut connections) {
                drop(connections);
                return self.turn_away(&open.stream);
            }
            connections.insert(number, Arc::clone(&open));
        }
        let shared = Arc::clone(self);
        let held = Arc::clone(&open);
        let serve = move || {
            let _entry = Entry(&shared, number, &held.stream);
            connection::serve(&held, &shared);
        };
        if let Err(error) = thread("http", serve) {
            log::warn!("a connection could not be served: {error}");
            self.connections.lock().remove(&number);
            self.turn_away(&open.stream);
        }
    }

    /// Says that there is no room, without waiting for anything.
    fn turn_away(&self, mut stream: &TcpStream) {
        const FULL: &[u8] =
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
            content-type: text/plain\r\ncontent-length: 30\r\n\r\ntoo many connections are open\n";
        let _ = stream.set_nonblocking(true);
        let _ = stream.write(FULL);
        self.farewells.see_off(stream);
    }
}

/// Ends the connection that has been idle longest, if there is one.
fn make_room(connections: &mut Connections) -> bool {
    let idle = connections.iter().filter_map(|(number, open)| {
        let since = (*open.idle.lock())?;
        Some((since, *number))
    });
    let Some((_, number)) = idle.min() else {
        return false;
    };
    if let Some(open) = connections.remove(&number) {
        let _ = open.stream.shutdown(Shutdown::Both);
    }
    true
}

/// A connection's place on the list, given up however its thread ends.
struct Entry<'s>(&'s Shared, u64, &'s TcpStream);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        // Under one lock: whoever sees the end finds the place free, and whoever stops the server, and sees the last one
        // gone from the list, that it is being seen off.
        let mut connections = self.0.connections.lock();
        connections.remove(&self.1);
        self.0.farewells.see_off(self.2);
        drop(connections);
        self.0.gone.notify_all();
    }
}

pub(super) fn thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_SIZE)
        .spawn(run)
}
