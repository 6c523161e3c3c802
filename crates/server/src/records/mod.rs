//! What the server itself keeps, in `server.db` beside the queue: which keys clients have used, what they uploaded.
//! What the queue knows is not kept a second time.

use std::path::Path;
use std::time::Duration;

use batchwright::{Error, ErrorKind};
use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;

/// The tables, each where its records are. What was released stays; new ones are added behind.
const TABLES: &[&str] = &[];

/// An open `server.db`.
pub(crate) struct Records {
    database: Mutex<Connection>,
}

impl Records {
    /// Opens the file, which is made if there is none.
    ///
    /// # Errors
    /// When it cannot be opened or is no such file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error: rusqlite::Error| failed(&format!("{}", path.display()), &error);
        let database = Connection::open(path).map_err(failed)?;
        database
            .busy_timeout(Duration::from_secs(10))
            .map_err(failed)?;
        database
            .pragma_update(None, "journal_mode", "wal")
            .and_then(|()| database.pragma_update(None, "synchronous", "normal"))
            .and_then(|()| {
                TABLES
                    .iter()
                    .try_for_each(|table| database.execute_batch(table))
            })
            .map_err(failed)?;
        Ok(Self {
            database: Mutex::new(database),
        })
    }

    /// The database, for as long as one short statement or transaction takes.
    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        self.database.lock()
    }
}

/// What `server.db` could not do.
pub(crate) fn failed(what: &str, error: &rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DiskFull) => {
            ErrorKind::Transient
        }
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, format!("{what}: {error}"))
}
