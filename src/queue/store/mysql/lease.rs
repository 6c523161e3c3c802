//! Workers and their leases: a worker counts as alive as long as a thread of its store renews its lease.
//!
//! A lease is the end time in a worker's row, by the clock of the database. A lock of a session would be lost with a short
//! interruption of its connection; a lease is not. Fences reject late writes of an expired owner.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::host::host;
use crate::base::{Error, ErrorKind};
use crate::queue::store::claims::DeadWorker;
use crate::queue::store::rows::NO_CHORE;
use crate::queue::store::statements::{Fault, Queries as _, Sql, by, list};
use crate::queue::store::workers::Registry;
use crate::queue::store::{Mode, WorkerId, Workers};

use super::writer::CLOCK;
use super::{Database, Mysql};

/// The query for the version of the store.
pub(super) const VERSION: &str = "SELECT CAST(SUM(version) AS SIGNED) FROM #versions";

/// Times are those since the store was opened.
#[derive(Default)]
struct State {
    /// When the leases were last renewed.
    renewed_at: Option<Duration>,
    /// Since when they have been renewed in time.
    steady_since: Duration,
}

/// State that the thread and the store share.
pub(super) struct Shared {
    database: Arc<Database>,
    workers: Arc<Registry>,
    pub(super) lease: Duration,
    began: Instant,
    state: Mutex<State>,
}

/// Renews the leases of a store, starting with the first one.
pub(in crate::queue::store) struct Heartbeat {
    pub(super) shared: Arc<Shared>,
    /// Ends when its sender is dropped.
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Heartbeat {
    pub(super) fn new(database: Arc<Database>, workers: Arc<Registry>, lease: Duration) -> Self {
        let shared = Shared {
            database,
            workers,
            lease,
            began: Instant::now(),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
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
    pub(in crate::queue::store) fn start(&self) -> Result<(), Error> {
        let mut thread = self.thread.lock();
        let mut state = self.shared.state.lock();
        if state.renewed_at.is_none() {
            state.steady_since = self.shared.now();
            state.renewed_at = Some(state.steady_since);
        }
        #[cfg(test)]
        if self.shared.database.wire.is_some() {
            return Ok(());
        }
        if thread.is_none() {
            let (stop, stopped) = mpsc::channel();
            let shared = self.shared.clone();
            let named = std::thread::Builder::new().name("bw-leases".to_owned());
            let started = named.spawn(move || shared.run(&stopped));
            let started = started.map_err(|error| {
                let why = format!("no thread can be started: {error}");
                Error::new(ErrorKind::Transient, why)
            })?;
            *thread = Some((stop, started));
        }
        Ok(())
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop();
        // Other workers do not have to wait for the leases of workers that ended with their store.
        let workers = self.shared.workers.numbers();
        if !workers.is_empty() {
            let end = "UPDATE #workers SET lease_until = 0 WHERE no IN ";
            let end = format!("{end}{}", list(&workers));
            let _ = self.shared.database.aside(|tx| tx.run(&end, by![]));
        }
    }
}

impl Shared {
    /// The end of a lease that begins now, as an SQL expression.
    fn until(&self) -> String {
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
        self.database.aside(|tx| {
            self.database.read_clock(tx)?;
            tx.run(&renew, by![]).map(drop)
        })?;
        let (now, mut state) = (self.now(), self.state.lock());
        if !self.is_recent(&state, now) {
            state.steady_since = now;
        }
        state.renewed_at = Some(now);
        Ok(())
    }

    /// Whether the last renewal was in time. Any other owner that renews at the same intervals has a lease that lasts longer.
    fn is_recent(&self, state: &State, now: Duration) -> bool {
        let renewed_at = state.renewed_at.unwrap_or_default();
        now.saturating_sub(renewed_at) < self.lease / 2
    }

    /// Whether an expired lease means that its owner is dead. While this store cannot renew its own leases, because the
    /// database cannot be reached or a backup blocks writes, living owners cannot either; they get time to do so afterwards.
    pub(super) fn can_tell(&self) -> bool {
        let (now, state) = (self.now(), self.state.lock());
        let steady_for = now.saturating_sub(state.steady_since);
        self.is_recent(&state, now) && steady_for >= self.lease / 3 * 2
    }
}

impl Mysql {
    /// Adds the row of a worker, with its former number if it had one.
    pub(in crate::queue::store) fn enlist(
        &self,
        tx: &mut dyn Sql,
        no: Option<i64>,
    ) -> Result<u64, Fault> {
        let enlist = format!(
            "INSERT INTO #workers (no, pid, host, lease_until) VALUES (?, ?, ?, {})",
            self.heartbeat.shared.until()
        );
        // Cut to the size of the column.
        let host: String = host().chars().take(255).collect();
        tx.run(&enlist, by![no, std::process::id(), host])
    }

    /// Lists the quotas that a worker uses.
    pub(in crate::queue::store) fn list_quotas(
        &self,
        worker: WorkerId,
        quotas: &[u64],
    ) -> Result<(), Error> {
        let keys: Vec<String> = quotas.iter().map(u64::to_string).collect();
        let (keys, list) = (
            keys.join(" "),
            "UPDATE #workers SET quotas = ? WHERE no = ?",
        );
        self.database
            .aside(|tx| tx.run(list, by![keys.clone(), worker.0]).map(drop))
    }

    /// All workers, and what a worker looks at every second, with one statement. A worker of this store never counts as
    /// dead: its lease is renewed as soon as the database can be reached.
    pub(in crate::queue::store) fn look(&self, workers: &Registry) -> Result<Workers, Error> {
        type Listed = (
            (WorkerId, i64, String),
            (bool, bool, Option<String>),
            (u64, bool),
        );
        let look = format!(
            "SELECT no, pid, host, lease_until = 0, lease_until <= {CLOCK}, quotas, ({VERSION}),
               EXISTS(SELECT 1 FROM #processes WHERE chore > {NO_CHORE})
             FROM #workers ORDER BY no"
        );
        let listed: Vec<Listed> = self.database.run(Mode::Read, |tx| tx.many(&look, by![]))?;
        let shared = &self.heartbeat.shared;
        if listed.iter().any(|((no, ..), (has_ended, is_over, _), _)| {
            *is_over && !has_ended && workers.has(no.0)
        }) {
            // The lease of another living owner can have expired too: the machines were suspended, or the clock of the
            // database was set forward.
            shared.state.lock().steady_since = shared.now();
        }
        let can_tell = shared.can_tell();
        let mut found = Workers::default();
        for ((no, pid, host), (has_ended, is_over, quotas), general) in listed {
            (found.version, found.has_chores) = general;
            if is_over && !workers.has(no.0) && (has_ended || can_tell) {
                let sign = None;
                found.dead.push(DeadWorker {
                    no,
                    pid,
                    host,
                    sign,
                });
            } else {
                let quotas = quotas.unwrap_or_default();
                let quotas = quotas.split(' ').filter_map(|number| number.parse().ok());
                found.live.push((no, quotas.collect()));
            }
        }
        Ok(found)
    }
}
