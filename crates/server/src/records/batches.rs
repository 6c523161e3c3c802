//! Batches of the Batch endpoint: what their makers said of them, and how far they have come. Where their requests
//! stand is known to the queue alone, until they are finished.

use batchwright::{Error, ProcessId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Records, failed};

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
        process TEXT PRIMARY KEY,
        owner TEXT NOT NULL -- the server at whose connection the caller waits
    ) WITHOUT ROWID;";

/// Where a batch stands, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is wrong with an input, or with a line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchFault {
    pub code: String,
    /// Counted from 1.
    pub line: Option<u64>,
    pub message: String,
    pub param: Option<String>,
}

/// What became of the requests, once that is in files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchTotals {
    pub completed: u64,
    pub failed: u64,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
}

/// A batch. Times are seconds since 1970.
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
    pub model: Option<String>,
    pub faults: Vec<BatchFault>,
    pub total: u64,
    /// Those completed and those failed when their results began to leave the queue.
    pub ended: Option<(u64, u64)>,
    pub totals: Option<BatchTotals>,
    pub created_at: u64,
    pub expires_at: u64,
    pub in_progress_at: Option<u64>,
    pub finalizing_at: Option<u64>,
    pub completed_at: Option<u64>,
    pub failed_at: Option<u64>,
    pub expired_at: Option<u64>,
    pub cancelling_at: Option<u64>,
    pub cancelled_at: Option<u64>,
    /// Whether it came to have such a file.
    pub has_output: bool,
    pub has_errors: bool,
}

impl BatchRecord {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let record: String = row.get(1)?;
        let mut record: Self = serde_json::from_str(&record).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
        })?;
        record.id = row.get(0)?;
        Ok(record)
    }

    fn written(&self) -> String {
        serde_json::to_string(self).expect("a batch has a form in JSON")
    }

    pub fn insert(&self, database: &Connection) -> Result<(), Error> {
        let sql = "INSERT INTO batches (id, state, record) VALUES (?, ?, ?)";
        let row = params![self.id, self.state.as_str(), self.written()];
        let inserted = database.execute(sql, row);
        inserted
            .map(drop)
            .map_err(|error| failed("batches", &error))
    }

    /// Writes what has changed.
    pub fn update(&self, database: &Connection) -> Result<(), Error> {
        let sql = "UPDATE batches SET state = ?2, record = ?3 WHERE id = ?1";
        let row = params![self.id, self.state.as_str(), self.written()];
        let updated = database.execute(sql, row);
        updated.map(drop).map_err(|error| failed("batches", &error))
    }

    pub fn get(database: &Connection, id: &str) -> Result<Option<Self>, Error> {
        let sql = "SELECT id, record FROM batches WHERE id = ?";
        database
            .query_row(sql, [id], Self::of)
            .optional()
            .map_err(|error| failed("batches", &error))
    }

    /// Up to `most` batches behind `after`, newest first.
    pub fn list(
        database: &Connection,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Self>, Error> {
        let sql = "SELECT id, record FROM batches
                   WHERE ?1 IS NULL OR number < (SELECT number FROM batches WHERE id = ?1)
                   ORDER BY number DESC LIMIT ?2";
        let listed = || -> rusqlite::Result<Vec<Self>> {
            let mut statement = database.prepare(sql)?;
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            statement
                .query_map(params![after, most], Self::of)?
                .collect()
        };
        listed().map_err(|error| failed("batches", &error))
    }

    /// Those that something is still to be done for, oldest first.
    pub fn open(database: &Connection) -> Result<Vec<Self>, Error> {
        let sql = "SELECT id, record FROM batches
                   WHERE state IN ('validating', 'in_progress', 'finalizing', 'cancelling')
                   ORDER BY number";
        let listed = || -> rusqlite::Result<Vec<Self>> {
            let mut statement = database.prepare(sql)?;
            statement.query_map([], Self::of)?.collect()
        };
        listed().map_err(|error| failed("batches", &error))
    }
}

/// Processes whose caller waits at a connection: what is left of them after a crash belongs to nobody.
pub(crate) struct DirectCalls;

impl DirectCalls {
    /// Notes a process whose caller waits at this server.
    pub fn insert(records: &Records, process: ProcessId) -> Result<(), Error> {
        records.execute(
            "INSERT OR REPLACE INTO direct_calls (process, owner) VALUES (?, ?)",
            params![process.to_string(), records.owner.name],
        )
    }

    pub fn delete(records: &Records, process: ProcessId) -> Result<(), Error> {
        let sql = "DELETE FROM direct_calls WHERE process = ?";
        records.execute(sql, [process.to_string()])
    }

    /// Those of this server, and of servers that have died; others look after their own.
    pub fn ours(records: &Records) -> Result<Vec<ProcessId>, Error> {
        let listed = || -> rusqlite::Result<Vec<(String, String)>> {
            let database = records.lock();
            let mut statement = database.prepare("SELECT process, owner FROM direct_calls")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        let listed = listed().map_err(|error| failed("direct calls", &error))?;
        let ours = listed
            .iter()
            .filter(|(_, owner)| *owner == records.owner.name || records.owner.is_dead(owner));
        ours.map(|(process, _)| process.parse()).collect()
    }
}
