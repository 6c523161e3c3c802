//! Workers and their leases: a worker counts as alive as long as a thread of its store renews its lease.
//!
//! A lease is the end time in a worker's row, by the clock of the database. A lock of a session would be lost with a short
//! interruption of its connection; a lease is not. Fences reject late writes of an expired owner.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::{Error, ErrorKind};
use crate::queue::store::claims::DeadWorker;
use crate::queue::store::rows::NO_CHORE;
use crate::queue::store::statements::{CLOCK, Queries as _, by, list};
use crate::queue::store::workers::Registry;
use crate::queue::store::{Mode, Workers};

use super::{Database, Mysql};

/// The query for the version of the store.
pub(super) const VERSION: &str = "SELECT CAST(SUM(version) AS SIGNED) FROM #versions";

/// That the leases have been renewed in time. Times are those since the store was opened.
#[derive(Clone, Copy)]
struct Steady {
    since: Duration,
    renewed_at: Duration,
}

/// The leases of a store's workers. A thread renews them, starting with the first one.
pub(in crate::queue::store) struct Leases {
    database: Arc<Database>,
    workers: Arc<Registry>,
    pub(super) lease: Duration,
    began: Instant,
    /// `None` during a renewal, and after one that failed.
    steady: Mutex<Option<Steady>>,
    /// Ends when its sender is dropped.
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl From<Duration> for Steady {
    fn from(now: Duration) -> Self {
        Self {
            since: now,
            renewed_at: now,
        }
    }
}

impl Leases {
    pub(super) fn new(database: Arc<Database>, workers: Arc<Registry>, lease: Duration) -> Self {
        Self {
            database,
            workers,
            lease,
            began: Instant::now(),
            steady: Mutex::default(),
            thread: Mutex::default(),
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        if let Some((stop, thread)) = self.thread.lock().take() {
            drop(stop);
            let _ = thread.join();
        }
    }

    /// Starts the thread, if it does not run yet.
    pub(in crate::queue::store) fn start(self: &Arc<Self>) -> Result<(), Error> {
        let (mut thread, now) = (self.thread.lock(), self.now());
        self.steady.lock().get_or_insert(Steady::from(now));
        #[cfg(test)]
        if self.database.wire.is_some() {
            return Ok(());
        }
        if thread.is_none() {
            let (stop, stopped) = mpsc::channel();
            let leases = self.clone();
            let named = std::thread::Builder::new().name("bw-leases".to_owned());
            let started = named.spawn(move || leases.run(&stopped));
            let started = started.map_err(|error| {
                let why = format!("no thread can be started: {error}");
                Error::new(ErrorKind::Transient, why)
            })?;
            *thread = Some((stop, started));
        }
        Ok(())
    }

    /// The end of a lease that begins now, as an SQL expression.
    pub(in crate::queue::store) fn until(&self) -> String {
        format!("{CLOCK} + {}", self.lease.as_millis())
    }

    fn now(&self) -> Duration {
        #[cfg(test)]
        if let Some(wire) = &self.database.wire {
            return wire.now();
        }
        self.began.elapsed()
    }

    fn run(&self, stopped: &Receiver<()>) {
        let interval = self.lease / 3;
        let (mut wait, mut is_told) = (interval, false);
        while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            match self.renew() {
                Ok(()) => (wait, is_told) = (interval, false),
                Err(error) => {
                    if !is_told {
                        log::warn!("the leases of this process could not be renewed: {error}");
                    }
                    (wait, is_told) = ((interval / 5).min(Duration::from_secs(1)), true);
                }
            }
        }
    }

    pub(super) fn renew(&self) -> Result<(), Error> {
        let renew = format!(
            "UPDATE #workers SET lease_until = {} WHERE no IN {}",
            self.until(),
            list(&self.workers.numbers())
        );
        let (before, began) = (self.steady.lock().take(), self.now());
        self.database.run(Mode::Aside, |tx| {
            self.database.read_clock(tx)?;
            tx.run(&renew, by![]).map(drop)
        })?;
        let (now, mut steady) = (self.now(), self.steady.lock());
        // If this one came late or had to wait, those of others did too.
        let is_in_time = |before: &Steady| {
            self.is_recent(before, began) && now.saturating_sub(began) < self.lease / 6
        };
        let before = steady.or(before.filter(is_in_time));
        let since = before.map_or(now, |before| before.since);
        *steady = Some(Steady {
            since,
            renewed_at: now,
        });
        Ok(())
    }

    /// Whether an expired lease means that its owner is dead. While this store cannot renew its own leases, because the
    /// database cannot be reached or a backup blocks writes, living owners cannot either; they get time to do so afterwards.
    pub(super) fn can_tell(&self) -> bool {
        let (now, steady) = (self.now(), *self.steady.lock());
        steady.is_some_and(|steady| {
            let steady_for = now.saturating_sub(steady.since);
            self.is_recent(&steady, now) && steady_for >= self.lease / 3 * 2
        })
    }

    /// Whether the last renewal was in time: this process may have been suspended, and others with it.
    fn is_recent(&self, steady: &Steady, now: Duration) -> bool {
        now.saturating_sub(steady.renewed_at) < self.lease / 2
    }
}

impl Drop for Mysql {
    fn drop(&mut self) {
        self.leases.stop();
        // Other workers do not have to wait for the leases of workers that ended with their store.
        let workers = self.leases.workers.numbers();
        if !workers.is_empty() {
            let end = "UPDATE #workers SET lease_until = 0 WHERE no IN ";
            let end = format!("{end}{}", list(&workers));
            let _ = self.database.run(Mode::Aside, |tx| tx.run(&end, by![]));
        }
    }
}

impl Mysql {
    /// All workers, and what a worker looks at every second, with one statement. A worker of this store never counts as
    /// dead: its lease is renewed as soon as the database can be reached.
    pub(in crate::queue::store) fn look(&self, workers: &Registry) -> Result<Workers, Error> {
        type Listed = (DeadWorker, bool, bool, Option<String>, (u64, bool, i64));
        let look = format!(
            "SELECT no, pid, host, lease_until = 0, lease_until <= {CLOCK}, quotas, ({VERSION}),
               EXISTS(SELECT 1 FROM #processes WHERE chore > {NO_CHORE}),
               (SELECT value FROM #schema WHERE name = 'version')
             FROM #workers ORDER BY no"
        );
        let listed: Vec<Listed> = self.database.run(Mode::Read, |tx| tx.many(&look, by![]))?;
        let leases = &self.leases;
        let is_own = |(worker, has_ended, is_over, ..): &Listed| {
            *is_over && !has_ended && workers.has(worker.no.0)
        };
        if listed.iter().any(is_own) {
            // The lease of another living owner can have expired too: the machines were suspended, or the clock of the
            // database was set forward.
            *leases.steady.lock() = Some(Steady::from(leases.now()));
        }
        let can_tell = leases.can_tell();
        let mut found = Workers::default();
        for (worker, has_ended, is_over, quotas, general) in listed {
            (found.version, found.has_chores, found.schema) = general;
            if is_over && !workers.has(worker.no.0) && (has_ended || can_tell) {
                found.dead.push((worker, None));
            } else {
                let quotas = quotas.unwrap_or_default();
                let quotas = quotas.split(' ').filter_map(|number| number.parse().ok());
                found.live.push((worker.no, quotas.collect()));
            }
        }
        Ok(found)
    }
}
