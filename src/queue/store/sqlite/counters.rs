//! The counters of processes as SQLite stores them.

use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::engine::time_split::TimeSplit;
use crate::queue::job::ProcessState;

use crate::queue::store::counters::CounterChanges;
use crate::queue::store::sql::statements::{Fault, Statements as _};
use crate::queue::store::sql::{budget_rows, charges, lineage};

use super::rows::{self, DELETING, PROCESS_COLUMNS};

impl CounterChanges {
    /// Updates the counters in the rows, and wakes jobs that waited for processes which have ended with this change.
    /// Returns whether any was woken.
    pub(super) fn write(&self, conn: &Connection, now: Timestamp) -> Result<bool, Fault> {
        let mut update = conn.prepare_cached(
            "UPDATE processes SET total = total + ?2, pending = pending + ?3,
               in_progress = in_progress + ?4, at_provider = at_provider + ?5,
               completed = completed + ?6, failed = failed + ?7, cancelled_jobs = cancelled_jobs + ?8,
               consumed = consumed + ?9, input_tokens = min(input_tokens + ?10, 4611686018427387903),
               output_tokens = min(output_tokens + ?11, 4611686018427387903),
               cost_picos = min(cost_picos + ?12, 4611686018427387903), unpriced = unpriced + ?13, changed_at = max(changed_at, ?14)
             WHERE no = ?1 RETURNING parent, pending + in_progress + at_provider, budget",
        )?;
        let mut woken = false;
        for (no, c) in &self.processes {
            let [
                pending,
                _,
                in_progress,
                at_provider,
                completed,
                failed,
                cancelled,
            ] = c.counts;
            let row = params![
                no,
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
                c.cost,
                c.unpriced,
                now.0
            ];
            let now_open = update.query_row(row, |row| {
                Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?))
            });
            let now_open: Option<(Option<i64>, i64, Option<i64>)> = now_open.optional()?;
            if let Some((Some(parent), 0, _)) = now_open {
                woken |= lineage::wake(&mut { conn }, parent, now)?;
            }
            if let Some((_, _, Some(budget))) = now_open
                && budget_rows::book(&mut { conn }, budget, &c.in_budget)?
            {
                self.released.set(true);
            }
            // The time of a process is reported up to the end of its last job, whatever ended it.
            let ended = matches!(now_open, Some((_, 0, _))) && completed + failed + cancelled > 0;
            if let Some(worked) = c.time().or(ended.then(TimeSplit::default)) {
                rows::tell_time(conn, *no, &worked, now)?;
            }
        }
        for (sql, values) in charges::statements(&mut { conn }, &self.charges, now)? {
            (&mut { conn }).run(&sql, values)?;
        }
        Ok(woken)
    }

    /// The changed processes in their new state, without those that are being deleted.
    pub(super) fn processes(&self, conn: &Connection) -> Result<Vec<ProcessState>, Fault> {
        let mut read = conn.prepare_cached(&format!(
            "SELECT {PROCESS_COLUMNS} FROM processes WHERE no = ?1 AND chore <> {DELETING}"
        ))?;
        let mut changed = Vec::with_capacity(self.processes.len());
        for no in self.processes.keys() {
            changed.extend(
                read.query_row([no], rows::process)
                    .optional()?
                    .transpose()?,
            );
        }
        Ok(changed)
    }
}
