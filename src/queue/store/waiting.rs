//! Waiting jobs: counted for forming batches, and cancelled one by one.

use std::collections::HashMap;
use std::time::Duration;

use const_format::formatcp;

use super::budgets::{CLOSED, not_closed};
use super::counters::CounterChanges;
use super::lineage::{PROCESS, lock, scope};
use super::rows::{CANCELLED, DELETING, HELD, NO_CHORE, PENDING, key_of, process_of};
use super::statements::{Fault, Queries as _, Row, Statements, all, by, list};
use super::{Mode, Store, WaitingJobs};
use crate::base::{Error, JobId, ProcessId, Timestamp};

impl Store {
    /// The waiting jobs of a kind at the first step, by process and lane: first the groups with due jobs, by the highest
    /// priority among their due jobs, then the oldest; after them the groups without due jobs, by the next due time.
    /// Limited to these processes; all processes if the list is empty. Excludes cancelled jobs, and processes with a
    /// pending chore. Reads one key of every waiting job of the kind, and nothing else.
    pub(crate) fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        self.run(Mode::Moment, |tx| {
            let mut which = scope(tx, PROCESS, processes)?;
            if tx.exists(IS_PAUSED, Vec::new())? {
                return Ok(Vec::new());
            }
            let closed = tx.many(CLOSED, Vec::new())?;
            which += &not_closed(tx, closed)?;
            let of_kind = "SELECT no FROM #lanes WHERE kind = ? AND step = 0";
            let lanes: Vec<i64> = tx.many(of_kind, by![kind.to_owned()])?;
            // The rank of a due job is its due time, less by many years for each priority.
            let count = format!(
                "SELECT p.id, w.lane, w.jobs, w.due, w.next_at FROM (
                   SELECT {PROCESS} AS process, lane, COUNT(*) AS jobs, SUM(visible_at <= {now}) AS due,
                     MIN(CASE WHEN visible_at > {now} THEN visible_at END) AS next_at, MIN(id) AS oldest,
                     MIN(CASE WHEN visible_at <= {now} THEN visible_at - priority * 281474976710656 END) AS best
                   FROM #jobs FORCE INDEX (to_claim)
                   WHERE status = {PENDING} AND lane IN {} {which} GROUP BY {PROCESS}, lane) w
                 JOIN #processes p ON p.no = w.process WHERE p.cancelled = 0 AND p.chore = {NO_CHORE}
                 ORDER BY w.due = 0, w.best, w.next_at, w.oldest",
                list(&lanes),
                now = now.0
            );
            let groups = tx.rows(&count, Vec::new())?.into_iter();
            let read = |mut row: Row| {
                Ok(WaitingJobs {
                    process_id: row.read()?,
                    lane: self.lane(tx, row.read()?)?,
                    all: row.read()?,
                    due: row.read()?,
                    next: row.read()?,
                })
            };
            groups.map(read).collect()
        })
    }

    /// Cancels the jobs of this list that wait, in short transactions. Returns their number.
    pub(crate) fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        let mut cancelled = 0;
        let chunk = usize::try_from(self.chunk).unwrap_or(1).max(1);
        for jobs in jobs.chunks(chunk) {
            cancelled += self.write(|tx| cancel_chunk(self, tx, jobs, now))?;
        }
        Ok(cancelled)
    }
}

fn cancel_chunk(
    store: &Store,
    tx: &mut dyn Statements,
    jobs: &[JobId],
    now: Timestamp,
) -> Result<u64, Fault> {
    let wanted: HashMap<i64, JobId> = jobs.iter().map(|job| (key_of(*job), *job)).collect();
    let sql = formatcp!(
        "SELECT id, created_at FROM #jobs FORCE INDEX (PRIMARY)
         WHERE id IN :list AND status IN ({PENDING}, {HELD}) ORDER BY id FOR UPDATE"
    );
    let keys: Vec<i64> = wanted.keys().copied().collect();
    let mut found: Vec<(i64, Timestamp)> = tx.many(sql, by![all(&keys)])?;
    // The rest of the id must match too, because it may belong to another database.
    found.retain(|(id, created_at)| wanted.get(id) == Some(&store.job_id(*id, *created_at)));
    let mut found: Vec<i64> = found.into_iter().map(|(id, _)| id).collect();
    let processes = lock(tx, found.iter().map(|id| process_of(*id)))?;
    found.retain(|id| {
        let process = processes.get(&process_of(*id));
        process.is_some_and(|process| process.chore != DELETING)
    });
    let cancel = formatcp!("UPDATE #jobs SET status = {CANCELLED} WHERE id IN :list");
    tx.defer(cancel, by![all(&found)])?;
    let mut changes = CounterChanges::default();
    for id in &found {
        changes.moved(*id, PENDING, CANCELLED);
    }
    changes.write(tx, now)?;
    Ok(found.len() as u64)
}

// Due times that are too far in the future because the clock was set back.

impl Store {
    /// Makes waiting jobs due that come due more than `longest` from now, or were enqueued at a future time: the clock
    /// was ahead when that was written. Returns the number of changed jobs.
    pub(crate) fn make_due(&self, longest: Duration, now: Timestamp) -> Result<u64, Error> {
        let (far, now) = (now.after(longest).0, now.0);
        let is_late = format!("visible_at > {now} AND (visible_at > {far} OR created_at > {now})");
        // Read first, because the update looks at all jobs, and hardly ever changes one.
        let any = format!(
            "SELECT 1 FROM #jobs FORCE INDEX (to_claim) WHERE status = {PENDING} AND {is_late} LIMIT 1"
        );
        let is_there = self.read(|tx| tx.exists(&any, Vec::new()))?;
        if !is_there {
            return Ok(0);
        }
        self.write_as(Mode::WriteLazily, |tx| {
            let set = format!(
                "UPDATE #jobs SET visible_at = {now} WHERE status = {PENDING} AND {is_late}"
            );
            tx.run(&set, Vec::new())
        })
    }
}

// The pause of the queue: no worker starts anything.

/// Finds a row while the queue is paused.
pub(crate) const IS_PAUSED: &str = "SELECT 1 FROM #pauses";

impl Store {
    /// Pauses or resumes the queue: while it is paused, claims and
    /// [`waiting_jobs`](super::Store::waiting_jobs) return nothing.
    pub(crate) fn set_paused(&self, paused: bool) -> Result<(), Error> {
        self.write(|tx| {
            tx.run("DELETE FROM #pauses", Vec::new())?;
            if paused {
                tx.run("INSERT INTO #pauses (no) VALUES (0)", Vec::new())?;
            }
            Ok(())
        })?;
        if !paused {
            self.wake_workers();
        }
        Ok(())
    }

    /// Whether the queue is paused.
    pub(crate) fn is_paused(&self) -> Result<bool, Error> {
        self.read(|tx| tx.exists(IS_PAUSED, Vec::new()))
    }
}
