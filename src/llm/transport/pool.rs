//! Connections that wait for their next call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;
use super::target::Target;

/// Common servers close idle connections after 5 s. It is unknown whether a request that is sent at that moment was
/// processed, so idle connections are closed earlier.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// After a kept connection was found closed, no connection is reused for this long.
const DISTRUST: Duration = Duration::from_secs(60);

pub(super) struct Pool {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The longest idle ones first.
    idle: Vec<Idle>,
    /// The time until which no connection is reused.
    distrusted: Option<Instant>,
}

struct Idle {
    target: Arc<Target>,
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A pool that keeps at most `most` connections.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            state: Mutex::default(),
        }
    }

    /// The connection to the same server that was used last and is still open.
    pub fn take(&self, target: &Target) -> Option<Connection> {
        loop {
            let now = Instant::now();
            let mut closed = Vec::new();
            let mut state = self.state.lock();
            let too_old = |idle: &&Idle| now.duration_since(idle.since) >= IDLE_LIMIT;
            let old = state.idle.iter().take_while(too_old).count();
            closed.extend(state.idle.drain(..old));
            let place = state
                .idle
                .iter()
                .rposition(|idle| idle.target.is_same_server(target));
            let found = place.map(|place| state.idle.remove(place).connection);
            drop(state);
            // Closing takes a system call, also with a lock held.
            drop(closed);
            let mut connection = found?;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    pub fn give(&self, target: Arc<Target>, connection: Connection) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_trusted = state.distrusted.is_none_or(|until| until <= now);
        if is_trusted && state.idle.len() < self.most {
            state.idle.push(Idle {
                target,
                connection,
                since: now,
            });
        }
    }

    /// The server closed a kept connection without a reply, and may do so with others.
    pub fn distrust(&self) {
        let mut state = self.state.lock();
        state.distrusted = Some(Instant::now() + DISTRUST);
        let closed = std::mem::take(&mut state.idle);
        drop(state);
        drop(closed);
    }
}
