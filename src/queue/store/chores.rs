//! Chores: changes to all jobs of a process. One short transaction stores the decision and many apply it; after a
//! crash, any program continues. The states of the jobs tell which of them are left.

use std::collections::HashSet;
use std::time::Duration;

use const_format::formatcp;

use super::counters::CounterChanges;
use super::lineage::{Standing, lock, lock_one};
use super::rows::{
    CANCELLED, CANCELLING, DELETING, FAILED, HELD, MOST_JOBS, NO_CHORE, PENDING, RELEASING, key,
    key_of, process_of,
};
use super::statements::{Fault, Queries as _, Sql, all, by, count};
use super::{Mode, Store};
use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::job::JobReceipt;

/// Number of transactions with which a worker continues a chore at once.
const STEPS: u32 = 20;

impl Store {
    /// Continues the first interrupted chore for a while. False if none is left.
    pub(super) fn resume_chore(&self, now: Timestamp) -> Result<bool, Error> {
        let find = formatcp!(
            "SELECT no FROM #processes FORCE INDEX (by_chore)
             WHERE chore <> {NO_CHORE} AND chore > {NO_CHORE} LIMIT 1"
        );
        let Some(no) = self.read(|tx| tx.one(find, by![]))? else {
            return Ok(false);
        };
        let mut from = Some(key(no, 0));
        for _ in 0..STEPS {
            if let Some(first) = from {
                from = self.step(no, first, now)?;
            }
        }
        Ok(true)
    }

    /// Makes all added jobs claimable. The decision is one transaction, and short transactions apply it; if the OS
    /// process crashes, [`maintain`](Self::maintain) continues. Fails if the process does not exist, because its jobs
    /// have been deleted.
    pub(crate) fn seal(&self, id: ProcessId, now: Timestamp) -> Result<(), Error> {
        let sealed = self.decide(id, RELEASING, now)?;
        let why =
            || format!("the process {id} does not exist: nothing was enqueued, or it was deleted");
        let missing = || Error::new(ErrorKind::Invalid, why());
        sealed.map(drop).ok_or_else(missing)
    }

    /// Cancels the waiting jobs. Running jobs, and jobs at a provider, finish without retries, and no job can be added.
    /// Returns the number of waiting jobs. The decision is one transaction, and short transactions apply it; the same
    /// applies to [`retry_failed`](Self::retry_failed) and [`delete`](Self::delete). The three methods also
    /// succeed if the process does not exist.
    pub(crate) fn cancel(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let cancelled = self.decide(id, CANCELLING, now)?;
        Ok(cancelled.map_or(0, |(_, standing)| count(standing.pending)))
    }

    /// Deletes a process with its jobs and results; later ends of its jobs are ignored. Returns the number of deleted
    /// jobs.
    pub(crate) fn delete(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let deleted = self.decide(id, DELETING, now)?;
        Ok(deleted.map_or(0, |(_, standing)| count(standing.total - standing.consumed)))
    }

    /// Requeues failed and cancelled jobs with their full number of retries, at the first step of the route and without
    /// a history. Each is requeued once, by rising key, and only if it had ended so before this began. Returns their
    /// number. After a crash, what is left can still be requeued.
    pub(crate) fn retry_failed(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        match self.decide(id, NO_CHORE, now)? {
            Some((no, _)) => self.retry_range(no, (key(no, 0), key(no, MOST_JOBS - 1)), now),
            None => Ok(0),
        }
    }

    /// Requeues a failed or cancelled job like [`retry_failed`](Self::retry_failed), unless its process was cancelled.
    /// Its child jobs are requeued too. Returns whether it was requeued.
    pub(crate) fn retry_job(&self, job: JobId, now: Timestamp) -> Result<bool, Error> {
        let id = key_of(job);
        let find = "SELECT created_at FROM #jobs WHERE id = ?";
        let created_at: Option<Timestamp> = self.read(|tx| tx.one(find, by![id]))?;
        // The rest of the id must match too, because it may belong to another database.
        let found = created_at.map(|at| self.job_id(id, at));
        Ok(found == Some(job) && self.retry_range(process_of(id), (id, id), now)? > 0)
    }

    /// Requeues the failed and cancelled jobs of a process with these keys; their children first, because a requeued
    /// parent looks at them.
    fn retry_range(
        &self,
        no: i64,
        (first, last): (i64, i64),
        now: Timestamp,
    ) -> Result<u64, Error> {
        let children = formatcp!(
            "SELECT p.id FROM #processes p JOIN #jobs j ON j.id = p.parent
             WHERE p.parent BETWEEN ? AND ? AND j.status IN ({FAILED}, {CANCELLED}) ORDER BY p.no"
        );
        let children: Vec<ProcessId> = self.read(|tx| tx.many(children, by![first, last]))?;
        for child in children {
            self.retry_failed(child, now)?;
        }
        let find = formatcp!(
            "SELECT id, claim FROM #jobs WHERE id BETWEEN ? AND ? AND status >= {FAILED} ORDER BY id"
        );
        let ended: Vec<JobReceipt> = self.read(|tx| tx.many(find, by![first, last]))?;
        let mut requeued = 0;
        for some in ended.chunks(usize::try_from(self.chunk).unwrap_or(1)) {
            #[cfg(test)]
            self.next_chunk()?;
            requeued += self.write(|tx| self.requeue(tx, no, some, now))?;
        }
        self.wake_workers();
        Ok(requeued)
    }

    /// Requeues those of these jobs of a process that are still in the states in which they were found, unless the process
    /// was cancelled. Returns their number.
    pub(super) fn requeue(
        &self,
        tx: &mut dyn Sql,
        no: i64,
        ended: &[JobReceipt],
        now: Timestamp,
    ) -> Result<u64, Fault> {
        let ids: Vec<i64> = ended.iter().map(|end| end.job).collect();
        let ended: HashSet<&JobReceipt> = ended.iter().collect();
        let find = formatcp!(
            "SELECT id, claim, lane, status FROM #jobs FORCE INDEX (PRIMARY)
             WHERE id IN :list AND status >= {FAILED} ORDER BY id FOR UPDATE"
        );
        let found: Vec<(JobReceipt, i64, i64)> = tx.many(find, by![all(&ids)])?;
        if lock(tx, [no])?.get(&no).is_none_or(Standing::stops_trying) {
            return Ok(0);
        }
        let (mut changes, mut requeued) = (CounterChanges::default(), Vec::new());
        for (end, lane, status) in found.iter().filter(|(end, ..)| ended.contains(end)) {
            let lane = self.at_step(tx, *lane, 0)?;
            let retry = formatcp!(
                "UPDATE #jobs SET status = {PENDING}, claim = claim + 1, visible_at = ?, lane = ?, crashes = 0,
                   attempt = 0 WHERE id = ?"
            );
            tx.defer(retry, by![now.0, lane, end.job])?;
            changes.moved(end.job, *status, PENDING);
            requeued.push(end.job);
        }
        tx.defer(
            "DELETE FROM #results WHERE job IN :list",
            by![all(&requeued)],
        )?;
        changes.write(tx, now)?;
        Ok(requeued.len() as u64)
    }

    /// Stores a decision and applies it; a chore of the process that is greater than `chore` is applied first. Returns the
    /// number of the process, and its former state, if it exists.
    fn decide(
        &self,
        id: ProcessId,
        chore: i64,
        now: Timestamp,
    ) -> Result<Option<(i64, Standing)>, Error> {
        loop {
            let (found, is_set) = self.write(|tx| {
                let found = lock_one(tx, id)?;
                let free = found.filter(|(_, standing)| standing.chore <= chore);
                if let Some((no, standing)) = free {
                    begin(tx, no, standing, chore, now)?;
                }
                Ok((found, free.is_some()))
            })?;
            let Some((no, _)) = found else {
                return Ok(None);
            };
            match self.carry_out(no, now) {
                // The decision is stored. If the disk is full, a later `maintain` deletes the rows.
                Err(error) if is_set && error.is_storage() => log::warn!("{error}"),
                done => done?,
            }
            if is_set {
                return Ok(found);
            }
        }
    }

    /// Applies the rest of the chores of a process and its descendants.
    fn carry_out(&self, no: i64, now: Timestamp) -> Result<(), Error> {
        let mut from = key(no, 0);
        while let Some(next) = self.step(no, from, now)? {
            from = next;
        }
        let below = formatcp!(
            "SELECT no FROM #processes WHERE parent BETWEEN ? AND ? AND chore <> {NO_CHORE} ORDER BY no"
        );
        for child in self.read(|tx| tx.many(below, by![key(no, 0), key(no, MOST_JOBS - 1)]))? {
            self.carry_out(child, now)?;
        }
        Ok(())
    }

    /// One short transaction of a process's chore. Returns the key at which the next one continues.
    fn step(&self, no: i64, from: i64, now: Timestamp) -> Result<Option<i64>, Error> {
        #[cfg(test)]
        self.next_chunk()?;
        let chunk = self.chunk;
        let (next, woken) = self.write(|tx| step(tx, no, from, chunk, now))?;
        if woken {
            self.wake_workers();
        }
        Ok(next)
    }
}

/// Writes a decision to a process, whose row is locked.
fn begin(
    tx: &mut dyn Sql,
    no: i64,
    before: Standing,
    chore: i64,
    now: Timestamp,
) -> Result<(), Fault> {
    let is_sealed = before.chore == NO_CHORE && before.sealed == before.total;
    let set = match chore {
        NO_CHORE => ", cancelled = 0".to_owned(),
        RELEASING if is_sealed => return Ok(()),
        RELEASING => ", sealed = total".to_owned(),
        // No job can be added any more, so the existing jobs count as sealed. The time shows whether missing results were
        // known by then.
        CANCELLING => format!(", sealed = total, cancelled = {}", now.0.max(1)),
        _ => String::new(),
    };
    let begin = format!(
        "UPDATE #processes SET chore = {chore}{set}, changed_at = GREATEST(changed_at, ?) WHERE no = ?"
    );
    tx.run(&begin, by![now.0, no])?;
    match chore {
        CANCELLING | DELETING => hand_on(tx, chore, &format!("root = {no}"), now),
        _ => Ok(()),
    }
}

fn step(
    tx: &mut dyn Sql,
    no: i64,
    from: i64,
    chunk: i64,
    now: Timestamp,
) -> Result<(Option<i64>, bool), Fault> {
    // Read first, and locked after the jobs.
    let read = "SELECT chore FROM #processes WHERE no = ?";
    let chore = tx.one::<i64>(read, by![no])?.unwrap_or(NO_CHORE);
    let which = match chore {
        NO_CHORE => return Ok((None, false)),
        RELEASING => formatcp!("AND status = {HELD}"),
        CANCELLING => formatcp!("AND status IN ({PENDING}, {HELD})"),
        _ => "",
    };
    let find = format!(
        "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id >= ? AND id < ? {which} ORDER BY id LIMIT ? FOR UPDATE"
    );
    let jobs: Vec<i64> = tx.many(&find, by![from, key(no, 0) + MOST_JOBS, chunk])?;
    let standing = lock(tx, [no])?;
    if standing
        .get(&no)
        .is_none_or(|process| process.chore != chore)
    {
        return Err(Fault::Overtaken);
    }
    match chore {
        RELEASING => {
            // A server reads a range of keys faster than a list of them.
            let release = formatcp!(
                "UPDATE #jobs FORCE INDEX (PRIMARY) SET status = {PENDING}, visible_at = LEAST(visible_at, ?)
                 WHERE id BETWEEN ? AND ? AND status = {HELD}"
            );
            tx.defer(release, by![now.0, from, jobs.last().copied()])?;
        }
        CANCELLING => {
            let cancel = formatcp!("UPDATE #jobs SET status = {CANCELLED} WHERE id IN :list");
            tx.defer(cancel, by![all(&jobs)])?;
            let mut changes = CounterChanges::default();
            changes.moved_many(no, PENDING, CANCELLED, jobs.len() as i64);
            changes.write(tx, now)?;
        }
        _ => delete_rows(tx, &jobs)?,
    }
    if jobs.len() as i64 >= chunk {
        return Ok((jobs.last().map(|last| last + 1), chore == RELEASING));
    }
    if chore != RELEASING {
        // Those of a root have it already.
        let (first, last) = (key(no, 0), key(no, MOST_JOBS - 1));
        hand_on(
            tx,
            chore,
            &format!("parent BETWEEN {first} AND {last}"),
            now,
        )?;
    }
    let end = match chore {
        DELETING => "DELETE FROM #processes WHERE no = ?",
        _ => formatcp!("UPDATE #processes SET chore = {NO_CHORE} WHERE no = ?"),
    };
    tx.run(end, by![no])?;
    Ok((None, chore == RELEASING && !jobs.is_empty()))
}

/// Deletes jobs with all that belongs to them.
pub(super) fn delete_rows(tx: &mut dyn Sql, jobs: &[i64]) -> Result<(), Fault> {
    tx.defer("DELETE FROM #payloads WHERE job IN :list", by![all(jobs)])?;
    tx.defer("DELETE FROM #results WHERE job IN :list", by![all(jobs)])?;
    tx.defer("DELETE FROM #jobs WHERE id IN :list", by![all(jobs)])
}

/// The children of a process that is cancelled or deleted are cancelled or deleted next.
fn hand_on(tx: &mut dyn Sql, chore: i64, which: &str, now: Timestamp) -> Result<(), Fault> {
    let of = format!("WHERE {which} AND chore <> {DELETING}");
    let delete = format!("UPDATE #processes SET chore = {DELETING} {of}");
    if chore == DELETING {
        return tx.defer(&delete, by![]);
    }
    // If incomplete children were requeued later, they would count as complete.
    tx.defer(&format!("{delete} AND sealed < total"), by![])?;
    let cancel = format!(
        "UPDATE #processes SET cancelled = {}, chore = {CANCELLING} {of} AND cancelled = 0",
        now.0.max(1)
    );
    tx.defer(&cancel, by![])
}

// Waiting jobs, cancelled one by one.

impl Store {
    /// Cancels the jobs of this list that wait, in short transactions. Returns their number.
    pub(crate) fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        let mut cancelled = 0;
        let chunk = usize::try_from(self.chunk).unwrap_or(1).max(1);
        for jobs in jobs.chunks(chunk) {
            cancelled += self.write(|tx| self.cancel_chunk(tx, jobs, now))?;
        }
        Ok(cancelled)
    }

    fn cancel_chunk(&self, tx: &mut dyn Sql, jobs: &[JobId], now: Timestamp) -> Result<u64, Fault> {
        let wanted: HashSet<&JobId> = jobs.iter().collect();
        let keys: Vec<i64> = jobs.iter().map(|job| key_of(*job)).collect();
        let find = formatcp!(
            "SELECT id, created_at FROM #jobs FORCE INDEX (PRIMARY)
             WHERE id IN :list AND status IN ({PENDING}, {HELD}) ORDER BY id FOR UPDATE"
        );
        let mut found: Vec<(i64, Timestamp)> = tx.many(find, by![all(&keys)])?;
        let processes = lock(tx, found.iter().map(|(id, _)| process_of(*id)))?;
        found.retain(|(id, created_at)| {
            let process = processes.get(&process_of(*id));
            // The rest of the id must match too, because it may belong to another database.
            wanted.contains(&self.job_id(*id, *created_at))
                && process.is_some_and(|process| process.chore != DELETING)
        });
        let found: Vec<i64> = found.into_iter().map(|(id, _)| id).collect();
        let cancel = formatcp!("UPDATE #jobs SET status = {CANCELLED} WHERE id IN :list");
        tx.defer(cancel, by![all(&found)])?;
        let mut changes = CounterChanges::default();
        for id in &found {
            changes.moved(*id, PENDING, CANCELLED);
        }
        changes.write(tx, now)?;
        Ok(found.len() as u64)
    }
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
        let is_there = self.read(|tx| tx.exists(&any, by![]))?;
        if !is_there {
            return Ok(0);
        }
        self.write_as(Mode::WriteLazily, |tx| {
            let set = format!(
                "UPDATE #jobs SET visible_at = {now} WHERE status = {PENDING} AND {is_late}"
            );
            tx.run(&set, by![])
        })
    }
}

// The pause of the queue: no worker starts anything.

impl Store {
    /// Pauses or resumes the queue: while it is paused, claims and
    /// [`waiting_jobs`](super::Store::waiting_jobs) return nothing.
    pub(crate) fn set_paused(&self, paused: bool) -> Result<(), Error> {
        self.write(|tx| {
            tx.run("DELETE FROM #pauses", by![])?;
            if paused {
                tx.run("INSERT INTO #pauses (no) VALUES (0)", by![])?;
            }
            Ok(())
        })?;
        if !paused {
            self.wake_workers();
        }
        Ok(())
    }

    /// Whether the queue is paused.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn is_paused(&self) -> Result<bool, Error> {
        self.read(|tx| tx.exists("SELECT 1 FROM #pauses", by![]))
    }
}
