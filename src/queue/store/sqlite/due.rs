//! Due times that a clock which was set back left too far ahead.

use std::time::Duration;

use const_format::formatcp;
use rusqlite::{Connection, params};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::queue::job::PROMPT_KINDS;
use crate::queue::store::WorkerId;

use super::SqliteStore;
use super::rows::{HELD, PENDING, WAITING, count};
use super::writer::{Fault, Sync};

/// No wait is longer unless somebody has set it so: an hour, and what is added to spread callers.
pub(super) const LONGEST: Duration = Duration::from_secs(75 * 60);

/// What is due within this time can wait for it.
const SOON: Duration = Duration::from_secs(2);

/// Jobs due later than after any wait (?1), and those that were enqueued, and put off if they were, at a time that is
/// still to come (?2). Through the index: the table is read for jobs that are not due alone.
const FAR_AHEAD: &str = formatcp!(
    "FROM jobs INDEXED BY jobs_to_claim WHERE status = {PENDING} AND visible_at > ?2
    AND (visible_at > ?1 OR created_at > ?2 AND visible_at >= created_at)"
);

/// Jobs that wait for others, and look again later than after any wait (?1).
const FAR_LOOKS: &str =
    formatcp!("FROM jobs INDEXED BY jobs_that_wait WHERE status = {WAITING} AND visible_at > ?1");

/// How many there are, and the last due time.
pub(super) fn far_ahead(
    conn: &Connection,
    longest: Duration,
    now: Timestamp,
) -> Result<(u64, Timestamp), Fault> {
    let mut ask = conn.prepare_cached(formatcp!(
        "SELECT sum(jobs), ifnull(max(last), 0) FROM (SELECT count(*) AS jobs, max(visible_at) AS last {FAR_AHEAD}
           UNION ALL SELECT count(*), max(visible_at) {FAR_LOOKS})"
    ))?;
    let bounds = [now.after(longest).0, now.after(SOON).0];
    let found = ask.query_row(bounds, |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((count(found.0), Timestamp(found.1)))
}

impl SqliteStore {
    pub(super) fn pull_due(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        if back.is_zero() && self.read(|conn| far_ahead(conn, longest, now))?.0 == 0 {
            return Ok(0);
        }
        let back = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
        self.write(Sync::Lazy, |conn| {
            let mut find = conn.prepare_cached("SELECT 1 FROM workers WHERE no < ?1")?;
            let back = if find.exists([worker.0])? { 0 } else { back };
            let mut pull = conn.prepare_cached(formatcp!(
                "UPDATE jobs SET visible_at = CASE
                   WHEN created_at > ?3 AND visible_at >= created_at AND (?1 = 0 OR has_history = 0) THEN ?3
                   WHEN visible_at - ?1 > ?2 AND lane IN (SELECT no FROM lanes WHERE kind IN {PROMPT_KINDS}) THEN ?3
                   ELSE max(?3, min(visible_at - ?1, ?2)) END
                 WHERE status IN ({WAITING}, {PENDING}, {HELD}) AND visible_at > ?3
                   AND (?1 > 0 OR visible_at > ?2 OR created_at > ?3 AND visible_at >= created_at)"
            ))?;
            let changed = pull.execute(params![back, now.after(longest).0, now.0])?;
            Ok(changed as u64)
        })
    }
}
