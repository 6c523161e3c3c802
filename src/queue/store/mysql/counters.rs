//! The rows of processes: locked in the order of their numbers, and their counters written before a transaction commits.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::clock::Timestamp;
use crate::engine::time_split::TimeSplit;
use crate::queue::job::ProcessState;
use crate::queue::store::counters::CounterChanges;

use super::lineage;
use super::rows::{self, CANCELLING, DELETING, PROCESS_COLUMNS, bounded};
use super::writer::{Fault, Tx, by, list};

/// What of a process decides what may be done to its jobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub chore: i64,
    pub is_cancelled: bool,
    pub progress: i64,
    pub sealed: i64,
    pub total: i64,
    pub pending: i64,
    pub consumed: i64,
    pub chore_changed: i64,
    pub open: i64,
}

impl Standing {
    /// Its jobs are not to be started any more.
    pub(super) fn stops_starting(&self) -> bool {
        self.chore == CANCELLING || self.chore == DELETING
    }

    /// What runs of it is not tried again.
    pub(super) fn stops_trying(&self) -> bool {
        self.is_cancelled || self.chore == DELETING
    }
}

/// Locks processes, lowest number first, and reads where they stand by then.
pub(super) fn lock(
    tx: &mut Tx<'_>,
    numbers: impl IntoIterator<Item = i64>,
) -> Result<BTreeMap<i64, Standing>, Fault> {
    let numbers: BTreeSet<i64> = numbers.into_iter().collect();
    if numbers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT no, chore, cancelled, progress, sealed, total, pending, consumed, chore_changed,
           pending + in_progress + at_provider
         FROM #processes FORCE INDEX (PRIMARY) WHERE no IN {} ORDER BY no FOR UPDATE",
        list(numbers)
    );
    let mut found = BTreeMap::new();
    for mut row in tx.rows(&sql, Vec::new())? {
        let standing = Standing {
            chore: row.at(1)?,
            is_cancelled: row.at::<i64>(2)? != 0,
            progress: row.at(3)?,
            sealed: row.at(4)?,
            total: row.at(5)?,
            pending: row.at(6)?,
            consumed: row.at(7)?,
            chore_changed: row.at(8)?,
            open: row.at(9)?,
        };
        found.insert(row.at(0)?, standing);
    }
    Ok(found)
}

impl CounterChanges {
    /// Adds everything to the rows, which are locked, and wakes the jobs that waited for processes which have ended by
    /// that. Returns whether any was woken.
    pub(in crate::queue::store::mysql) fn write_to(
        &self,
        tx: &mut Tx<'_>,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let mut woken = false;
        for (no, c) in &self.0 {
            let [
                pending,
                _,
                in_progress,
                at_provider,
                completed,
                failed,
                cancelled,
            ] = c.counts;
            tx.run(
                "UPDATE #processes SET total = total + ?, pending = pending + ?,
                   in_progress = in_progress + ?, at_provider = at_provider + ?,
                   completed = completed + ?, failed = failed + ?, cancelled_jobs = cancelled_jobs + ?,
                   consumed = consumed + ?, input_tokens = LEAST(input_tokens + ?, 4611686018427387903),
                   output_tokens = LEAST(output_tokens + ?, 4611686018427387903),
                   cost_usd = cost_usd + ?, unpriced = unpriced + ?, changed_at = GREATEST(changed_at, ?)
                 WHERE no = ?",
                by![
                    c.total,
                    pending,
                    in_progress,
                    at_provider,
                    completed,
                    failed,
                    cancelled,
                    c.consumed,
                    c.input_tokens,
                    c.output_tokens,
                    c.cost_usd,
                    c.unpriced,
                    now.0,
                    *no
                ],
            )?;
            let now_open = tx.first(
                "SELECT parent, pending + in_progress + at_provider FROM #processes WHERE no = ?",
                by![*no],
            )?;
            let Some(mut row) = now_open else { continue };
            let (parent, open): (Option<i64>, i64) = (row.at(0)?, row.at(1)?);
            if let (Some(parent), 0) = (parent, open) {
                woken |= lineage::wake(tx, parent, now)?;
            }
            // Whatever ended the last of its jobs, its time is told up to then.
            let ended = open == 0 && completed + failed + cancelled > 0;
            if let Some(worked) = c.time().or(ended.then(TimeSplit::default)) {
                tell_time(tx, *no, &worked, now)?;
            }
        }
        Ok(woken)
    }

    /// The processes that changed, as they are now, without those that are being deleted.
    pub(in crate::queue::store::mysql) fn states(
        &self,
        tx: &mut Tx<'_>,
    ) -> Result<Vec<ProcessState>, Fault> {
        let sql = format!(
            "SELECT {PROCESS_COLUMNS} FROM #processes WHERE no IN {} AND chore <> {DELETING} ORDER BY no",
            list(self.0.keys().copied())
        );
        let rows = tx.rows(&sql, Vec::new())?;
        rows.into_iter()
            .map(|mut row| rows::process(&mut row))
            .collect()
    }

    /// Deletes the processes that have no job left and to which nothing more is to come.
    pub(in crate::queue::store::mysql) fn delete_empty(
        &self,
        tx: &mut Tx<'_>,
    ) -> Result<(), Fault> {
        let sql = format!(
            "DELETE FROM #processes WHERE no IN {} AND consumed = total AND sealed = total",
            list(self.0.keys().copied())
        );
        tx.run(&sql, Vec::new())?;
        Ok(())
    }
}

/// Adds what is told of a process's time.
fn tell_time(tx: &mut Tx<'_>, no: i64, worked: &TimeSplit, now: Timestamp) -> Result<(), Fault> {
    let found = tx.first(
        &format!("SELECT {PROCESS_COLUMNS} FROM #processes WHERE no = ?"),
        by![no],
    )?;
    let Some(mut row) = found else {
        return Ok(());
    };
    let mut time = rows::process(&mut row)?.time;
    time.tell(worked, now);
    let millis = time
        .split
        .named()
        .map(|(_, part)| bounded(part.as_millis() as u64));
    let [queued, quota, cooldown, backoff, provider, disk, source] = millis;
    tx.run(
        "UPDATE #processes SET time_since = ?, time_until = ?, time_limited_by = ?, queued_ms = ?,
           quota_ms = ?, cooldown_ms = ?, backoff_ms = ?, provider_ms = ?, disk_ms = ?, source_ms = ?
         WHERE no = ?",
        by![
            time.since.0,
            time.until.0,
            time.limited_by,
            queued,
            quota,
            cooldown,
            backoff,
            provider,
            disk,
            source,
            no
        ],
    )?;
    Ok(())
}
