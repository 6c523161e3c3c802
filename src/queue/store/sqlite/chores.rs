//! What concerns all jobs of a process: decided in one short transaction, carried out in many, and
//! gone on with by anybody if who began it dies. And keeping the file small.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;

use super::SqliteStore;
use super::counters::CounterChanges;
use super::lineage;
use super::rows::{
    CANCELLED, CANCELLING, DELETING, FAILED, HELD, MOST_JOBS, NO_CHORE, PENDING, RELEASING,
    RETRYING, key, process_no,
};
use super::settle::at_step;
use super::writer::{Fault, Sync, be_patient};

/// Free pages that are no reason to shrink the file.
const FEW_PAGES: i64 = 1_000;

/// Pages given back at a time.
const SHRINK_BY: i64 = 400;

/// A log of this size is copied into the database.
const WORTH_COPYING: u64 = 2 << 20;
/// The size from which the write-ahead log is cut back, which needs a moment without readers.
const LONG_LOG: u64 = 64 << 20;

/// A process as far as decisions about it go.
struct ProcessRow {
    no: i64,
    sealed: bool,
    chore: i64,
    pending: i64,
    stored: i64,
}

/// What a decision came to.
enum Decided<T> {
    /// To be carried out on these processes, the one that was named last.
    Yes { on: Vec<i64>, reply: T },
    /// Something else is being done to the process, which goes first.
    After(i64),
    /// There is nothing to decide.
    NothingToDo(T),
}

impl SqliteStore {
    pub(super) fn seal_process(&self, id: ProcessId, now: Timestamp) -> Result<(), Error> {
        self.decide(id, now, |conn, standing| {
            let Some(standing) = standing else {
                let why =
                    format!("the process {id} does not exist: nothing was enqueued, or it was deleted");
                return Err(Error::new(ErrorKind::Invalid, why).into());
            };
            let no = standing.no;
            match standing.chore {
                RELEASING => {}
                NO_CHORE if standing.sealed => return Ok(Decided::NothingToDo(())),
                NO_CHORE => {
                    conn.prepare_cached(formatcp!(
                        "UPDATE processes SET chore = {RELEASING}, cursor = sealed WHERE no = ?1"
                    ))?
                    .execute([no])?;
                }
                _ => return Ok(Decided::After(no)),
            }
            conn.prepare_cached(
                "UPDATE processes SET sealed = total, changed_at = max(changed_at, ?2) WHERE no = ?1",
            )?
            .execute([no, now.0])?;
            Ok(Decided::Yes {
                on: vec![no],
                reply: (),
            })
        })?;
        Ok(())
    }

    pub(super) fn cancel_process(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let (cancelled, _) = self.decide(id, now, |conn, standing| {
            let Some(ProcessRow {
                no, chore, pending, ..
            }) = standing
            else {
                return Ok(Decided::NothingToDo(0));
            };
            if chore != NO_CHORE && chore != RELEASING {
                return Ok(Decided::After(no));
            }
            let mut family = lineage::below_process(conn, no)?;
            let mut busy = conn.prepare_cached(formatcp!(
                "SELECT 1 FROM processes WHERE no = ?1 AND chore IN ({CANCELLING}, {RETRYING})"
            ))?;
            for child in &family {
                if busy.exists([child])? {
                    return Ok(Decided::After(*child));
                }
            }
            // Children that are still being enqueued would pass for all of them if they were put back later.
            lineage::delete_unsealed(conn, &family)?;
            family.insert(0, no);
            // Nothing can be added any more, so what there is counts as sealed. The time tells whether
            // it was known by then that results are missing.
            let mut cancel = conn.prepare_cached(formatcp!(
                "UPDATE processes SET cancelled = ?2, sealed = total,
                   chore = iif(pending > 0, {CANCELLING}, {NO_CHORE}), cursor = 0
                 WHERE no = ?1 AND chore <> {DELETING} RETURNING chore"
            ))?;
            let mut on = Vec::new();
            for no in family {
                let chore = cancel.query_row([no, now.0.max(1)], |row| row.get::<_, i64>(0));
                if chore.optional()? == Some(CANCELLING) {
                    on.push(no);
                }
            }
            on.reverse();
            Ok(Decided::Yes { on, reply: pending })
        })?;
        Ok(super::rows::count(cancelled))
    }

    /// Children first: a job that is put back looks at them at once. One that dies in between leaves children
    /// that were put back, and a parent that can be.
    pub(super) fn retry_process(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let children = self.read(|conn| match process_no(conn, id)? {
            Some(no) => lineage::to_retry(conn, no),
            None => Ok(Vec::new()),
        })?;
        for child in children {
            self.retry_one(child, now)?;
        }
        self.retry_one(id, now)
    }

    fn retry_one(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let ((), changed) = self.decide(id, now, |conn, standing| {
            let Some(ProcessRow { no, chore, .. }) = standing else {
                return Ok(Decided::NothingToDo(()));
            };
            if chore != NO_CHORE {
                return Ok(Decided::After(no));
            }
            conn.prepare_cached(
                formatcp!("UPDATE processes SET cancelled = 0, chore = {RETRYING}, cursor = 0, chore_changed = 0
                 WHERE no = ?1"),
            )?
            .execute([no])?;
            // While all of it had ended its time stood still.
            conn.prepare_cached(
                "UPDATE processes SET time_until = ?2,
                   time_since = ifnull(time_since, created_at) + ?2 - ifnull(time_until, created_at)
                 WHERE no = ?1 AND sealed = total AND pending + in_progress + at_provider = 0
                   AND ifnull(time_until, created_at) < ?2",
            )?
            .execute([no, now.0])?;
            Ok(Decided::Yes {
                on: vec![no],
                reply: (),
            })
        })?;
        Ok(super::rows::count(changed))
    }

    pub(super) fn delete_process(&self, id: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let (deleted, _) = self.decide(id, now, |conn, standing| {
            let Some(ProcessRow { no, stored, .. }) = standing else {
                return Ok(Decided::NothingToDo(0));
            };
            let mut family = vec![no];
            family.extend(lineage::below_process(conn, no)?);
            lineage::hand_on_to_parent(conn, &family, now)?;
            lineage::delete(conn, &family)?;
            family.reverse();
            Ok(Decided::Yes {
                on: family,
                reply: stored,
            })
        })?;
        Ok(super::rows::count(deleted))
    }

    /// Decides, and carries out. Returns what the decision told, and how many jobs it changed.
    fn decide<T>(
        &self,
        id: ProcessId,
        now: Timestamp,
        decision: impl Fn(&Connection, Option<ProcessRow>) -> Result<Decided<T>, Fault>,
    ) -> Result<(T, i64), Error> {
        loop {
            let decided = self.write(Sync::AsSet, |conn| {
                let standing = standing(conn, id)?;
                decision(conn, standing)
            })?;
            match decided {
                Decided::NothingToDo(reply) => return Ok((reply, 0)),
                Decided::After(no) => {
                    self.carry_out(no, now)?;
                }
                Decided::Yes { on, reply } => {
                    let mut changed = 0;
                    for no in on {
                        changed = self.carry_out(no, now)?;
                    }
                    return Ok((reply, changed));
                }
            }
        }
    }

    /// Does all that is left of what was decided about a process. Returns how many jobs changed.
    pub(super) fn carry_out(&self, no: i64, now: Timestamp) -> Result<i64, Error> {
        loop {
            let (more, changed) = self.step(no, now)?;
            if !more {
                return Ok(changed);
            }
        }
    }

    /// Called before each of many short transactions, of which a test may want only some.
    pub(super) fn next_chunk(&self) -> Result<(), Error> {
        #[cfg(test)]
        if self.chunks_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(Error::new(ErrorKind::Transient, "abandoned by the test"));
        }
        Ok(())
    }

    /// One short transaction of what was decided about a process. Returns whether more is left, and
    /// how many jobs have changed so far.
    fn step(&self, no: i64, now: Timestamp) -> Result<(bool, i64), Error> {
        self.next_chunk()?;
        let (more, changed, woken) = self.write(Sync::AsSet, |conn| {
            let mut read = conn.prepare_cached(
                "SELECT chore, cursor, sealed, chore_changed FROM processes WHERE no = ?1",
            )?;
            let found = read.query_row([no], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            });
            let Some((doing, cursor, sealed, before)) = found.optional()? else {
                return Ok((false, 0, false));
            };
            let before: i64 = before;
            if doing == NO_CHORE {
                return Ok((false, before, false));
            }
            let end = if doing == RELEASING {
                sealed
            } else {
                MOST_JOBS
            };
            let from = key(no, cursor);
            let mut find = conn.prepare_cached(
                "SELECT id FROM jobs WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1 OFFSET ?3",
            )?;
            let behind = key(no, 0) + end;
            let next: Option<i64> = find
                .query_row([from, behind, self.chunk], |row| row.get(0))
                .optional()?;
            let to = next.unwrap_or(behind);
            let mut changes = CounterChanges::default();
            let changed = self.chunk(conn, doing, no, from..to, now, &mut changes)?;
            let mut woken = changes.write(conn, now)?;
            woken |= finish(conn, doing, (no, next), changed, now)?;
            woken |= changed > 0 && (doing == RELEASING || doing == RETRYING);
            Ok((next.is_some(), before + changed, woken))
        })?;
        if woken {
            self.wake();
        }
        Ok((more, changed))
    }

    /// Does it to these jobs. Returns how many changed.
    fn chunk(
        &self,
        conn: &Connection,
        doing: i64,
        no: i64,
        keys: std::ops::Range<i64>,
        now: Timestamp,
        changes: &mut CounterChanges,
    ) -> Result<i64, Fault> {
        let range = [keys.start, keys.end];
        let run = |sql: &str| -> Result<i64, Fault> {
            let changed = conn.prepare_cached(sql)?.execute(range)?;
            Ok(i64::try_from(changed).unwrap_or(0))
        };
        match doing {
            RELEASING => run(formatcp!(
                "UPDATE jobs SET status = {PENDING} WHERE id >= ?1 AND id < ?2 AND status = {HELD}"
            )),
            CANCELLING => {
                let sql = formatcp!(
                    "UPDATE jobs SET status = {CANCELLED} WHERE id >= ?1 AND id < ?2 AND status <= {HELD}"
                );
                let changed = run(sql)?;
                changes.moved_many(no, HELD, CANCELLED, changed);
                Ok(changed)
            }
            RETRYING => self.retry_chunk(conn, range, now, changes),
            _ => {
                for table in ["payloads", "results", "histories"] {
                    run(&format!("DELETE FROM {table} WHERE job >= ?1 AND job < ?2"))?;
                }
                run("DELETE FROM jobs WHERE id >= ?1 AND id < ?2")
            }
        }
    }

    fn retry_chunk(
        &self,
        conn: &Connection,
        range: [i64; 2],
        now: Timestamp,
        changes: &mut CounterChanges,
    ) -> Result<i64, Fault> {
        let mut find = conn.prepare_cached(formatcp!(
            "SELECT id, lane, status, has_history FROM jobs
             WHERE id >= ?1 AND id < ?2 AND status IN ({FAILED}, {CANCELLED})"
        ))?;
        let found = find.query_map(range, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
        let found: Vec<(i64, i64, i64, bool)> = found.collect::<Result<_, _>>()?;
        let mut retry = conn.prepare_cached(
            formatcp!("UPDATE jobs SET status = {PENDING}, claim = claim + 1, visible_at = ?2, lane = ?3, crashes = 0,
               attempt = 0, has_history = 0 WHERE id = ?1"),
        )?;
        let mut forget = conn.prepare_cached("DELETE FROM results WHERE job = ?1")?;
        let mut forget_history = conn.prepare_cached("DELETE FROM histories WHERE job = ?1")?;
        for (id, lane, status, has_history) in &found {
            let lane = at_step(self, conn, *lane, 0)?;
            retry.execute(params![id, now.0, lane])?;
            if *status == FAILED {
                forget.execute([id])?;
            }
            if *has_history {
                forget_history.execute([id])?;
            }
            changes.moved(*id, *status, PENDING);
        }
        Ok(i64::try_from(found.len()).unwrap_or(0))
    }

    pub(super) fn do_chore(&self, now: Timestamp) -> Result<bool, Error> {
        self.copy_log()?;
        let halfway: Option<i64> = self.read(|conn| {
            let mut find = conn.prepare_cached(formatcp!(
                "SELECT no FROM processes WHERE chore <> {NO_CHORE} LIMIT 1"
            ))?;
            Ok(find.query_row([], |row| row.get(0)).optional()?)
        })?;
        if let Some(no) = halfway {
            self.step(no, now)?;
            return Ok(true);
        }
        if self.spare_pages()? {
            self.write(Sync::Lazy, |conn| {
                // Each row is a page given back.
                let mut shrink =
                    conn.prepare(&format!("PRAGMA incremental_vacuum({SHRINK_BY})"))?;
                let mut rows = shrink.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            })?;
            return self.spare_pages();
        }
        self.cut_log_back(now)?;
        self.forget_lanes()?;
        Ok(false)
    }

    /// True when so much of the file is free that it is worth shrinking.
    fn spare_pages(&self) -> Result<bool, Error> {
        self.read(|conn| {
            let ask = |sql: &str| -> Result<i64, Fault> {
                Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
            };
            let free = ask("PRAGMA freelist_count")?;
            Ok(free > FEW_PAGES && free > ask("PRAGMA page_count")? / 4)
        })
    }

    fn log_size(&self) -> u64 {
        fs::metadata(self.beside("-wal")).map_or(0, |meta| meta.len())
    }

    /// Copies the write-ahead log into the database beside whatever is written, so that no transaction
    /// has to wait for that. The log begins anew once all of it was copied, which does not happen by
    /// itself beside a busy writer; but what is left by then is short.
    fn copy_log(&self) -> Result<(), Error> {
        if self.log_size() < WORTH_COPYING {
            return Ok(());
        }
        let Some(copier) = self.copier.try_lock() else {
            return Ok(());
        };
        let copy = |conn: &Connection| -> Result<(i64, i64), Fault> {
            let mut copy = conn.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
            Ok(copy.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?)
        };
        let copied = copy(&copier).and_then(|(pages, copied)| {
            if copied < pages {
                copy(&self.writer.lock().conn)
            } else {
                Ok((pages, copied))
            }
        });
        copied.map(drop).map_err(|fault| fault.explain(&self.path))
    }

    /// Cuts the write-ahead log back, at most once a minute; readers that are in the way are not
    /// waited for.
    fn cut_log_back(&self, now: Timestamp) -> Result<(), Error> {
        let last = Timestamp(self.cut_back.load(Ordering::Relaxed));
        if self.log_size() <= LONG_LOG || now.since(last) < Duration::from_secs(60) {
            return Ok(());
        }
        self.cut_back.store(now.0, Ordering::Relaxed);
        let mut writer = self.writer.lock();
        let cut = truncate_log(&mut writer.conn);
        cut.map_err(|fault| fault.explain(&self.path))
    }

    /// Lanes cost next to nothing, but hosts may invent ever new ones: an empty queue needs none.
    fn forget_lanes(&self) -> Result<(), Error> {
        let unused = "(SELECT count(*) FROM lanes) > 100 AND NOT EXISTS (SELECT 1 FROM jobs)
             AND NOT EXISTS (SELECT 1 FROM batches)";
        let idle = self.read(|conn| {
            let mut ask = conn.prepare_cached(&format!("SELECT {unused}"))?;
            Ok(ask.query_row([], |row| row.get::<_, bool>(0))?)
        })?;
        if idle {
            self.write(Sync::Lazy, |conn| {
                conn.execute(&format!("DELETE FROM lanes WHERE {unused}"), [])?;
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn truncate_log(conn: &mut Connection) -> Result<(), Fault> {
    be_patient(conn, false)?;
    let cut = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    be_patient(conn, true)?;
    Ok(cut?)
}

fn standing(conn: &Connection, id: ProcessId) -> Result<Option<ProcessRow>, Fault> {
    let mut read = conn.prepare_cached(
        "SELECT no, sealed = total, chore, pending, total - consumed FROM processes WHERE id = ?1",
    )?;
    let found = read.query_row([&id.0.as_bytes()[..]], |row| {
        Ok(ProcessRow {
            no: row.get(0)?,
            sealed: row.get(1)?,
            chore: row.get(2)?,
            pending: row.get(3)?,
            stored: row.get(4)?,
        })
    });
    Ok(found.optional()?)
}

/// Writes down how far it has come; what is deleted to the last job is gone. Returns whether a job was woken that
/// waited for it.
fn finish(
    conn: &Connection,
    doing: i64,
    (no, next): (i64, Option<i64>),
    changed: i64,
    now: Timestamp,
) -> Result<bool, Fault> {
    match next {
        None if doing == DELETING => {
            // Ends of jobs may have come in since that was decided.
            let parent = lineage::hand_on_to_parent(conn, &[no], now)?;
            conn.prepare_cached("DELETE FROM processes WHERE no = ?1")?
                .execute([no])?;
            if let Some(parent) = parent {
                return lineage::wake(conn, parent, now);
            }
        }
        None => {
            conn.prepare_cached(
                formatcp!("UPDATE processes SET chore = {NO_CHORE}, cursor = 0, chore_changed = chore_changed + ?2
                 WHERE no = ?1"),
            )?
            .execute([no, changed])?;
        }
        Some(next) => {
            conn.prepare_cached(
                "UPDATE processes SET cursor = ?2, chore_changed = chore_changed + ?3 WHERE no = ?1",
            )?
            .execute([no, next - key(no, 0), changed])?;
        }
    }
    Ok(false)
}
