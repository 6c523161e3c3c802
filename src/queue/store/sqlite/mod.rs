//! The store of jobs in one SQLite file, for any number of threads and OS processes of one machine.
//!
//! All writes use one connection behind a fair lock ([`writer`]); reads never wait for it. Long operations are decided
//! in one short transaction and applied in many.

mod movable;
mod open;
mod readers;
mod signs;
mod translate;
mod writer;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;

use derive_setters::Setters;
use parking_lot::{FairMutex, Mutex};
use rusqlite::Connection;

use crate::base::Error;

use super::health::{self, HealthFinding, Severity};
use super::statements::{Fault, Queries as _, Sql, by};
use super::{JobLane, Mode};
use open::{Identity, SCHEMA_VERSION};
pub(super) use open::{open, open_in_memory};
use readers::Readers;
pub(crate) use signs::ConsumerLock;
use writer::Writer;

/// What a power failure can lose. A crash of an OS process loses nothing in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The last transactions that the system had not written to the disk yet: on Linux usually those of half a minute.
    /// The database stays intact. Jobs whose results were lost run, and are billed, again; jobs that were enqueued in
    /// that time are lost.
    #[default]
    Normal,
    /// Nothing: once a call returns `Ok`, its change is on the disk. Only claims are not synced, because a lost claim
    /// costs nothing.
    Full,
}

/// A log of this size is copied into the database.
const WORTH_COPYING: u64 = 2 << 20;
/// Up to this number of free pages the file is not shrunk.
const FEW_PAGES: i64 = 1_000;
/// Number of pages given back at once.
const SHRINK_BY: i64 = 400;

/// How a database of jobs is opened.
#[derive(Debug, Clone, Setters)]
#[setters(generate = false)]
pub struct SqliteOptions {
    /// What a power failure can lose. Default: [`Durability::Normal`].
    #[setters(generate)]
    durability: Durability,
    makes_file: bool,
    only_looks: bool,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Normal,
            makes_file: true,
            only_looks: false,
        }
    }
}

impl SqliteOptions {
    /// Opens only an existing file. Default: a missing file is created.
    pub fn existing(mut self) -> Self {
        self.makes_file = false;
        self
    }

    /// Opens the store of a run, `OUTPUT.batchwright`, for reading, if it [exists](Self::existing). Default: the store
    /// records that this OS process uses it.
    pub fn only_look(mut self) -> Self {
        self.only_looks = true;
        self.existing()
    }
}

/// An open file.
pub(crate) struct Sqlite {
    /// Absolute; in memory, a path that does not exist.
    pub(super) path: PathBuf,
    /// `None` in memory.
    file: Option<Identity>,
    durability: Durability,
    /// Whether it is the store of a run, which users move.
    is_movable: bool,
    /// Whether this OS process counts as a user of the store of a run.
    is_user: bool,
    readers: Readers,
    watcher: Mutex<Connection>,
    /// Copies the log into the database.
    copier: Mutex<Connection>,
    /// Closed after the reading connections: the last one removes the log.
    writer: FairMutex<Writer>,
}

impl Sqlite {
    /// The id of the database, and the part of it that each job id contains.
    pub(super) fn identity(&self) -> Result<(String, i64), Error> {
        let ask = "SELECT max(value) FILTER (WHERE key = 'id'), max(value) FILTER (WHERE key = 'salt') FROM meta";
        let identity = self.run(Mode::Read, |tx| tx.one(ask, by![]))?;
        identity.ok_or_else(|| Fault::Odd("no identity").in_file(&self.path))
    }

    /// Fails if the file was removed or replaced, because writes to it would be lost.
    fn still_there(&self) -> Result<(), Error> {
        match &self.file {
            Some(file) => file.still_there(&self.path),
            None => Ok(()),
        }
    }

    /// A file next to the database.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// A number that changes when another program has written since the last call.
    pub(super) fn version(&self) -> Result<u64, Error> {
        let conn = self.watcher.lock();
        let version = (&*conn).one("PRAGMA data_version", by![]);
        let version = version.map_err(|fault| fault.in_file(&self.path))?;
        Ok(version.unwrap_or(0))
    }

    fn log_size(&self) -> u64 {
        fs::metadata(self.beside("-wal")).map_or(0, |meta| meta.len())
    }

    /// Copies the write-ahead log into the database concurrently with writes, so that no transaction has to wait for
    /// it. The log restarts only after all of it was copied, which does not happen during constant writes; but the rest
    /// is short by then.
    pub(super) fn copy_log(&self) -> Result<(), Error> {
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
        copied.map(drop).map_err(|fault| fault.in_file(&self.path))
    }

    /// Gives some free pages back to the disk if a quarter of the file is free. Returns true if more is left.
    pub(super) fn shrink(&self) -> Result<bool, Error> {
        if !self.run(Mode::Read, has_spare)? {
            return Ok(false);
        }
        self.run(Mode::WriteLazily, |tx| {
            // Each row frees one page. A file that another program has rebuilt, as after `.recover`, frees none.
            let freed = tx.rows(
                &format!("PRAGMA incremental_vacuum({SHRINK_BY})"),
                Vec::new(),
            )?;
            Ok(!freed.is_empty() && has_spare(tx)?)
        })
    }

    pub(super) fn look_at_health(&self, tx: &mut dyn Sql) -> Result<Vec<HealthFinding>, Fault> {
        self.still_there()?;
        let version = tx.one("PRAGMA user_version", by![])?.unwrap_or(0);
        Ok(vec![
            integrity(tx)?,
            health::schema(version, SCHEMA_VERSION, "file"),
        ])
    }
}

/// Whether a quarter of the file, and more than a few pages, are free.
fn has_spare(tx: &mut dyn Sql) -> Result<bool, Fault> {
    let mut pages = |ask| -> Result<i64, Fault> { Ok(tx.one(ask, by![])?.unwrap_or_default()) };
    let free = pages("PRAGMA freelist_count")?;
    Ok(free > FEW_PAGES && free > pages("PRAGMA page_count")? / 4)
}

fn integrity(tx: &mut dyn Sql) -> Result<HealthFinding, Fault> {
    let said: Vec<String> = tx.many("PRAGMA quick_check(5)", by![])?;
    let said = said.join("; ");
    if said == "ok" {
        return Ok(HealthFinding::new("integrity", Severity::Good, said, None));
    }
    let advice = "stop all workers, copy the file with its -wal and -shm beside it, then rescue what \
                  can be read: sqlite3 FILE .recover | sqlite3 rescued.db";
    Ok(HealthFinding::new(
        "integrity",
        Severity::Bad,
        said,
        Some(advice),
    ))
}

/// The number of a lane, which is created if it does not exist.
pub(super) fn lane_no(tx: &mut dyn Sql, lane: &JobLane) -> Result<i64, Fault> {
    let lane = by![lane.kind.clone(), lane.name.clone(), lane.step];
    let find =
        "SELECT no FROM #lanes WHERE kind = ? AND IFNULL(name, x'') = IFNULL(?, x'') AND step = ?";
    if let Some(no) = tx.one(find, lane.clone())? {
        return Ok(no);
    }
    tx.run(
        "INSERT INTO #lanes (kind, name, step) VALUES (?, ?, ?)",
        lane,
    )?;
    Ok(tx.last_id())
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.put_log_away();
        if self.file.is_none() {
            for folder in [".batches", ".workers"] {
                let _ = fs::remove_dir_all(self.beside(folder));
            }
        }
    }
}
