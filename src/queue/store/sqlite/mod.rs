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

use crate::base::migrations::QUEUE;
use crate::base::{Context, Error};

use super::Mode;
use super::health::Severity::{Bad, Good};
use super::health::{self, HealthFinding};
use super::statements::{Fault, Queries as _, Sql, by};
use movable::checkpoint;
use open::Place;
pub(super) use open::{open, open_in_memory};
use readers::Readers;
pub(crate) use signs::ConsumerLock;

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
#[derive(Debug, Clone, Default, Setters)]
#[setters(generate = false)]
pub struct SqliteOptions {
    /// What a power failure can lose. Default: [`Durability::Normal`].
    #[setters(generate)]
    durability: Durability,
    is_there: bool,
    only_looks: bool,
    as_it_is: bool,
    ctx: Context,
}

impl SqliteOptions {
    /// Opens only an existing file. Default: a missing file is created.
    pub fn existing(mut self) -> Self {
        self.is_there = true;
        self
    }

    /// Opens the store of a run, `OUTPUT.batchwright`, for reading, if it [exists](Self::existing). Default: the store
    /// records that this OS process uses it.
    pub fn only_look(mut self) -> Self {
        self.only_looks = true;
        self.as_it_is(true).existing()
    }

    /// Leaves a file in the version that it has, if this program can use it so, also while an earlier program works on it.
    /// Default: a file of an earlier version is brought to that of this program.
    pub fn as_it_is(mut self, yes: bool) -> Self {
        self.as_it_is = yes;
        self
    }

    /// Its cancellation ends the wait for another program that has a file of an earlier version open. Default: the wait
    /// ends after 10 seconds.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }
}

/// An open file.
pub(crate) struct Sqlite {
    pub(super) place: Place,
    /// Whether this OS process counts as a user of the store of a run.
    is_user: bool,
    readers: Readers,
    watcher: Mutex<Connection>,
    /// Copies the log into the database.
    copier: Mutex<Connection>,
    /// Closed after the reading connections: the last one removes the log.
    writer: FairMutex<Connection>,
}

impl Sqlite {
    /// A file next to the database.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.place.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// A number that changes when another program has written since the last call.
    pub(super) fn version(&self) -> Result<u64, Error> {
        let conn = self.watcher.lock();
        let version = (&*conn).one("PRAGMA data_version", by![]);
        let version = version.map_err(|fault| self.place.fail(fault))?;
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
        let copied = match checkpoint(&copier, "PASSIVE") {
            Ok(false) => checkpoint(&self.writer.lock(), "PASSIVE"),
            copied => copied,
        };
        copied.map(drop).map_err(|error| self.place.fail(error))
    }

    /// Copies what was written into the file itself, as far as no reader needs what is there: a log that is damaged does not
    /// take it along.
    pub(super) fn secure(&self) {
        if let Err(error) = checkpoint(&self.copier.lock(), "PASSIVE") {
            log::debug!("{}: {error}", self.place.path.display());
        }
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
        self.place.still_there()?;
        let version = tx.one("PRAGMA user_version", by![])?.unwrap_or(0);
        Ok(vec![
            integrity(tx)?,
            health::schema(version, QUEUE.newest(), "file"),
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
        return Ok(HealthFinding::new("integrity", Good, said, None));
    }
    let advice = "stop all workers, copy the file with its -wal and -shm beside it, then rescue what \
                  can be read: sqlite3 FILE .recover | sqlite3 rescued.db";
    Ok(HealthFinding::new("integrity", Bad, said, Some(advice)))
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.put_log_away();
        if self.place.file.is_none() {
            for folder in [".batches", ".workers"] {
                let _ = fs::remove_dir_all(self.beside(folder));
            }
        }
    }
}
