//! Due times that a clock which was set back left too far ahead.

use std::time::Duration;

use const_format::formatcp;
use rusqlite::{Connection, params};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::queue::store::WorkerId;

use super::SqliteStore;
use super::rows::{HELD, PENDING, WAITING, count};
use super::writer::{Fault, Sync};

/// No wait is longer unless somebody has set it so: an hour, and what is added to spread callers.
pub(super) const LONGEST: Duration = Duration::from_secs(75 * 60);

/// What is due within this time can wait for it.
const SOON: Duration = Duration::from_secs(2);

/// Jobs due later than after any wait (?1), and those that wait although they were enqueued in a time to
/// come (?2). Through the index: the table is read for jobs that are not due alone.
const FAR_AHEAD: &str = formatcp!(
    "FROM jobs INDEXED BY jobs_to_claim WHERE status = {PENDING} AND visible_at > ?2
    AND (visible_at > ?1 OR created_at > ?2 AND has_history = 0)"
);

/// Jobs that wait for others, and look again later than after any wait (?1).
const FAR_LOOKS: &str =
    formatcp!("FROM jobs INDEXED BY jobs_that_wait WHERE status = {WAITING} AND visible_at > ?1");

pub(super) fn far_ahead(
    conn: &Connection,
    longest: Duration,
    now: Timestamp,
) -> Result<u64, Fault> {
    let mut ask = conn.prepare_cached(formatcp!(
        "SELECT (SELECT count(*) {FAR_AHEAD}) + (SELECT count(*) {FAR_LOOKS})"
    ))?;
    let jobs = ask.query_row([now.after(longest).0, now.after(SOON).0], |row| row.get(0))?;
    Ok(count(jobs))
}

impl SqliteStore {
    pub(super) fn pull_due(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        if back.is_zero() && self.read(|conn| far_ahead(conn, longest, now))? == 0 {
            return Ok(0);
        }
        let back = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
        self.write(Sync::Lazy, |conn| {
            let mut find = conn.prepare_cached("SELECT 1 FROM workers WHERE no < ?1")?;
            let back = if find.exists([worker.0])? { 0 } else { back };
            let mut pull = conn.prepare_cached(formatcp!(
                "UPDATE jobs SET visible_at = CASE WHEN created_at > ?3 AND has_history = 0 THEN ?3
                   ELSE max(?3, min(visible_at - ?1, ?2)) END
                 WHERE status IN ({WAITING}, {PENDING}, {HELD}) AND visible_at > ?3
                   AND (?1 > 0 OR visible_at > ?2 OR created_at > ?3 AND has_history = 0)"
            ))?;
            let changed = pull.execute(params![back, now.after(longest).0, now.0])?;
            Ok(changed as u64)
        })
    }
}
