//! Connections, opened as they are needed and lent to one thread at a time.

use std::time::{Duration, Instant};

use mysql::{Conn, Opts};
use parking_lot::{Condvar, Mutex};

use super::writer::Fault;

struct State {
    idle: Vec<Conn>,
    lent: usize,
    /// Rises when a connection was lost: those that were opened before are not used again.
    generation: u64,
    /// Since when no connection was lost.
    steady_since: Instant,
}

/// Connections to one database.
pub(super) struct Pool {
    opts: Opts,
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

/// A connection that is lent. One that is not [given back](Self::give_back) is closed.
pub(super) struct Lent<'a> {
    pool: &'a Pool,
    conn: Option<Conn>,
    generation: u64,
}

impl Pool {
    pub(super) fn new(opts: Opts, most: usize) -> Self {
        Self {
            opts,
            most: most.max(1),
            state: Mutex::new(State {
                idle: Vec::new(),
                lent: 0,
                generation: 0,
                steady_since: Instant::now(),
            }),
            returned: Condvar::new(),
        }
    }

    /// Waits for a connection while all are lent, unless this is for somebody who has one.
    pub(super) fn lend(&self, has_one: bool) -> Result<Lent<'_>, Fault> {
        let (idle, generation) = {
            let mut state = self.state.lock();
            while state.lent >= self.most && !has_one {
                self.returned.wait(&mut state);
            }
            state.lent += 1;
            (state.idle.pop(), state.generation)
        };
        let mut lent = Lent {
            pool: self,
            conn: idle,
            generation,
        };
        if lent.conn.is_none() {
            // Dropped on failure, which makes room for the next one.
            lent.conn = Some(Conn::new(self.opts.clone())?);
        }
        Ok(lent)
    }

    /// A connection was lost: the others are likely to be lost, too.
    pub(super) fn lost(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.generation += 1;
            state.steady_since = Instant::now();
            std::mem::take(&mut state.idle)
        };
        drop(idle);
    }

    /// For how long no connection was lost.
    pub(super) fn steady_for(&self) -> Duration {
        self.state.lock().steady_since.elapsed()
    }
}

impl Lent<'_> {
    pub(super) fn conn(&mut self) -> Result<&mut Conn, Fault> {
        self.conn.as_mut().ok_or(Fault::Odd("no connection"))
    }

    /// It may be lent again.
    pub(super) fn give_back(mut self) {
        let conn = self.conn.take();
        let mut state = self.pool.state.lock();
        if self.generation == state.generation {
            state.idle.extend(conn);
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pool.state.lock().lent -= 1;
        self.pool.returned.notify_one();
    }
}
