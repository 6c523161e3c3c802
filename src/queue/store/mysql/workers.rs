//! Workers: whether their leases are valid, and how jobs and batches of dead workers are returned.

use std::time::Duration;

use crate::base::host::host;
use crate::base::{Error, ErrorKind, Timestamp};
use crate::queue::job::ProcessState;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{CANCELLED, IN_PROGRESS, NO_CHORE, PENDING, count, process_of};
use crate::queue::store::sql::standing::lock;
use crate::queue::store::sql::workers::{Departure, give_back};
use crate::queue::store::sql::{claim, due, settle};
use crate::queue::store::{
    ClaimOutcome, ClaimReply, ClaimRequest, ClaimStore, JobReceipt, Settlement, WorkerId, Workers,
};

use super::MysqlStore;
use super::lease::RegisteredWorker;
use super::open::VERSION;
use super::writer::{Again, CLOCK, Fault, Queries as _, Statements, by, list, too_large};

/// A worker as its row describes it.
pub(super) struct ListedWorker {
    pub no: i64,
    pub pid: i64,
    pub host: String,
    /// By the clock of the database.
    pub lease_ended: bool,
    pub is_dead: bool,
    /// The quotas that it uses.
    pub quotas: Vec<u64>,
}

/// The name of this machine, cut to the size of the column.
fn shown_host() -> String {
    host().chars().take(255).collect()
}

impl MysqlStore {
    /// Registers a worker again that others considered dead while it could not reach the database. Others have its
    /// former jobs.
    ///
    /// # Errors
    /// When the worker does not belong to this store, or has ended.
    pub(super) fn enlist(&self, tx: &mut dyn Statements, worker: WorkerId) -> Result<(), Fault> {
        if self.heartbeat.worker(worker.0, |known| known.left) != Some(false) {
            let why =
                "the worker is not registered: it has ended, or belongs to another OS process";
            return Err(Error::new(ErrorKind::Invalid, why).into());
        }
        log::warn!(
            "the database could not be reached for longer than a lease, and other workers took over the jobs of this one; it \
             continues with new jobs"
        );
        let enlist = format!(
            "INSERT INTO #workers (no, pid, host, lease_until) VALUES (?, ?, ?, {})",
            self.heartbeat.until()
        );
        tx.run(&enlist, by![worker.0, std::process::id(), shown_host()])?;
        Ok(())
    }

    /// Whether a worker of another process has jobs and has not renewed its lease since this store's workers ran out of
    /// jobs. A worker that ends when no job is left waits for that renewal, or takes over these jobs when the lease has
    /// expired.
    pub(super) fn await_silent(&self, now: Timestamp) -> Result<bool, Error> {
        #[cfg(test)]
        if !self.awaits_others {
            return Ok(false);
        }
        if !self.heartbeat.has_idle() {
            return Ok(false);
        }
        let busy = format!(
            "SELECT w.no, w.lease_until, w.lease_until <= {CLOCK} FROM #workers w
             WHERE w.lease_until > 0 AND w.no NOT IN {}
               AND EXISTS (SELECT 1 FROM #jobs j WHERE j.worker = w.no)",
            list([0].into_iter().chain(self.heartbeat.workers()))
        );
        let busy = self.read(|tx| {
            let rows = tx.rows(&busy, Vec::new())?.into_iter();
            let rows = rows.map(|mut row| Ok((row.at(0)?, row.at(1)?, row.at(2)?)));
            rows.collect::<Result<Vec<(i64, i64, bool)>, Fault>>()
        })?;
        let (mut waits, mut has_ended) = (false, false);
        for (no, lease_until, is_over) in busy {
            waits |= is_over || !self.heartbeat.has_renewed(no, lease_until);
            has_ended |= is_over;
        }
        if has_ended {
            self.reclaim(now)?;
        }
        Ok(waits)
    }

    /// Returns jobs that were claimed without the worker's knowledge.
    fn undo(&self, worker: WorkerId, claims: &[JobReceipt], now: Timestamp) -> Result<(), Error> {
        if claims.is_empty() {
            return Ok(());
        }
        self.write(Again::Harmless, |tx| {
            let sql = format!(
                "SELECT id, claim FROM #jobs FORCE INDEX (PRIMARY)
                 WHERE id IN {} AND worker = {} AND status = {IN_PROGRESS} ORDER BY id FOR UPDATE",
                list(claims.iter().map(|claim| claim.job)),
                worker.0
            );
            let mut held = Vec::new();
            for mut row in tx.rows(&sql, Vec::new())? {
                let (job, claim) = (row.at(0)?, row.at(1)?);
                if claims.contains(&JobReceipt { job, claim }) {
                    held.push(job);
                }
            }
            let processes = lock(tx, held.iter().map(|id| process_of(*id)))?;
            let mut changes = CounterChanges::default();
            for id in held {
                let process = processes.get(&process_of(id));
                let status = if process.is_none_or(|process| process.stops_trying()) {
                    CANCELLED
                } else {
                    PENDING
                };
                let back =
                    format!("UPDATE #jobs SET status = {status}, worker = NULL WHERE id = ?");
                tx.run(&back, by![id])?;
                changes.moved(id, IN_PROGRESS, status);
            }
            changes.write(tx, now).map(drop)
        })
    }

    /// Unregisters workers of this process that have ended while that could not be written.
    fn unregister_ended(&self, now: Timestamp) -> Result<u64, Error> {
        let mut affected = 0;
        for no in self.heartbeat.left() {
            let back = self.write(Again::Harmless, |tx| {
                give_back(tx, no, Departure::Unsaved, now)
            })?;
            affected += back.unwrap_or(0);
            self.heartbeat.remove_worker(no);
        }
        Ok(affected)
    }

    /// All workers.
    pub(super) fn listed(&self) -> Result<Vec<ListedWorker>, Error> {
        Ok(self.look()?.0)
    }

    /// All workers, and what a worker looks at every second, with one statement. A worker of this store never counts as
    /// dead: its lease is renewed as soon as the database can be reached.
    fn look(&self) -> Result<(Vec<ListedWorker>, Workers), Error> {
        let mut found = Workers::default();
        let mut all = self.read(|tx| {
            let rows = tx.rows(
                &format!(
                    "SELECT no, pid, host, lease_until <= {CLOCK}, lease_until, quotas, ({VERSION}),
                       EXISTS(SELECT 1 FROM #processes WHERE chore > {NO_CHORE})
                     FROM #workers ORDER BY no"
                ),
                Vec::new(),
            )?;
            let worker = |mut row: super::writer::Row| -> Result<(ListedWorker, bool), Fault> {
                let lease_ended = row.at(3)?;
                let quotas: Option<String> = row.at(5)?;
                let quotas = quotas.unwrap_or_default();
                found.version = count(row.at(6)?);
                found.has_chores = row.at(7)?;
                let worker = ListedWorker {
                    no: row.at(0)?,
                    pid: row.at(1)?,
                    host: row.at(2)?,
                    lease_ended,
                    is_dead: lease_ended,
                    quotas: quotas
                        .split(' ')
                        .filter_map(|key| key.parse().ok())
                        .collect(),
                };
                Ok((worker, row.at::<i64>(4)? == 0))
            };
            rows.into_iter().map(worker).collect::<Result<Vec<_>, _>>()
        })?;
        let is_own = |worker: &ListedWorker| self.heartbeat.has(worker.no);
        if all
            .iter()
            .any(|(worker, is_ended)| worker.lease_ended && !is_ended && is_own(worker))
        {
            self.heartbeat.note_late();
        }
        let can_tell = self.heartbeat.can_tell();
        for (worker, is_ended) in &mut all {
            worker.is_dead &= !is_own(worker) && (*is_ended || can_tell);
        }
        let listed: Vec<ListedWorker> = all.into_iter().map(|(worker, _)| worker).collect();
        found.any_dead =
            listed.iter().any(|worker| worker.is_dead) || !self.heartbeat.left().is_empty();
        Ok((listed, found))
    }
}

impl ClaimStore for MysqlStore {
    fn register_worker(&self) -> Result<WorkerId, Error> {
        let until = self.heartbeat.until();
        let no = self.write(Again::Harmless, |tx| {
            tx.run(
                &format!("INSERT INTO #workers (pid, host, lease_until) VALUES (?, ?, {until})"),
                by![std::process::id(), shown_host()],
            )?;
            Ok(tx.last_id())
        })?;
        self.heartbeat.add_worker(no)?;
        Ok(WorkerId(no))
    }

    fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error> {
        let given_back = self.write(Again::Harmless, |tx| {
            give_back(tx, worker.0, Departure::Retired, now).map(|back| back.unwrap_or(0))
        });
        if given_back.is_err() {
            self.heartbeat.worker(worker.0, |worker| worker.left = true);
        }
        let given_back = given_back?;
        self.heartbeat.remove_worker(worker.0);
        if given_back > 0 {
            self.wake();
        }
        Ok(())
    }

    fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        let of =
            |worker: &mut RegisteredWorker| (worker.given, std::mem::take(&mut worker.doubtful));
        let known = self.heartbeat.worker(worker.0, of);
        let (given, doubtful) = known.ok_or_else(|| worker.unknown())?;
        let mut attempted = doubtful;
        let claimed = self
            .undo(worker, &attempted, now)
            .and_then(|()| claim::claim(self, worker, given, wanted, now, &mut attempted));
        match &claimed {
            Ok(claimed) => self.heartbeat.given(worker.0, claimed.jobs.len()),
            // It is unknown whether the jobs were claimed: if they were, the next claim returns them.
            Err(_) => drop(
                self.heartbeat
                    .worker(worker.0, |worker| worker.doubtful = attempted),
            ),
        }
        claimed
    }

    fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error> {
        let most = self.database.most_value();
        if ends.iter().all(|end| is_fitting(end, most)) {
            return settle::settle(self, ends, now);
        }
        let fitting = ends.iter().map(|end| fitting(end, most));
        settle::settle(self, &fitting.collect::<Vec<_>>(), now)
    }

    fn workers(&self) -> Result<Workers, Error> {
        let (listed, mut found) = self.look()?;
        let live = listed.into_iter().filter(|worker| !worker.is_dead);
        found.live = live
            .map(|worker| (WorkerId(worker.no), worker.quotas))
            .collect();
        Ok(found)
    }

    fn list_quotas(&self, worker: WorkerId, quotas: &[u64]) -> Result<(), Error> {
        let keys: Vec<String> = quotas.iter().map(u64::to_string).collect();
        let keys = keys.join(" ");
        self.database.aside(|tx| {
            tx.run(
                "UPDATE #workers SET quotas = ? WHERE no = ?",
                by![keys.clone(), worker.0],
            )
            .map(drop)
        })
    }

    fn dead_workers(&self) -> Result<Vec<WorkerId>, Error> {
        let listed = self.listed()?.into_iter();
        let dead = listed.filter(|worker| worker.is_dead);
        Ok(dead.map(|worker| WorkerId(worker.no)).collect())
    }

    fn reclaim(&self, now: Timestamp) -> Result<u64, Error> {
        let mut affected = self.unregister_ended(now)?;
        for worker in self.listed()? {
            if !worker.is_dead {
                continue;
            }
            let back = self.write(Again::Harmless, |tx| {
                // The worker may have renewed its lease since.
                let dead = format!(
                    "SELECT 1 FROM #workers WHERE no = ? AND lease_until <= {CLOCK} FOR UPDATE"
                );
                if tx.exists(&dead, by![worker.no])? {
                    give_back(tx, worker.no, Departure::Died, now)
                } else {
                    Ok(None)
                }
            })?;
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
            self.wake();
        }
        Ok(affected)
    }

    fn make_due(&self, longest: Duration, now: Timestamp) -> Result<u64, Error> {
        due::make_due(self, longest, now)
    }
}

/// Whether the server accepts the result.
fn is_fitting(end: &Settlement, most: usize) -> bool {
    match &end.outcome {
        ClaimOutcome::Completed { result, .. }
        | ClaimOutcome::Failed {
            result: Some(result),
            ..
        } => result.get().len() <= most,
        _ => true,
    }
}

/// The same end, or a failure in place of a result that is too large: otherwise its worker would try in vain to save it, and
/// no other end with it.
fn fitting(end: &Settlement, most: usize) -> Settlement {
    let mut end = end.clone();
    if is_fitting(&end, most) {
        return end;
    }
    match &mut end.outcome {
        ClaimOutcome::Completed { result, spent } => {
            end.outcome = ClaimOutcome::Failed {
                error: too_large("the result", result.get().len(), most),
                result: None,
                spent: spent.take(),
            };
        }
        ClaimOutcome::Failed { result, .. } => *result = None,
        _ => {}
    }
    end
}
