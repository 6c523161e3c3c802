//! Items that wait for their time, in one queue per quota.
//!
//! A closed quota's queue is skipped as a whole, so a long backlog of one costs the others
//! nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::clock::Time;

use super::limit::QuotaId;
use super::work::Closed;

struct Entry<T> {
    key: Reverse<(Time, u64)>,
    item: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// Waiting items by quota and due time; first in, first out among equals.
pub(crate) struct Waiting<T> {
    lanes: Vec<(QuotaId, BinaryHeap<Entry<T>>)>,
    pushed: u64,
    len: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            pushed: 0,
            len: 0,
        }
    }
}

impl<T> Waiting<T> {
    pub(crate) fn push(&mut self, quota: QuotaId, due: Time, item: T) {
        self.pushed += 1;
        self.len += 1;
        let entry = Entry {
            key: Reverse((due, self.pushed)),
            item,
        };
        match self.lanes.iter_mut().find(|(lane, _)| *lane == quota) {
            Some((_, heap)) => heap.push(entry),
            None => self.lanes.push((quota, BinaryHeap::from([entry]))),
        }
    }

    /// The earliest due item of an open quota.
    pub(crate) fn pop(&mut self, closed: &Closed, now: Time) -> Option<T> {
        let lane = self
            .lanes
            .iter_mut()
            .filter(|(quota, _)| !closed.is_closed(*quota, now))
            .filter_map(|lane| {
                let Reverse(key) = lane.1.peek()?.key;
                (key.0 <= now).then_some((key, lane))
            })
            .min_by_key(|(key, _)| *key)
            .map(|(_, lane)| lane)?;
        self.len -= 1;
        lane.1.pop().map(|entry| entry.item)
    }

    /// When the next item of an open quota falls due.
    pub(crate) fn next_due(&self, closed: &Closed, now: Time) -> Option<Time> {
        self.lanes
            .iter()
            .filter(|(quota, _)| !closed.is_closed(*quota, now))
            .filter_map(|(_, heap)| heap.peek().map(|entry| entry.key.0.0))
            .min()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Empties the queue, in no order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.len = 0;
        self.lanes
            .drain(..)
            .flat_map(|(_, heap)| heap.into_iter().map(|entry| entry.item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_quota_holds_back_only_its_own() {
        let (a, b) = (QuotaId(1), QuotaId(2));
        let mut waiting = Waiting::default();
        let at = Time::from_nanos;
        waiting.push(a, at(1), "a1");
        waiting.push(a, at(2), "a2");
        waiting.push(b, at(3), "b1");
        let mut closed = Closed::default();
        closed.close(a, at(100));
        assert_eq!(waiting.pop(&closed, at(2)), None);
        assert_eq!(waiting.next_due(&closed, at(2)), Some(at(3)));
        assert_eq!(waiting.pop(&closed, at(10)), Some("b1"));
        assert_eq!(waiting.pop(&closed, at(10)), None);
        assert_eq!(waiting.pop(&closed, at(100)), Some("a1"));
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn equals_leave_in_the_order_they_came() {
        let mut waiting = Waiting::default();
        for i in 0..20 {
            waiting.push(QuotaId(0), Time::from_nanos(5), i);
        }
        let closed = Closed::default();
        let out: Vec<i32> =
            std::iter::from_fn(|| waiting.pop(&closed, Time::from_nanos(5))).collect();
        assert_eq!(out, (0..20).collect::<Vec<_>>());
    }
}
