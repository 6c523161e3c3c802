//! The state of processes; their rows are locked in the order of their numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::queue::store::rows::DELETING;

use super::statements::{Fault, Row, Statements};

/// The state of a process that limits changes to its jobs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub chore: i64,
    pub is_cancelled: bool,
    pub sealed: i64,
    pub total: i64,
    pub pending: i64,
    pub consumed: i64,
}

/// Whether a chore prevents the start of jobs.
pub(crate) fn stops_starting(chore: i64) -> bool {
    chore == crate::queue::store::rows::CANCELLING || chore == DELETING
}

impl Standing {
    /// Whether its jobs must not start any more.
    pub(crate) fn stops_starting(&self) -> bool {
        stops_starting(self.chore)
    }

    /// Whether its running jobs are not retried.
    pub(crate) fn stops_trying(&self) -> bool {
        self.is_cancelled || self.chore == DELETING
    }
}

/// The query that locks processes, lowest number first.
pub(crate) const LOCKING: &str = "SELECT no, chore, cancelled, sealed, total, pending, consumed
     FROM #processes FORCE INDEX (PRIMARY) WHERE no IN :list ORDER BY no FOR UPDATE";

/// Locks processes, lowest number first, and reads their current states.
pub(crate) fn lock(
    tx: &mut dyn Statements,
    numbers: impl IntoIterator<Item = i64>,
) -> Result<BTreeMap<i64, Standing>, Fault> {
    let numbers: BTreeSet<i64> = numbers.into_iter().collect();
    if numbers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let numbers: Vec<i64> = numbers.into_iter().collect();
    standings(tx.rows_in(LOCKING, &numbers)?)
}

/// The states of the processes from the rows of the locking query.
pub(crate) fn standings(rows: Vec<Row>) -> Result<BTreeMap<i64, Standing>, Fault> {
    let mut found = BTreeMap::new();
    for mut row in rows {
        let standing = Standing {
            chore: row.at(1)?,
            is_cancelled: row.at::<i64>(2)? != 0,
            sealed: row.at(3)?,
            total: row.at(4)?,
            pending: row.at(5)?,
            consumed: row.at(6)?,
        };
        found.insert(row.at(0)?, standing);
    }
    Ok(found)
}
