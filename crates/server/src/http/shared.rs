//! State that the threads of a listener and of its connections share.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::permits::Permits;
use super::{Call, Head, Response};

/// Answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// Checks a request by its head, before its body is read, and returns its handler.
    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<Answer<'_>, Response>;

    /// The seconds to wait before another connection, for the `retry-after` of a refused one.
    fn retry_after(&self) -> u64 {
        1
    }
}

/// Answers an admitted request.
pub(crate) type Answer<'s> = Box<dyn FnOnce(&mut Call<'_>) -> Response + 's>;

/// Limits for clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time after which a new connection without a request counts as idle.
    pub fresh: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long the server waits for a client to send bytes of a body, or to receive some.
    pub stall: Duration,
    /// Minimum number of bytes per second, once the server has waited longer than `stall` in total.
    pub slowest: u64,
    /// Maximum number of bytes of a body that are read and discarded so that a connection can be reused.
    pub leftover: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            fresh: Duration::from_secs(1),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(20),
            slowest: 1 << 10,
            leftover: 256 << 10,
        }
    }
}

/// Connections by their numbers.
pub(super) type Connections = HashMap<u64, Arc<Open>>;

/// A connection as the listener sees it.
pub(super) struct Open {
    pub stream: TcpStream,
    /// Since when the connection is idle; `None` while it has a request.
    pub idle: Mutex<Option<Instant>>,
    /// True after its first request.
    pub used: AtomicBool,
    /// True while it waits for bytes of a body.
    pub receiving: AtomicBool,
}

impl Open {
    /// Since when it has been idle. `None` while it handles a request, and for a new connection whose first request may
    /// still arrive.
    pub fn idle_since(&self, fresh: Duration) -> Option<Instant> {
        let since = (*self.idle.lock())?;
        let had_time = || since.elapsed() >= fresh && !has_unread(&self.stream);
        (self.used.load(Ordering::Relaxed) || had_time()).then_some(since)
    }

    pub fn set_idle(&self, idle: bool) {
        *self.idle.lock() = idle.then(Instant::now);
        self.used.fetch_or(!idle, Ordering::Relaxed);
    }

    pub fn set_receiving(&self, receiving: bool) {
        self.receiving.store(receiving, Ordering::Relaxed);
    }
}

/// Whether the connection has received bytes that its thread has not read yet.
#[cfg(unix)]
fn has_unread(stream: &TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(stream, &mut [0; 1], flags).is_ok_and(|(bytes, _)| bytes > 0)
}

/// Unknown: this system cannot check it without affecting the thread that reads.
#[cfg(not(unix))]
fn has_unread(_: &TcpStream) -> bool {
    false
}

/// What all threads of a listener share.
pub(super) struct Shared {
    pub service: Arc<dyn Service>,
    pub limits: Limits,
    pub stopping: AtomicBool,
    pub permits: Permits,
    /// Shared by itself: a thread leaves it last, when it has let go of the service and its files.
    pub connections: Arc<Register>,
}

/// The open connections.
#[derive(Default)]
pub(super) struct Register {
    open: Mutex<Connections>,
    pub gone: Condvar,
}

impl Register {
    pub fn lock(&self) -> MutexGuard<'_, Connections> {
        self.open.lock()
    }

    /// Waits until no connection is left, or until this time.
    pub fn wait_for_all(&self, open: &mut MutexGuard<'_, Connections>, deadline: Instant) {
        while !open.is_empty() {
            if self.gone.wait_until(open, deadline).timed_out() {
                break;
            }
        }
    }
}
