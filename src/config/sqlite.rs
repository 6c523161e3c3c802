//! Settings in a small SQLite file that all processes of a data folder share.
//!
//! Each call opens the file anew and closes it, so a file that is created, replaced or deleted is noticed at once.
//! It has a rollback journal instead of a write-ahead log: there is only one file, and reading needs no permission
//! to write next to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

use crate::base::private;
use crate::base::sqlite_header::sqlite_header;
use crate::base::{Error, ErrorKind};

use super::store::ConfigStore;

/// "bwcf": distinguishes the file from other databases.
const APPLICATION_ID: i64 = 0x6277_6366;
const SCHEMA_VERSION: i64 = 1;

/// The version counts all changes, also those of a database shell. It begins with the time at which the file was
/// created, so that a new file never repeats a version of an older one.
const SCHEMA: &str = "
CREATE TABLE settings (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE version (number INTEGER NOT NULL);
CREATE TRIGGER setting_added AFTER INSERT ON settings
  BEGIN UPDATE version SET number = number + 1; END;
CREATE TRIGGER setting_changed AFTER UPDATE ON settings
  BEGIN UPDATE version SET number = number + 1; END;
CREATE TRIGGER setting_removed AFTER DELETE ON settings
  BEGIN UPDATE version SET number = number + 1; END;
";

/// A short constant wait is fairer than SQLite's own wait, which grows.
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// Decides how long to wait for a locked file. A change takes milliseconds.
type BusyHandler = fn(i32) -> bool;

/// Ten seconds: a process that holds the lock for longer is suspended.
fn patient(tries: i32) -> bool {
    thread::sleep(BETWEEN_TRIES);
    tries < 2000
}

/// A tenth of a second, for a value that will soon be read again.
fn brief(tries: i32) -> bool {
    thread::sleep(BETWEEN_TRIES);
    tries < 20
}

/// A [`ConfigStore`] in an SQLite file, `config.db` in the data folder of the `batchwright` program.
///
/// A missing file means that nothing is set. The first [`write`](ConfigStore::write) creates the file and its
/// folder. Reading creates nothing and works in a read-only folder. A change survives a power loss.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    path: PathBuf,
}

impl SqliteConfig {
    /// The settings in the file at this path. The file is not opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The result of `ask` on the file, or `nothing` if there are no settings yet.
    fn read<T>(
        &self,
        patience: BusyHandler,
        nothing: T,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        match self.path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(nothing),
            Err(why) => {
                return Err(self.error(
                    ErrorKind::Invalid,
                    &format!(
                        "cannot be looked for: {why}; use another --data-dir or BATCHWRIGHT_HOME"
                    ),
                ));
            }
        }
        let read = || {
            // A connection that may write repairs the file if a process crashed while it wrote. Without permission to
            // write, SQLite opens the file read-only.
            let db = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE, patience)?;
            Ok(match State::of(&db)? {
                State::Empty => Ok(nothing),
                State::Ours => Ok(ask(&db)?),
                State::Foreign(why) => Err(why),
            })
        };
        let read: rusqlite::Result<Result<T, String>> = read();
        match read {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(why)) => Err(self.error(ErrorKind::Invalid, &why)),
            Err(error) => Err(self.trouble(&error, "read")),
        }
    }

    fn change(&self, key: &str, value: Option<&str>) -> rusqlite::Result<Result<(), String>> {
        let may_make = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        private::before_sqlite(&self.path);
        let mut db = self.open(may_make, patient)?;
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match State::of(&change)? {
            State::Ours => {}
            State::Foreign(why) => return Ok(Err(why)),
            State::Empty => {
                change.execute_batch(SCHEMA)?;
                change.execute("INSERT INTO version VALUES (?1)", [now()])?;
                change.pragma_update(None, "application_id", APPLICATION_ID)?;
                change.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            }
        }
        match value {
            Some(value) => change.execute(
                "INSERT INTO settings VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
                params![key, value],
            )?,
            None => change.execute("DELETE FROM settings WHERE key = ?1", [key])?,
        };
        change.commit().map(Ok)
    }

    fn open(&self, flags: OpenFlags, patience: BusyHandler) -> rusqlite::Result<Connection> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(&self.path, flags)?;
        // The method takes `&self` in some of the allowed rusqlite versions, and `&mut self` in others.
        Connection::busy_handler(&mut db, Some(patience))?;
        Ok(db)
    }

    fn trouble(&self, error: &rusqlite::Error, doing: &str) -> Error {
        let (kind, why) = match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
                ErrorKind::Invalid,
                "is damaged; put a backup in its place, or move it away and set the settings anew"
                    .to_owned(),
            ),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
                ErrorKind::Transient,
                "is locked by another program; try again when that has ended".to_owned(),
            ),
            Some(ErrorCode::DiskFull) => (
                ErrorKind::Invalid,
                "was not changed: the disk is full".to_owned(),
            ),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
                ErrorKind::Invalid,
                format!(
                    "cannot be {doing}: {error}; check the permissions of the file and its folder"
                ),
            ),
            _ => (ErrorKind::Invalid, format!("cannot be {doing}: {error}")),
        };
        self.error(kind, &why)
    }

    fn error(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(
            kind,
            format!("the settings file {} {why}", self.path.display()),
        )
        .with_storage()
    }
}

/// What a file contains.
enum State {
    Empty,
    Ours,
    /// Not usable by this version, with the reason.
    Foreign(String),
}

impl State {
    fn of(db: &Connection) -> rusqlite::Result<Self> {
        Ok(match sqlite_header(db)? {
            (0, 0, 0) => Self::Empty,
            (APPLICATION_ID, SCHEMA_VERSION, _) => Self::Ours,
            (APPLICATION_ID, newer, _) if newer > SCHEMA_VERSION => Self::Foreign(format!(
                "was made by a newer batchwright (its schema is {newer}, this one knows \
                 {SCHEMA_VERSION}); use that version, or another --data-dir"
            )),
            _ => Self::Foreign(
                "is a database of another program; move it away, or use another --data-dir"
                    .to_owned(),
            ),
        })
    }
}

/// The current time of day in microseconds.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| {
        i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 2)
    })
}

impl ConfigStore for SqliteConfig {
    fn all(&self) -> Result<BTreeMap<String, String>, Error> {
        self.read(patient, BTreeMap::new(), |db| {
            let mut query = db.prepare("SELECT key, value FROM settings")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    fn write(&self, key: &str, value: Option<&str>) -> Result<(), Error> {
        if value.is_none() && self.get(key)?.is_none() {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            private::make_folder(folder).map_err(|why| {
                let why = format!("cannot be written: its folder cannot be made: {why}");
                self.error(ErrorKind::Invalid, &why)
            })?;
        }
        match self.change(key, value) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(self.error(ErrorKind::Invalid, &why)),
            Err(error) => Err(self.trouble(&error, "written")),
        }
    }

    fn version(&self) -> Result<u64, Error> {
        let number = |db: &Connection| {
            db.query_row("SELECT number FROM version", [], |row| row.get::<_, i64>(0))
        };
        Ok(self.read(brief, 0, number)?.unsigned_abs())
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
