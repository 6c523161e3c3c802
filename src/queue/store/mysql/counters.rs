//! The counters of processes as a database server stores them. One round trip updates all processes.

use std::collections::BTreeSet;

use crate::base::clock::Timestamp;
use crate::engine::time_split::TimeSplit;
use crate::queue::job::ProcessState;
use crate::queue::process_time::ProcessTime;
use crate::queue::store::counters::{Change, CounterChanges};
use crate::queue::store::sql::standing::stops_starting;
use crate::queue::store::sql::statements::Statements as _;
use crate::queue::store::sql::{budget_rows, charges, lineage};

use super::rows::{self, DELETING, PROCESS_COLUMNS, bounded};
use super::writer::{Fault, Row, Tx, list};

/// Limit of counted tokens: the sum of two such numbers does not overflow.
const MOST_TOKENS: i64 = i64::MAX / 2;

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
    /// Updates the counters in the rows, which are locked, and wakes jobs that waited for processes which have ended
    /// with this change.
    pub(in crate::queue::store::mysql) fn write_to(
        &self,
        tx: &mut Tx<'_>,
        now: Timestamp,
    ) -> Result<Counted, Fault> {
        if self.processes.is_empty() {
            return Ok(Counted::default());
        }
        let charges = charges::statements(tx, &self.charges, now)?;
        let changed = self.deferred_to(tx, now);
        for (sql, values) in charges {
            tx.defer_with(&sql, values);
        }
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
        for (no, change) in &self.processes {
            tx.defer(&added(*no, change, now));
        }
        format!(
            "SELECT no, chore, parent, pending + in_progress + at_provider, budget, {PROCESS_COLUMNS}
             FROM #processes WHERE no IN {} ORDER BY no",
            list(self.processes.keys().copied())
        )
    }

    /// Applies the consequences of written counters.
    pub(in crate::queue::store::mysql) fn count(
        &self,
        tx: &mut Tx<'_>,
        rows: Vec<Row>,
        now: Timestamp,
    ) -> Result<Counted, Fault> {
        let mut counted = Counted::default();
        for mut row in rows {
            let (no, chore): (i64, i64) = (row.at(0)?, row.at(1)?);
            let (parent, open): (Option<i64>, i64) = (row.at(2)?, row.at(3)?);
            if !stops_starting(chore) {
                counted.startable.insert(no);
            }
            let budget: Option<i64> = row.at(4)?;
            let mut state = rows::process(&mut row.behind(5))?;
            let Some(change) = self.processes.get(&no) else {
                continue;
            };
            if let (Some(parent), 0) = (parent, open) {
                counted.woken |= lineage::wake(tx, parent, now)?;
            }
            if let Some(budget) = budget
                && budget_rows::book(tx, budget, &change.in_budget)?
            {
                self.released.set(true);
            }
            // The time of a process is reported up to the end of its last job, whatever ended it.
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
            list(self.processes.keys().copied())
        );
        let rows = tx.rows(&sql, Vec::new())?;
        rows.into_iter()
            .map(|mut row| rows::process(&mut row))
            .collect()
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
    format!(
        "UPDATE #processes SET total = total + {}, pending = pending + {pending},
           in_progress = in_progress + {in_progress}, at_provider = at_provider + {at_provider},
           completed = completed + {completed}, failed = failed + {failed},
           cancelled_jobs = cancelled_jobs + {cancelled}, consumed = consumed + {},
           input_tokens = LEAST(input_tokens + {}, {MOST_TOKENS}),
           output_tokens = LEAST(output_tokens + {}, {MOST_TOKENS}),
           cost_picos = LEAST(cost_picos + {}, {MOST_TOKENS}), unpriced = unpriced + {}, changed_at = GREATEST(changed_at, {})
         WHERE no = {no}",
        change.total,
        change.consumed,
        change.input_tokens,
        change.output_tokens,
        change.cost,
        change.unpriced,
        now.0,
    )
}

/// The statement that records how a process's time was spent.
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
