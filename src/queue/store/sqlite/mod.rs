//! The store of jobs in one SQLite file, for any number of threads and OS processes of one machine.
//!
//! All writes use one connection behind a fair lock ([`writer`]); reads never wait for it. Long operations are decided
//! in one short transaction and applied in many ([`chores`]).

mod chores;
mod inspect;
mod mounts;
mod movable;
mod open;
mod readers;
mod taking;
mod translate;
mod workers;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::sync::atomic::AtomicI64;

use derive_setters::Setters;
use parking_lot::{FairMutex, Mutex};
use rusqlite::Connection;

use crate::base::{Error, ErrorKind, ProcessId, Timestamp};

use super::group_commit::{Insert, Inserted};
use super::rows::count;
use super::sql::statements::{Fault, Queries as _, Statements, by};
use super::sql::{Again, SharedState, SqlStore};
use super::{ConsumerLock, HealthFinding, JobLane, StoreDatabase, Wakes, WorkSignal, WorkerId};
use open::Identity;
use readers::Readers;
use workers::RegisteredWorker;
use writer::{Sync, Writer};

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
    chunk: i64,
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

    /// Number of jobs per transaction of a chore.
    #[cfg(test)]
    pub(crate) fn chunk(mut self, jobs: i64) -> Self {
        self.chunk = jobs;
        self
    }
}

/// Called before each transaction; an error prevents the transaction.
#[cfg(test)]
pub(crate) type Unwritable = dyn FnMut() -> Option<Error> + Send;

/// The jobs in an SQLite file. Clones are cheap and opening is slow: one store per OS process is enough.
// More than 15 fields: its connections have a lock each, because reads, copies of the log and writes must not wait for
// each other.
pub struct SqliteStore {
    path: PathBuf,
    /// `None` in memory.
    file: Option<Identity>,
    durability: Durability,
    /// Whether it is the store of a run, which users move.
    is_movable: bool,
    /// The key of the record that this OS process uses the store of a run.
    held: Option<String>,
    pub(crate) shared: SharedState,
    readers: Readers,
    watcher: Mutex<Connection>,
    /// Copies the log into the database.
    copier: Mutex<Connection>,
    /// Closed after the reading connections: the last one removes the log.
    writer: FairMutex<Writer>,
    workers: Mutex<HashMap<i64, RegisteredWorker>>,
    wakes: Wakes,
    /// When the write-ahead log was last truncated.
    cut_back: AtomicI64,
    /// Why no transaction can be written; for tests.
    #[cfg(test)]
    pub(crate) unwritable: Mutex<Option<Box<Unwritable>>>,
}

impl SqliteStore {
    /// Opens the database at `path`, which is created with its folder if it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the folder cannot be written, is on a network file system,
    /// or if the file is not a queue, is damaged or was written by a newer version; the message says what to do.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        open::open(path, options)
    }

    /// A database in memory, which exists as long as this store: for tests. No other program can open it. Only inputs
    /// and results of batches need a folder, which is below the system's temporary folder until the store is dropped.
    ///
    /// # Errors
    /// When the linked SQLite was built without in-memory databases.
    pub fn in_memory(options: SqliteOptions) -> Result<Self, Error> {
        open::open_in_memory(options)
    }

    /// Fails if the file was removed or replaced, because writes to it would be lost.
    fn still_there(&self) -> Result<(), Error> {
        match &self.file {
            Some(file) => file.still_there(&self.path),
            None => Ok(()),
        }
    }

    /// The database's absolute path; for a database in memory, a path that does not exist.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notifies workers that jobs have become claimable.
    fn wake(&self) {
        self.wakes.call();
    }
}

impl SqlStore for SqliteStore {
    fn read<T>(
        &self,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.read(|mut conn| work(&mut conn))
    }

    fn read_moment<T>(
        &self,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.read(|conn| work(&mut &*conn.unchecked_transaction()?))
    }

    fn write<T>(
        &self,
        _again: Again,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.write(Sync::AsSet, |mut conn| work(&mut conn))
    }

    fn write_lazily<T>(
        &self,
        _again: Again,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.write(Sync::Lazy, |mut conn| work(&mut conn))
    }

    fn write_insert(
        &self,
        insert: Insert,
        mut add: impl FnMut(&mut dyn Statements, &Insert) -> Result<Inserted, Fault>,
    ) -> Inserted {
        let lock = || self.writer.lock();
        self.shared.inserts.run(insert, lock, |writer, inserts| {
            let done = self.write_locked(writer, Sync::AsSet, |mut conn| {
                inserts
                    .iter()
                    .map(|insert| add(&mut conn, insert))
                    .collect()
            });
            done.unwrap_or_else(|error: Error| inserts.iter().map(|_| Err(error.clone())).collect())
        })
    }

    fn wake_workers(&self) {
        self.wake();
    }

    fn shared(&self) -> &SharedState {
        &self.shared
    }

    fn lane_no(&self, tx: &mut dyn Statements, lane: &JobLane) -> Result<i64, Fault> {
        let lane = by![lane.kind.clone(), lane.name.clone(), lane.step];
        let find = "SELECT no FROM #lanes WHERE kind = ? AND IFNULL(name, x'') = IFNULL(?, x'') AND step = ?";
        if let Some(no) = tx.one(find, lane.clone())? {
            return Ok(no);
        }
        tx.run(
            "INSERT INTO #lanes (kind, name, step) VALUES (?, ?, ?)",
            lane,
        )?;
        Ok(tx.last_id())
    }

    fn enlist_again(&self, _: &mut dyn Statements, _: WorkerId) -> Result<(), Fault> {
        let why =
            "the worker is no longer registered: other workers took over its jobs. Start it again";
        Err(Error::new(ErrorKind::Invalid, why).into())
    }

    fn lock_outcomes(&self, process: ProcessId, who: &str) -> Result<Option<ConsumerLock>, Error> {
        self.lock_results_file(process, who).map(Some)
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.put_log_away();
        if self.file.is_none() {
            for folder in [".batches", ".workers"] {
                let _ = std::fs::remove_dir_all(self.beside(folder));
            }
        }
    }
}

impl StoreDatabase for SqliteStore {
    fn location(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn id(&self) -> Result<String, Error> {
        self.read(|conn| {
            let mut read = conn.prepare_cached("SELECT value FROM meta WHERE key = 'id'")?;
            Ok(read.query_row([], |row| row.get(0))?)
        })
    }

    fn folder(&self) -> PathBuf {
        self.beside(".batches")
    }

    fn version(&self) -> Result<u64, Error> {
        let conn = self.watcher.lock();
        let version = conn
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut ask| ask.query_row([], |row| row.get::<_, i64>(0)));
        version
            .map(count)
            .map_err(|error| Fault::from(error).in_file(&self.path))
    }

    fn on_work(&self, wake: Weak<WorkSignal>) {
        self.wakes.add(wake);
    }

    fn check(&self) -> Result<Vec<HealthFinding>, Error> {
        self.look_at_health()
    }

    fn maintain(&self, now: Timestamp) -> Result<bool, Error> {
        self.do_chore(now)
    }
}
