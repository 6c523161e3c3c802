//! Recording the ends of claims. A success counts while the job has no outcome; any other end counts only if its claim
//! is the last one.

use std::collections::BTreeMap;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use crate::base::{Error, Timestamp};
use crate::queue::job::ProcessState;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::sql::SqlStore as _;
use crate::queue::store::sql::counting::Counted;
use crate::queue::store::sql::lineage::{self, Ended};
use crate::queue::store::sql::statements::{Fault, error_text};
use crate::queue::store::{ClaimOutcome, Settlement};

use super::SqliteStore;
use super::writer::Sync;
use crate::queue::store::rows::{
    AT_PROVIDER, CANCELLED, COMPLETED, DELETING, FAILED, IN_PROGRESS, PENDING, WAITING, process_of,
};

/// A change to a job whose claim is the last one: of a running job, otherwise of a job in a batch. Two statements,
/// because the index of jobs in batches is not needed for running jobs.
type FencedUpdate = [(i64, &'static str); 2];

macro_rules! fenced {
    ($set:literal) => {
        [
            (
                IN_PROGRESS,
                formatcp!(
                    "UPDATE jobs SET worker = NULL, calls = ?3, {} \
                     WHERE id = ?1 AND claim = ?2 AND status = {IN_PROGRESS}",
                    formatcp!($set)
                ),
            ),
            (
                AT_PROVIDER,
                formatcp!(
                    "UPDATE jobs SET batch = NULL, calls = ?3, {} \
                     WHERE id = ?1 AND claim = ?2 AND status = {AT_PROVIDER}",
                    formatcp!($set)
                ),
            ),
        ]
    };
}

const COMPLETE: FencedUpdate = fenced!("status = {COMPLETED}");
const FAIL: FencedUpdate = fenced!("status = {FAILED}, lost = 0, in_doubt = 0");
const CANCEL: FencedUpdate = fenced!("status = {CANCELLED}");
const SNOOZE: FencedUpdate = fenced!("status = {PENDING}, visible_at = ifnull(?4, visible_at)");
const WAIT: FencedUpdate = fenced!("status = {WAITING}, visible_at = ?4");
const RETRY: FencedUpdate = fenced!(
    "status = {PENDING}, visible_at = ?4, lane = ?5, attempt = ?6, in_doubt = ?7, lost = 0, \
     has_history = 1"
);

struct Settling<'a> {
    store: &'a SqliteStore,
    conn: &'a Connection,
    now: Timestamp,
    changes: CounterChanges,
    cancelled: BTreeMap<i64, bool>,
    /// Jobs that have their outcome now.
    ended: Vec<(i64, Ended)>,
}

impl SqliteStore {
    pub(super) fn settle_ends(
        &self,
        ends: &[Settlement],
        now: Timestamp,
    ) -> Result<Vec<ProcessState>, Error> {
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let (changed, woken) = self.write(Sync::AsSet, |conn| {
            let mut settling = Settling {
                store: self,
                conn,
                now,
                changes: CounterChanges::default(),
                cancelled: BTreeMap::new(),
                ended: Vec::new(),
            };
            for end in ends {
                settling.end(end)?;
            }
            let tx = &mut { conn };
            let Counted {
                woken, mut states, ..
            } = settling.changes.write(tx, now)?;
            if !settling.ended.is_empty() && lineage::any(tx)? {
                for (job, ended) in &settling.ended {
                    let ended_families = lineage::ended_families(tx, *job, *ended)?;
                    lineage::job_ended(tx, &ended_families, now)?;
                }
                // The use of child jobs is counted with their parents.
                states.extend(settling.changes.states(tx)?);
            }
            Ok((states, woken))
        })?;
        if woken {
            self.wake();
        }
        Ok(changed)
    }
}

impl Settling<'_> {
    fn end(&mut self, end: &Settlement) -> Result<(), Fault> {
        if self.apply(end)? {
            self.changes.lost(end.receipt.job, end.lost);
            if let Some(spent) = end.outcome.spent() {
                let charge = end.charge.as_deref();
                self.changes.spent(end.receipt.job, spent, charge);
            }
        }
        Ok(())
    }

    /// Changes the job. Returns false if this end came too late.
    fn apply(&mut self, end: &Settlement) -> Result<bool, Fault> {
        let id = end.receipt.job;
        match &end.outcome {
            ClaimOutcome::Completed { result, .. } => {
                let Some(from) = self.complete(end)? else {
                    return Ok(false);
                };
                self.changes.moved(id, from, COMPLETED);
                self.ended.push((id, Ended::ForGood));
                self.save(id, None, Some(result.get()))?;
            }
            ClaimOutcome::Failed { error, result, .. } => {
                let Some(from) = self.update(&FAIL, end, &[])? else {
                    return Ok(false);
                };
                self.changes.moved(id, from, FAILED);
                self.ended.push((id, Ended::MayBeRetried));
                self.save(id, Some(error), result.as_ref().map(|result| result.get()))?;
            }
            ClaimOutcome::Retry { .. }
            | ClaimOutcome::Snooze { .. }
            | ClaimOutcome::Wait { .. } => {
                let (from, to) = if self.cancelled(process_of(id))? {
                    (self.update(&CANCEL, end, &[])?, CANCELLED)
                } else {
                    (self.put_back(end)?, PENDING)
                };
                let Some(from) = from else {
                    return Ok(false);
                };
                self.changes.moved(id, from, to);
            }
        }
        Ok(true)
    }

    /// Completes the job. Returns its former status if it had no outcome.
    fn complete(&mut self, end: &Settlement) -> Result<Option<i64>, Fault> {
        let id = end.receipt.job;
        if let Some(from) = self.update(&COMPLETE, end, &[])? {
            return Ok(Some(from));
        }
        // Another worker has claimed it, or it waits again. The result was billed, so it counts. The number of the
        // claim increases, so the report of the other worker has no effect.
        let mut find = self.conn.prepare_cached(formatcp!(
            "SELECT status FROM jobs WHERE id = ?1 AND status < {COMPLETED}"
        ))?;
        let Some(status) = find.query_row([id], |row| row.get(0)).optional()? else {
            return Ok(None);
        };
        let mut overrule = self.conn.prepare_cached(
            formatcp!("UPDATE jobs SET status = {COMPLETED}, worker = NULL, batch = NULL, calls = max(calls, ?2),
               claim = claim + 1 WHERE id = ?1"),
        )?;
        overrule.execute(params![id, end.calls])?;
        Ok(Some(status))
    }

    fn save(&self, id: i64, error: Option<&Error>, result: Option<&str>) -> Result<(), Fault> {
        let error = error.map(error_text).transpose()?;
        let mut save = self.conn.prepare_cached(
            "INSERT OR REPLACE INTO results (job, error, body) VALUES (?1, ?2, ?3)",
        )?;
        save.execute(params![id, error, result])?;
        Ok(())
    }

    /// Returns a job to the queue. Returns its former status if the end belongs to its last claim.
    fn put_back(&mut self, end: &Settlement) -> Result<Option<i64>, Fault> {
        Ok(match &end.outcome {
            ClaimOutcome::Retry {
                due_at,
                step,
                attempt,
                in_doubt,
                spent: _,
                history,
            } => {
                let Some(lane) = self.lane_of(end)? else {
                    return Ok(None);
                };
                let lane = self.store.at_step(&mut { self.conn }, lane, *step)?;
                let from = self.update(&RETRY, end, params![due_at.0, lane, attempt, in_doubt])?;
                let mut keep = self.conn.prepare_cached(
                    "INSERT OR REPLACE INTO histories (job, body) VALUES (?1, ?2)",
                )?;
                keep.execute(params![end.receipt.job, history])?;
                from
            }
            ClaimOutcome::Snooze { due_at } => {
                self.update(&SNOOZE, end, params![due_at.map(|at| at.0)])?
            }
            ClaimOutcome::Wait { processes, due_at } => {
                let mut all_open = true;
                for process in processes {
                    all_open &= lineage::is_open(&mut { self.conn }, *process)?;
                }
                // Otherwise, the processes that the job waits for have ended since it checked.
                if all_open {
                    self.update(&WAIT, end, &[&due_at.0])?
                } else {
                    self.update(&SNOOZE, end, &[&self.now.0])?
                }
            }
            ClaimOutcome::Completed { .. } | ClaimOutcome::Failed { .. } => None,
        })
    }

    /// Changes the job if the end belongs to its last claim. Returns its former status.
    fn update(
        &self,
        update: &FencedUpdate,
        end: &Settlement,
        values: &[&dyn ToSql],
    ) -> Result<Option<i64>, Fault> {
        for (from, sql) in update {
            let mut change = self.conn.prepare_cached(sql)?;
            let fence: [&dyn ToSql; 3] = [&end.receipt.job, &end.receipt.claim, &end.calls];
            for (at, value) in fence.iter().chain(values).enumerate() {
                change.raw_bind_parameter(at + 1, value)?;
            }
            if change.raw_execute()? == 1 {
                return Ok(Some(*from));
            }
        }
        Ok(None)
    }

    /// The lane of a job, if the claim is still valid.
    fn lane_of(&self, end: &Settlement) -> Result<Option<i64>, Fault> {
        let mut find = self.conn.prepare_cached(
            formatcp!("SELECT lane FROM jobs WHERE id = ?1 AND claim = ?2 AND status IN ({IN_PROGRESS}, {AT_PROVIDER})"),
        )?;
        let held = [end.receipt.job, end.receipt.claim];
        Ok(find.query_row(held, |row| row.get(0)).optional()?)
    }

    /// Whether the running jobs of a process are not retried.
    fn cancelled(&mut self, process: i64) -> Result<bool, Fault> {
        if let Some(known) = self.cancelled.get(&process) {
            return Ok(*known);
        }
        let mut read = self.conn.prepare_cached(formatcp!(
            "SELECT cancelled OR chore = {DELETING} FROM processes WHERE no = ?1"
        ))?;
        let cancelled = read.query_row([process], |row| row.get(0)).optional()?;
        let cancelled = cancelled.unwrap_or(true);
        self.cancelled.insert(process, cancelled);
        Ok(cancelled)
    }
}
