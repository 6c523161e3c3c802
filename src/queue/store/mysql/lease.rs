//! Leases: a worker, or a server, counts as alive as long as a thread of its store renews its lease.
//!
//! A lease is a row with an end time by the clock of the database. A lock of a session would be lost with a short
//! interruption of its connection; a lease is not. Fences reject late writes of an expired owner.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::base::Error;

use crate::queue::store::workers::Registry;

use super::Database;
use super::writer::{CLOCK, Fault, Statements as _, Tx, by, list};

/// The longest lease of another process, in leases of this one.
const LONGEST: u32 = 4;

#[derive(Default)]
struct State {
    thread: Option<JoinHandle<()>>,
    ends: bool,
    /// Since when a renewal has been running.
    renews_since: Option<Instant>,
}

/// State that the thread and the store share.
pub(super) struct Shared {
    database: Arc<Database>,
    workers: Arc<Registry>,
    pub(super) lease: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

/// Renews the leases of a store, starting with the first one.
pub(in crate::queue::store) struct Heartbeat(pub(super) Arc<Shared>);

impl Heartbeat {
    pub(super) fn new(database: Arc<Database>, workers: Arc<Registry>, lease: Duration) -> Self {
        Self(Arc::new(Shared {
            database,
            workers,
            lease,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Whether an expired lease means that its owner is dead. After a lost connection, or a renewal that was hindered,
    /// leases may have expired because nobody could renew them, so living owners first get time to do so.
    pub(super) fn can_tell(&self) -> bool {
        let shared = &self.0;
        let since = shared.state.lock().renews_since;
        !since.is_some_and(|since| shared.is_slow(since))
            && shared.database.steady_for() >= shared.lease / 3 * 2
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let thread = {
            let mut state = self.0.state.lock();
            state.ends = true;
            state.thread.take()
        };
        self.0.changed.notify_all();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Starts the thread, if it does not run yet.
    pub(in crate::queue::store) fn start(&self) -> Result<(), Error> {
        let mut state = self.0.state.lock();
        #[cfg(test)]
        if self.0.database.wire.is_some() {
            return Ok(());
        }
        if state.thread.is_none() {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new().name("bw-leases".to_owned());
            let thread = thread.spawn(move || shared.run()).map_err(|error| {
                let why = format!("no thread can be started: {error}");
                Error::new(crate::base::error::ErrorKind::Transient, why)
            })?;
            state.thread = Some(thread);
        }
        Ok(())
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop();
        // Other workers do not have to wait for the leases of workers that ended with their store.
        let workers = self.0.workers.numbers();
        if !workers.is_empty() {
            let end = format!(
                "UPDATE #workers SET lease_until = 0 WHERE no IN {}",
                list(workers)
            );
            let _ = self.0.database.read(|tx| tx.run(&end, Vec::new()));
        }
    }
}

impl Shared {
    /// The end of a lease that begins now, as an SQL expression.
    pub(super) fn until(&self) -> String {
        format!("{CLOCK} + {}", self.lease.as_millis())
    }

    fn run(&self) {
        let interval = self.lease / 3;
        let mut wait = interval;
        let mut is_told = false;
        loop {
            {
                let mut state = self.state.lock();
                if !state.ends {
                    self.changed.wait_for(&mut state, wait);
                }
                if state.ends {
                    return;
                }
                state.renews_since = Some(Instant::now());
            }
            let renewed = self.renew();
            {
                let mut state = self.state.lock();
                let since = state.renews_since.take();
                if renewed.is_err() || since.is_some_and(|since| self.is_slow(since)) {
                    self.database.unsteady();
                }
            }
            match renewed {
                Ok(()) => (wait, is_told) = (interval, false),
                Err(error) => {
                    if !is_told {
                        log::warn!("the leases of this process could not be renewed: {error}");
                        is_told = true;
                    }
                    wait = (interval / 5).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// Whether a renewal takes so long that other owners may be unable to renew their leases: writes can be blocked, for
    /// example by a backup, while reads work. A renewal begins at the latest a third of a lease after the block. It is
    /// found to be slow before the first lease expires, which is at the earliest another third later.
    fn is_slow(&self, since: Instant) -> bool {
        since.elapsed() >= self.lease / 4
    }

    pub(super) fn renew(&self) -> Result<(), Error> {
        let workers = self.workers.numbers();
        let until = self.until();
        self.database.aside(|tx| {
            self.database.offset.read(tx)?;
            for no in &workers {
                let renew = format!("UPDATE #workers SET lease_until = {until} WHERE no = ?");
                tx.run(&renew, by![*no])?;
            }
            self.cut_long_leases(tx)
        })
    }

    /// Cuts leases that end later than any owner can have written: the clock of the database was set back, and the leases
    /// of dead owners would last for as long as the clock was ahead. Living owners renew theirs as usual. Other processes
    /// may have longer leases, so only those of more than [`LONGEST`] are cut.
    fn cut_long_leases(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        let longest = format!("{CLOCK} + {}", (self.lease * LONGEST).as_millis());
        let cut =
            format!("UPDATE #workers SET lease_until = {longest} WHERE lease_until > {longest}");
        tx.run(&cut, Vec::new()).map(drop)
    }
}
