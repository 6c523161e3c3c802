//! The store of jobs in one SQLite file, for any number of threads and OS processes of one machine.
//!
//! All writes use one connection behind a fair lock ([`writer`]); reads never wait for it. Long operations are decided
//! in one short transaction and applied in many.

mod movable;
mod open;
mod readers;
mod signs;
mod tidy;
mod translate;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use derive_setters::Setters;
use parking_lot::{FairMutex, Mutex};
use rusqlite::Connection;

use crate::base::Error;

use super::JobLane;
use super::rows::count;
use super::sql::statements::{Fault, Queries as _, Statements, by};
use open::Identity;
pub(super) use open::{open, open_in_memory};
use readers::Readers;
pub(crate) use signs::ConsumerLock;
pub(super) use writer::Saved;
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

/// How a database of jobs is opened.
#[derive(Debug, Clone, Setters)]
#[setters(generate = false)]
pub struct SqliteOptions {
    /// What a power failure can lose. Default: [`Durability::Normal`].
    #[setters(generate)]
    durability: Durability,
    makes_file: bool,
    only_looks: bool,
    pub(super) chunk: i64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Normal,
            makes_file: true,
            only_looks: false,
            chunk: 1_000,
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
    /// The key of the record that this OS process uses the store of a run.
    held: Option<String>,
    readers: Readers,
    watcher: Mutex<Connection>,
    /// Copies the log into the database.
    copier: Mutex<Connection>,
    /// Closed after the reading connections: the last one removes the log.
    pub(super) writer: FairMutex<Writer>,
}

impl Sqlite {
    /// The id of the database, and the part of it that each job id contains.
    pub(super) fn identity(&self) -> Result<(String, i64), Error> {
        self.read(|conn| {
            let ask = "SELECT max(value) FILTER (WHERE key = 'id'), max(value) FILTER (WHERE key = 'salt') FROM meta";
            Ok(conn.query_row(ask, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
        })
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
        let version = conn
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut ask| ask.query_row([], |row| row.get::<_, i64>(0)));
        version
            .map(count)
            .map_err(|error| Fault::from(error).in_file(&self.path))
    }
}

/// The number of a lane, which is created if it does not exist.
pub(super) fn lane_no(tx: &mut dyn Statements, lane: &JobLane) -> Result<i64, Fault> {
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
                let _ = std::fs::remove_dir_all(self.beside(folder));
            }
        }
    }
}
