//! Data of the server itself, in `server.db` in its folder: uploaded files, batches, webhook messages. Data that the queue
//! has is not stored twice.

mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use batchwright::queue::Durability;
use batchwright::unstable::{SERVER, check_whole, read_form, write_form};
use batchwright::{Context, Error, ErrorKind, ProcessId, Usage};
use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use rusqlite::{Connection, Row, ToSql, Transaction, TransactionBehavior, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strum::{IntoStaticStr, VariantArray};

use crate::background::Wake;
use steps::Steps;

fn is_damaged(id: &str) -> String {
    format!(
        "the record of {id} in server.db is damaged: nothing is done with it until server.db is restored from a backup"
    )
}

/// Logs what is found at each look at the records.
pub(crate) fn warn_once(why: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if TOLD.lock().insert(why.to_owned()) {
        log::error!("{why}");
    }
}

/// The first column as an id, also if it is damaged: the others go on.
fn id_in(row: &Row<'_>) -> rusqlite::Result<String> {
    let bytes = row.get_ref(0)?.as_bytes().unwrap_or_default();
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

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

/// What is stored as one JSON object, in a table with its number and its id.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    const TABLE: &'static str;

    /// Adds the record, or replaces the one with its id, which keeps its number.
    fn store(&self, database: &Connection) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO {} (id, record) VALUES (?1 ->> 'id', ?1)
             ON CONFLICT (id) DO UPDATE SET record = excluded.record",
            Self::TABLE
        );
        run(database, &sql, params![write_form(self)]).map(drop)
    }

    fn delete(database: &Connection, id: &str) -> Result<(), Error> {
        let sql = format!("DELETE FROM {} WHERE id = ?", Self::TABLE);
        run(database, &sql, params![id]).map(drop)
    }

    /// The record of a row with its id and its text.
    fn of(row: &Row<'_>) -> rusqlite::Result<Result<Self, Error>> {
        let text = row.get_ref(1)?.as_str().unwrap_or_default();
        let id = id_in(row)?;
        let read = read_form("its text", text);
        Ok(read.map_err(|error| {
            let why = format!("{} ({})", is_damaged(&id), error.message());
            Error::new(ErrorKind::Malformed, why)
        }))
    }

    /// Up to `most` of the records that this condition selects, without those that are damaged: the others go on.
    fn some(
        database: &Connection,
        which: &str,
        by: &[&dyn ToSql],
        most: usize,
    ) -> Result<Vec<Self>, Error> {
        let read = || -> rusqlite::Result<Vec<Self>> {
            let sql = format!(
                "SELECT id, record FROM {} WHERE json_valid(record) AND {which}",
                Self::TABLE
            );
            let mut statement = database.prepare_cached(&sql)?;
            let (mut rows, mut found) = (statement.query(by)?, Vec::new());
            while found.len() < most
                && let Some(row) = rows.next()?
            {
                match Self::of(row)? {
                    Ok(record) => found.push(record),
                    Err(error) => warn_once(error.message()),
                }
            }
            Ok(found)
        };
        read().map_err(|error| failed(database, &error))
    }

    /// All of them.
    fn all(database: &Connection, which: &str, by: &[&dyn ToSql]) -> Result<Vec<Self>, Error> {
        Self::some(database, which, by, usize::MAX)
    }

    /// The record of this id.
    ///
    /// # Errors
    /// Also when it is damaged.
    fn get(database: &Connection, id: &str) -> Result<Option<Self>, Error> {
        let sql = format!("SELECT id, record FROM {} WHERE id = ?", Self::TABLE);
        let found = rows(database, &sql, params![id], Self::of)?.pop();
        found.transpose()
    }

    /// Up to `most` records after this one, oldest or newest first; of files, those of a purpose.
    fn list(
        database: &Connection,
        purpose: Option<&str>,
        after: Option<&str>,
        ascending: bool,
        most: usize,
    ) -> Result<Vec<Self>, Error> {
        let (than, order) = if ascending {
            (">", "ASC")
        } else {
            ("<", "DESC")
        };
        let which = format!(
            "(?1 IS NULL OR record ->> 'purpose' = ?1)
             AND (?2 IS NULL OR number {than} (SELECT number FROM {} WHERE id = ?2))
             ORDER BY number {order}",
            Self::TABLE
        );
        Self::some(database, &which, params![purpose, after], most)
    }
}

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

/// Opens `server.db`, which is created if it does not exist.
fn connect(path: &Path, durability: Durability, ctx: &Context) -> Result<Connection, Error> {
    let synchronous = match durability {
        Durability::Full => "full",
        Durability::Normal => "normal",
    };
    let failed = |error: rusqlite::Error| unusable(path, kind_of(&error), error);
    let refused = |error: Error| unusable(path, error.kind(), error.message());
    check_whole(path).map_err(refused)?;
    SERVER.create(path, SCHEMA).map_err(failed)?;
    SERVER.take_over(path, ctx).map_err(refused)?;
    let connection = Connection::open(path).map_err(failed)?;
    let version = || -> rusqlite::Result<i64> {
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    let prepare = || -> rusqlite::Result<String> {
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    };
    let (found, newest) = (version().map_err(failed)?, SERVER.newest());
    if found != newest {
        let why = format!("it has version {found}, and this program knows version {newest}");
        return Err(unusable(path, ErrorKind::Invalid, why));
    }
    match prepare().map_err(failed)? {
        check if check == "ok" => {
            for table in ["files", "batches", "webhooks"] {
                let sql = format!("SELECT id FROM {table} WHERE NOT json_valid(record)");
                for id in rows(&connection, &sql, &[], id_in)? {
                    warn_once(&is_damaged(&id));
                }
            }
            Ok(connection)
        }
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

/// The tables. Released ones never change; new ones are appended.
const SCHEMA: &str = include_str!("schema.sql");

/// An open database of records.
pub(crate) struct Records {
    /// Reentrant, so that a function that is called while it is locked can read records, too.
    database: ReentrantMutex<Connection>,
    steps: Mutex<Steps>,
    /// Wakes the thread that sends messages, if the server has a webhook.
    pub webhook: Option<Arc<Wake>>,
}

impl Records {
    /// Opens the file, which is created if it does not exist. A cancelled context ends the wait for who has an old one open.
    ///
    /// # Errors
    /// When it cannot be used; the message names its path and a remedy.
    pub fn open(path: &Path, durability: Durability, ctx: &Context) -> Result<Self, Error> {
        let connection = connect(path, durability, ctx)?;
        Ok(Self {
            steps: Mutex::new(Steps::of(&connection)?),
            database: ReentrantMutex::new(connection),
            webhook: None,
        })
    }

    /// Statements that are committed one by one.
    pub fn single(&self) -> ReentrantMutexGuard<'_, Connection> {
        self.database.lock()
    }

    /// Copies what was written into the file itself, so that a damaged log does not take it along.
    pub fn secure(&self) {
        let copied = self
            .single()
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = copied {
            log::debug!("server.db: {error}");
        }
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

/// A file as it is listed. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub id: String,
    pub purpose: String,
    pub filename: String,
    pub bytes: u64,
    pub created_at: u64,
    pub expires_at: Option<u64>,
    /// The hash of an upload with an idempotency key.
    pub request: Option<String>,
}

/// A new id: a prefix for its type, and 128 random bits.
pub(crate) fn new_id(what: &str) -> String {
    id_of(what, ProcessId::new())
}

/// The id of an object with these bits.
pub(crate) fn id_of(what: &str, id: ProcessId) -> String {
    format!("{what}{}", id.to_string().replace('-', ""))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Stored for FileRecord {
    const TABLE: &'static str = "files";
}

impl FileRecord {
    /// Expired files.
    pub fn expired(database: &Connection, now: u64) -> Result<Vec<Self>, Error> {
        let which = "record ->> 'expires_at' <= ? LIMIT 1000";
        Self::all(database, which, params![now as i64])
    }
}

/// The state of a batch, as OpenAI names it. Clients see the times of all but the first one, which is `created_at`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum BatchState {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl BatchState {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An error of an input, or of a line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchFault {
    pub code: String,
    /// Counted from 1.
    pub line: Option<u64>,
    pub message: String,
    pub param: Option<String>,
}

impl BatchFault {
    /// A fault of no line.
    pub fn new(code: &str, message: impl Into<String>, param: Option<&str>) -> Self {
        Self {
            code: code.to_owned(),
            line: None,
            message: message.into(),
            param: param.map(str::to_owned),
        }
    }
}

/// The numbers of requests by outcome, once the results are in files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchTotals {
    pub completed: u64,
    pub failed: u64,
    #[serde(flatten)]
    pub usage: Usage,
}

/// A batch. Times are seconds since 1970.
// More than 15 fields: all that the database stores of a batch, as one JSON object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BatchRecord {
    pub id: String,
    pub state: BatchState,
    pub process: ProcessId,
    pub endpoint: String,
    pub input_file: String,
    pub output_file: String,
    pub error_file: String,
    /// How long its files are kept, in seconds.
    pub output_kept: Option<u64>,
    pub metadata: Option<Box<RawValue>>,
    /// The hash of what its client asked for, with an idempotency key.
    #[serde(default)]
    pub request: Option<String>,
    pub model: Option<String>,
    pub faults: Vec<BatchFault>,
    pub total: u64,
    /// Those completed and those failed when their results began to leave the queue.
    pub ended: Option<(u64, u64)>,
    pub totals: Option<BatchTotals>,
    pub created_at: u64,
    pub expires_at: u64,
    /// When it entered each state. It expires, or is cancelled, before all its results are in files.
    pub times: HashMap<BatchState, u64>,
    /// Whether it has such a file.
    pub has_output: bool,
    pub has_errors: bool,
}

impl Stored for BatchRecord {
    const TABLE: &'static str = "batches";
}

impl BatchRecord {
    /// Records that the batch enters this state now.
    pub fn enter(&mut self, state: BatchState) {
        self.state = state;
        self.times.insert(state, now());
    }

    pub fn has_been(&self, state: BatchState) -> bool {
        self.times.contains_key(&state)
    }

    /// Changes the current record of a batch in a transaction; nothing if `change` fails.
    ///
    /// # Errors
    /// That of `change`, or of the database; when the batch does not exist.
    pub fn change<E: From<Error>>(
        database: &Connection,
        id: &str,
        change: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<Self, E> {
        let gone = || Error::new(ErrorKind::NotFound, format!("there is no batch {id}"));
        let mut batch = Self::get(database, id)?.ok_or_else(gone)?;
        change(&mut batch)?;
        batch.store(database)?;
        Ok(batch)
    }

    /// Those that something is still to be done for, oldest first.
    pub fn open(database: &Connection) -> Result<Vec<Self>, Error> {
        let which =
            "record ->> 'state' IN ('validating', 'in_progress', 'finalizing', 'cancelling')
             ORDER BY number";
        Self::all(database, which, &[])
    }
}

/// Processes whose client waits at a connection: after a crash, no one needs the rest of them.
pub(crate) struct DirectCalls;

impl DirectCalls {
    /// Records a process whose client waits, and until when its answer is kept, unless it is recorded.
    pub fn insert(records: &Records, process: ProcessId, kept_until: u64) -> Result<(), Error> {
        let sql = "INSERT OR IGNORE INTO direct_calls (process, kept_until) VALUES (?, ?)";
        let process = process.to_string();
        run(&records.single(), sql, params![process, kept_until as i64]).map(drop)
    }

    pub fn delete(records: &Records, process: ProcessId) -> Result<(), Error> {
        let sql = "DELETE FROM direct_calls WHERE process = ?";
        run(&records.single(), sql, params![process.to_string()]).map(drop)
    }

    /// Those that nobody needs unless a client waits, also those of a server that has crashed.
    pub fn due(records: &Records, now: u64) -> Result<Vec<ProcessId>, Error> {
        let sql = "SELECT process FROM direct_calls WHERE kept_until <= ?";
        let rows = rows(&records.single(), sql, params![now as i64], id_in)?;
        // A damaged one is passed over.
        Ok(rows
            .iter()
            .filter_map(|process| process.parse().ok())
            .collect())
    }
}
