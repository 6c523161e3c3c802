//! The log of changes of settings, whoever made them.

use std::collections::BTreeMap;

use batchwright::Error;
use batchwright::progress::Timestamp;
use rusqlite::params;
use serde::Serialize;

use super::{Records, failed};
use crate::shapes::time;

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS changes (
  no INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  key TEXT NOT NULL,
  before TEXT,               -- what was stored; NULL for nothing
  after TEXT,
  source TEXT NOT NULL
);
";

/// The oldest go when there are more.
const MOST: i64 = 10_000;

/// A stored setting that was changed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Change {
    #[serde(with = "time")]
    pub at: Timestamp,
    pub key: String,
    pub before: Option<String>,
    pub after: Option<String>,
    pub source: String,
}

impl Records {
    pub fn add_change(&self, change: &Change) -> Result<(), Error> {
        self.execute(
            "INSERT INTO changes (at, key, before, after, source) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                change.at.0,
                change.key,
                change.before,
                change.after,
                change.source
            ],
        )?;
        self.execute(
            "DELETE FROM changes WHERE no <= (SELECT max(no) FROM changes) - ?1",
            [MOST],
        )
    }

    /// The last ones, newest first.
    pub fn changes(&self, most: usize) -> Result<Vec<Change>, Error> {
        let database = self.lock();
        let read = database
            .prepare_cached(
                "SELECT at, key, before, after, source FROM changes ORDER BY no DESC LIMIT ?1",
            )
            .and_then(|mut read| {
                let rows = read.query_map([i64::try_from(most).unwrap_or(i64::MAX)], |row| {
                    Ok(Change {
                        at: Timestamp(row.get(0)?),
                        key: row.get(1)?,
                        before: row.get(2)?,
                        after: row.get(3)?,
                        source: row.get(4)?,
                    })
                })?;
                rows.collect()
            });
        read.map_err(|error| failed("server.db", &error))
    }

    /// What the last change of each key left.
    pub fn last_values(&self) -> Result<BTreeMap<String, Option<String>>, Error> {
        let database = self.lock();
        let read = database
            .prepare("SELECT key, after, max(no) FROM changes GROUP BY key")
            .and_then(|mut read| {
                let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                rows.collect()
            });
        read.map_err(|error| failed("server.db", &error))
    }
}
