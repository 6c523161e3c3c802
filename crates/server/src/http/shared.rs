//! What a listener and its connections share.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::call::Permits;
use super::{Call, Head, Response};

/// Answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// Checks a request by its head, before its body is read, and returns its handler.
    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<Answer<'_>, Response>;
}

/// Answers an admitted request.
pub(crate) type Answer<'s> = Box<dyn FnOnce(&mut Call<'_>) -> Response + 's>;

/// Limits for clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long the server waits for a client to send bytes of a body, or to receive some.
    pub stall: Duration,
    /// How long a client that has a permit may take for its body.
    pub whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(20),
            whole: Duration::from_secs(300),
        }
    }
}

/// A connection as the listener sees it.
pub(super) struct Open {
    pub stream: TcpStream,
    /// True while it has no request.
    pub idle: Mutex<bool>,
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

/// The open connections, by their numbers.
#[derive(Default)]
pub(super) struct Register {
    pub open: Mutex<HashMap<u64, Arc<Open>>>,
    pub gone: Condvar,
}
