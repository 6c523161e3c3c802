//! Recording the ends of claims. A success counts while the job has no outcome; any other end counts only if its claim
//! is the last one.
//!
//! The jobs are locked and read, the changes are computed here, and few statements write all of them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;

use crate::base::{Error, Timestamp};
use crate::queue::job::ProcessState;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{
    AT_PROVIDER, CANCELLED, COMPLETED, FAILED, IN_PROGRESS, PENDING, process_of,
};
use crate::queue::store::{ClaimOutcome, Settlement, Store};

use super::Again;
use super::lineage::{self, Standing, lock};
use super::statements::{Fault, InsertOf, RESULTS, Row, Statements, by, error_text};

/// A job, with everything that an end of its claim can change; the end takes it from its worker or batch.
struct Job {
    id: i64,
    lane: i64,
    status: i64,
    visible_at: i64,
    claim: i64,
    attempt: i64,
    calls: i64,
    lost: i64,
    in_doubt: i64,
    has_history: i64,
    is_changed: bool,
}

const HISTORIES: InsertOf = (
    "INSERT INTO #histories (job, body) VALUES",
    "ON DUPLICATE KEY UPDATE body = VALUES(body)",
);

impl Job {
    /// The columns that it has, and how they are written.
    const READ: &str =
        "SELECT id, lane, status, visible_at, claim, attempt, calls, lost, in_doubt, has_history
         FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN :list ORDER BY id FOR UPDATE";
    const WRITE: &str = "UPDATE #jobs SET lane = ?, status = ?, visible_at = ?, claim = ?, attempt = ?, calls = ?, lost = ?,
         in_doubt = ?, has_history = ?, worker = NULL, batch = NULL WHERE id = ?";

    fn read(mut row: Row) -> Result<Self, Fault> {
        Ok(Self {
            id: row.at(0)?,
            lane: row.at(1)?,
            status: row.at(2)?,
            visible_at: row.at(3)?,
            claim: row.at(4)?,
            attempt: row.at(5)?,
            calls: row.at(6)?,
            lost: row.at(7)?,
            in_doubt: row.at(8)?,
            has_history: row.at(9)?,
            is_changed: false,
        })
    }

    fn write(&self, tx: &mut dyn Statements) -> Result<(), Fault> {
        let mut values = by![self.lane, self.status, self.visible_at, self.claim];
        values.extend(by![self.attempt, self.calls, self.lost]);
        values.extend(by![self.in_doubt, self.has_history, self.id]);
        tx.defer(Self::WRITE, values)
    }
}

struct Settling {
    now: Timestamp,
    jobs: BTreeMap<i64, Job>,
    /// The locked processes of jobs that may go back.
    processes: BTreeMap<i64, Standing>,
    changes: CounterChanges,
    /// Results and errors to be written.
    outcomes: BTreeMap<i64, Vec<Value>>,
    histories: BTreeMap<i64, String>,
    /// Jobs that are completed now.
    completed: Vec<i64>,
}

pub(crate) fn settle(
    store: &Store,
    ends: &[Settlement],
    now: Timestamp,
) -> Result<Vec<ProcessState>, Error> {
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    store.write(Again::Harmless, |tx| {
        let mut settling = Settling::begin(tx, ends, now)?;
        for end in ends {
            settling.end(store, tx, end)?;
        }
        settling.finish(tx)
    })
}

impl Settling {
    /// Locks and reads everything that these ends affect.
    fn begin(tx: &mut dyn Statements, ends: &[Settlement], now: Timestamp) -> Result<Self, Fault> {
        let ids: BTreeSet<i64> = ends.iter().map(|end| end.receipt.job).collect();
        let ids: Vec<i64> = ids.into_iter().collect();
        let mut jobs = BTreeMap::new();
        for row in tx.rows_in(Job::READ, &ids)? {
            let job = Job::read(row)?;
            jobs.insert(job.id, job);
        }
        // All machines wait for the row of a process. If jobs only end, the update of its counters locks the row, as
        // late as possible. A job that would go back must not do so after its process was cancelled.
        let back = ends
            .iter()
            .filter(|end| end.outcome.error_of_end().is_none());
        let processes = lock(tx, back.map(|end| process_of(end.receipt.job)))?;
        Ok(Self {
            now,
            jobs,
            processes,
            changes: CounterChanges::default(),
            outcomes: BTreeMap::new(),
            histories: BTreeMap::new(),
            completed: Vec::new(),
        })
    }

    /// Writes all changes. Returns the changed processes.
    fn finish(self, tx: &mut dyn Statements) -> Result<Vec<ProcessState>, Fault> {
        tx.insert_rows(RESULTS, &mut self.outcomes.into_values())?;
        let histories = self.histories.into_iter();
        tx.insert_rows(HISTORIES, &mut histories.map(|(job, body)| by![job, body]))?;
        for job in self.jobs.values().filter(|job| job.is_changed) {
            job.write(tx)?;
        }
        lineage::delete_below(tx, &self.completed)?;
        Ok(self.changes.write(tx, self.now)?.states)
    }

    fn end(
        &mut self,
        store: &Store,
        tx: &mut dyn Statements,
        end: &Settlement,
    ) -> Result<(), Fault> {
        let Some((from, to)) = self.apply(store, tx, end)? else {
            // It came too late.
            return Ok(());
        };
        let job = end.receipt.job;
        self.changes.moved(job, from, to);
        self.changes.lost(job, end.lost);
        if let Some(spent) = end.outcome.spent() {
            self.changes.spent(job, spent, end.charge.as_deref());
        }
        Ok(())
    }

    /// Changes the job. Returns its former and its new status, if this end counts.
    fn apply(
        &mut self,
        store: &Store,
        tx: &mut dyn Statements,
        end: &Settlement,
    ) -> Result<Option<(i64, i64)>, Fault> {
        let id = end.receipt.job;
        Ok(match &end.outcome {
            ClaimOutcome::Completed { result, .. } => {
                let from = self.complete(end);
                if from.is_some() {
                    self.completed.push(id);
                    let result = result.get().to_owned();
                    self.outcomes.insert(id, by![id, None::<String>, result]);
                }
                from.map(|from| (from, COMPLETED))
            }
            ClaimOutcome::Failed { error, result, .. } => {
                let from = self.update(end, FAILED, |job| (job.lost, job.in_doubt) = (0, 0));
                if from.is_some() {
                    let result = result.as_ref().map(|result| result.get().to_owned());
                    let outcome = by![id, error_text(error)?, result];
                    self.outcomes.insert(id, outcome);
                }
                from.map(|from| (from, FAILED))
            }
            ClaimOutcome::Retry { .. } | ClaimOutcome::Snooze { .. } => {
                let process = self.processes.get(&process_of(id));
                if process.is_none_or(Standing::stops_trying) {
                    let from = self.update(end, CANCELLED, |_| ());
                    from.map(|from| (from, CANCELLED))
                } else {
                    let from = self.put_back(store, tx, end)?;
                    from.map(|from| (from, PENDING))
                }
            }
        })
    }

    /// Completes the job. Returns its former status if it had no outcome.
    fn complete(&mut self, end: &Settlement) -> Option<i64> {
        if let Some(from) = self.update(end, COMPLETED, |_| ()) {
            return Some(from);
        }
        // Another worker has claimed it, or it waits again. The result was billed, so it counts. The number of the
        // claim increases, so the report of the other worker has no effect.
        let job = self.jobs.get_mut(&end.receipt.job)?;
        if job.status >= COMPLETED {
            return None;
        }
        let from = job.status;
        job.status = COMPLETED;
        job.calls = job.calls.max(i64::from(end.calls));
        job.claim += 1;
        job.is_changed = true;
        Some(from)
    }

    /// Returns a job to the queue. Returns its former status.
    fn put_back(
        &mut self,
        store: &Store,
        tx: &mut dyn Statements,
        end: &Settlement,
    ) -> Result<Option<i64>, Fault> {
        Ok(match &end.outcome {
            ClaimOutcome::Retry {
                due_at,
                step,
                attempt,
                in_doubt,
                spent: _,
                history,
            } => {
                let Some(lane) = self.held(end).map(|job| job.lane) else {
                    return Ok(None);
                };
                let lane = store.at_step(tx, lane, *step)?;
                let from = self.update(end, PENDING, |job| {
                    (job.visible_at, job.lane) = (due_at.0, lane);
                    (job.attempt, job.in_doubt) = (i64::from(*attempt), i64::from(*in_doubt));
                    (job.lost, job.has_history) = (0, 1);
                });
                self.histories.insert(end.receipt.job, history.clone());
                from
            }
            ClaimOutcome::Snooze { due_at } => self.update(end, PENDING, |job| {
                job.visible_at = due_at.map_or(job.visible_at, |at| at.0);
            }),
            ClaimOutcome::Completed { .. } | ClaimOutcome::Failed { .. } => None,
        })
    }

    /// The job, if the end belongs to its last claim.
    fn held(&mut self, end: &Settlement) -> Option<&mut Job> {
        let job = self.jobs.get_mut(&end.receipt.job)?;
        let is_held = job.status == IN_PROGRESS || job.status == AT_PROVIDER;
        (is_held && job.claim == end.receipt.claim).then_some(job)
    }

    /// Changes the job if the end belongs to its last claim. Returns its former status.
    fn update(
        &mut self,
        end: &Settlement,
        status: i64,
        change: impl FnOnce(&mut Job),
    ) -> Option<i64> {
        let job = self.held(end)?;
        let from = job.status;
        job.status = status;
        job.calls = i64::from(end.calls);
        change(job);
        job.is_changed = true;
        Some(from)
    }
}
