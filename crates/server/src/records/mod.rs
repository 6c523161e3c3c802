//! What the server itself keeps, in `server.db` beside the queue: which keys clients have used, what they uploaded.
//! What the queue knows is not kept a second time.

pub(crate) mod batches;
mod changes;
pub(crate) mod files;
mod idempotency;
mod reads;
pub(crate) mod webhooks;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use crate::private;
use batchwright::progress::Timestamp;
use batchwright::queue::Durability;
use batchwright::{Error, ErrorKind};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::{Connection, Params};

pub(crate) use changes::Change;
use idempotency::Owner;
pub(crate) use idempotency::{Asked, Claim, Hash, HeldKey, hash};
pub(crate) use reads::ReadEnd;

/// The tables, each where its records are. What was released stays; new ones are added behind.
const TABLES: &[&str] = &[
    idempotency::TABLE,
    changes::TABLE,
    files::TABLE,
    batches::TABLE,
    webhooks::TABLE,
    reads::TABLE,
];

/// An open `server.db`.
pub(crate) struct Records {
    database: Mutex<Connection>,
    keys: Keys,
    owner: Owner,
}

/// The idempotency keys whose requests threads of this server carry out.
#[derive(Default)]
struct Keys {
    held: Mutex<HashSet<Hash>>,
    released: Condvar,
    /// When old ones were last forgotten.
    looked: Mutex<Timestamp>,
}

impl Records {
    /// Opens the file, which is made if there is none.
    ///
    /// # Errors
    /// When it cannot be opened or is no such file.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, Error> {
        let failed = |error: rusqlite::Error| failed(&format!("{}", path.display()), &error);
        // SQLite's own files beside it take its mode.
        private::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| {
                let why = format!("{}: {error}", path.display());
                Error::new(ErrorKind::Invalid, why)
            })?;
        let synchronous = match durability {
            Durability::Full => "full",
            Durability::Normal => "normal",
        };
        let database = Connection::open(path).map_err(failed)?;
        database
            .busy_timeout(Duration::from_secs(10))
            .map_err(failed)?;
        database
            .pragma_update(None, "journal_mode", "wal")
            .and_then(|()| database.pragma_update(None, "synchronous", synchronous))
            .and_then(|()| {
                TABLES
                    .iter()
                    .try_for_each(|table| database.execute_batch(table))
            })
            .map_err(failed)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let owner = Owner::new(folder).map_err(|error| {
            let why = format!("{}: no file can be locked there: {error}", folder.display());
            Error::new(ErrorKind::Invalid, why)
        })?;
        Ok(Self {
            database: Mutex::new(database),
            keys: Keys::default(),
            owner,
        })
    }

    /// The database, for as long as one short statement or transaction takes.
    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        self.database.lock()
    }

    /// Carries out one statement. Returns how many rows it changed.
    fn changed(&self, sql: &str, params: impl Params) -> Result<usize, Error> {
        let database = self.lock();
        let changed = database
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params));
        changed.map_err(|error| failed("server.db", &error))
    }

    fn execute(&self, sql: &str, params: impl Params) -> Result<(), Error> {
        self.changed(sql, params).map(drop)
    }
}

/// What `server.db` could not do.
pub(crate) fn failed(what: &str, error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure,
    };
    let kind = match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure | CannotOpen) => {
            ErrorKind::Transient
        }
        // Nothing that a client could do about it.
        _ => ErrorKind::Malformed,
    };
    Error::new(kind, format!("{what}: {error}")).with_storage()
}
