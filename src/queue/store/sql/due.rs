//! Due times that are too far in the future because the clock was set back.

use std::time::Duration;

use crate::base::{Error, Timestamp};
use crate::queue::store::rows::PENDING;

use super::Again;
use super::statements::Queries as _;
use crate::queue::store::Store;

impl Store {
    /// Makes waiting jobs due that come due more than `longest` from now, or were enqueued at a future time: the clock
    /// was ahead when that was written. Returns the number of changed jobs.
    pub(crate) fn make_due(&self, longest: Duration, now: Timestamp) -> Result<u64, Error> {
        let (far, now) = (now.after(longest).0, now.0);
        let is_late = format!("visible_at > {now} AND (visible_at > {far} OR created_at > {now})");
        // Read first, because the update looks at all jobs, and hardly ever changes one.
        let any = format!(
            "SELECT 1 FROM #jobs FORCE INDEX (to_claim) WHERE status = {PENDING} AND {is_late} LIMIT 1"
        );
        let is_there = self.read(|tx| tx.exists(&any, Vec::new()))?;
        if !is_there {
            return Ok(0);
        }
        self.write_lazily(Again::Harmless, |tx| {
            tx.run_once(&format!(
                "UPDATE #jobs SET visible_at = {now} WHERE status = {PENDING} AND {is_late}"
            ))
        })
    }
}
