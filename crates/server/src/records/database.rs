//! The database of the records: `server.db` in the folder of the server.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use batchwright::queue::Durability;
use batchwright::unstable::open_private;
use batchwright::{Error, ErrorKind};
use parking_lot::Mutex;
use rusqlite::types::Value;
use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior};

/// Values of a statement.
macro_rules! by {
    ($($value:expr),* $(,)?) => { &[$(&($value) as &dyn rusqlite::ToSql),*] };
}
pub(crate) use by;

/// Executes statements.
pub(crate) trait Statements {
    fn rows(&mut self, sql: &str, by: &[&dyn ToSql]) -> Result<Vec<Row>, Error>;

    /// Returns how many rows were changed.
    fn run(&mut self, sql: &str, by: &[&dyn ToSql]) -> Result<u64, Error>;

    fn first(&mut self, sql: &str, by: &[&dyn ToSql]) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, by)?.into_iter().next())
    }
}

/// A row that was found.
#[derive(Clone)]
pub(crate) struct Row(Vec<Value>);

fn odd() -> Error {
    Error::new(ErrorKind::Malformed, "a record of the server is damaged").with_storage()
}

impl Row {
    fn at(&mut self, at: usize) -> Value {
        let cell = self.0.get_mut(at);
        cell.map_or(Value::Null, |cell| std::mem::replace(cell, Value::Null))
    }

    pub fn int(&mut self, at: usize) -> Result<i64, Error> {
        self.optional_int(at)?.ok_or_else(odd)
    }

    pub fn optional_int(&mut self, at: usize) -> Result<Option<i64>, Error> {
        match self.at(at) {
            Value::Null => Ok(None),
            Value::Integer(number) => Ok(Some(number)),
            _ => Err(odd()),
        }
    }

    pub fn text(&mut self, at: usize) -> Result<String, Error> {
        self.optional_text(at)?.ok_or_else(odd)
    }

    pub fn optional_text(&mut self, at: usize) -> Result<Option<String>, Error> {
        match self.at(at) {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(odd()),
        }
    }
}

/// `server.db`. If it cannot be used, for example because it is damaged, every use fails with this error.
pub(super) struct Database(Result<Mutex<Connection>, Error>);

impl Database {
    /// Opens the file, which is created with these tables if it does not exist.
    pub fn open(path: &Path, durability: Durability, tables: &[&str]) -> Result<Self, Error> {
        Ok(Self(connect(path, durability, tables)?.map(Mutex::new)))
    }

    pub fn check(&self) -> Result<(), Error> {
        self.connection().map(drop)
    }

    fn connection(&self) -> Result<&Mutex<Connection>, Error> {
        self.0.as_ref().map_err(Error::clone)
    }

    /// Statements that are committed one by one.
    pub fn single(&self) -> Single<'_> {
        Single(self)
    }

    /// Executes all of `work` or nothing of it.
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&mut dyn Statements) -> Result<T, E>,
    ) -> Result<T, E> {
        let connection = self.connection()?.lock();
        let failed = |error: rusqlite::Error| E::from(failed(&connection, &error));
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)
            .map_err(failed)?;
        let done = work(&mut OfConnection(&transaction))?;
        transaction.commit().map_err(failed)?;
        Ok(done)
    }
}

/// Statements that are committed one by one.
pub(crate) struct Single<'d>(&'d Database);

impl Statements for Single<'_> {
    fn rows(&mut self, sql: &str, by: &[&dyn ToSql]) -> Result<Vec<Row>, Error> {
        OfConnection(&self.0.connection()?.lock()).rows(sql, by)
    }

    fn run(&mut self, sql: &str, by: &[&dyn ToSql]) -> Result<u64, Error> {
        OfConnection(&self.0.connection()?.lock()).run(sql, by)
    }
}

struct OfConnection<'c>(&'c Connection);

impl Statements for OfConnection<'_> {
    fn rows(&mut self, sql: &str, by: &[&dyn ToSql]) -> Result<Vec<Row>, Error> {
        let found = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = self.0.prepare_cached(sql)?;
            let columns = statement.column_count();
            let rows = statement.query_map(by, |row| {
                let cells: rusqlite::Result<_> = (0..columns).map(|at| row.get(at)).collect();
                cells.map(Row)
            })?;
            rows.collect()
        };
        found().map_err(|error| failed(self.0, &error))
    }

    fn run(&mut self, sql: &str, by: &[&dyn ToSql]) -> Result<u64, Error> {
        let statement = self.0.prepare_cached(sql);
        let changed = statement.and_then(|mut statement| statement.execute(by));
        changed
            .map(|changed| changed as u64)
            .map_err(|error| failed(self.0, &error))
    }
}

/// The version of the tables, in `server.db` as its `user_version`.
const VERSION: i64 = 3;

/// What the file is good for, and what to do if it cannot be used.
const REMEDY: &str = "Jobs and their results are in the queue and not affected. Without the file, its webhooks, and \
     files and batches of /v1 are lost";

/// Opens `server.db`, which is created with these tables if it does not exist. The inner error is that of a file that
/// cannot be used until someone repairs it; the outer one may not come again.
fn connect(
    path: &Path,
    durability: Durability,
    tables: &[&str],
) -> Result<Result<Connection, Error>, Error> {
    // SQLite gives its companion files the same mode.
    if let Err(error) = open_private(File::options().create(true).append(true), path) {
        return Ok(Err(inaccessible(path, &error)));
    }
    let synchronous = match durability {
        Durability::Full => "full",
        Durability::Normal => "normal",
    };
    let connection = Connection::open(path).map_err(|error| failure(path, &error))?;
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
    let prepared = match version() {
        Ok((version, _)) if version > VERSION => return Ok(Err(newer(path, version))),
        Ok((version, true)) if version < VERSION => return Ok(Err(older(path))),
        Ok((version, _)) => prepare(version),
        Err(error) => Err(error),
    };
    match prepared {
        Ok(found) if found == "ok" => Ok(Ok(connection)),
        Ok(found) => Ok(Err(damaged(path, &found))),
        Err(error) => {
            unusable(path, &error).map_or_else(|| Err(failure(path, &error)), |why| Ok(Err(why)))
        }
    }
}

/// The error of a file that cannot be used until someone has done something about it, if this is the cause.
fn unusable(path: &Path, error: &rusqlite::Error) -> Option<Error> {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
    match error.sqlite_error_code() {
        _ if is_damage(error) => Some(damaged(path, error)),
        // A file next to it cannot be opened either.
        Some(ReadOnly | CannotOpen) => Some(inaccessible(path, error)),
        // An exceeded quota, and no room for a file next to it, are an I/O error for SQLite.
        Some(DiskFull | SystemIoFailure) => Some(without_room(path, error)),
        _ => None,
    }
}

fn without_room(path: &Path, error: &dyn fmt::Display) -> Error {
    let why = format!(
        "{} cannot be read or written ({error}). Nothing that was saved is lost. Stop the server, free some room on the disk, \
         or repair it, and start the server again",
        path.display()
    );
    Error::new(ErrorKind::Transient, why).with_storage()
}

fn inaccessible(path: &Path, error: &dyn fmt::Display) -> Error {
    let why = format!(
        "{} cannot be opened for writing ({error}). {REMEDY}. Stop the server, let its user read and write the file, or move \
         it away, and start the server again",
        path.display()
    );
    Error::new(ErrorKind::Invalid, why).with_storage()
}

fn older(path: &Path) -> Error {
    let why = format!(
        "{} is from a batchwright before its first release, whose tables differ. {REMEDY}. Stop the server, and move the file \
         away, with its -wal and -shm",
        path.display()
    );
    Error::new(ErrorKind::Invalid, why).with_storage()
}

fn newer(path: &Path, version: i64) -> Error {
    let why = format!(
        "{} has version {version}, and this program knows versions up to {VERSION}. {REMEDY}. Stop the server, and start a \
         newer batchwright, or move the file away, with its -wal and -shm",
        path.display()
    );
    Error::new(ErrorKind::Invalid, why).with_storage()
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

fn damaged(path: &Path, found: &dyn fmt::Display) -> Error {
    let why = format!(
        "{} is damaged ({found}). {REMEDY}. Stop the server, restore the file from a backup or move it away, with its -wal \
         and -shm, and start the server again",
        path.display()
    );
    Error::new(ErrorKind::Malformed, why).with_storage()
}

/// The error for a failure of a statement.
fn failed(connection: &Connection, error: &rusqlite::Error) -> Error {
    failure(Path::new(connection.path().unwrap_or("server.db")), error)
}

/// The error for a failure of `server.db`.
fn failure(path: &Path, error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure,
    };
    if is_damage(error) {
        return damaged(path, error);
    }
    let kind = match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure | CannotOpen) => {
            ErrorKind::Transient
        }
        // The client cannot solve it.
        _ => ErrorKind::Malformed,
    };
    Error::new(kind, format!("{}: {error}", path.display())).with_storage()
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    /// On a full disk, the file is opened as it is.
    #[test]
    fn opening_it_again_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.db");
        let tables = ["CREATE TABLE IF NOT EXISTS t (a INTEGER)"];
        let open = || connect(&path, Durability::Full, &tables).unwrap().unwrap();
        let _first = open();
        let log = path.with_extension("db-wal");
        let written = || std::fs::read(&log).unwrap();
        let before = written();
        assert!(!before.is_empty());
        let _second = open();
        assert!(before == written());
    }

    #[test]
    fn a_full_disk_makes_it_unusable_and_a_lock_does_not() {
        let path = Path::new("server.db");
        let why = |code| {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            unusable(path, &error).map(|error| error.to_string())
        };
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR_SHMSIZE,
            ffi::SQLITE_IOERR_WRITE,
        ] {
            let why = why(code).unwrap();
            assert!(why.contains("free some room"), "{why}");
        }
        assert!(
            why(ffi::SQLITE_CANTOPEN)
                .unwrap()
                .contains("cannot be opened")
        );
        assert_eq!(why(ffi::SQLITE_BUSY), None);
    }
}
