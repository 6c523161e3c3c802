//! The database of the records: `server.db` in the folder of the server.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use batchwright::queue::Durability;
use batchwright::unstable::open_private;
use batchwright::{Error, ErrorKind};
use rusqlite::{Connection, Row, ToSql, Transaction, TransactionBehavior};

/// Values of a statement.
macro_rules! by {
    ($($value:expr),* $(,)?) => { &[$(&($value) as &dyn rusqlite::ToSql),*] };
}
pub(crate) use by;

/// The rows of a query, as `read` takes them.
pub(super) fn rows<T>(
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

pub(super) fn first<T>(
    connection: &Connection,
    sql: &str,
    by: &[&dyn ToSql],
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, Error> {
    Ok(rows(connection, sql, by, read)?.into_iter().next())
}

/// Returns how many rows were changed.
pub(super) fn run(connection: &Connection, sql: &str, by: &[&dyn ToSql]) -> Result<usize, Error> {
    let run = || connection.prepare_cached(sql)?.execute(by);
    run().map_err(|error| failed(connection, &error))
}

/// The version of the tables, in `server.db` as its `user_version`.
const VERSION: i64 = 3;

/// The error of a file that cannot be used until someone has done something about it.
fn unusable(path: &Path, kind: ErrorKind, why: impl fmt::Display, remedy: &str) -> Error {
    let why = format!(
        "{} {why}. Jobs and their results are in the queue and not affected; webhooks, and files and batches of /v1, need \
         the file. Stop the server, {remedy}, and start it again",
        path.display()
    );
    Error::new(kind, why).with_storage()
}

const MOVE_AWAY: &str = "restore the file from a backup, or move it away with its -wal and -shm";

/// Opens `server.db`, which is created with these tables if it does not exist.
pub(super) fn connect(
    path: &Path,
    durability: Durability,
    tables: &[&str],
) -> Result<Connection, Error> {
    // SQLite gives its companion files the same mode.
    if let Err(error) = open_private(File::options().create(true).append(true), path) {
        return Err(inaccessible(path, &error));
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
        Ok((found, has_tables)) if found > VERSION || (has_tables && found < VERSION) => {
            let why = format!("has version {found}, and this program knows version {VERSION}");
            return Err(unusable(path, ErrorKind::Invalid, why, MOVE_AWAY));
        }
        Ok((version, _)) => prepare(version),
        Err(error) => Err(error),
    };
    match prepared {
        Ok(found) if found == "ok" => Ok(connection),
        Ok(found) => Err(damaged(path, &found)),
        Err(error) => Err(lasting(path, &error).unwrap_or_else(|| failure(path, &error))),
    }
}

/// The error of a file that stays unusable, if this is the cause.
fn lasting(path: &Path, error: &rusqlite::Error) -> Option<Error> {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
    match error.sqlite_error_code() {
        _ if is_damage(error) => Some(damaged(path, error)),
        // A file next to it cannot be opened either.
        Some(ReadOnly | CannotOpen) => Some(inaccessible(path, error)),
        // An exceeded quota, and no room for a file next to it, are an I/O error for SQLite.
        Some(DiskFull | SystemIoFailure) => {
            let why = format!("cannot be read or written ({error})");
            let remedy = "free some room on the disk, or repair it";
            Some(unusable(path, ErrorKind::Transient, why, remedy))
        }
        _ => None,
    }
}

fn inaccessible(path: &Path, error: &dyn fmt::Display) -> Error {
    let why = format!("cannot be opened for writing ({error})");
    let remedy = "let its user read and write the file, or move it away";
    unusable(path, ErrorKind::Invalid, why, remedy)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

fn damaged(path: &Path, found: &dyn fmt::Display) -> Error {
    let why = format!("is damaged ({found})");
    unusable(path, ErrorKind::Malformed, why, MOVE_AWAY)
}

/// The error for a failure of a statement.
pub(super) fn failed(connection: &Connection, error: &rusqlite::Error) -> Error {
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
        let open = || connect(&path, Durability::Full, &tables).unwrap();
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
        for (code, expected) in [
            (ffi::SQLITE_FULL, "free some room"),
            (ffi::SQLITE_IOERR_SHMSIZE, "free some room"),
            (ffi::SQLITE_IOERR_WRITE, "free some room"),
            (ffi::SQLITE_CANTOPEN, "cannot be opened"),
            (ffi::SQLITE_BUSY, ""),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let why = lasting(Path::new("server.db"), &error);
            let why = why.map(|error| error.to_string()).unwrap_or_default();
            assert!(why.contains(expected) && why.is_empty() == expected.is_empty());
        }
    }
}
