//! The store of a run, which users move and copy with its output: refuses a store or a log whose other half is missing.
//!
//! The last commits are in the write-ahead log, `OUTPUT.batchwright-wal`, as long as an OS process has the store open,
//! and after a `kill -9`. A store without its log would not know of billed batches. Therefore the database itself
//! records that an OS process uses the store, from before the first change to its clean end, and a process that closes
//! the store meanwhile keeps the log.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::base::{Error, ErrorKind};

use super::Sqlite;
use super::writer::BUSY_TIMEOUT;
use crate::queue::store::statements::{Fault, invalid};

/// Whether a path is that of a run's store.
pub(super) fn is_of_a_run(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("batchwright"))
}

/// Checks the store of a run before it is opened.
///
/// # Errors
/// When the store or its log is missing.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    let log = log_of(path);
    let is_whole = match log.metadata() {
        Ok(found) => found.len() == 0 || path.exists(),
        Err(_) => !path.exists() || !is_in_use_without_log(path),
    };
    if is_whole {
        return Ok(());
    }
    let why = format!(
        "{} and its log {} belong together, and one of them is missing: a run that was killed or is still running has left \
         it where both were. Move it here, too. If it is lost, so may be batches that were paid for; to go on without \
         them, remove the log, or make an empty file of its name",
        path.display(),
        log.display()
    );
    Err(invalid(why))
}

/// Keeps the log even if this connection is the last one that is closed.
pub(super) fn keep_log(conn: &Connection, yes: bool) -> Result<(), rusqlite::Error> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, yes)
        .map(drop)
}

impl Sqlite {
    /// Records that this OS process uses the store of a run, before it writes anything else.
    ///
    /// # Errors
    /// When no record of a use can be written to the database itself.
    pub(super) fn hold(&mut self) -> Result<(), Fault> {
        let conn = self.writer.get_mut();
        let users = count_users(conn, 1)?;
        self.is_user = true;
        let until = Instant::now() + BUSY_TIMEOUT;
        while !checkpoint(conn, "FULL")? {
            // SQLite waits for readers, but fails at once while another process copies the log.
            if Instant::now() < until {
                sleep(Duration::from_millis(1));
                continue;
            }
            // The record of another one is not removed from the database before this one is there. But it may itself
            // be in the log only.
            if users > 1 && is_in_use_without_log(&self.place.path) {
                break;
            }
            let why = format!(
                "{}: another process reads it all the time, so its log cannot be copied into it: end that",
                self.place.path.display()
            );
            return Err(Error::new(ErrorKind::Transient, why).with_storage().into());
        }
        Ok(())
    }

    /// Ends the use of a run's store, and removes its log unless another process uses the store, or was killed while it did.
    pub(super) fn put_log_away(&mut self) {
        if !self.place.is_movable {
            return;
        }
        let conn = self.writer.get_mut();
        if self.is_user {
            let is_last = count_users(conn, -1).is_ok_and(|users| users == 0);
            if !is_last || !checkpoint(conn, "TRUNCATE").unwrap_or(false) {
                return;
            }
        }
        if !is_in_use(conn).unwrap_or(true) {
            let _ = keep_log(conn, false);
        }
    }
}

/// Adds to the number of OS processes that have begun to use the store and have not ended that. Returns it.
fn count_users(conn: &Connection, more: i64) -> Result<i64, rusqlite::Error> {
    let add = "INSERT INTO meta VALUES ('users', ?1) ON CONFLICT DO UPDATE SET value = value + ?1
         RETURNING value";
    conn.query_row(add, [more], |row| row.get(0))
}

/// Copies the log into the database. Returns whether all of it was copied.
pub(super) fn checkpoint(conn: &Connection, mode: &str) -> Result<bool, rusqlite::Error> {
    let ask = format!("PRAGMA wal_checkpoint({mode})");
    conn.prepare_cached(&ask)?.query_row([], |row| {
        let (busy, pages, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && copied >= pages)
    })
}

fn is_in_use(conn: &Connection) -> Result<bool, rusqlite::Error> {
    let ask = "SELECT EXISTS (SELECT 1 FROM meta WHERE name = 'users' AND value > 0)";
    conn.query_row(ask, [], |row| row.get(0))
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Whether a process uses a store according to the database without its log.
pub(super) fn is_in_use_without_log(path: &Path) -> bool {
    let text = path.to_string_lossy().replace('%', "%25");
    let text = text.replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(format!("file:{text}?immutable=1"), flags);
    conn.and_then(|conn| is_in_use(&conn)).unwrap_or(false)
}
