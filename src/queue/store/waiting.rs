//! Waiting jobs: counted for forming batches, and cancelled one by one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use const_format::formatcp;

use super::counters::CounterChanges;
use super::rows::{CANCELLED, DELETING, HELD, NO_CHORE, PENDING, key_of, process_of};
use super::{Again, Store, WaitingJobs};
use crate::base::{Error, JobId, ProcessId, Timestamp};

use super::budgets::{CLOSED, not_closed};
use super::lineage::{PROCESS, lock, scope};
use super::statements::{Fault, Queries as _, Statements, all, by, id_of};

/// Waiting jobs of one process and lane.
#[derive(Default)]
struct Group {
    all: u64,
    due: u64,
    /// Priority, due time and key of the job that would be claimed first.
    first: Option<(Reverse<i64>, i64, i64)>,
    /// Due time and key of the next job that comes due.
    soonest: Option<(i64, i64)>,
}

impl Group {
    fn meet(&mut self, priority: i64, visible_at: i64, id: i64, now: Timestamp) {
        self.all += 1;
        if visible_at <= now.0 {
            self.due += 1;
            let rank = (Reverse(priority), visible_at, id);
            self.first = Some(self.first.map_or(rank, |first| first.min(rank)));
        } else {
            let rank = (visible_at, id);
            self.soonest = Some(self.soonest.map_or(rank, |soonest| soonest.min(rank)));
        }
    }
}

impl Store {
    /// The waiting jobs of a kind at the first step, by process and lane, in the order of claims: first the groups with
    /// due jobs, by the highest priority among their first due jobs, then the oldest; after them the groups without due
    /// jobs, by the next due time. Limited to these processes; all processes if the list is empty. Excludes cancelled
    /// jobs, and processes with a pending chore. Reads one key of every waiting job of the kind, and nothing else.
    pub(crate) fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        self.read_moment(|tx| {
        let mut groups: HashMap<(i64, i64), Group> = HashMap::new();
        let scope = scope(tx, PROCESS, processes)?;
        if tx.exists(IS_PAUSED, Vec::new())? {
            return Ok(Vec::new());
        }
        let closed = tx.rows(CLOSED, Vec::new())?;
        let scope = scope + &not_closed(tx, closed)?;
        let of_kind = "SELECT no FROM #lanes WHERE kind = ? AND step = 0";
        for lane in tx.column::<i64>(of_kind, by![kind.to_owned()])? {
            let sql = format!(
                "SELECT priority, visible_at, id FROM #jobs FORCE INDEX (to_claim)
                 WHERE status = {PENDING} AND lane = {lane} {scope}"
            );
            tx.each(&sql, Vec::new(), &mut |mut row| {
                let id = row.at(2)?;
                let group = groups.entry((process_of(id), lane)).or_default();
                group.meet(row.at(0)?, row.at(1)?, id, now);
                Ok(true)
            })?;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, group)| (group.first.is_none(), group.first, group.soonest));
        let mut waiting = Vec::new();
        for ((process, lane), group) in groups {
            let sql = format!(
                "SELECT id FROM #processes WHERE no = ? AND cancelled = 0 AND chore = {NO_CHORE}"
            );
            if let Some(id) = tx.one::<Vec<u8>>(&sql, by![process])? {
                waiting.push(WaitingJobs {
                    process_id: id_of(&id)?,
                    lane: self.lane(tx, lane)?,
                    all: group.all,
                    due: group.due,
                    next: group.soonest.map(|(next, _)| Timestamp(next)),
                });
            }
        }
        Ok(waiting)
    })
    }

    /// Cancels the jobs of this list that wait, in short transactions. Returns their number.
    pub(crate) fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        let mut cancelled = 0;
        let chunk = usize::try_from(self.chunk).unwrap_or(1).max(1);
        for jobs in jobs.chunks(chunk) {
            cancelled += self.write(Again::Harmless, |tx| cancel_chunk(self, tx, jobs, now))?;
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
    let mut found = Vec::new();
    for mut row in tx.rows(sql, by![all(&keys)])? {
        let (id, created_at) = (row.at(0)?, Timestamp(row.at(1)?));
        // The rest of the id must match too, because it may belong to another database.
        if wanted.get(&id) == Some(&store.job_id(id, created_at)) {
            found.push(id);
        }
    }
    let processes = lock(tx, found.iter().map(|id| process_of(*id)))?;
    found.retain(|id| {
        let process = processes.get(&process_of(*id));
        process.is_some_and(|process| process.chore != DELETING)
    });
    let mut changes = CounterChanges::default();
    if !found.is_empty() {
        let cancel = formatcp!("UPDATE #jobs SET status = {CANCELLED} WHERE id IN :list");
        tx.run(cancel, by![all(&found)])?;
    }
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
        self.write_lazily(Again::Harmless, |tx| {
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
        self.write(Again::Harmless, |tx| {
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
