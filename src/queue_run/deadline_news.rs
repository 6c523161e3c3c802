//! What a run with a deadline reports once of its batches.

use std::collections::HashSet;
use std::time::Duration;

use crate::base::{Time, Timestamp};
use crate::money::outlook::Outlook;
use crate::queue::batch::OwnBatch;
use crate::queue::store::BatchNo;

use super::own_batches::{Groups, is_unconfirmed};

/// A worker has taken the batches of an earlier run over after this time.
pub(super) const TAKE_OVER: Duration = Duration::from_secs(5);

/// What was reported.
#[derive(Default)]
pub(super) struct News {
    /// Batches whose cancellation is confirmed late.
    late: HashSet<BatchNo>,
    /// Batches that cannot be withdrawn.
    kept: HashSet<BatchNo>,
    /// Since when jobs are in batches of other workers, and whether that was reported.
    others: Option<(Time, bool)>,
    /// The deadline was missed.
    pub was_missed: bool,
}

impl News {
    /// What is new, one line each. `wait` is the time after which a cancellation is late.
    pub(super) fn of(
        &mut self,
        outlook: &Outlook,
        own: &[OwnBatch],
        wait: Duration,
        (now, wall): (Time, Timestamp),
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let drops = outlook.batch.is_some_and(|batch| !batch.keeps_results);
        let has_answers = |batch: &&OwnBatch| {
            let answers = batch.answered.is_some_and(|answered| answered > 0);
            answers && !batch.may_be_cancelled && !batch.has_ended && !batch.is_stuck
        };
        for batch in own.iter().filter(|batch| drops && has_answers(batch)) {
            if self.kept.insert(batch.no) {
                lines.push(format!(
                    "batch {} has answers that would be lost if it were cancelled, so its {} items stay in it, even if \
                     it misses the deadline",
                    batch.name, batch.items
                ));
            }
        }
        lines.extend(self.of_others(outlook, own, now));
        for batch in own.iter().filter(|batch| is_unconfirmed(batch, wall, wait)) {
            if self.late.insert(batch.no) {
                lines.push(format!(
                    "the provider has not confirmed the cancellation of batch {} for {} s; its {} items are on hold and \
                     are not sent again before that",
                    batch.name,
                    wait.as_secs(),
                    batch.items
                ));
            }
        }
        lines
    }

    fn of_others(&mut self, outlook: &Outlook, own: &[OwnBatch], now: Time) -> Option<String> {
        let others = outlook.elsewhere.saturating_sub(Groups::of(own).stuck);
        if others == 0 {
            self.others = None;
            return None;
        }
        // A batch that was just formed may not be reported yet.
        let (since, was_told) = *self.others.get_or_insert((now, false));
        if was_told || now.since(since) < TAKE_OVER {
            return None;
        }
        self.others = Some((since, true));
        Some(format!(
            "{others} items are in batches of another worker, and are left to it, even if they miss the deadline"
        ))
    }
}
