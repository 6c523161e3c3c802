//! Data of the server itself, in `server.db` in its folder: uploaded files, batches, webhook messages. Data that the queue
//! has is not stored twice.

pub(crate) mod batches;
pub(crate) mod files;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use batchwright::queue::Durability;
use batchwright::unstable::open_private;
use batchwright::{Error, ErrorKind};
use parking_lot::{ReentrantMutex, ReentrantMutexGuard};
use rusqlite::{Connection, Row, ToSql, Transaction, TransactionBehavior};

use crate::background::Wake;
use crate::webhooks;

/// Values of a statement.
macro_rules! by {
    ($($value:expr),* $(,)?) => { &[$(&($value) as &dyn rusqlite::ToSql),*] };
}
pub(crate) use by;

/// The rows of a query, as `read` takes them.
pub(crate) fn rows<T>(
    connection: &Connection,
    sql: &str,
    by: &[&dyn ToSql],
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Error> {
    let all = || -> rusqlite::Result<Vec<T>> {
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map(by, |row| read(row))?;
        rows.collect()
    };
    all().map_err(|error| failed(connection, &error))
}

/// Returns how many rows were changed.
pub(crate) fn run(connection: &Connection, sql: &str, by: &[&dyn ToSql]) -> Result<usize, Error> {
    let run = || connection.prepare_cached(sql)?.execute(by);
    run().map_err(|error| failed(connection, &error))
}

/// The version of the tables, in `server.db` as its `user_version`.
const VERSION: i64 = 4;

/// The error of a file that cannot be used until someone has done something about it.
fn unusable(path: &Path, kind: ErrorKind, why: impl fmt::Display) -> Error {
    let why = format!(
        "{} cannot be used: {why}. Jobs and their results are in the queue and not affected; webhooks, and files and \
         batches of /v1, need the file. Stop the server, let its user write the file and free some room on the disk, or \
         restore the file from a backup, or move it away with its -wal and -shm, and start it again",
        path.display()
    );
    Error::new(kind, why).with_storage()
}

/// Opens `server.db`, which is created with these tables if it does not exist.
fn connect(path: &Path, durability: Durability, tables: &[&str]) -> Result<Connection, Error> {
    // SQLite gives its companion files the same mode.
    if let Err(error) = open_private(File::options().create(true).append(true), path) {
        return Err(unusable(path, ErrorKind::Invalid, error));
    }
    let synchronous = match durability {
        Durability::Full => "full",
        Durability::Normal => "normal",
    };
    let failed = |error: rusqlite::Error| unusable(path, kind_of(&error), error);
    let connection = Connection::open(path).map_err(failed)?;
    let version = || -> rusqlite::Result<(i64, bool)> {
        connection.busy_timeout(Duration::from_secs(10))?;
        let read =
            "SELECT user_version, EXISTS (SELECT 1 FROM sqlite_schema) FROM pragma_user_version";
        connection.query_row(read, [], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    let prepare = |version: i64| -> rusqlite::Result<String> {
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        // All or nothing: a server that is killed here leaves no tables without a version.
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        for table in tables {
            transaction.execute_batch(table)?;
        }
        // It would be written even if it is the same, and a server also starts on a full disk.
        if version != VERSION {
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()?;
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    };
    let (found, has_tables) = version().map_err(failed)?;
    if found > VERSION || (has_tables && found < VERSION) {
        let why = format!("it has version {found}, and this program knows version {VERSION}");
        return Err(unusable(path, ErrorKind::Invalid, why));
    }
    match prepare(found).map_err(failed)? {
        check if check == "ok" => Ok(connection),
        check => Err(unusable(path, ErrorKind::Malformed, check)),
    }
}

/// The error for a failure of a statement.
fn failed(connection: &Connection, error: &rusqlite::Error) -> Error {
    let path = connection.path().unwrap_or("server.db");
    Error::new(kind_of(error), format!("{path}: {error}")).with_storage()
}

fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure,
    };
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure | CannotOpen) => {
            ErrorKind::Transient
        }
        // The client cannot solve it.
        _ => ErrorKind::Malformed,
    }
}

/// The tables, defined where their records are. Released ones never change; new ones are appended.
const TABLES: &[&str] = &[files::TABLE, batches::TABLE, webhooks::TABLE];

/// An open database of records.
pub(crate) struct Records {
    /// Reentrant, so that a function that is called while it is locked can read records, too.
    database: ReentrantMutex<Connection>,
    /// Wakes the thread that sends messages, if the server has a webhook.
    pub webhook: Option<Arc<Wake>>,
}

impl Records {
    /// Opens the file, which is created if it does not exist.
    ///
    /// # Errors
    /// When it cannot be used; the message names its path and a remedy.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, Error> {
        Ok(Self {
            database: ReentrantMutex::new(connect(path, durability, TABLES)?),
            webhook: None,
        })
    }

    /// Statements that are committed one by one.
    pub fn single(&self) -> ReentrantMutexGuard<'_, Connection> {
        self.database.lock()
    }

    /// Executes all of `work` or nothing of it.
    ///
    /// # Errors
    /// That of `work`, or of the database.
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let database = self.single();
        let failed = |error: rusqlite::Error| E::from(failed(&database, &error));
        let transaction = Transaction::new_unchecked(&database, TransactionBehavior::Immediate)
            .map_err(failed)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(failed)?;
        Ok(done)
    }
}
