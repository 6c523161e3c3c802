//! Recording the ends of claims. A success counts while the job has no outcome; any other end counts only if its claim
//! is the last one.
//!
//! The jobs are locked and read, the changes are computed here, and few statements write all of them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;
use serde_json::value::RawValue;

use super::counters::CounterChanges;
use super::rows::{AT_PROVIDER, CANCELLED, COMPLETED, FAILED, IN_PROGRESS, PENDING, process_of};
use super::{ClaimOutcome, Settlement, Store};
use crate::base::{Error, Timestamp};
use crate::queue::job::ProcessState;

use super::lineage::{Standing, delete_below, lock};
use super::statements::{
    Fault, FromRow, InsertOf, Queries as _, RESULTS, Row, Sql, all, by, columns, error_text,
};

/// A job, with everything that an end of its claim can change; the end takes it from its worker or batch.
struct Job {
    id: i64,
    lane: i64,
    status: i64,
    visible_at: Timestamp,
    claim: i64,
    attempt: u8,
    calls: u32,
    lost: bool,
    in_doubt: bool,
}

const HISTORIES: InsertOf = (
    "INSERT INTO #results (job, history) VALUES",
    "ON DUPLICATE KEY UPDATE history = VALUES(history)",
);

impl Job {
    /// The columns that it has, and how they are written.
    const READ: &str = "SELECT id, lane, status, visible_at, claim, attempt, calls, lost, in_doubt
         FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN :list ORDER BY id FOR UPDATE";
    const WRITE: &str = "UPDATE #jobs SET lane = ?, status = ?, visible_at = ?, claim = ?, attempt = ?, calls = ?, lost = ?,
         in_doubt = ?, worker = NULL, batch = NULL WHERE id = ?";

    fn write(&self, tx: &mut dyn Sql) -> Result<(), Fault> {
        let mut values = by![self.lane, self.status, self.visible_at.0, self.claim];
        values.extend(by![self.attempt, self.calls, self.lost]);
        values.extend(by![self.in_doubt, self.id]);
        tx.defer(Self::WRITE, values)
    }
}

columns!(Job: id, lane, status, visible_at, claim, attempt, calls, lost, in_doubt);

/// What the ends of claims change, in one transaction.
struct Settling<'a> {
    store: &'a Store,
    now: Timestamp,
    jobs: BTreeMap<i64, Job>,
    changed: BTreeSet<i64>,
    /// The locked processes of jobs that may go back.
    processes: BTreeMap<i64, Standing>,
    changes: CounterChanges,
    /// Results and errors to be written.
    outcomes: BTreeMap<i64, Vec<Value>>,
    histories: BTreeMap<i64, String>,
}

impl Store {
    /// Records ends of jobs that run or are in a batch, in one transaction. A success counts while its job has not
    /// ended; any other end counts only if its claim is the last one. An end that does not count is not an error.
    /// Returns the changed processes in their new state.
    pub fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error> {
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        self.write(|tx| {
            let mut settling = Settling::begin(self, tx, ends, now)?;
            for end in ends {
                settling.end(tx, end)?;
            }
            settling.finish(tx)
        })
    }
}

impl<'a> Settling<'a> {
    /// Locks and reads everything that these ends affect.
    fn begin(
        store: &'a Store,
        tx: &mut dyn Sql,
        ends: &[Settlement],
        now: Timestamp,
    ) -> Result<Self, Fault> {
        let ids: BTreeSet<i64> = ends.iter().map(|end| end.receipt.job).collect();
        let ids: Vec<i64> = ids.into_iter().collect();
        let jobs: Vec<Job> = tx.many(Job::READ, by![all(&ids)])?;
        // All machines wait for the row of a process. If jobs only end, the update of its counters locks the row, as
        // late as possible. A job that would go back must not do so after its process was cancelled.
        let back = ends
            .iter()
            .filter(|end| end.outcome.error_of_end().is_none());
        let processes = lock(tx, back.map(|end| process_of(end.receipt.job)))?;
        Ok(Self {
            store,
            now,
            jobs: jobs.into_iter().map(|job| (job.id, job)).collect(),
            changed: BTreeSet::new(),
            processes,
            changes: CounterChanges::default(),
            outcomes: BTreeMap::new(),
            histories: BTreeMap::new(),
        })
    }

    /// Changes the job, if this end counts.
    fn end(&mut self, tx: &mut dyn Sql, end: &Settlement) -> Result<(), Fault> {
        let id = end.receipt.job;
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        let is_held = matches!(job.status, IN_PROGRESS | AT_PROVIDER);
        let is_last = is_held && job.claim == end.receipt.claim;
        let check = |result: &RawValue| {
            self.store
                .check_size(format_args!("the result"), result.get())
        };
        let is_success =
            matches!(&end.outcome, ClaimOutcome::Completed { result, .. } if check(result).is_ok());
        if !is_last && (!is_success || job.status >= COMPLETED) {
            // It came too late.
            return Ok(());
        }
        let (from, calls) = (job.status, end.calls);
        if is_last {
            job.calls = calls;
        } else {
            // Another worker has claimed it, or it waits again. The result was billed, so it counts. The number of the
            // claim increases, so the report of the other worker has no effect.
            (job.calls, job.claim) = (job.calls.max(calls), job.claim + 1);
        }
        let process = self.processes.get(&process_of(id));
        let fails = |error: &Error, result: Option<&RawValue>| -> Result<_, Fault> {
            let result = result.filter(|result| check(result).is_ok());
            let result = result.map(|result| result.get().to_owned());
            Ok(by![id, error_text(error)?, result])
        };
        match &end.outcome {
            ClaimOutcome::Completed { result, .. } => match check(result) {
                Ok(()) => {
                    job.status = COMPLETED;
                    let result = result.get().to_owned();
                    self.outcomes.insert(id, by![id, None::<String>, result]);
                }
                // Otherwise its worker would try in vain to save it, and no other end with it.
                Err(error) => {
                    (job.status, job.lost, job.in_doubt) = (FAILED, false, false);
                    self.outcomes.insert(id, fails(&error, None)?);
                }
            },
            ClaimOutcome::Failed { error, result, .. } => {
                (job.status, job.lost, job.in_doubt) = (FAILED, false, false);
                self.outcomes.insert(id, fails(error, result.as_deref())?);
            }
            _ if process.is_none_or(Standing::stops_trying) => job.status = CANCELLED,
            ClaimOutcome::Snooze { due_at } => {
                job.status = PENDING;
                job.visible_at = due_at.unwrap_or(job.visible_at);
            }
            ClaimOutcome::Retry {
                due_at,
                step,
                attempt,
                in_doubt,
                spent: _,
                history,
            } => {
                job.lane = self.store.at_step(tx, job.lane, *step)?;
                (job.status, job.visible_at) = (PENDING, *due_at);
                (job.attempt, job.in_doubt, job.lost) = (*attempt, *in_doubt, false);
                self.histories.insert(id, history.clone());
            }
        }
        self.changed.insert(id);
        self.changes.moved(id, from, job.status);
        self.changes.lost(id, end.lost);
        if let Some(spent) = end.outcome.spent() {
            self.changes.spent(id, spent, end.charge.as_deref());
        }
        Ok(())
    }

    /// Writes all changes. Returns the changed processes.
    fn finish(self, tx: &mut dyn Sql) -> Result<Vec<ProcessState>, Fault> {
        tx.insert_rows(RESULTS, &mut self.outcomes.into_values())?;
        let histories = self.histories.into_iter();
        tx.insert_rows(HISTORIES, &mut histories.map(|(job, body)| by![job, body]))?;
        let mut completed = Vec::new();
        for job in self.changed.iter().filter_map(|id| self.jobs.get(id)) {
            job.write(tx)?;
            completed.extend((job.status == COMPLETED).then_some(job.id));
        }
        delete_below(tx, &completed)?;
        Ok(self.changes.write(tx, self.now)?.0)
    }
}
