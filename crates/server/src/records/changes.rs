//! The log of all changes of settings.

use std::collections::BTreeMap;

use batchwright::Error;
use batchwright::progress::Timestamp;
use serde::Serialize;

use super::Records;
use super::database::{Row, Statements, by};
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

/// The source of a change that no server made.
pub(crate) const ELSEWHERE: &str = "command line or another program";

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
    /// Logs a change, unless another server has logged the same.
    pub fn add_change(&self, change: &Change, is_ours: bool) -> Result<(), Error> {
        self.database.transaction_alone("changes", |database| {
            let last = database.first(
                "SELECT no, after, source FROM #changes WHERE `key` = ? ORDER BY no DESC LIMIT 1",
                by![&*change.key],
            )?;
            if let Some(mut last) = last
                && last.optional_text(1)? == change.after
            {
                let no = last.int(0)?;
                if !is_ours {
                    return Ok(());
                }
                if last.text(2)? == ELSEWHERE {
                    // The change was noticed before this server could record its source.
                    let by = by![&*change.source, no];
                    database.run("UPDATE #changes SET source = ? WHERE no = ?", by)?;
                    return Ok(());
                }
            }
            database.run(
                "INSERT INTO #changes (at, `key`, `before`, after, source) VALUES (?, ?, ?, ?, ?)",
                by![
                    change.at.0,
                    &*change.key,
                    change.before.as_deref(),
                    change.after.as_deref(),
                    &*change.source
                ],
            )?;
            database.run(
                "DELETE FROM #changes
                 WHERE no <= (SELECT no FROM (SELECT max(no) AS no FROM #changes) AS last) - ?",
                by![MOST],
            )?;
            Ok(())
        })
    }

    /// The last ones, newest first.
    pub fn changes(&self, most: usize) -> Result<Vec<Change>, Error> {
        let rows = self.single().rows(
            "SELECT at, `key`, `before`, after, source FROM #changes ORDER BY no DESC LIMIT ?",
            by![i64::try_from(most).unwrap_or(i64::MAX)],
        )?;
        let change = |mut row: Row| {
            Ok(Change {
                at: Timestamp(row.int(0)?),
                key: row.text(1)?,
                before: row.optional_text(2)?,
                after: row.optional_text(3)?,
                source: row.text(4)?,
            })
        };
        rows.into_iter().map(change).collect()
    }

    /// The value of each key after its last change.
    pub fn last_values(&self) -> Result<BTreeMap<String, Option<String>>, Error> {
        let rows = self.single().rows(
            "SELECT `key`, after FROM #changes WHERE no IN (SELECT max(no) FROM #changes GROUP BY `key`)",
            &[],
        )?;
        let pair = |mut row: Row| Ok((row.text(0)?, row.optional_text(1)?));
        rows.into_iter().map(pair).collect()
    }
}
