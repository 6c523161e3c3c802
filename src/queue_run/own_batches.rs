//! Where the batches of a run with a deadline stand, by what can be done with them.

use std::collections::HashSet;
use std::time::Duration;

use crate::base::Timestamp;
use crate::money::outlook::Decision;
use crate::queue::batch::OwnBatch;
use crate::queue::store::BatchNo;

/// The unanswered items of batches. Each batch is in one of these groups.
pub(super) struct Groups {
    /// In batches that are not sent yet.
    pub unsent: u64,
    /// In batches that can be withdrawn.
    pub movable: u64,
    /// In batches that are being withdrawn.
    pub returning: u64,
    /// In batches that cannot be withdrawn without losing answers.
    pub staying: u64,
    /// In batches that may not exist, or whose results are missing.
    pub stuck: u64,
}

impl Groups {
    pub(super) fn of(own: &[OwnBatch]) -> Self {
        let sum = |which: &dyn Fn(&&OwnBatch) -> bool| -> u64 {
            own.iter().filter(which).map(unanswered).sum()
        };
        let returns =
            |batch: &&OwnBatch| batch.withdrawn.is_some() && !batch.is_stuck && batch.is_sent;
        let runs = |batch: &&OwnBatch| batch.is_sent && !batch.has_ended && !batch.is_stuck;
        Self {
            unsent: sum(&|batch| !batch.is_sent && !batch.has_ended),
            movable: sum(&|batch| is_movable(batch)),
            returning: sum(&returns),
            staying: sum(&|batch| runs(batch) && !is_movable(batch) && !returns(batch)),
            stuck: sum(&|batch| batch.is_sent && !batch.has_ended && batch.is_stuck),
        }
    }
}

/// Names as many batches to withdraw as decided: those that were named before, then those with the least progress.
/// Returns them, and the numbers of items and batches that were not named before.
pub(super) fn to_withdraw(
    own: &[OwnBatch],
    decision: &Decision,
    named: &mut HashSet<BatchNo>,
) -> (Vec<BatchNo>, (u64, usize)) {
    let mut movable: Vec<&OwnBatch> = own.iter().filter(|batch| is_movable(batch)).collect();
    let share = |batch: &OwnBatch| batch.answered.unwrap_or(0) * 1000 / batch.items.max(1);
    movable.sort_by_key(|batch| (!named.contains(&batch.no), share(batch), batch.no));
    let (mut items, mut new, mut all) = (0, (0, 0), Vec::new());
    for batch in movable {
        let left = unanswered(batch);
        let is_named = named.contains(&batch.no);
        if !is_named && items >= decision.withdraw {
            break;
        }
        if !is_named && decision.others_stay && items + left > decision.withdraw {
            continue;
        }
        items += left;
        if named.insert(batch.no) {
            new = (new.0 + left, new.1 + 1);
        }
        // A batch that is busy is named again.
        all.push(batch.no);
    }
    (all, new)
}

fn unanswered(batch: &OwnBatch) -> u64 {
    batch.items.saturating_sub(batch.answered.unwrap_or(0))
}

/// The items of all these batches.
pub(super) fn all(own: &[OwnBatch]) -> u64 {
    own.iter().map(|batch| batch.items).sum()
}

/// Whether the unanswered items of a batch can be moved.
fn is_movable(batch: &OwnBatch) -> bool {
    batch.withdrawn.is_none()
        && batch.is_sent
        && !batch.is_stuck
        && !batch.has_ended
        && batch.may_be_cancelled
}

pub(super) fn is_unconfirmed(batch: &OwnBatch, now: Timestamp, wait: Duration) -> bool {
    let since = batch.withdrawn.map(|since| now.since(since));
    since.is_some_and(|since| since > wait) && !batch.has_ended && !batch.is_stuck
}

/// Whether nothing can be done for a batch now. An earlier run may have withdrawn it, so it is asked at least once.
/// Missing results have their own wait.
pub(super) fn is_held(batch: &OwnBatch, now: Timestamp, wait: Duration) -> bool {
    let was_asked = batch.every.is_some();
    !batch.has_ended && (batch.is_left || was_asked && is_unconfirmed(batch, now, wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_given_up_only_after_it_was_asked_and_never_while_its_results_come() {
        let now = Timestamp(10_000_000);
        let held = OwnBatch {
            no: BatchNo(1),
            process: None,
            name: "b".to_owned(),
            items: 9,
            answered: Some(0),
            withdrawn: Some(Timestamp(7)),
            is_sent: true,
            has_ended: false,
            is_stuck: false,
            is_left: false,
            may_be_cancelled: true,
            every: Some(Duration::from_secs(10)),
        };
        let wait = Duration::from_secs(600);
        assert!(is_held(&held, now, wait));
        let unasked = OwnBatch {
            every: None,
            ..held.clone()
        };
        assert!(!is_held(&unasked, now, wait));
        let ended = OwnBatch {
            has_ended: true,
            is_stuck: true,
            ..held.clone()
        };
        assert!(!is_held(&ended, now, wait));
        // Missing results are waited for, until the worker ends without them.
        let missing = |is_left| OwnBatch {
            withdrawn: None,
            is_stuck: true,
            is_left,
            ..held.clone()
        };
        assert!(!is_held(&missing(false), now, wait));
        assert!(is_held(&missing(true), now, wait));
    }
}
