//! The list of uploaded files and result files. Their bytes are in files next to the database.

use std::time::{SystemTime, UNIX_EPOCH};

use batchwright::{Error, ProcessId};
use rusqlite::{Connection, Row};

use super::{by, rows, run};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS files (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        purpose TEXT NOT NULL,
        filename TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        expires_at INTEGER,
        request TEXT -- the hash of an upload with an idempotency key
    );";

const COLUMNS: &str = "id, purpose, filename, bytes, created_at, expires_at, request";

/// A file as it is listed. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRecord {
    pub id: String,
    pub purpose: String,
    pub filename: String,
    pub bytes: u64,
    pub created_at: u64,
    pub expires_at: Option<u64>,
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

/// SQLite's numbers have a sign; times and lengths stay far below the limit.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

impl FileRecord {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            purpose: row.get(1)?,
            filename: row.get(2)?,
            bytes: unsigned(row.get(3)?),
            created_at: unsigned(row.get(4)?),
            expires_at: row.get::<_, Option<i64>>(5)?.map(unsigned),
            request: row.get(6)?,
        })
    }

    pub fn insert(&self, database: &Connection) -> Result<(), Error> {
        let sql = format!("REPLACE INTO files ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)");
        let by = by![
            &*self.id,
            &*self.purpose,
            &*self.filename,
            signed(self.bytes),
            signed(self.created_at),
            self.expires_at.map(signed),
            self.request
        ];
        run(database, &sql, by).map(drop)
    }

    pub fn get(database: &Connection, id: &str) -> Result<Option<Self>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM files WHERE id = ?");
        Ok(rows(database, &sql, by![id], Self::of)?.pop())
    }

    /// Takes it off the lists.
    pub fn delete(database: &Connection, id: &str) -> Result<(), Error> {
        run(database, "DELETE FROM files WHERE id = ?", by![id]).map(drop)
    }

    /// Up to `most` files of a purpose, after a file, oldest or newest first.
    pub fn list(
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
        let sql = format!(
            "SELECT {COLUMNS} FROM files
             WHERE (? IS NULL OR purpose = ?)
               AND (? IS NULL OR number {than} (SELECT number FROM files WHERE id = ?))
             ORDER BY number {order} LIMIT ?"
        );
        let most = signed(most as u64);
        let by = by![purpose, purpose, after, after, most];
        rows(database, &sql, by, Self::of)
    }

    /// Expired files.
    pub fn expired(database: &Connection, now: u64) -> Result<Vec<Self>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM files WHERE expires_at <= ? LIMIT 1000");
        rows(database, &sql, by![signed(now)], Self::of)
    }
}
