//! The database of the records: a file that the servers of a folder share, or the database of the queue, which servers
//! on many machines share. Statements have the same effect in both; the modules with the statements contain the rules.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::queue::Durability;
use batchwright::unstable::{InsertGuard, SqlValue, open_private};
#[cfg(feature = "mysql")]
use batchwright::unstable::{MysqlTables, TablesTransaction};
use batchwright::{Error, ErrorKind};
use parking_lot::Mutex;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior};

use super::owner::{Owner, try_lock};

/// Values of a statement.
macro_rules! by {
    ($($value:expr),* $(,)?) => { &[$(batchwright::unstable::SqlValue::from($value)),*][..] };
}
pub(crate) use by;

/// Executes statements: `#name` is a table, `?` a value.
pub(crate) trait Statements {
    fn rows(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error>;

    /// The same for rows that the same transaction changes: they are locked.
    fn rows_to_change(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error>;

    /// Returns how many rows were changed, or found to be so already.
    fn run(&mut self, sql: &str, by: &[SqlValue]) -> Result<u64, Error>;

    fn first(&mut self, sql: &str, by: &[SqlValue]) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, by)?.into_iter().next())
    }
}

/// A row that was found.
#[derive(Clone)]
pub(crate) struct Row(Vec<SqlValue>);

fn odd() -> Error {
    Error::new(ErrorKind::Malformed, "a record of the server is damaged").with_storage()
}

impl Row {
    fn at(&mut self, at: usize) -> SqlValue {
        let cell = self.0.get_mut(at);
        cell.map_or(SqlValue::Null, |cell| {
            std::mem::replace(cell, SqlValue::Null)
        })
    }

    pub fn int(&mut self, at: usize) -> Result<i64, Error> {
        self.optional_int(at)?.ok_or_else(odd)
    }

    pub fn optional_int(&mut self, at: usize) -> Result<Option<i64>, Error> {
        match self.at(at) {
            SqlValue::Null => Ok(None),
            SqlValue::Int(number) => Ok(Some(number)),
            SqlValue::Bytes(text) => {
                let text = std::str::from_utf8(&text).map_err(|_| odd())?;
                text.parse().map(Some).map_err(|_| odd())
            }
            SqlValue::Text(_) => Err(odd()),
        }
    }

    pub fn text(&mut self, at: usize) -> Result<String, Error> {
        self.optional_text(at)?.ok_or_else(odd)
    }

    pub fn optional_text(&mut self, at: usize) -> Result<Option<String>, Error> {
        match self.at(at) {
            SqlValue::Null => Ok(None),
            SqlValue::Text(text) => Ok(Some(text)),
            SqlValue::Bytes(text) => String::from_utf8(text).map(Some).map_err(|_| odd()),
            SqlValue::Int(_) => Err(odd()),
        }
    }

    pub fn optional_bytes(&mut self, at: usize) -> Result<Option<Vec<u8>>, Error> {
        match self.at(at) {
            SqlValue::Null => Ok(None),
            SqlValue::Bytes(bytes) => Ok(Some(bytes)),
            _ => Err(odd()),
        }
    }

    pub fn bytes<const N: usize>(&mut self, at: usize) -> Result<[u8; N], Error> {
        let bytes = self.optional_bytes(at)?.ok_or_else(odd)?;
        bytes.try_into().map_err(|_| odd())
    }
}

/// The database of the records, and this server among those that share it.
pub(super) enum Database {
    File(Box<FileDatabase>),
    #[cfg(feature = "mysql")]
    Server(MysqlTables),
    /// `server.db` cannot be used, for example because it is damaged: every use fails with this error.
    Unusable(Owner, Error),
}

/// `server.db` in a folder.
pub(super) struct FileDatabase {
    connection: Mutex<Connection>,
    owner: Owner,
    folder: PathBuf,
    /// The roles of this server in its folder, as long as it has these locks.
    roles: Mutex<HashMap<&'static str, File>>,
}

impl Database {
    /// Opens the file, which is created with these tables if it does not exist.
    pub fn open(path: &Path, durability: Durability, tables: &[&str]) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let owner = Owner::new(folder).map_err(|error| {
            let why = format!("{}: no file can be locked there: {error}", folder.display());
            Error::new(ErrorKind::Invalid, why)
        })?;
        match connect(path, durability, tables)? {
            Ok(connection) => Ok(Self::File(Box::new(FileDatabase {
                connection: Mutex::new(connection),
                owner,
                folder: folder.to_owned(),
                roles: Mutex::default(),
            }))),
            Err(error) => Ok(Self::Unusable(owner, error)),
        }
    }

    /// The name of this server.
    pub fn name(&self) -> &str {
        match self {
            Self::File(file) => &file.owner.name,
            #[cfg(feature = "mysql")]
            Self::Server(tables) => tables.name(),
            Self::Unusable(owner, _) => &owner.name,
        }
    }

    /// Whether the server with this name has ended, or cannot be distinguished from one that has: its writes are
    /// rejected.
    pub fn is_dead(&self, name: &str) -> Result<bool, Error> {
        match self {
            Self::File(file) => Ok(file.owner.is_dead(name)),
            #[cfg(feature = "mysql")]
            Self::Server(tables) => tables.is_dead(name),
            Self::Unusable(owner, _) => Ok(owner.is_dead(name)),
        }
    }

    /// True if servers on other machines share it. They may return after they were unreachable, so their ownership must
    /// be checked in the statement that writes.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::File(_) | Self::Unusable(..))
    }

    /// Statements that are committed one by one.
    pub fn single(&self) -> Single<'_> {
        Single(self)
    }

    /// Executes all of `work` or nothing of it. It may be repeated from the beginning.
    pub fn transaction<T, E: From<Error>>(
        &self,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, E>,
    ) -> Result<T, E> {
        match self {
            Self::File(file) => {
                let connection = file.connection.lock();
                let failed = |error: rusqlite::Error| E::from(failed(&connection, &error));
                let transaction =
                    Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)
                        .map_err(failed)?;
                let done = work(&mut OfFile(&transaction))?;
                transaction.commit().map_err(failed)?;
                Ok(done)
            }
            #[cfg(feature = "mysql")]
            Self::Server(tables) => {
                tables.transaction(|transaction| work(&mut OfServer(transaction)))
            }
            Self::Unusable(_, error) => Err(error.clone().into()),
        }
    }

    /// The same while no other server does the same.
    pub fn transaction_alone<T, E: From<Error>>(
        &self,
        what: &'static str,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, E>,
    ) -> Result<T, E> {
        let is_shared = self.is_shared();
        self.transaction(|database| {
            if is_shared {
                database.run(
                    "INSERT INTO #roles (name, owner) VALUES (?, '') ON DUPLICATE KEY UPDATE owner = owner",
                    by![what],
                )?;
            }
            work(database)
        })
    }

    /// Whether this server, and no other, has this role. Check it repeatedly: a server that others consider dead has
    /// lost its roles.
    pub fn has_role(&self, role: &'static str) -> Result<bool, Error> {
        match self {
            Self::File(file) => {
                let mut roles = file.roles.lock();
                if roles.contains_key(role) {
                    return Ok(true);
                }
                let path = file.folder.join(role);
                let lock = try_lock(&path).map_err(|error| {
                    let why = format!("{} cannot be locked: {error}", path.display());
                    Error::new(ErrorKind::Transient, why)
                })?;
                Ok(match lock {
                    Some(lock) => roles.insert(role, lock).is_none(),
                    None => false,
                })
            }
            #[cfg(feature = "mysql")]
            Self::Server(tables) => {
                let find = "SELECT owner FROM #server_roles WHERE name = ?";
                let known = tables.rows(find, by![role])?.into_iter().next();
                let owner = known.map(|row| Row(row).text(0)).transpose()?;
                let owner = match owner {
                    Some(owner) if owner == tables.name() => return Ok(true),
                    Some(owner) if owner.is_empty() || tables.is_dead(&owner)? => owner,
                    Some(_) => return Ok(false),
                    None => {
                        let add = "INSERT IGNORE INTO #server_roles (name, owner) VALUES (?, '')";
                        tables.run(add, by![role])?;
                        String::new()
                    }
                };
                let take = "UPDATE #server_roles SET owner = ? WHERE name = ? AND owner = ?";
                Ok(tables.run(take, by![tables.name(), role, owner])? == 1)
            }
            Self::Unusable(..) => Ok(false),
        }
    }

    /// Another server may do it from now on.
    pub fn leave_role(&self, role: &'static str) {
        match self {
            Self::File(file) => drop(file.roles.lock().remove(role)),
            #[cfg(feature = "mysql")]
            Self::Server(tables) => {
                let leave = "UPDATE #server_roles SET owner = '' WHERE name = ? AND owner = ?";
                if let Err(error) = tables.run(leave, by![role, tables.name()]) {
                    log::debug!("{role} is free when the lease of this server ends: {error}");
                }
            }
            Self::Unusable(..) => {}
        }
    }

    /// A condition under which jobs are added: a row still has its owner. `None` if the queue is in another database.
    pub fn guard(&self, sql: &str, by: &[SqlValue]) -> Option<InsertGuard> {
        let guard = || InsertGuard::new(of_servers(sql), by.to_vec());
        self.is_shared().then(guard)
    }
}

/// Statements that are committed one by one.
pub(crate) struct Single<'d>(&'d Database);

impl Statements for Single<'_> {
    fn rows(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error> {
        match self.0 {
            Database::File(file) => OfFile(&file.connection.lock()).rows(sql, by),
            #[cfg(feature = "mysql")]
            Database::Server(tables) => {
                let rows = tables.rows(&of_servers(sql), by)?;
                Ok(rows.into_iter().map(Row).collect())
            }
            Database::Unusable(_, error) => Err(error.clone()),
        }
    }

    fn rows_to_change(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error> {
        self.rows(sql, by)
    }

    fn run(&mut self, sql: &str, by: &[SqlValue]) -> Result<u64, Error> {
        match self.0 {
            Database::File(file) => OfFile(&file.connection.lock()).run(sql, by),
            #[cfg(feature = "mysql")]
            Database::Server(tables) => tables.run(&of_servers(sql), by),
            Database::Unusable(_, error) => Err(error.clone()),
        }
    }
}

struct OfFile<'c>(&'c Connection);

struct Bound<'v>(&'v SqlValue);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            SqlValue::Null => ValueRef::Null,
            SqlValue::Int(number) => ValueRef::Integer(*number),
            SqlValue::Text(text) => ValueRef::Text(text.as_bytes()),
            SqlValue::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Statements for OfFile<'_> {
    fn rows(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error> {
        let found = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = self.0.prepare_cached(&sql.replace('#', ""))?;
            let columns = statement.column_count();
            let values = rusqlite::params_from_iter(by.iter().map(Bound));
            let rows = statement.query_map(values, |row| {
                let cell = |at| {
                    Ok(match row.get(at)? {
                        Value::Null => SqlValue::Null,
                        Value::Integer(number) => SqlValue::Int(number),
                        Value::Text(text) => SqlValue::Text(text),
                        Value::Blob(bytes) => SqlValue::Bytes(bytes),
                        // No column has this type.
                        Value::Real(_) => SqlValue::Null,
                    })
                };
                (0..columns)
                    .map(cell)
                    .collect::<rusqlite::Result<_>>()
                    .map(Row)
            })?;
            rows.collect()
        };
        found().map_err(|error| failed(self.0, &error))
    }

    fn rows_to_change(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error> {
        // One transaction at a time writes.
        self.rows(sql, by)
    }

    fn run(&mut self, sql: &str, by: &[SqlValue]) -> Result<u64, Error> {
        let values = rusqlite::params_from_iter(by.iter().map(Bound));
        let changed = self
            .0
            .prepare_cached(&sql.replace('#', ""))
            .and_then(|mut statement| statement.execute(values));
        changed
            .map(|changed| changed as u64)
            .map_err(|error| failed(self.0, &error))
    }
}

/// A statement as database servers take it.
fn of_servers(sql: &str) -> String {
    sql.replace('#', "#server_")
        .replace("INSERT OR IGNORE", "INSERT IGNORE")
}

#[cfg(feature = "mysql")]
struct OfServer<'x, 't, 'c>(&'x mut TablesTransaction<'t, 'c>);

#[cfg(feature = "mysql")]
impl Statements for OfServer<'_, '_, '_> {
    fn rows(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error> {
        let rows = self.0.rows(&of_servers(sql), by)?;
        Ok(rows.into_iter().map(Row).collect())
    }

    fn rows_to_change(&mut self, sql: &str, by: &[SqlValue]) -> Result<Vec<Row>, Error> {
        self.rows(&format!("{sql} FOR UPDATE"), by)
    }

    fn run(&mut self, sql: &str, by: &[SqlValue]) -> Result<u64, Error> {
        self.0.run(&of_servers(sql), by)
    }
}

/// The version of the tables, in `server.db` as its `user_version`.
const VERSION: i64 = 1;

/// What the file is good for, and what to do if it cannot be used.
const REMEDY: &str = "Jobs and their results are in the queue and not affected. Without the file, its idempotency keys, \
     webhooks, and files and batches of /v1 are lost";

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
        // Builds before the first version had tables without some of today's columns.
        Ok((0, true)) => return Ok(Err(older(path))),
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
