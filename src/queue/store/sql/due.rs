//! Due times that are too far in the future because the clock was set back.

use std::time::Duration;

use crate::base::{Error, Timestamp};
use crate::queue::job::PROMPT_KINDS;
use crate::queue::store::WorkerId;
use crate::queue::store::rows::{HELD, PENDING, WAITING, count};

use super::statements::{Dialect, Fault, Queries as _, Statements, by};
use super::{Again, SqlStore};

/// Due times within this time are not changed.
const SOON: Duration = Duration::from_secs(2);

/// Jobs that are due later than after any wait, that were enqueued (and postponed, if they were) at a future time, or
/// that check again later than after any wait: their number, and the last due time.
pub(crate) fn far_ahead(
    tx: &mut dyn Statements,
    longest: Duration,
    now: Timestamp,
) -> Result<(u64, Timestamp), Fault> {
    let (far, soon) = (now.after(longest).0, now.after(SOON).0);
    let waits = match tx.dialect() {
        Dialect::Sqlite => "INDEXED BY jobs_that_wait",
        #[cfg(feature = "mysql")]
        Dialect::Mysql => "FORCE INDEX (to_claim)",
    };
    let sql = format!(
        "SELECT CAST(SUM(jobs) AS SIGNED), IFNULL(MAX(last), 0) FROM (
           SELECT COUNT(*) AS jobs, MAX(visible_at) AS last FROM #jobs FORCE INDEX (to_claim)
             WHERE status = {PENDING} AND visible_at > {soon}
               AND (visible_at > {far} OR created_at > {soon} AND visible_at >= created_at)
           UNION ALL SELECT COUNT(*), MAX(visible_at) FROM #jobs {waits}
             WHERE status = {WAITING} AND visible_at > {far}) AS found"
    );
    let Some(mut found) = tx.rows_once(&sql)?.pop() else {
        return Ok((0, now));
    };
    Ok((count(found.at(0)?), Timestamp(found.at(1)?)))
}

pub(crate) fn pull_due(
    store: &impl SqlStore,
    worker: WorkerId,
    back: Duration,
    longest: Duration,
    now: Timestamp,
) -> Result<u64, Error> {
    if back.is_zero() && store.read(|tx| far_ahead(tx, longest, now))?.0 == 0 {
        return Ok(0);
    }
    let back = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
    let (far, now) = (now.after(longest).0, now.0);
    store.write_lazily(Again::Doubtful, |tx| {
        let older = tx.exists("SELECT 1 FROM #workers WHERE no < ? LIMIT 1", by![worker.0])?;
        let back = if older { 0 } else { back };
        tx.run_once(&format!(
                "UPDATE #jobs SET visible_at = CASE
                   WHEN created_at > {now} AND visible_at >= created_at AND ({back} = 0 OR has_history = 0) THEN {now}
                   WHEN visible_at - {back} > {far} AND lane IN (SELECT no FROM #lanes WHERE kind IN {PROMPT_KINDS}) THEN {now}
                   ELSE GREATEST({now}, LEAST(visible_at - {back}, {far})) END
                 WHERE status IN ({WAITING}, {PENDING}, {HELD}) AND visible_at > {now}
                   AND ({back} > 0 OR visible_at > {far} OR created_at > {now} AND visible_at >= created_at)"
        ))
    })
}
