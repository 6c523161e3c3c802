//! Connections that read concurrently with writes, as many as threads read at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::FairMutex;
use rusqlite::Connection;

use crate::base::Error;

/// Maximum number of connections. With few of them, one suspended thread on a busy machine would delay all other
/// readers.
const MOST: usize = 8;

/// Connections that are opened on demand: a program with one reading thread has one.
pub(super) struct Readers {
    first: FairMutex<Connection>,
    /// Fair locks; otherwise some of a hundred threads would wait again and again.
    more: [FairMutex<Option<Connection>>; MOST - 1],
    /// The connection that the next thread waits for while all are in use.
    turn: AtomicUsize,
}

impl Readers {
    pub(super) fn new(first: Connection) -> Self {
        Self {
            first: FairMutex::new(first),
            more: Default::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Runs queries; threads are served in the order of their requests.
    pub(super) fn read<T>(
        &self,
        open: impl Fn() -> Result<Connection, Error>,
        work: impl FnOnce(&Connection) -> T,
    ) -> T {
        if let Some(conn) = self.first.try_lock() {
            return work(&conn);
        }
        let idle = self.more.iter().find_map(|more| more.try_lock());
        let mut slot = idle.unwrap_or_else(|| {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            self.more[turn % self.more.len()].lock()
        });
        if slot.is_none() {
            let failed = |error: &_| log::debug!("no further connection for reading: {error}");
            *slot = open().inspect_err(failed).ok();
        }
        if let Some(conn) = &*slot {
            return work(conn);
        }
        // If no more connections can be opened, for example because of too many open files, the first one is used.
        drop(slot);
        work(&self.first.lock())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;
    use crate::base::error::ErrorKind;

    /// This many threads read at once, and each waits for all others while it reads.
    fn read_together(
        readers: &Readers,
        open: impl Fn() -> Result<Connection, Error> + Copy + Send + Sync,
        threads: usize,
    ) {
        let barrier = Barrier::new(threads);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| readers.read(open, |_| barrier.wait()));
            }
        });
    }

    #[test]
    fn as_many_as_are_needed_are_opened_and_no_more() {
        let opened = AtomicUsize::new(1);
        let open = || {
            opened.fetch_add(1, Ordering::Relaxed);
            Ok(Connection::open_in_memory().unwrap())
        };
        let readers = Readers::new(Connection::open_in_memory().unwrap());
        for _ in 0..3 {
            readers.read(open, |_| ());
        }
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        read_together(&readers, open, MOST);
        assert_eq!(opened.load(Ordering::Relaxed), MOST);
        read_together(&readers, open, MOST);
        assert_eq!(opened.load(Ordering::Relaxed), MOST);
    }

    #[test]
    fn one_connection_does_where_no_other_can_be_opened() {
        let readers = Readers::new(Connection::open_in_memory().unwrap());
        let open = || Err(Error::new(ErrorKind::Transient, "too many open files"));
        let read = |conn: &Connection| conn.query_row("SELECT 1", [], |row| row.get::<_, i64>(0));
        thread::scope(|scope| {
            let threads = [(); 20].map(|()| scope.spawn(|| readers.read(open, read)));
            for thread in threads {
                assert_eq!(thread.join().unwrap(), Ok(1));
            }
        });
    }
}
