//! Waiting items, in one queue per quota, and per beginning of their prompts if the provider caches it: first those that were taken and wait for their time, then those that were
//! skipped because their quota was closed.
//!
//! A closed quota's queue is skipped at once, so a long backlog of one quota costs the others nothing. An item that
//! was taken and returned keeps its position in the input, so no other item overtakes it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::base::clock::Time;

use super::availability::Availability;
use super::class::Class;
use super::limiter::QuotaId;
use super::prefixes::Prefix;

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

/// Where an item waits: at a step of its route, with the beginning of its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub class: Class,
    pub step: u8,
    pub prefix: Prefix,
}

struct Lane<T> {
    quota: QuotaId,
    /// Set if its items may wait until a prompt cache is written.
    cached: Option<Place>,
    taken: BinaryHeap<Entry<T>>,
    passed_over: VecDeque<(u64, T)>,
}

impl<T> Lane<T> {
    fn is_open(&self, availability: &Availability, now: Time) -> bool {
        let is_held = |place: &Place| {
            let Place {
                class,
                step,
                prefix,
            } = place;
            availability.prefixes.holds(*prefix, class, *step, now)
        };
        !availability.pauses.is_paused(self.quota, now)
            && !self.cached.as_ref().is_some_and(is_held)
    }

    fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.passed_over.is_empty()
    }
}

/// Waiting items.
pub(crate) struct Waiting<T> {
    lanes: Vec<Lane<T>>,
    len: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Waiting<T> {
    /// Adds an item that was taken and waits until `due`.
    pub(crate) fn push(&mut self, quota: QuotaId, due: Time, order: u64, item: T) {
        let key = Reverse((due, order));
        self.lane(quota, None).taken.push(Entry { key, item });
    }

    /// Adds an item that was never taken and waits for its quota, in the order of the input.
    #[cfg(test)]
    pub(crate) fn pass_over(&mut self, quota: QuotaId, order: u64, item: T) {
        self.lane(quota, None).passed_over.push_back((order, item));
    }

    /// The same as [`push`](Self::push) for an item that may also wait for a prompt cache.
    pub(crate) fn push_at(&mut self, place: Place, due: Time, order: u64, item: T) {
        let quota = place.class.quota(place.step);
        let key = Reverse((due, order));
        let cached = place.prefix.is_cached_at(place.step).then_some(place);
        self.lane(quota, cached).taken.push(Entry { key, item });
    }

    /// The same as [`pass_over`](Self::pass_over) for an item that may also wait for a prompt cache.
    pub(crate) fn pass_over_at(&mut self, place: Place, order: u64, item: T) {
        let quota = place.class.quota(place.step);
        let cached = place.prefix.is_cached_at(place.step).then_some(place);
        let lane = self.lane(quota, cached);
        lane.passed_over.push_back((order, item));
    }

    fn lane(&mut self, quota: QuotaId, cached: Option<Place>) -> &mut Lane<T> {
        self.len += 1;
        let is_same = |lane: &Lane<T>| lane.quota == quota && lane.cached == cached;
        let at = self.lanes.iter().position(is_same);
        let at = at.unwrap_or_else(|| {
            self.lanes.push(Lane {
                quota,
                cached,
                taken: BinaryHeap::new(),
                passed_over: VecDeque::new(),
            });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }

    /// The next runnable item: of those that were taken before, the one that was due first; otherwise the first that
    /// was skipped.
    pub(crate) fn pop(&mut self, availability: &Availability, now: Time) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let open = |lane: &&mut Lane<T>| lane.is_open(availability, now);
        let due = self.lanes.iter_mut().filter(open).filter_map(|lane| {
            let Reverse(key) = lane.taken.peek()?.key;
            (key.0 <= now).then_some((key, lane))
        });
        let item = match due.min_by_key(|(key, _)| *key) {
            Some((_, lane)) => lane.taken.pop().map(|entry| entry.item),
            None => {
                let first = self.lanes.iter_mut().filter(open).filter_map(|lane| {
                    let order = lane.passed_over.front()?.0;
                    Some((order, lane))
                });
                let (_, lane) = first.min_by_key(|(order, _)| *order)?;
                lane.passed_over.pop_front().map(|(_, item)| item)
            }
        };
        self.len -= usize::from(item.is_some());
        // There may be as many of these as beginnings.
        self.lanes
            .retain(|lane| lane.cached.is_none() || !lane.is_empty());
        item
    }

    /// When the next item of an open quota is due.
    pub(crate) fn next_due(&self, availability: &Availability, now: Time) -> Option<Time> {
        self.lanes
            .iter()
            .filter(|lane| lane.is_open(availability, now))
            .filter_map(|lane| lane.taken.peek().map(|entry| entry.key.0.0))
            .min()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Empties the queue, in any order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.len = 0;
        self.lanes.drain(..).flat_map(|lane| {
            let taken = lane.taken.into_iter().map(|entry| entry.item);
            taken.chain(lane.passed_over.into_iter().map(|(_, item)| item))
        })
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
