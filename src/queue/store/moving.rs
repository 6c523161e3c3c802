//! Interface of a store whose queue can move: its tables as rows, and a mark that closes the queue.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use rusqlite::types::Value;
use serde::{Deserialize, Serialize};

use crate::base::{Error, ErrorKind, Timestamp};

/// Added to the schema version of a closed queue. Programs without support for marks then refuse it as too new.
pub const CLOSED: i64 = 1_000_000;

/// Why a queue is closed. It is stored in the queue itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum MoveMark {
    /// An export has begun, and its file is not complete.
    Exporting {
        export: String,
        /// A part of the name of the unfinished file.
        attempt: String,
        file: String,
        at: i64,
    },
    /// The file is complete.
    Exported {
        export: String,
        file: String,
        at: i64,
    },
    /// An import into this queue has begun, and is not complete.
    Importing {
        export: String,
        /// Made for this import into this queue. Another queue at the same path has another one.
        #[serde(default)]
        target: String,
        /// Changes with each attempt at the import: only the newest attempt may write.
        #[serde(default)]
        attempt: String,
        file: String,
        at: i64,
    },
    /// This is the file of an export.
    File {
        export: String,
        source: String,
        at: i64,
        state: FileState,
    },
}

/// State of the file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum FileState {
    /// It can be imported.
    Ready,
    /// An import has begun.
    Importing {
        to: String,
        /// The same as in the mark of that queue.
        #[serde(default)]
        target: String,
    },
    /// The import is complete, and the queue there can be opened.
    Imported {
        to: String,
        #[serde(default)]
        target: String,
    },
    /// The source was reopened.
    Void,
}

fn day(at: i64) -> String {
    let since = Duration::from_millis(u64::try_from(at).unwrap_or(0));
    let at = std::time::UNIX_EPOCH + since;
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Error text for a mark that cannot be read.
pub(super) const ODD_MARK: &str = "a mark of a move that cannot be read";

impl MoveMark {
    /// A mark in JSON.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Why the queue at `place` cannot be used.
    pub fn refusal(&self, place: &str) -> Error {
        let why = match self {
            Self::Exporting { file, at, .. } => format!(
                "{place} is closed: its export to {file} began at {} and has not ended. To finish it: batchwright queue \
                 export {file}; to undo it: batchwright queue reopen",
                day(*at)
            ),
            Self::Exported { file, at, .. } => format!(
                "{place} is closed: the queue was moved to {file} at {}. Use the queue into which that file was \
                 imported; to use this one again instead: batchwright queue reopen",
                day(*at)
            ),
            Self::Importing { file, at, .. } => format!(
                "{place} is closed: an import of {file} into it began at {} and has not ended. To finish it: \
                 batchwright queue import {file}",
                day(*at)
            ),
            Self::File { .. } => format!(
                "{place} is the file of an exported queue. To use it, import it: batchwright queue import {place}"
            ),
        };
        Error::new(ErrorKind::Invalid, why).with_storage()
    }
}

/// The refusal of a program that opened the queue before it was closed.
pub(super) fn moved_meanwhile(place: &str) -> Error {
    let why = format!(
        "{place} was closed for a move after this program had opened it; nothing was written. Start the program again, \
         at the queue's new place"
    );
    Error::new(ErrorKind::Invalid, why).with_storage()
}

/// The refusal of an import whose mark was replaced.
pub(super) fn taken_over(place: &str) -> Error {
    let why = format!(
        "another import took over {place}; this one has stopped and writes nothing more. Wait until the other one has \
         ended"
    );
    Error::new(ErrorKind::Invalid, why).with_storage()
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    Int,
    Real,
    Text,
    Bytes,
}

/// A table that moves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovedTable {
    pub name: String,
    /// Whether it belongs to the HTTP server, not to the queue.
    #[serde(default)]
    pub of_server: bool,
    /// The key columns come first.
    pub columns: Vec<(String, ColumnKind)>,
    /// Number of key columns.
    #[serde(default = "one")]
    pub keys: usize,
    /// The columns that may be long.
    #[serde(default)]
    pub long: Vec<String>,
}

fn one() -> usize {
    1
}

/// All tables, in the order in which they are copied.
pub static MOVED_TABLES: LazyLock<Vec<MovedTable>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("moved_tables.json")).expect("a test reads the tables")
});

/// The bytes of the HTTP server's files. For a queue in SQLite they are separate files.
pub const PIECES: &str = "pieces";

/// The tables whose numbers are never reused.
pub const NUMBERED: [&str; 3] = ["lanes", "processes", "batches"];

/// Maximum number of bytes of one piece of rows, unless a single row has more.
pub const PIECE_BYTES: usize = 4 << 20;

impl MovedTable {
    /// A table by its name.
    pub fn named(name: &str) -> &'static Self {
        let found = MOVED_TABLES.iter().find(|table| table.name == name);
        found.unwrap_or(&MOVED_TABLES[0])
    }

    /// The columns as a list. `named` gives the name of a column in the database.
    pub(super) fn list(&self, named: impl Fn(&str) -> &str) -> String {
        let columns = self
            .columns
            .iter()
            .map(|(name, _)| format!("`{}`", named(name)));
        columns.collect::<Vec<_>>().join(", ")
    }

    /// The key's columns in the order of the rows.
    pub(super) fn order(&self, direction: &str) -> String {
        let keys = self.columns[..self.keys].iter();
        let keys = keys.map(|(name, _)| format!("`{name}` {direction}"));
        keys.collect::<Vec<_>>().join(", ")
    }

    /// The condition that a row's key is greater (`>`) than another key, or at most equal (`<=`), and the values to
    /// bind.
    pub(super) fn compared(&self, how: &str, key: &[Value]) -> (String, Vec<Value>) {
        let first = &self.columns[0].0;
        match (key, self.keys) {
            ([one, two, ..], 2) => {
                let strict = how.trim_end_matches('=');
                let second = &self.columns[1].0;
                let sql =
                    format!("(`{first}` {strict} ? OR (`{first}` = ? AND `{second}` {how} ?))");
                (sql, vec![one.clone(), one.clone(), two.clone()])
            }
            ([one, ..], _) => (format!("`{first}` {how} ?"), vec![one.clone()]),
            ([], _) => ("1 = 1".to_owned(), Vec::new()),
        }
    }
}

/// The approximate size of a row in bytes.
pub fn row_bytes(row: &[Value]) -> usize {
    let cells = row.iter().map(|cell| match cell {
        Value::Text(text) => text.len() + 9,
        Value::Blob(bytes) => bytes.len() + 9,
        _ => 9,
    });
    cells.sum()
}

/// A program that uses a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueUser {
    pub name: String,
    /// It is a worker whose lease has ended. It was killed, or cannot reach the database.
    pub lease_ended: bool,
}

/// Identifies a queue; a part of the ids of its jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueIdentity {
    pub id: String,
    pub salt: i64,
}

/// A store whose queue can move. Its methods work on a closed queue; all other methods of the store reject writes to
/// one.
pub trait MovableStore: Send + Sync {
    /// Includes the records of the HTTP server in this file in the move. A store that holds them itself does nothing.
    fn attach_records(&self, path: &Path) -> Result<(), Error>;

    /// Why the queue is closed; `None` if it is open.
    fn mark(&self) -> Result<Option<MoveMark>, Error>;

    /// Replaces the mark if it is still exactly `before`; otherwise returns false. Setting the first mark closes the
    /// queue, and removing the mark opens it. A queue can be closed only if no worker is registered, and for an import
    /// only if it is empty.
    fn set_mark(&self, before: Option<&MoveMark>, after: Option<&MoveMark>) -> Result<bool, Error>;

    /// The programs that use the queue now. Dead workers are unregistered first.
    fn users(&self, now: Timestamp) -> Result<Vec<QueueUser>, Error>;

    /// Duration of a worker's lease; 0 if the store detects a dead worker immediately.
    fn lease(&self) -> Duration {
        Duration::ZERO
    }

    /// The identity of the queue.
    fn identity(&self) -> Result<QueueIdentity, Error>;

    /// Sets the identity of the queue that is imported. Fails if the mark is not `own`.
    fn set_identity(&self, identity: &QueueIdentity, own: &MoveMark) -> Result<(), Error>;

    /// The last number that was assigned in a table of [`NUMBERED`].
    fn last_number(&self, table: &str) -> Result<i64, Error>;

    /// Makes all later numbers greater than `last`. Fails if the mark is not `own`.
    fn set_last_number(&self, table: &str, last: i64, own: &MoveMark) -> Result<(), Error>;

    /// The next rows after a key, in key order, up to a number of rows and a few megabytes.
    fn rows(
        &self,
        table: &MovedTable,
        after: Option<&[Value]>,
        most: usize,
    ) -> Result<Vec<Vec<Value>>, Error>;

    /// Adds rows in one transaction, which fails if the mark is not `own`.
    fn add_rows(
        &self,
        table: &MovedTable,
        rows: Vec<Vec<Value>>,
        own: &MoveMark,
    ) -> Result<(), Error>;

    /// The greatest key of a table.
    fn last_key(&self, table: &MovedTable) -> Result<Option<Vec<Value>>, Error>;

    /// Number of rows of a table.
    fn count_rows(&self, table: &MovedTable) -> Result<u64, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_can_be_read() {
        assert_eq!(MOVED_TABLES.len(), 18);
        for table in MOVED_TABLES.iter() {
            assert!((1..=2).contains(&table.keys), "{table:?}");
            let has = |long: &String| table.columns.iter().any(|(name, _)| name == long);
            assert!(table.long.iter().all(has), "{table:?}");
        }
    }
}
