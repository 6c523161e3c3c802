//! Workers: which of them are alive, what they claim, and how the jobs and batches of one that has ended are returned.

use std::collections::BTreeMap;
use std::fs;

use const_format::formatcp;
use parking_lot::Mutex;

use crate::base::host::host;
#[cfg(feature = "mysql")]
use crate::base::migrations::MYSQL;
use crate::base::migrations::QUEUE;
use crate::base::{Error, ErrorKind, Timestamp};

use super::claims::Sign;
use super::counters::CounterChanges;
use super::lineage::{Standing, lock};
use super::rows::{CANCELLED, FAILED, IN_PROGRESS, PENDING, process_of};
use super::statements::{CLOCK, Fault, Queries as _, RESULTS, Sql, by, error_text, invalid};
use super::{ClaimReply, Db, MAX_CRASHES, Mode, Store, WorkerId, Workers};

/// The workers of a store.
#[derive(Default)]
pub(super) struct Registry {
    workers: Mutex<BTreeMap<i64, Registered>>,
}

/// A worker of this store.
#[derive(Default)]
pub(super) struct Registered {
    /// Number of jobs that it has claimed.
    pub(super) given: u64,
    /// A claim that may have been committed, although the reply was lost.
    pub(super) attempt: Option<ClaimReply>,
    sign: Option<Sign>,
}

impl Registry {
    pub(super) fn has(&self, worker: i64) -> bool {
        self.workers.lock().contains_key(&worker)
    }

    /// The numbers of all workers.
    pub(super) fn numbers(&self) -> Vec<i64> {
        self.workers.lock().keys().copied().collect()
    }

    /// Reads or changes a worker if it belongs to this store.
    pub(super) fn look<T>(
        &self,
        worker: i64,
        look: impl FnOnce(&mut Registered) -> T,
    ) -> Option<T> {
        self.workers.lock().get_mut(&worker).map(look)
    }
}

impl Store {
    /// Registers a worker. Its claims and batches last until it is [unregistered](Self::unregister_worker) or its OS
    /// process ends.
    pub fn register_worker(&self) -> Result<WorkerId, Error> {
        // A file is locked before the row is visible: no OS process ever finds a living worker unlocked.
        let (name, sign) = match &self.db {
            Db::Sqlite(db) => db.make_sign()?,
            #[cfg(feature = "mysql")]
            Db::Mysql(_) => Default::default(),
        };
        let no = self.write(|tx| self.enlist(tx, None, &name))?;
        let worker = Registered {
            sign,
            ..Registered::default()
        };
        self.workers.workers.lock().insert(no, worker);
        #[cfg(feature = "mysql")]
        if let Db::Mysql(db) = &self.db {
            db.leases.start()?;
        }
        Ok(WorkerId(no))
    }

    /// Adds the row of a worker, with its former number if it had one. Returns the number.
    fn enlist(&self, tx: &mut dyn Sql, no: Option<i64>, name: &str) -> Result<i64, Fault> {
        let until = match &self.db {
            Db::Sqlite(_) => "0".to_owned(),
            #[cfg(feature = "mysql")]
            Db::Mysql(db) => db.leases.until(),
        };
        let enlist = format!(
            "INSERT INTO #workers (no, name, pid, host, lease_until) VALUES (?, ?, ?, ?, {until})"
        );
        // Cut to the size of the column.
        let host: String = host().chars().take(255).collect();
        tx.run(&enlist, by![no, name.to_owned(), std::process::id(), host])?;
        Ok(tx.last_id())
    }

    /// A worker has no row, because others took over its jobs. If its lease has ended while it could not reach a server, it is
    /// registered again.
    ///
    /// # Errors
    /// When its jobs would never return to the queue.
    pub(super) fn enlist_again(&self, tx: &mut dyn Sql, worker: WorkerId) -> Result<(), Fault> {
        if self.is_shared() && self.workers.has(worker.0) {
            log::warn!(
                "the database could not be reached for longer than a lease, and other workers took over the jobs of this \
                 one; it continues with new jobs"
            );
            return self.enlist(tx, Some(worker.0), "").map(drop);
        }
        let why = "the worker is not registered (any more): it has ended, or other workers took over its jobs. \
                   Start it again";
        Err(Error::new(ErrorKind::Invalid, why).into())
    }

    /// Unregisters a worker. Its unfinished jobs return to the queue as if they had never been claimed; its batches
    /// keep their jobs and have no owner. If that cannot be written, it counts as one that has died.
    pub fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error> {
        let given_back = self.write(|tx| give_back(tx, worker.0, false, now));
        let known = self.workers.workers.lock().remove(&worker.0);
        let given_back = given_back?;
        if let Some((_locked, path)) = known.and_then(|worker| worker.sign) {
            let _ = fs::remove_file(path);
        }
        if given_back > Some(0) {
            self.wake_workers();
        }
        Ok(())
    }

    /// The registered workers, and what else a worker looks at every second.
    ///
    /// # Errors
    /// When the store cannot be read, or has got a newer version: this program writes nothing new to it any more.
    pub(crate) fn workers(&self) -> Result<Workers, Error> {
        let (found, newest) = match &self.db {
            Db::Sqlite(db) => (db.look(&self.workers)?, QUEUE.newest()),
            #[cfg(feature = "mysql")]
            Db::Mysql(db) => (db.look(&self.workers)?, MYSQL.newest()),
        };
        if found.schema > newest {
            let why = format!(
                "{} has been brought to a newer version of batchwright, or is about to be: update this one, and start it again",
                self.location
            );
            return Err(self.newer.get_or_init(|| invalid(why)).clone());
        }
        Ok(found)
    }

    /// Why this program must not take more from it: it was found to have a newer version.
    pub(crate) fn newer(&self) -> Option<&Error> {
        self.newer.get()
    }

    /// Lists the quotas that a worker uses, for [`workers`](Self::workers) on all machines. Workers on one machine share
    /// their limits in another way.
    pub(crate) fn list_quotas(&self, worker: WorkerId, quotas: &[u64]) -> Result<(), Error> {
        let keys: Vec<String> = quotas.iter().map(u64::to_string).collect();
        let (keys, list) = (
            keys.join(" "),
            "UPDATE #workers SET quotas = ? WHERE no = ?",
        );
        self.run(Mode::Aside, |tx| {
            tx.run(list, by![keys.clone(), worker.0]).map(drop)
        })
    }

    /// Notes what limits a worker at the moment, for displays.
    pub(crate) fn note_limit(&self, worker: WorkerId, limit: Option<&str>) -> Result<(), Error> {
        self.write_as(Mode::WriteLazily, |tx| {
            let note = "UPDATE #workers SET limited_by = ? WHERE no = ?";
            tx.run(note, by![limit.map(str::to_owned), worker.0])
                .map(drop)
        })
    }

    /// What limits each worker at the moment.
    pub(crate) fn limits(&self) -> Result<BTreeMap<i64, String>, Error> {
        let read = "SELECT no, limited_by FROM #workers WHERE limited_by IS NOT NULL";
        let limits: Vec<(i64, String)> = self.read(|tx| tx.many(read, by![]))?;
        Ok(limits.into_iter().collect())
    }

    /// Returns the jobs of workers whose OS process has ended to the queue; their batches keep their jobs and have no
    /// owner. A job whose worker crashed for the [fifth](super::MAX_CRASHES) time fails as
    /// [`ErrorKind::Crashed`](crate::ErrorKind::Crashed) instead. Returns the number of affected jobs.
    pub fn reclaim(&self, now: Timestamp) -> Result<u64, Error> {
        let mut affected = 0;
        for (worker, sign) in self.workers()?.dead {
            let back = self.write(|tx| give_back(tx, worker.no.0, true, now))?;
            if let Some((_locked, path)) = &sign {
                let _ = fs::remove_file(path);
            }
            if let Some(jobs) = back {
                log::info!(
                    "a worker died (process {} on {}): {jobs} of its jobs returned to the queue",
                    worker.pid,
                    worker.host
                );
                affected += jobs;
            }
        }
        if affected > 0 {
            self.wake_workers();
        }
        Ok(affected)
    }
}

/// Returns a worker's jobs to the queue and unregisters it. If it `died`, its jobs may be the cause; otherwise they were
/// not started. Returns `None` if it was not registered.
fn give_back(
    tx: &mut dyn Sql,
    worker: i64,
    died: bool,
    now: Timestamp,
) -> Result<Option<u64>, Fault> {
    // It may have renewed its lease since it was found dead.
    let gone = if died && tx.is_server() {
        formatcp!("DELETE FROM #workers WHERE no = ? AND lease_until <= {CLOCK}")
    } else {
        "DELETE FROM #workers WHERE no = ?"
    };
    if tx.run(gone, by![worker])? == 0 {
        return Ok(None);
    }
    tx.run(
        "UPDATE #batches SET worker = NULL WHERE worker = ?",
        by![worker],
    )?;
    let held: Vec<(i64, u8)> = tx.many(
        "SELECT id, crashes FROM #jobs WHERE worker = ? ORDER BY id FOR UPDATE",
        by![worker],
    )?;
    let standing = lock(tx, held.iter().map(|(id, _)| process_of(*id)))?;
    let mut changes = CounterChanges::default();
    let mut errors = Vec::new();
    for (id, crashes) in &held {
        let crashes = crashes.saturating_add(u8::from(died));
        let process = standing.get(&process_of(*id));
        let status = if process.is_none_or(Standing::stops_trying) {
            CANCELLED
        } else if died && crashes >= MAX_CRASHES {
            let why = format!("its worker died while it ran, for the {MAX_CRASHES}th time");
            let error = Error::new(ErrorKind::Crashed, why);
            errors.push(by![*id, error_text(&error)?, None::<String>]);
            FAILED
        } else {
            PENDING
        };
        let back = "UPDATE #jobs SET status = ?, worker = NULL, crashes = ?, lost = GREATEST(lost, ?) WHERE id = ?";
        tx.defer(back, by![status, crashes, died, *id])?;
        changes.moved(*id, IN_PROGRESS, status);
    }
    tx.insert_rows(RESULTS, &mut errors.into_iter())?;
    if died {
        let mut jobs = BTreeMap::new();
        for (id, _) in &held {
            *jobs.entry(process_of(*id)).or_insert(0) += 1;
        }
        changes.lost_with_worker(tx, &jobs)?;
    }
    changes.write(tx, now)?;
    Ok(Some(held.len() as u64))
}
