//! Chores: changes to all jobs of a process. One short transaction stores the decision and many apply it; after a
//! crash, any program continues. The states of the jobs tell which of them are left.

use std::collections::BTreeMap;

use const_format::formatcp;
use rusqlite::types::Value;

use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::store::Store;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{
    CANCELLED, CANCELLING, DELETING, FAILED, HELD, MOST_JOBS, NO_CHORE, PENDING, RELEASING, count,
    key, key_of, process_of,
};

use super::Again;
use super::lineage::{self, Standing, lock, lock_one};
use super::statements::{Fault, Queries as _, Statements, by};

/// Continues the first interrupted chore for a while. False if none is left.
pub(crate) fn resume(store: &Store, now: Timestamp) -> Result<bool, Error> {
    const CHUNKS: u32 = 20;
    let halfway: Option<i64> = store.read(|tx| {
        let find = formatcp!(
            "SELECT no FROM #processes FORCE INDEX (by_chore)
             WHERE chore <> {NO_CHORE} AND chore > {NO_CHORE} LIMIT 1"
        );
        tx.one(find, Vec::new())
    })?;
    let Some(no) = halfway else {
        return Ok(false);
    };
    let mut from = key(no, 0);
    for _ in 0..CHUNKS {
        match step(store, no, from, now)? {
            Some(next) => from = next,
            None => break,
        }
    }
    Ok(true)
}

/// What a decision leads to.
enum Decided<T> {
    /// The chore of the process must be applied.
    Yes(T),
    /// Another chore of the process must be applied first.
    After,
    /// No change is necessary.
    NothingToDo(T),
}

impl Store {
    /// Makes all added jobs claimable. The decision is one transaction, and short transactions apply it; if the OS
    /// process crashes, [`maintain`](super::Store::maintain) continues. Fails if the process does not exist,
    /// because its jobs have been deleted.
    pub(crate) fn seal(&self, id: ProcessId, now: Timestamp) -> Result<(), Error> {
        decide(self, id, now, |tx, standing| {
            let Some((no, standing)) = standing else {
                let why = format!(
                    "the process {id} does not exist: nothing was enqueued, or it was deleted"
                );
                return Err(Error::new(ErrorKind::Invalid, why).into());
            };
            match standing.chore {
                NO_CHORE if standing.sealed == standing.total => {
                    return Ok(Decided::NothingToDo(()));
                }
                NO_CHORE | RELEASING => {}
                _ => return Ok(Decided::After),
            }
            let seal = formatcp!(
            "UPDATE #processes SET chore = {RELEASING}, sealed = total, changed_at = GREATEST(changed_at, ?)
             WHERE no = ?"
        );
            tx.run(seal, by![now.0, no])?;
            Ok(Decided::Yes(()))
        })
    }

    /// Cancels the waiting jobs. Running jobs, and jobs at a provider, finish without retries, and no job can be added.
    /// Returns the number of waiting jobs. The decision is one transaction, and short transactions apply it; the same
    /// applies to [`retry_failed`](Self::retry_failed) and [`delete`](Self::delete). The three methods also
    /// succeed if the process does not exist.
    pub(crate) fn cancel(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        decide(self, id, now, |tx, standing| {
            let Some((no, Standing { chore, pending, .. })) = standing else {
                return Ok(Decided::NothingToDo(0));
            };
            if chore == DELETING {
                return Ok(Decided::After);
            }
            // No job can be added any more, so the existing jobs count as sealed. The time shows whether missing results
            // were known by then.
            let cancel = formatcp!(
                "UPDATE #processes SET cancelled = ?, sealed = total, chore = {CANCELLING} WHERE no = ?"
            );
            tx.run(cancel, by![now.0.max(1), no])?;
            cancel_below(tx, "root = ?", by![no], now)?;
            Ok(Decided::Yes(count(pending)))
        })
    }

    /// Deletes a process with its jobs and results; later ends of its jobs are ignored. Returns the number of deleted
    /// jobs.
    pub(crate) fn delete(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        decide(self, id, now, |tx, standing| {
            let Some((no, standing)) = standing else {
                return Ok(Decided::NothingToDo(0));
            };
            let delete = formatcp!("UPDATE #processes SET chore = {DELETING} WHERE no = ?");
            tx.run(delete, by![no])?;
            delete_below(tx, "root = ?", by![no])?;
            Ok(Decided::Yes(count(standing.total - standing.consumed)))
        })
    }
}

/// Requeues the failed and cancelled jobs of a process: each once, by rising key, and only those that had ended so before it
/// began. Children first, because a requeued parent looks at them. After a crash, what is left can still be requeued.
impl Store {
    /// Requeues failed and cancelled jobs with their full number of retries, at the first step of the route and without
    /// a history. Returns their number.
    pub(crate) fn retry_failed(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let begun = decide(self, id, now, |tx, standing| {
            let Some((no, Standing { chore, .. })) = standing else {
                return Ok(Decided::NothingToDo(None));
            };
            if chore != NO_CHORE {
                return Ok(Decided::After);
            }
            let open = "UPDATE #processes SET cancelled = 0, changed_at = GREATEST(changed_at, ?) WHERE no = ?";
            tx.run(open, by![now.0, no])?;
            Ok(Decided::NothingToDo(Some(no)))
        })?;
        let Some(no) = begun else {
            return Ok(0);
        };
        self.retry_range(no, (key(no, 0), key(no, MOST_JOBS - 1)), now)
    }

    /// Requeues a failed or cancelled job like [`retry_failed`](Self::retry_failed), unless its process was cancelled.
    /// Its child jobs are requeued too. Returns whether it was requeued.
    pub(crate) fn retry_job(&self, job: JobId, now: Timestamp) -> Result<bool, Error> {
        let id = key_of(job);
        let find = "SELECT created_at FROM #jobs WHERE id = ?";
        let created_at: Option<i64> = self.read(|tx| tx.one(find, by![id]))?;
        // The rest of the id must match too, because it may belong to another database.
        let found = created_at.map(|at| self.job_id(id, Timestamp(at)));
        Ok(found == Some(job) && self.retry_range(process_of(id), (id, id), now)? > 0)
    }

    /// Requeues the failed and cancelled jobs of a process with these keys.
    fn retry_range(
        &self,
        no: i64,
        (first, last): (i64, i64),
        now: Timestamp,
    ) -> Result<u64, Error> {
        for child in self.read(|tx| lineage::to_retry(tx, first, last))? {
            self.retry_failed(child, now)?;
        }
        let find = formatcp!(
            "SELECT id, claim FROM #jobs WHERE id BETWEEN ? AND ? AND status >= {FAILED} ORDER BY id"
        );
        let mut ended: Vec<(i64, i64)> = Vec::new();
        self.read(|tx| {
            ended.clear();
            tx.each(find, by![first, last], &mut |mut row| {
                ended.push((row.at(0)?, row.at(1)?));
                Ok(true)
            })
        })?;
        let chunk = usize::try_from(self.chunk).unwrap_or(1).max(1);
        let mut requeued = 0;
        for some in ended.chunks(chunk) {
            self.next_chunk()?;
            requeued += self.write(Again::Harmless, |tx| requeue(self, tx, no, some, now))?;
        }
        self.wake_workers();
        Ok(requeued)
    }
}

/// Requeues those of these jobs of a process that are still in the states in which they were found, unless the process was
/// cancelled. Returns their number.
pub(in crate::queue::store) fn requeue(
    store: &Store,
    tx: &mut dyn Statements,
    no: i64,
    ended: &[(i64, i64)],
    now: Timestamp,
) -> Result<u64, Fault> {
    let claims: BTreeMap<i64, i64> = ended.iter().copied().collect();
    let ids: Vec<i64> = claims.keys().copied().collect();
    let find = formatcp!(
        "SELECT id, claim, lane, status FROM #jobs FORCE INDEX (PRIMARY)
         WHERE id IN :list AND status >= {FAILED} ORDER BY id FOR UPDATE"
    );
    let rows = tx.rows_in(find, &ids)?;
    let standing = lock(tx, [no])?;
    if standing.get(&no).is_none_or(Standing::stops_trying) {
        return Ok(0);
    }
    let mut changes = CounterChanges::default();
    let mut by_lane: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut all = Vec::new();
    for mut row in rows {
        let (id, claim): (i64, i64) = (row.at(0)?, row.at(1)?);
        if claims.get(&id) == Some(&claim) {
            let lane = store.at_step(tx, row.at(2)?, 0)?;
            by_lane.entry(lane).or_default().push(id);
            changes.moved(id, row.at(3)?, PENDING);
            all.push(id);
        }
    }
    for (lane, jobs) in by_lane {
        let retry = format!(
            "UPDATE #jobs SET status = {PENDING}, claim = claim + 1, visible_at = {}, lane = {lane}, crashes = 0,
               attempt = 0, has_history = 0 WHERE id IN :list",
            now.0
        );
        tx.run_in(&retry, &jobs)?;
    }
    tx.defer_in("DELETE FROM #results WHERE job IN :list", &all)?;
    tx.defer_in("DELETE FROM #histories WHERE job IN :list", &all)?;
    changes.write(tx, now)?;
    Ok(all.len() as u64)
}

/// Stores a decision and applies it. Returns the decision's reply.
fn decide<T>(
    store: &Store,
    id: ProcessId,
    now: Timestamp,
    decision: impl Fn(&mut dyn Statements, Option<(i64, Standing)>) -> Result<Decided<T>, Fault>,
) -> Result<T, Error> {
    loop {
        let (no, decided) = store.write(Again::Harmless, |tx| {
            let standing = lock_one(tx, id)?;
            let no = standing.map_or(0, |(no, _)| no);
            Ok((no, decision(tx, standing)?))
        })?;
        match decided {
            Decided::NothingToDo(reply) => return Ok(reply),
            Decided::After => carry_out(store, no, now)?,
            Decided::Yes(reply) => {
                // The decision is stored. If the disk is full, a later `maintain` deletes the rows.
                match carry_out(store, no, now) {
                    Err(error) if error.is_storage() => log::warn!("{error}"),
                    done => done?,
                }
                return Ok(reply);
            }
        }
    }
}

/// Applies the rest of the chores of a process and its descendants.
pub(super) fn carry_out(store: &Store, no: i64, now: Timestamp) -> Result<(), Error> {
    let mut from = key(no, 0);
    while let Some(next) = step(store, no, from, now)? {
        from = next;
    }
    let below = formatcp!(
        "SELECT no FROM #processes WHERE parent BETWEEN ? AND ? AND chore <> {NO_CHORE} ORDER BY no"
    );
    let range = by![key(no, 0), key(no, MOST_JOBS - 1)];
    for child in store.read(|tx| tx.column(below, range.clone()))? {
        carry_out(store, child, now)?;
    }
    Ok(())
}

/// One short transaction of a process's chore. Returns the key at which the next one continues.
fn step(store: &Store, no: i64, from: i64, now: Timestamp) -> Result<Option<i64>, Error> {
    store.next_chunk()?;
    let chunk = store.chunk;
    let (next, woken) = store.write(Again::Harmless, |tx| step_in(tx, no, from, chunk, now))?;
    if woken {
        store.wake_workers();
    }
    Ok(next)
}

fn step_in(
    tx: &mut dyn Statements,
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
    let jobs: Vec<i64> = tx.column(&find, by![from, key(no, 0) + MOST_JOBS, chunk])?;
    let standing = lock(tx, [no])?.remove(&no).ok_or(Fault::Overtaken)?;
    if standing.chore != chore {
        return Err(Fault::Overtaken);
    }
    let mut changes = CounterChanges::default();
    match chore {
        RELEASING => {
            if let (Some(first), Some(last)) = (jobs.first(), jobs.last()) {
                // A range, because a server looks up each id of a list.
                let release = formatcp!(
                    "UPDATE #jobs SET status = {PENDING}, visible_at = LEAST(visible_at, ?)
                     WHERE id BETWEEN ? AND ? AND status = {HELD}"
                );
                tx.defer(release, by![now.0, *first, *last])?;
            }
        }
        CANCELLING => {
            let cancel = formatcp!("UPDATE #jobs SET status = {CANCELLED} WHERE id IN :list");
            tx.defer_in(cancel, &jobs)?;
            let cancelled = i64::try_from(jobs.len()).unwrap_or(0);
            changes.moved_many(no, PENDING, CANCELLED, cancelled);
        }
        _ => {
            for table in ["#payloads", "#results", "#histories"] {
                tx.defer_in(&format!("DELETE FROM {table} WHERE job IN :list"), &jobs)?;
            }
            tx.defer_in("DELETE FROM #jobs WHERE id IN :list", &jobs)?;
        }
    }
    if chore != DELETING {
        changes.write(tx, now)?;
    }
    let is_last = (jobs.len() as i64) < chunk;
    if is_last {
        finish(tx, chore, no, now)?;
    }
    let next = jobs.last().filter(|_| !is_last).map(|last| last + 1);
    Ok((next, chore == RELEASING && !jobs.is_empty()))
}

/// The end of a chore, which the children get next; those of a root have it already.
fn finish(tx: &mut dyn Statements, chore: i64, no: i64, now: Timestamp) -> Result<(), Fault> {
    const CHILDREN: &str = "parent BETWEEN ? AND ?";
    let range = by![key(no, 0), key(no, MOST_JOBS - 1)];
    if chore == DELETING {
        delete_below(tx, CHILDREN, range)?;
        return tx
            .run("DELETE FROM #processes WHERE no = ?", by![no])
            .map(drop);
    }
    if chore == CANCELLING {
        cancel_below(tx, CHILDREN, range, now)?;
    }
    let end = formatcp!("UPDATE #processes SET chore = {NO_CHORE} WHERE no = ?");
    tx.run(end, by![no]).map(drop)
}

fn delete_below(tx: &mut dyn Statements, which: &str, by: Vec<Value>) -> Result<(), Fault> {
    let delete =
        format!("UPDATE #processes SET chore = {DELETING} WHERE {which} AND chore <> {DELETING}");
    tx.run(&delete, by).map(drop)
}

fn cancel_below(
    tx: &mut dyn Statements,
    which: &str,
    by: Vec<Value>,
    now: Timestamp,
) -> Result<(), Fault> {
    // Incomplete children that are requeued later would count as complete.
    delete_below(tx, &format!("{which} AND sealed < total"), by.clone())?;
    let cancel = format!(
        "UPDATE #processes SET cancelled = {}, chore = {CANCELLING}
         WHERE {which} AND cancelled = 0 AND chore <> {DELETING}",
        now.0.max(1)
    );
    tx.run(&cancel, by).map(drop)
}
