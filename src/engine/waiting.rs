//! Waiting items, in one lane per quota. A lane has first the items that were taken and wait for their time, then those
//! that were skipped because the lane was closed. An item that was taken and returned keeps its position in the input,
//! so no other item overtakes it.

use std::collections::BTreeMap;

use crate::base::Time;

use super::availability::Availability;
use super::limiter::QuotaId;

/// When an item is due, its position, and its number: two may be due at the same time and have the same position.
type Key = (Time, u64, u64);

/// The time of items that were never taken: they come after all that are due.
const FRESH: Time = Time::FAR;

/// Waiting items.
pub(crate) struct Waiting<T> {
    lanes: BTreeMap<QuotaId, BTreeMap<Key, T>>,
    /// Items that were ever pushed.
    pushed: u64,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            lanes: BTreeMap::new(),
            pushed: 0,
        }
    }
}

impl<T> Waiting<T> {
    /// Adds an item that was taken and waits until `due`.
    pub(crate) fn push(&mut self, quota: QuotaId, due: Time, order: u64, item: T) {
        self.pushed += 1;
        let lane = self.lanes.entry(quota).or_default();
        lane.insert((due, order, self.pushed), item);
    }

    /// Adds an item that was never taken and waits for its quota, in the order of the input.
    pub(crate) fn pass_over(&mut self, quota: QuotaId, order: u64, item: T) {
        self.push(quota, FRESH, order, item);
    }

    /// The next runnable item: of those that were taken before, the one that was due first; otherwise the first that
    /// was skipped.
    pub(crate) fn pop(&mut self, availability: &Availability, now: Time) -> Option<T> {
        let open = self.lanes.iter_mut();
        let open = open.filter(|(quota, _)| !availability.pauses.is_paused(**quota, now));
        let next = open.filter_map(|(_, lane)| {
            let (first, fresh) = (lane.first_key_value()?, || {
                lane.range((FRESH, 0, 0)..).next()
            });
            let (key, _) = Some(first).filter(|(key, _)| key.0 <= now).or_else(fresh)?;
            Some((*key, lane))
        });
        let (key, lane) = next.min_by_key(|(key, _)| *key)?;
        lane.remove(&key)
    }

    /// When the next item of an open lane is due.
    pub(crate) fn next_due(&self, availability: &Availability, now: Time) -> Option<Time> {
        let open = self.lanes.iter();
        let open = open.filter(|(quota, _)| !availability.pauses.is_paused(**quota, now));
        let due = open.filter_map(|(_, lane)| Some(lane.first_key_value()?.0.0));
        due.filter(|due| *due < FRESH).min()
    }

    /// Whether an item waits for this quota.
    pub(crate) fn waits_for(&self, quota: QuotaId) -> bool {
        let lane = self.lanes.get(&quota);
        lane.is_some_and(|lane| !lane.is_empty())
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.values().map(BTreeMap::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.values().all(BTreeMap::is_empty)
    }

    /// Empties the queue, in any order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        let lanes = std::mem::take(&mut self.lanes).into_values();
        lanes.flat_map(BTreeMap::into_values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: QuotaId = QuotaId(1);
    const B: QuotaId = QuotaId(2);

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn a_closed_quota_delays_only_its_own_items() {
        let mut waiting = Waiting::default();
        waiting.push(A, at(1), 0, "a1");
        waiting.push(A, at(2), 1, "a2");
        waiting.push(B, at(3), 2, "b1");
        let mut pauses = Availability::default();
        pauses.pauses.set(A, at(100));
        assert_eq!(waiting.pop(&pauses, at(2)), None);
        assert_eq!(waiting.next_due(&pauses, at(2)), Some(at(3)));
        assert_eq!(waiting.pop(&pauses, at(10)), Some("b1"));
        assert_eq!(waiting.pop(&pauses, at(10)), None);
        assert_eq!(waiting.pop(&pauses, at(100)), Some("a1"));
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn a_due_retry_comes_before_new_items() {
        let mut waiting = Waiting::default();
        waiting.pass_over(A, 8, "fresh");
        waiting.push(A, at(50), 0, "retry");
        let pauses = Availability::default();
        assert_eq!(waiting.pop(&pauses, at(10)), Some("fresh"));
        waiting.pass_over(A, 9, "fresher");
        assert_eq!(waiting.pop(&pauses, at(50)), Some("retry"));
        assert_eq!(waiting.pop(&pauses, at(50)), Some("fresher"));
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_returned_item_keeps_its_position() {
        let mut waiting = Waiting::default();
        (0..10).for_each(|i| waiting.push(A, Time::ZERO, i, i));
        let pauses = Availability::default();
        for _ in 0..5 {
            let first = waiting.pop(&pauses, at(1)).unwrap();
            let second = waiting.pop(&pauses, at(1)).unwrap();
            assert_eq!((first, second), (0, 1));
            waiting.push(A, Time::ZERO, first, first);
            waiting.push(A, Time::ZERO, second, second);
        }
    }
}
