//! The rows of processes: locked in the order of their numbers, and their counters written before a transaction commits.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::clock::Timestamp;
use crate::engine::time_split::TimeSplit;
use crate::queue::job::ProcessState;
use crate::queue::process_time::ProcessTime;
use crate::queue::store::counters::{Change, CounterChanges};

use super::lineage;
use super::rows::{self, CANCELLING, DELETING, PROCESS_COLUMNS, bounded};
use super::writer::{Cells, Fault, Tx, list};

/// Limit of counted tokens: the sum of two such numbers does not overflow.
const MOST_TOKENS: i64 = i64::MAX / 2;

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

/// Whether a chore prevents the start of jobs.
pub(super) fn stops_starting(chore: i64) -> bool {
    chore == CANCELLING || chore == DELETING
}

impl Standing {
    /// Its jobs are not to be started any more.
    pub(super) fn stops_starting(&self) -> bool {
        stops_starting(self.chore)
    }

    /// What runs of it is not tried again.
    pub(super) fn stops_trying(&self) -> bool {
        self.is_cancelled || self.chore == DELETING
    }
}

/// The query that locks processes, lowest number first.
pub(super) fn locking(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: BTreeSet<i64> = numbers.into_iter().collect();
    format!(
        "SELECT no, chore, cancelled, progress, sealed, total, pending, consumed, chore_changed,
           pending + in_progress + at_provider
         FROM #processes FORCE INDEX (PRIMARY) WHERE no IN {} ORDER BY no FOR UPDATE",
        list(numbers)
    )
}

/// Locks processes, lowest number first, and reads where they stand by then.
pub(super) fn lock(
    tx: &mut Tx<'_>,
    numbers: impl IntoIterator<Item = i64>,
) -> Result<BTreeMap<i64, Standing>, Fault> {
    let mut numbers = numbers.into_iter().peekable();
    if numbers.peek().is_none() {
        return Ok(BTreeMap::new());
    }
    let rows = tx.rows(&locking(numbers), Vec::new())?;
    standings(rows)
}

/// State of the processes that a [`locking`] query has found.
pub(super) fn standings(rows: Vec<Cells>) -> Result<BTreeMap<i64, Standing>, Fault> {
    let mut found = BTreeMap::new();
    for mut row in rows {
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

/// Outcome of changes to counters.
#[derive(Default)]
pub(in crate::queue::store::mysql) struct Counted {
    /// Jobs that waited for a process can be claimed again.
    pub woken: bool,
    /// Processes whose jobs may start.
    pub startable: BTreeSet<i64>,
    /// The processes that changed, as they are now, without those that are being deleted.
    pub states: Vec<ProcessState>,
}

impl CounterChanges {
    /// Adds everything to the rows, which are locked, and wakes the jobs that waited for processes which have ended by
    /// that.
    pub(in crate::queue::store::mysql) fn write_to(
        &self,
        tx: &mut Tx<'_>,
        now: Timestamp,
    ) -> Result<Counted, Fault> {
        if self.0.is_empty() {
            return Ok(Counted::default());
        }
        let changed = self.deferred_to(tx, now);
        let rows = tx.rows(&changed, Vec::new())?;
        self.count(tx, rows, now)
    }

    /// Adds everything to the rows when the next statement is sent. Returns the query whose rows [`count`](Self::count)
    /// needs.
    pub(in crate::queue::store::mysql) fn deferred_to(
        &self,
        tx: &mut Tx<'_>,
        now: Timestamp,
    ) -> String {
        for (no, change) in &self.0 {
            tx.defer(&added(*no, change, now));
        }
        format!(
            "SELECT no, chore, parent, pending + in_progress + at_provider, {PROCESS_COLUMNS}
             FROM #processes WHERE no IN {} ORDER BY no",
            list(self.0.keys().copied())
        )
    }

    /// Applies the consequences of written counters.
    pub(in crate::queue::store::mysql) fn count(
        &self,
        tx: &mut Tx<'_>,
        rows: Vec<Cells>,
        now: Timestamp,
    ) -> Result<Counted, Fault> {
        let mut counted = Counted::default();
        for mut row in rows {
            let (no, chore): (i64, i64) = (row.at(0)?, row.at(1)?);
            let (parent, open): (Option<i64>, i64) = (row.at(2)?, row.at(3)?);
            if !stops_starting(chore) {
                counted.startable.insert(no);
            }
            let mut state = rows::process(&mut row.behind(4))?;
            let Some(change) = self.0.get(&no) else {
                continue;
            };
            if let (Some(parent), 0) = (parent, open) {
                counted.woken |= lineage::wake(tx, parent, now)?;
            }
            // Whatever ended the last of its jobs, its time is told up to then.
            let [_, _, _, _, ends @ ..] = change.counts;
            let ended = open == 0 && ends.iter().sum::<i64>() > 0;
            if let Some(worked) = change.time().or(ended.then(TimeSplit::default)) {
                state.time.tell(&worked, now);
                tx.defer(&time_told(no, &state.time));
            }
            if chore != DELETING {
                counted.states.push(state);
            }
        }
        Ok(counted)
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

/// The statement that adds a change to a process.
fn added(no: i64, change: &Change, now: Timestamp) -> String {
    let [
        pending,
        _,
        in_progress,
        at_provider,
        completed,
        failed,
        cancelled,
    ] = change.counts;
    // Written with an exponent, so that the server reads a DOUBLE.
    format!(
        "UPDATE #processes SET total = total + {}, pending = pending + {pending},
           in_progress = in_progress + {in_progress}, at_provider = at_provider + {at_provider},
           completed = completed + {completed}, failed = failed + {failed},
           cancelled_jobs = cancelled_jobs + {cancelled}, consumed = consumed + {},
           input_tokens = LEAST(input_tokens + {}, {MOST_TOKENS}),
           output_tokens = LEAST(output_tokens + {}, {MOST_TOKENS}),
           cost_usd = cost_usd + {:e}, unpriced = unpriced + {}, changed_at = GREATEST(changed_at, {})
         WHERE no = {no}",
        change.total,
        change.consumed,
        change.input_tokens,
        change.output_tokens,
        change.cost_usd,
        change.unpriced,
        now.0,
    )
}

/// The statement that records where a process's time went.
fn time_told(no: i64, time: &ProcessTime) -> String {
    let millis = time
        .split
        .named()
        .map(|(_, part)| bounded(part.as_millis() as u64));
    let [queued, quota, cooldown, backoff, provider, disk, source] = millis;
    format!(
        "UPDATE #processes SET time_since = {}, time_until = {}, time_limited_by = '{}',
           queued_ms = {queued}, quota_ms = {quota}, cooldown_ms = {cooldown}, backoff_ms = {backoff},
           provider_ms = {provider}, disk_ms = {disk}, source_ms = {source}
         WHERE no = {no}",
        time.since.0, time.until.0, time.limited_by,
    )
}
