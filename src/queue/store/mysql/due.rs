//! Due times that a clock which was set back left too far ahead.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::queue::job::PROMPT_KINDS;
use crate::queue::store::WorkerId;

use super::MysqlStore;
use super::rows::{HELD, PENDING, WAITING, count};
use super::writer::{Again, Fault, Tx, by};

/// No wait is longer unless somebody has set it so: an hour, and what is added to spread callers.
pub(super) const LONGEST: Duration = Duration::from_secs(75 * 60);

/// What is due within this time can wait for it.
const SOON: Duration = Duration::from_secs(2);

/// Jobs due later than after any wait, those that were enqueued, and put off if they were, at a time that is still to
/// come, and those that look again later than after any wait: how many there are, and the last due time.
pub(super) fn far_ahead(
    tx: &mut Tx<'_>,
    longest: Duration,
    now: Timestamp,
) -> Result<(u64, Timestamp), Fault> {
    let (far, soon) = (now.after(longest).0, now.after(SOON).0);
    let sql = format!(
        "SELECT CAST(SUM(jobs) AS SIGNED), IFNULL(MAX(last), 0) FROM (
           SELECT COUNT(*) AS jobs, MAX(visible_at) AS last FROM #jobs FORCE INDEX (to_claim)
             WHERE status = {PENDING} AND visible_at > {soon}
               AND (visible_at > {far} OR created_at > {soon} AND visible_at >= created_at)
           UNION ALL SELECT COUNT(*), MAX(visible_at) FROM #jobs FORCE INDEX (to_claim)
             WHERE status = {WAITING} AND visible_at > {far}) AS found"
    );
    let Some(mut found) = tx.first(&sql, Vec::new())? else {
        return Ok((0, now));
    };
    Ok((count(found.at(0)?), Timestamp(found.at(1)?)))
}

impl MysqlStore {
    pub(super) fn pull_due(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        if back.is_zero() && self.read(|tx| far_ahead(tx, longest, now))?.0 == 0 {
            return Ok(0);
        }
        let back = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
        let (far, now) = (now.after(longest).0, now.0);
        self.write(Again::Doubtful, |tx| {
            let older = tx.exists("SELECT 1 FROM #workers WHERE no < ? LIMIT 1", by![worker.0])?;
            let back = if older { 0 } else { back };
            tx.run(
                &format!(
                    "UPDATE #jobs SET visible_at = CASE
                       WHEN created_at > {now} AND visible_at >= created_at AND ({back} = 0 OR has_history = 0) THEN {now}
                       WHEN visible_at - {back} > {far} AND lane IN (SELECT no FROM #lanes WHERE kind IN {PROMPT_KINDS}) THEN {now}
                       ELSE GREATEST({now}, LEAST(visible_at - {back}, {far})) END
                     WHERE status IN ({WAITING}, {PENDING}, {HELD}) AND visible_at > {now}
                       AND ({back} > 0 OR visible_at > {far} OR created_at > {now} AND visible_at >= created_at)"
                ),
                Vec::new(),
            )
        })
    }
}
