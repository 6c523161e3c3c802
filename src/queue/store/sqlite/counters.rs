//! The counters of processes: what one transaction does to jobs is added up here and written to the
//! rows of their processes before it commits.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::engine::time_split::TimeSplit;
use crate::queue::job::{ProcessState, Spent};

use super::lineage;
use super::rows::{self, AT_PROVIDER, DELETING, PROCESS_COLUMNS, bounded, process_of};
use super::writer::Fault;

#[derive(Default)]
struct Change {
    /// By status, with held ones under pending.
    counts: [i64; 7],
    total: i64,
    consumed: i64,
    input_tokens: i64,
    output_tokens: i64,
    cost_usd: f64,
    unpriced: i64,
    worked: Option<TimeSplit>,
}

impl Change {
    /// Where the time up to now went, as far as this change tells. What leaves a batch was at the provider.
    fn time(&self) -> Option<TimeSplit> {
        let at_provider = self.counts[place(AT_PROVIDER)];
        match at_provider.signum() {
            -1 => Some(self.worked.unwrap_or_else(TimeSplit::at_provider)),
            1 => Some(self.worked.unwrap_or_default()),
            _ => self.worked,
        }
    }
}

#[derive(Default)]
pub(super) struct CounterChanges(BTreeMap<i64, Change>);

impl CounterChanges {
    /// New jobs of a process.
    pub(super) fn added(&mut self, process: i64, jobs: i64) {
        let change = self.0.entry(process).or_default();
        change.total += jobs;
        change.counts[0] += jobs;
    }

    /// A job went from one status to another.
    pub(super) fn moved(&mut self, job: i64, from: i64, to: i64) {
        self.moved_many(process_of(job), from, to, 1);
    }

    pub(super) fn moved_many(&mut self, process: i64, from: i64, to: i64, jobs: i64) {
        let change = self.0.entry(process).or_default();
        change.counts[place(from)] -= jobs;
        change.counts[place(to)] += jobs;
    }

    pub(super) fn spent(&mut self, job: i64, spent: &Spent) {
        let change = self.0.entry(process_of(job)).or_default();
        change.input_tokens = bounded_sum(change.input_tokens, spent.input_tokens);
        change.output_tokens = bounded_sum(change.output_tokens, spent.output_tokens);
        match spent.cost_usd {
            Some(usd) if usd.is_finite() => change.cost_usd += usd,
            _ => change.unpriced += 1,
        }
    }

    /// A worker tells where its time went while it had jobs of the same process.
    pub(super) fn worked(&mut self, job: i64, time: &TimeSplit) {
        self.0.entry(process_of(job)).or_default().worked = Some(*time);
    }

    /// The outcome of a job was consumed.
    pub(super) fn consumed(&mut self, job: i64) {
        self.0.entry(process_of(job)).or_default().consumed += 1;
    }

    /// Adds everything to the rows, and wakes the jobs that waited for processes which have ended by that. Returns
    /// whether any was woken.
    pub(super) fn write(&self, conn: &Connection, now: Timestamp) -> Result<bool, Fault> {
        let mut update = conn.prepare_cached(
            "UPDATE processes SET total = total + ?2, pending = pending + ?3,
               in_progress = in_progress + ?4, at_provider = at_provider + ?5,
               completed = completed + ?6, failed = failed + ?7, cancelled_jobs = cancelled_jobs + ?8,
               consumed = consumed + ?9, input_tokens = min(input_tokens + ?10, 4611686018427387903),
               output_tokens = min(output_tokens + ?11, 4611686018427387903),
               cost_usd = cost_usd + ?12, unpriced = unpriced + ?13, changed_at = max(changed_at, ?14)
             WHERE no = ?1 RETURNING parent, pending + in_progress + at_provider",
        )?;
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
                c.cost_usd,
                c.unpriced,
                now.0
            ];
            let now_open = update.query_row(row, |row| Ok((row.get(0)?, row.get(1)?)));
            let now_open: Option<(Option<i64>, i64)> = now_open.optional()?;
            if let Some((Some(parent), 0)) = now_open {
                woken |= lineage::wake(conn, parent, now)?;
            }
            // Whatever ended the last of its jobs, its time is told up to then.
            let ended = matches!(now_open, Some((_, 0))) && completed + failed + cancelled > 0;
            if let Some(worked) = c.time().or(ended.then(TimeSplit::default)) {
                rows::tell_time(conn, *no, &worked, now)?;
            }
        }
        Ok(woken)
    }

    /// The processes that changed, as they are now, without those that are being deleted.
    pub(super) fn processes(&self, conn: &Connection) -> Result<Vec<ProcessState>, Fault> {
        let mut read = conn.prepare_cached(&format!(
            "SELECT {PROCESS_COLUMNS} FROM processes WHERE no = ?1 AND chore <> {DELETING}"
        ))?;
        let mut changed = Vec::with_capacity(self.0.len());
        for no in self.0.keys() {
            changed.extend(read.query_row([no], rows::process).optional()?);
        }
        Ok(changed)
    }

    /// Deletes the processes that have no job left and to which nothing more is to come.
    pub(super) fn drop_empty(&self, conn: &Connection) -> Result<(), Fault> {
        let mut delete = conn.prepare_cached(
            "DELETE FROM processes WHERE no = ?1 AND consumed = total AND sealed = total",
        )?;
        for no in self.0.keys() {
            delete.execute([no])?;
        }
        Ok(())
    }
}

fn place(status: i64) -> usize {
    match status {
        rows::WAITING | rows::HELD => 0,
        other => usize::try_from(other).unwrap_or(0),
    }
}

fn bounded_sum(sum: i64, tokens: u64) -> i64 {
    sum.saturating_add(bounded(tokens)).min(i64::MAX / 2)
}
