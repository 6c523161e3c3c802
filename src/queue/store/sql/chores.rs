//! Chores: changes to all jobs of a process. One short transaction stores the decision and many apply it; after a
//! crash, any program continues.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{
    CANCELLED, CANCELLING, DELETING, FAILED, HELD, MOST_JOBS, NO_CHORE, PENDING, RELEASING,
    RETRYING, count, key, key_of, process_of,
};

use super::lineage;
use super::standing::{Standing, lock};
use super::statements::{Dialect, Fault, Queries as _, Statements, by, list, stored};
use super::{Again, SqlStore};

/// Performs a step of the first interrupted chore. False if none is left.
pub(crate) fn resume(store: &impl SqlStore, now: Timestamp) -> Result<bool, Error> {
    let halfway: Option<i64> = store.read(|tx| {
        // The condition that each database finds in its index.
        let condition = match tx.dialect() {
            Dialect::Sqlite => "WHERE chore <>",
            #[cfg(feature = "mysql")]
            Dialect::Mysql => "FORCE INDEX (by_chore) WHERE chore >",
        };
        let find = format!("SELECT no FROM #processes {condition} {NO_CHORE} LIMIT 1");
        tx.one(&find, Vec::new())
    })?;
    match halfway {
        Some(no) => step(store, no, now).map(|_| true),
        None => Ok(false),
    }
}

/// The result of a decision.
enum Decided<T> {
    /// The chore must be applied to these processes; the requested process is the last one.
    Yes { on: Vec<i64>, reply: T },
    /// Another chore of this process must be applied first.
    After(i64),
    /// No change is necessary.
    NothingToDo(T),
}

/// Locks a process and all its descendants, parents first. Nothing can be added below locked processes.
pub(super) fn lock_family(tx: &mut dyn Statements, no: i64) -> Result<Vec<i64>, Fault> {
    let mut family = lineage::below_process(tx, no)?;
    loop {
        lock(tx, family.iter().copied())?;
        let now = lineage::below_process(tx, no)?;
        if now == family {
            return Ok(family);
        }
        family = now;
    }
}

pub(super) fn seal_process(
    store: &impl SqlStore,
    id: ProcessId,
    now: Timestamp,
) -> Result<(), Error> {
    decide(store, id, now, |tx, standing| {
        let Some((no, standing)) = standing else {
            let why =
                format!("the process {id} does not exist: nothing was enqueued, or it was deleted");
            return Err(Error::new(ErrorKind::Invalid, why).into());
        };
        match standing.chore {
            RELEASING => {}
            NO_CHORE if standing.sealed == standing.total => {
                return Ok(Decided::NothingToDo(()));
            }
            NO_CHORE => {
                let begin = format!(
                    "UPDATE #processes SET chore = {RELEASING}, progress = sealed WHERE no = ?"
                );
                tx.run(&begin, by![no])?;
            }
            _ => return Ok(Decided::After(no)),
        }
        tx.run(
            "UPDATE #processes SET sealed = total, changed_at = GREATEST(changed_at, ?) WHERE no = ?",
            by![now.0, no],
        )?;
        Ok(Decided::Yes {
            on: vec![no],
            reply: (),
        })
    })?;
    Ok(())
}

pub(super) fn cancel_process(
    store: &impl SqlStore,
    id: ProcessId,
    now: Timestamp,
) -> Result<u64, Error> {
    let (cancelled, _) = decide(store, id, now, |tx, standing| {
        let Some((no, Standing { chore, pending, .. })) = standing else {
            return Ok(Decided::NothingToDo(0));
        };
        if chore != NO_CHORE && chore != RELEASING {
            return Ok(Decided::After(no));
        }
        let mut family = lock_family(tx, no)?;
        let busy = format!(
            "SELECT no FROM #processes WHERE no IN {} AND chore IN ({CANCELLING}, {RETRYING}) ORDER BY no LIMIT 1",
            list(family.iter().copied())
        );
        if let Some(child) = tx.column_once(&busy)?.pop() {
            return Ok(Decided::After(child));
        }
        // Incomplete children that are requeued later would count as complete.
        lineage::delete_unsealed(tx, &family)?;
        family.insert(0, no);
        // No job can be added any more, so the existing jobs count as sealed. The time shows whether missing results
        // were known by then.
        let family = list(family);
        let cancel = format!(
            "UPDATE #processes SET cancelled = {}, sealed = total,
               chore = CASE WHEN pending > 0 THEN {CANCELLING} ELSE {NO_CHORE} END, progress = 0
             WHERE no IN {family} AND chore <> {DELETING}",
            now.0.max(1)
        );
        tx.run_once(&cancel)?;
        let begun = format!(
            "SELECT no FROM #processes WHERE no IN {family} AND chore = {CANCELLING} ORDER BY no DESC"
        );
        let on = tx.column_once(&begun)?;
        Ok(Decided::Yes { on, reply: pending })
    })?;
    Ok(count(cancelled))
}

/// Children first, because a requeued parent checks them immediately. If the OS process crashes in between, children
/// are requeued and the parent can still be requeued.
pub(super) fn retry_process(
    store: &impl SqlStore,
    id: ProcessId,
    now: Timestamp,
) -> Result<u64, Error> {
    let children = store.read(|tx| match tx.process_no(id)? {
        Some(no) => lineage::to_retry(tx, key(no, 0), key(no, MOST_JOBS - 1)),
        None => Ok(Vec::new()),
    })?;
    for child in children {
        retry_one(store, child, now)?;
    }
    retry_one(store, id, now)
}

fn retry_one(store: &impl SqlStore, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
    let ((), changed) = decide(store, id, now, |tx, standing| {
        let Some((no, Standing { chore, .. })) = standing else {
            return Ok(Decided::NothingToDo(()));
        };
        if chore != NO_CHORE {
            return Ok(Decided::After(no));
        }
        let begin = format!(
            "UPDATE #processes SET cancelled = 0, chore = {RETRYING}, progress = 0, chore_changed = 0 WHERE no = ?"
        );
        tx.run(&begin, by![no])?;
        Ok(Decided::Yes {
            on: vec![no],
            reply: (),
        })
    })?;
    Ok(count(changed))
}

/// Requeues a failed or cancelled job, and its children before it.
pub(super) fn retry_job(store: &impl SqlStore, job: JobId, now: Timestamp) -> Result<bool, Error> {
    let id = key_of(job);
    for child in store.read(|tx| lineage::to_retry(tx, id, id))? {
        retry_one(store, child, now)?;
    }
    loop {
        let done = store.write(Again::Harmless, |tx| retry_in(store, tx, job, now))?;
        match done {
            Ok(retried) => {
                store.wake_workers();
                return Ok(retried);
            }
            Err(busy) => carry_out(store, busy, now)?,
        };
    }
}

/// Returns whether the job was requeued, or its process, if that has a chore that must be applied first.
fn retry_in(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    job: JobId,
    now: Timestamp,
) -> Result<Result<bool, i64>, Fault> {
    let sql = format!(
        "SELECT lane, status, created_at FROM #jobs FORCE INDEX (PRIMARY)
         WHERE id = ? AND status IN ({FAILED}, {CANCELLED}) FOR UPDATE"
    );
    let id = key_of(job);
    let Some(mut row) = tx.first(&sql, by![id])? else {
        return Ok(Ok(false));
    };
    let ended = (id, row.at(0)?, row.at(1)?);
    let no = process_of(id);
    let Some(process) = lock(tx, [no])?.remove(&no) else {
        return Ok(Ok(false));
    };
    // The rest of the id must match too, because it may belong to another database.
    let is_same = store.job_id(id, Timestamp(row.at(2)?)) == job;
    if !is_same || process.stops_trying() {
        return Ok(Ok(false));
    }
    if process.chore != NO_CHORE {
        return Ok(Err(no));
    }
    let mut changes = CounterChanges::default();
    requeue(store, tx, &[ended], now, &mut changes)?;
    changes.write(tx, now)?;
    Ok(Ok(true))
}

pub(super) fn delete_process(
    store: &impl SqlStore,
    id: ProcessId,
    now: Timestamp,
) -> Result<u64, Error> {
    let (deleted, _) = decide(store, id, now, |tx, standing| {
        let Some((no, standing)) = standing else {
            return Ok(Decided::NothingToDo(0));
        };
        let mut family = vec![no];
        family.extend(lock_family(tx, no)?);
        lineage::add_usage_to_parent(tx, &family, now)?;
        lineage::delete(tx, &family)?;
        family.reverse();
        Ok(Decided::Yes {
            on: family,
            reply: standing.total - standing.consumed,
        })
    })?;
    Ok(count(deleted))
}

/// Stores a decision and applies it. Returns the decision's reply, and the number of changed jobs.
fn decide<T>(
    store: &impl SqlStore,
    id: ProcessId,
    now: Timestamp,
    decision: impl Fn(&mut dyn Statements, Option<(i64, Standing)>) -> Result<Decided<T>, Fault>,
) -> Result<(T, i64), Error> {
    loop {
        let decided = store.write(Again::Harmless, |tx| {
            let no: Option<i64> =
                tx.one("SELECT no FROM #processes WHERE id = ?", by![stored(id)])?;
            let standing = match no {
                None => None,
                Some(no) => lock(tx, [no])?.pop_first(),
            };
            decision(tx, standing)
        })?;
        match decided {
            Decided::NothingToDo(reply) => return Ok((reply, 0)),
            Decided::After(no) => {
                carry_out(store, no, now)?;
            }
            Decided::Yes { on, reply } => {
                let mut changed = 0;
                for no in on {
                    changed = carry_out(store, no, now)?;
                }
                return Ok((reply, changed));
            }
        }
    }
}

/// Applies the rest of a process's chore. Returns the number of changed jobs.
pub(super) fn carry_out(store: &impl SqlStore, no: i64, now: Timestamp) -> Result<i64, Error> {
    loop {
        let (more, changed) = step(store, no, now)?;
        if !more {
            return Ok(changed);
        }
    }
}

/// One short transaction of a process's chore. Returns whether more is left, and the number of jobs changed so far.
pub(crate) fn step(store: &impl SqlStore, no: i64, now: Timestamp) -> Result<(bool, i64), Error> {
    store.shared().next_chunk()?;
    let (more, changed, woken) = store.write(Again::Harmless, |tx| step_in(store, tx, no, now))?;
    if woken {
        store.wake_workers();
    }
    Ok((more, changed))
}

fn step_in(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    no: i64,
    now: Timestamp,
) -> Result<(bool, i64, bool), Fault> {
    // Read first, and locked after the jobs.
    let read = "SELECT chore, progress, sealed, chore_changed FROM #processes WHERE no = ?";
    let Some(mut row) = tx.first(read, by![no])? else {
        return Ok((false, 0, false));
    };
    let (doing, progress): (i64, i64) = (row.at(0)?, row.at(1)?);
    let (sealed, before): (i64, i64) = (row.at(2)?, row.at(3)?);
    if doing == NO_CHORE {
        return Ok((false, before, false));
    }
    let end = if doing == RELEASING {
        sealed
    } else {
        MOST_JOBS
    };
    let from = key(no, 0) + progress;
    let behind = key(no, 0) + end;
    let next: Option<i64> = tx.one(
        "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id >= ? AND id < ? ORDER BY id LIMIT 1 OFFSET ?",
        by![from, behind, store.shared().chunk],
    )?;
    let to = next.unwrap_or(behind);
    if tx.dialect() != Dialect::Sqlite {
        let lock = "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id >= ? AND id < ? ORDER BY id FOR UPDATE";
        tx.rows(lock, by![from, to])?;
    }
    let standing = lock(tx, [no])?.remove(&no).ok_or(Fault::Overtaken)?;
    if (
        standing.chore,
        standing.progress,
        standing.sealed,
        standing.chore_changed,
    ) != (doing, progress, sealed, before)
    {
        return Err(Fault::Overtaken);
    }
    let mut changes = CounterChanges::default();
    let changed = chunk(store, tx, doing, no, from..to, now, &mut changes)?;
    let mut woken = changes.write(tx, now)?.woken;
    woken |= finish(tx, doing, no, next, changed, now)?;
    woken |= changed > 0 && (doing == RELEASING || doing == RETRYING);
    Ok((next.is_some(), before + changed, woken))
}

/// Applies the chore to these locked jobs. Returns the number of changed jobs.
fn chunk(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    doing: i64,
    no: i64,
    keys: Range<i64>,
    now: Timestamp,
    changes: &mut CounterChanges,
) -> Result<i64, Fault> {
    let mut run = |sql: &str| -> Result<i64, Fault> {
        let changed = tx.run(sql, by![keys.start, keys.end])?;
        Ok(i64::try_from(changed).unwrap_or(0))
    };
    match doing {
        RELEASING => run(&format!(
            "UPDATE #jobs SET status = {PENDING}, visible_at = LEAST(visible_at, {})
             WHERE id >= ? AND id < ? AND status = {HELD}",
            now.0
        )),
        CANCELLING => {
            let changed = run(&format!(
                "UPDATE #jobs SET status = {CANCELLED} WHERE id >= ? AND id < ? AND status <= {HELD}"
            ))?;
            changes.moved_many(no, HELD, CANCELLED, changed);
            Ok(changed)
        }
        RETRYING => retry_chunk(store, tx, keys, now, changes),
        _ => {
            for table in ["#payloads", "#results", "#histories"] {
                run(&format!("DELETE FROM {table} WHERE job >= ? AND job < ?"))?;
            }
            run("DELETE FROM #jobs WHERE id >= ? AND id < ?")
        }
    }
}

fn retry_chunk(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    keys: Range<i64>,
    now: Timestamp,
    changes: &mut CounterChanges,
) -> Result<i64, Fault> {
    let rows = tx.rows(
        &format!(
            "SELECT id, lane, status FROM #jobs FORCE INDEX (PRIMARY)
             WHERE id >= ? AND id < ? AND status IN ({FAILED}, {CANCELLED}) ORDER BY id FOR UPDATE"
        ),
        by![keys.start, keys.end],
    )?;
    let ended = rows
        .into_iter()
        .map(|mut row| Ok((row.at(0)?, row.at(1)?, row.at(2)?)));
    let ended: Vec<(i64, i64, i64)> = ended.collect::<Result<_, Fault>>()?;
    requeue(store, tx, &ended, now, changes)
}

/// Requeues locked jobs, given with their lanes and states. Returns their number.
fn requeue(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    ended: &[(i64, i64, i64)],
    now: Timestamp,
    changes: &mut CounterChanges,
) -> Result<i64, Fault> {
    let mut by_lane: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (id, lane, status) in ended {
        let lane = store.at_step(tx, *lane, 0)?;
        by_lane.entry(lane).or_default().push(*id);
        changes.moved(*id, *status, PENDING);
    }
    for (lane, jobs) in by_lane {
        let retry = format!(
            "UPDATE #jobs SET status = {PENDING}, claim = claim + 1, visible_at = {}, lane = {lane}, crashes = 0,
               attempt = 0, has_history = 0 WHERE id IN {}",
            now.0,
            list(jobs)
        );
        tx.run_once(&retry)?;
    }
    if !ended.is_empty() {
        let jobs = list(ended.iter().map(|(id, _, _)| *id));
        tx.run_once(&format!("DELETE FROM #results WHERE job IN {jobs}"))?;
        tx.run_once(&format!("DELETE FROM #histories WHERE job IN {jobs}"))?;
    }
    Ok(i64::try_from(ended.len()).unwrap_or(0))
}

/// Records the progress of the chore; a process whose jobs are all deleted is removed. Returns whether a job was woken
/// that waited for the process.
fn finish(
    tx: &mut dyn Statements,
    doing: i64,
    no: i64,
    next: Option<i64>,
    changed: i64,
    now: Timestamp,
) -> Result<bool, Fault> {
    match next {
        None if doing == DELETING => {
            // Jobs may have ended since the decision.
            let parent = lineage::add_usage_to_parent(tx, &[no], now)?;
            tx.run("DELETE FROM #processes WHERE no = ?", by![no])?;
            if let Some(parent) = parent {
                return lineage::wake(tx, parent, now);
            }
        }
        None => {
            let end = format!(
                "UPDATE #processes SET chore = {NO_CHORE}, progress = 0, chore_changed = chore_changed + ? WHERE no = ?"
            );
            tx.run(&end, by![changed, no])?;
        }
        Some(next) => {
            tx.run(
                "UPDATE #processes SET progress = ?, chore_changed = chore_changed + ? WHERE no = ?",
                by![next - key(no, 0), changed, no],
            )?;
        }
    }
    Ok(false)
}
