//! Connections, opened on demand and lent to one thread at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, Opts};
use parking_lot::{Condvar, Mutex};

use crate::queue::store::statements::Fault;

/// Seconds without a statement after which the server closes a connection, even within a transaction. Otherwise the
/// locks of a lost client would block all others.
pub(super) const SILENCE: u32 = 10;

/// A connection that was idle for this long is not reused: half of the time that the server allows.
const MOST_IDLE: Duration = Duration::from_secs(SILENCE as u64 / 2);

/// Maximum number of open connections, without those that a thread with another one opens.
const MOST: usize = 16;

struct State {
    /// Idle connections since a time; the last used one at the end.
    idle: Vec<(Conn, Instant)>,
    lent: usize,
    /// The server of the last connection.
    server: usize,
}

/// Connections to one database, on one of several servers at a time.
pub(super) struct Pool {
    pub(super) servers: Vec<Opts>,
    /// The packet limit of the server of the last connection.
    pub(super) packet: AtomicUsize,
    state: Mutex<State>,
    returned: Condvar,
}

/// A lent connection. If it is not [given back](Self::give_back), it is closed.
pub(super) struct Lent<'a> {
    pool: &'a Pool,
    conn: Option<Conn>,
}

impl Pool {
    pub(super) fn new(servers: Vec<Opts>) -> Self {
        Self {
            servers,
            packet: AtomicUsize::new(usize::MAX),
            state: Mutex::new(State {
                idle: Vec::new(),
                lent: 0,
                server: 0,
            }),
            returned: Condvar::new(),
        }
    }

    /// Waits for a connection while all are lent, unless the thread already has one.
    pub(super) fn lend(&self, has_one: bool) -> Result<Lent<'_>, Fault> {
        let idle = {
            let mut state = self.state.lock();
            while state.lent >= MOST && !has_one {
                self.returned.wait(&mut state);
            }
            state.lent += 1;
            let idle = state.idle.pop();
            idle.filter(|(_, since)| since.elapsed() < MOST_IDLE)
        };
        let mut lent = Lent {
            pool: self,
            conn: idle.map(|(conn, _)| conn),
        };
        if lent.conn.is_none() {
            // On failure it is dropped, so that another thread can connect.
            lent.conn = Some(self.connect()?);
        }
        Ok(lent)
    }

    /// Connects to the first server that accepts writes, starting with the last one that did. If all fail, returns that
    /// server's failure.
    fn connect(&self) -> Result<Conn, Fault> {
        let last = self.state.lock().server;
        let servers = self.servers.iter().enumerate().cycle();
        let mut first: Option<Fault> = None;
        for (at, opts) in servers.skip(last).take(self.servers.len()) {
            match connect(opts) {
                Ok((conn, packet)) => {
                    self.packet.store(packet, Ordering::Relaxed);
                    self.state.lock().server = at;
                    return Ok(conn);
                }
                Err(fault) if first.is_none() => first = Some(fault),
                // The first server's failure is returned, so the other failures are logged.
                Err(fault) => log::warn!("{}", fault.at_server(&place(opts))),
            }
        }
        Err(first.unwrap_or(Fault::Odd("no server")))
    }

    /// Maximum number of bytes of a statement with its values. The server closes the connection of a longer one.
    pub(super) fn most_bytes(&self) -> usize {
        self.packet.load(Ordering::Relaxed)
    }

    /// A connection was lost, so the others are probably lost too.
    pub(super) fn lost(&self) {
        let idle = std::mem::take(&mut self.state.lock().idle);
        drop(idle);
    }
}

/// The address of a server for messages.
pub(super) fn place(opts: &Opts) -> String {
    format!("{}:{}", opts.get_ip_or_hostname(), opts.get_tcp_port())
}

/// Checks that the server accepts writes: after a failover, the former primary may return as a replica. Returns its packet
/// limit as well.
fn connect(opts: &Opts) -> Result<(Conn, usize), Fault> {
    let mut conn = Conn::new(opts.clone())?;
    let ask = "SELECT IF(@@GLOBAL.read_only IN ('0', 'OFF'), 0, 1), @@max_allowed_packet";
    match conn.query_first(ask)? {
        Some((0_u8, packet)) => Ok((conn, packet)),
        _ => Err(Fault::ReadOnly),
    }
}

impl Lent<'_> {
    pub(super) fn conn(&mut self) -> Result<&mut Conn, Fault> {
        self.conn.as_mut().ok_or(Fault::Odd("no connection"))
    }

    /// Returns the connection for reuse.
    pub(super) fn give_back(mut self) {
        let conn = self.conn.take();
        let mut state = self.pool.state.lock();
        let old = |(_, since): &(Conn, Instant)| since.elapsed() >= MOST_IDLE;
        let old = state.idle.iter().take_while(|idle| old(idle)).count();
        let old: Vec<_> = state.idle.drain(..old).collect();
        state.idle.extend(conn.map(|conn| (conn, Instant::now())));
        drop(state);
        // Closing a connection takes a round trip to the server.
        drop(old);
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pool.state.lock().lent -= 1;
        self.pool.returned.notify_one();
    }
}
