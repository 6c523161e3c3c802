//! The one connection that writes: transactions, how long they wait for those of other OS processes, and the error for
//! a failure of the database.

use std::cell::Cell;
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::base::names::quoted;
use crate::base::{Error, ErrorKind};
use crate::queue::store::Mode;
use crate::queue::store::statements::{Fault, Sql};

use super::{Durability, Sqlite};

impl Fault {
    /// The error for callers. Messages of SQLite name tables and columns, never values.
    pub(super) fn in_file(self, path: &Path) -> Error {
        let error = match self {
            Self::Refused(error) => return error,
            Self::Odd(what) => damaged(path, what),
            Self::Sqlite(error) => explain(path, &error),
            // Errors of database servers.
            other => damaged(path, format!("{other:?}")),
        };
        error.with_storage()
    }
}

fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    let shown = path.display();
    let transient = |why: String| Error::new(ErrorKind::Transient, why);
    let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
    let full = || {
        transient(format!(
            "the disk is full: {shown} cannot grow. Nothing that was saved is lost; free some room: \
             workers that run go on by themselves, other commands are to be given again"
        ))
    };
    // The cause may be a file next to the database that does not fit on the disk.
    if let rusqlite::Error::SqliteFailure(failure, _) = error
        && failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    {
        return full();
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => full(),
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => transient(format!(
            "{shown} has been locked by another program for {} s; retrying. Close tools that \
             have the database open for writing",
            BUSY_TIMEOUT.as_secs()
        )),
        Some(ErrorCode::SystemIoFailure) => transient(format!(
            "{shown} could not be read or written ({error}). Saved data is not lost; check the disk and \
             the system's log"
        )),
        Some(ErrorCode::DatabaseCorrupt) => damaged(path, error),
        Some(ErrorCode::NotADatabase) => invalid(format!(
            "{shown} is not an SQLite database. Move it away, or name another data folder"
        )),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            invalid(format!(
                "{shown} cannot be opened for writing ({error}). The file and its folder must be \
                 writable for this user; SQLite puts two more files beside it"
            ))
        }
        _ => invalid(format!("{shown}: {error}")),
    }
}

fn damaged(path: &Path, what: impl Display) -> Error {
    let (shown, file) = (path.display(), quoted(path));
    Error::new(
        ErrorKind::Invalid,
        format!(
            "{shown} is damaged ({what}). Stop all workers, copy the file with its -wal and -shm \
             beside it, then rescue what can be read: sqlite3 {file} .recover | sqlite3 rescued.db"
        ),
    )
}

/// How long a transaction waits for those of other OS processes.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a connection waits for the transactions of other OS processes, or fails immediately.
pub(super) fn be_patient(conn: &mut Connection, yes: bool) -> Result<(), rusqlite::Error> {
    conn.busy_handler(yes.then_some(wait_briefly as fn(i32) -> bool))
}

/// SQLite's own waits grow to 100 ms, in which a busy process takes the lock again and again.
fn wait_briefly(tries: i32) -> bool {
    thread_local!(static SINCE: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    let since = match SINCE.get() {
        Some(since) if tries > 0 => since,
        _ => now,
    };
    SINCE.set(Some(since));
    let patient = now.duration_since(since) < BUSY_TIMEOUT;
    if patient {
        std::thread::sleep(Duration::from_micros(500));
    }
    patient
}

impl Sqlite {
    /// Runs statements. Queries run concurrently with writes; threads are served in the order of their requests.
    pub(in crate::queue::store) fn run<T>(
        &self,
        mode: Mode,
        mut work: impl FnMut(&mut dyn Sql) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let open = || self.place.reader();
        let done = match mode {
            Mode::Read => self.readers.read(open, |mut conn| work(&mut conn)),
            Mode::Moment => {
                let moment = |conn: &Connection| work(&mut &*conn.unchecked_transaction()?);
                self.readers.read(open, moment)
            }
            _ => {
                let writer = self.writer.lock();
                self.place.still_there()?;
                self.write(&writer, mode, work)
            }
        };
        done.map_err(|fault| self.place.fail(fault))
    }

    /// Runs one transaction.
    fn write<T>(
        &self,
        conn: &Connection,
        mode: Mode,
        mut work: impl FnMut(&mut dyn Sql) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let is_full = self.place.options.durability == Durability::Full;
        let sync = |level| conn.pragma_update(None, "synchronous", level);
        match mode {
            Mode::WriteLazily if is_full => sync("NORMAL")?,
            // It is synced to the disk.
            Mode::WriteSynced => sync("FULL")?,
            _ if is_full => sync("FULL")?,
            _ => {}
        }
        // Rolled back unless it is committed, also when the callback panics.
        let open = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        let done = work(&mut &*open)?;
        let committed = open.commit();
        if mode == Mode::WriteSynced && !is_full {
            sync("NORMAL")?;
        }
        committed?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: std::ffi::c_int) -> Error {
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        Fault::from(error).in_file(Path::new("/data/llm_jobs.db"))
    }

    #[test]
    fn every_failure_of_the_database_says_what_to_do() {
        use rusqlite::ffi;
        let cases = [
            (ffi::SQLITE_FULL, ErrorKind::Transient, "free some room"),
            (
                ffi::SQLITE_IOERR_SHMSIZE,
                ErrorKind::Transient,
                "free some room",
            ),
            (ffi::SQLITE_BUSY, ErrorKind::Transient, "another program"),
            (
                ffi::SQLITE_PROTOCOL,
                ErrorKind::Transient,
                "another program",
            ),
            (ffi::SQLITE_IOERR, ErrorKind::Transient, "the system's log"),
            (ffi::SQLITE_CORRUPT, ErrorKind::Invalid, ".recover"),
            (
                ffi::SQLITE_NOTADB,
                ErrorKind::Invalid,
                "not an SQLite database",
            ),
            (ffi::SQLITE_READONLY, ErrorKind::Invalid, "writable"),
        ];
        for (code, kind, part) in cases {
            let error = failure(code);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.is_storage(), "{error}");
            assert!(error.message().contains(part), "{error}");
            assert!(error.message().contains("/data/llm_jobs.db"), "{error}");
        }
    }
}
