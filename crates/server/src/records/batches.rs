//! Batches of the Batch endpoint: what their clients specified, and their progress. Only the queue knows the states of
//! their requests until they are finished.

use std::collections::BTreeMap;

use batchwright::{Error, ErrorKind, ProcessId, Usage};
use rusqlite::{Connection, Row, ToSql};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::files::{now, signed};
use super::{Records, by, rows, run};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS batches (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        record TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS open_batches ON batches (state)
        WHERE state IN ('validating', 'in_progress', 'finalizing', 'cancelling');
    CREATE TABLE IF NOT EXISTS direct_calls (
        process TEXT PRIMARY KEY, -- its caller waits at a connection
        kept_until INTEGER NOT NULL -- its answer; 0 without an idempotency key
    ) WITHOUT ROWID;";

/// The state of a batch, as OpenAI names it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::IntoStaticStr,
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
    #[serde(skip)]
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
    pub times: BTreeMap<BatchState, u64>,
    /// Whether it has such a file.
    pub has_output: bool,
    pub has_errors: bool,
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

    fn of((id, record): (String, String)) -> Result<Self, Error> {
        let record: Self = serde_json::from_str(&record).map_err(|error| {
            let why = format!("a batch is damaged: {error}");
            Error::new(ErrorKind::Malformed, why).with_storage()
        })?;
        Ok(Self { id, ..record })
    }

    fn all(database: &Connection, sql: &str, by: &[&dyn ToSql]) -> Result<Vec<Self>, Error> {
        let rows = rows(database, sql, by, |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.into_iter().map(Self::of).collect()
    }

    fn written(&self) -> String {
        serde_json::to_string(self).expect("a batch has a form in JSON")
    }

    pub fn insert(&self, database: &Connection) -> Result<(), Error> {
        let sql = "REPLACE INTO batches (id, state, record) VALUES (?, ?, ?)";
        let by = by![&*self.id, self.state.as_str(), self.written()];
        run(database, sql, by).map(drop)
    }

    /// Writes the changes.
    fn update(&self, database: &Connection) -> Result<(), Error> {
        let sql = "UPDATE batches SET state = ?, record = ? WHERE id = ?";
        let by = by![self.state.as_str(), self.written(), &*self.id];
        run(database, sql, by).map(drop)
    }

    /// Changes the current record of a batch in a transaction; nothing if `change` fails. `None` if the batch does not
    /// exist.
    pub fn change<E: From<Error>>(
        database: &Connection,
        id: &str,
        change: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<Option<Self>, E> {
        let Some(mut batch) = Self::get(database, id)? else {
            return Ok(None);
        };
        change(&mut batch)?;
        batch.update(database)?;
        Ok(Some(batch))
    }

    pub fn get(database: &Connection, id: &str) -> Result<Option<Self>, Error> {
        let sql = "SELECT id, record FROM batches WHERE id = ?";
        Ok(Self::all(database, sql, by![id])?.pop())
    }

    /// Up to `most` batches after `after`, newest first.
    pub fn list(
        database: &Connection,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Self>, Error> {
        let sql = "SELECT id, record FROM batches
                   WHERE (? IS NULL OR number < (SELECT number FROM batches WHERE id = ?))
                   ORDER BY number DESC LIMIT ?";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        Self::all(database, sql, by![after, after, most])
    }

    /// Those that something is still to be done for, oldest first.
    pub fn open(database: &Connection) -> Result<Vec<Self>, Error> {
        let sql = "SELECT id, record FROM batches
                   WHERE state IN ('validating', 'in_progress', 'finalizing', 'cancelling')
                   ORDER BY number";
        Self::all(database, sql, &[])
    }
}

/// Processes whose client waits at a connection: after a crash, no one needs the rest of them.
pub(crate) struct DirectCalls;

impl DirectCalls {
    /// Records a process whose client waits, and until when its answer is kept, unless it is recorded.
    pub fn insert(records: &Records, process: ProcessId, kept_until: u64) -> Result<(), Error> {
        let sql = "INSERT OR IGNORE INTO direct_calls (process, kept_until) VALUES (?, ?)";
        let by = by![process.to_string(), signed(kept_until)];
        run(&records.single(), sql, by).map(drop)
    }

    pub fn delete(records: &Records, process: ProcessId) -> Result<(), Error> {
        let sql = "DELETE FROM direct_calls WHERE process = ?";
        let by = by![process.to_string()];
        run(&records.single(), sql, by).map(drop)
    }

    /// Those that nobody needs unless a client waits, also those of a server that has crashed.
    pub fn due(records: &Records, now: u64) -> Result<Vec<ProcessId>, Error> {
        let sql = "SELECT process FROM direct_calls WHERE kept_until <= ?";
        let read = |row: &Row<'_>| row.get::<_, String>(0);
        let rows = rows(&records.single(), sql, by![signed(now)], read)?;
        rows.iter().map(|process| process.parse()).collect()
    }
}
