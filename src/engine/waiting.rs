//! Waiting items, in one lane per quota, and per beginning of their prompts if the provider caches it. A lane has first the
//! items that were taken and wait for their time, then those that were skipped because the lane was closed.
//!
//! The lanes of a quota are sorted by their first item, so an item is added and found without a look at the other lanes.
//! Only lanes that wait for a prompt cache are passed by, which are at most as many as calls in flight. An item that was
//! taken and returned keeps its position in the input, so no other item overtakes it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};

use crate::base::Time;

use super::availability::Availability;
use super::limiter::QuotaId;
use super::prefixes::Place;

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

struct Lane<T> {
    taken: BinaryHeap<Entry<T>>,
    passed_over: VecDeque<(u64, T)>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            taken: BinaryHeap::new(),
            passed_over: VecDeque::new(),
        }
    }
}

impl<T> Lane<T> {
    fn first_taken(&self) -> Option<(Time, u64)> {
        self.taken.peek().map(|entry| entry.key.0)
    }

    fn first_passed_over(&self) -> Option<u64> {
        self.passed_over.front().map(|(order, _)| *order)
    }
}

/// The lanes of a quota.
struct Lanes<T> {
    by_place: HashMap<Place, Lane<T>>,
    /// The lanes with items that were taken, by the first of these.
    taken: BTreeSet<((Time, u64), Place)>,
    /// The lanes with items that were passed over, by the first of these.
    passed_over: BTreeSet<(u64, Place)>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            by_place: HashMap::new(),
            taken: BTreeSet::new(),
            passed_over: BTreeSet::new(),
        }
    }
}

impl<T> Lanes<T> {
    /// Changes a lane and sorts it again.
    fn change<R>(&mut self, place: Place, change: impl FnOnce(&mut Lane<T>) -> R) -> R {
        let lane = self.by_place.entry(place).or_default();
        let before = (lane.first_taken(), lane.first_passed_over());
        let result = change(lane);
        let after = (lane.first_taken(), lane.first_passed_over());
        if after == (None, None) {
            self.by_place.remove(&place);
        }
        if before.0 != after.0 {
            before.0.map(|first| self.taken.remove(&(first, place)));
            after.0.map(|first| self.taken.insert((first, place)));
        }
        if before.1 != after.1 {
            before
                .1
                .map(|first| self.passed_over.remove(&(first, place)));
            after.1.map(|first| self.passed_over.insert((first, place)));
        }
        result
    }

    /// The open lane whose item is due first.
    fn first_due(&self, availability: &Availability, now: Time) -> Option<((Time, u64), Place)> {
        let open = |(_, place): &&(_, Place)| !availability.prefixes.holds_at(place, now);
        self.taken.iter().find(open).copied()
    }

    /// The open lane with the first item that was passed over.
    fn first_passed_over(&self, availability: &Availability, now: Time) -> Option<(u64, Place)> {
        let open = |(_, place): &&(_, Place)| !availability.prefixes.holds_at(place, now);
        self.passed_over.iter().find(open).copied()
    }
}

/// Waiting items.
pub(crate) struct Waiting<T> {
    /// A route has few quotas.
    quotas: Vec<(QuotaId, Lanes<T>)>,
    len: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            quotas: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Waiting<T> {
    /// Adds an item that was taken and waits until `due`.
    pub(crate) fn push(&mut self, quota: QuotaId, due: Time, order: u64, item: T) {
        self.push_at(Place::of_quota(quota), due, order, item);
    }

    /// The same as [`push`](Self::push) for an item that may also wait for a prompt cache.
    pub(crate) fn push_at(&mut self, place: Place, due: Time, order: u64, item: T) {
        let key = Reverse((due, order));
        self.add(place, |lane| lane.taken.push(Entry { key, item }));
    }

    /// Adds an item that was never taken and waits for its quota.
    #[cfg(test)]
    pub(crate) fn pass_over(&mut self, quota: QuotaId, order: u64, item: T) {
        self.pass_over_at(Place::of_quota(quota), order, item);
    }

    /// Adds an item that was never taken and waits for its quota or for a prompt cache, in the order of the input.
    pub(crate) fn pass_over_at(&mut self, place: Place, order: u64, item: T) {
        self.add(place, |lane| lane.passed_over.push_back((order, item)));
    }

    fn add(&mut self, place: Place, add: impl FnOnce(&mut Lane<T>)) {
        self.len += 1;
        let is_same = |(quota, _): &(QuotaId, _)| *quota == place.quota;
        let at = self.quotas.iter().position(is_same);
        let at = at.unwrap_or_else(|| {
            self.quotas.push((place.quota, Lanes::default()));
            self.quotas.len() - 1
        });
        self.quotas[at].1.change(place, add);
    }

    /// The next runnable item: of those that were taken before, the one that was due first; otherwise the first that
    /// was skipped.
    pub(crate) fn pop(&mut self, availability: &Availability, now: Time) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let is_open = |(quota, _): &&mut (QuotaId, _)| !availability.pauses.is_paused(*quota, now);
        let due = self
            .quotas
            .iter_mut()
            .filter(is_open)
            .filter_map(|(_, lanes)| {
                let (first, place) = lanes.first_due(availability, now)?;
                (first.0 <= now).then_some((first, place, lanes))
            });
        let item = match due.min_by_key(|(first, ..)| *first) {
            Some((_, place, lanes)) => {
                lanes.change(place, |lane| lane.taken.pop().map(|entry| entry.item))
            }
            None => {
                let first = self
                    .quotas
                    .iter_mut()
                    .filter(is_open)
                    .filter_map(|(_, lanes)| {
                        let (first, place) = lanes.first_passed_over(availability, now)?;
                        Some((first, place, lanes))
                    });
                let (_, place, lanes) = first.min_by_key(|(first, ..)| *first)?;
                lanes.change(place, |lane| {
                    lane.passed_over.pop_front().map(|(_, item)| item)
                })
            }
        };
        self.len -= usize::from(item.is_some());
        item
    }

    /// When the next item of an open lane is due.
    pub(crate) fn next_due(&self, availability: &Availability, now: Time) -> Option<Time> {
        let open = self.quotas.iter();
        let open = open.filter(|(quota, _)| !availability.pauses.is_paused(*quota, now));
        let due = open.filter_map(|(_, lanes)| lanes.first_due(availability, now));
        due.map(|((due, _), _)| due).min()
    }

    /// Whether an item waits for this quota.
    pub(crate) fn waits_for(&self, quota: QuotaId) -> bool {
        let mut quotas = self.quotas.iter();
        quotas.any(|(own, lanes)| *own == quota && !lanes.by_place.is_empty())
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
        let lanes = self.quotas.drain(..).flat_map(|(_, lanes)| lanes.by_place);
        lanes.flat_map(|(_, lane)| {
            let taken = lane.taken.into_iter().map(|entry| entry.item);
            taken.chain(lane.passed_over.into_iter().map(|(_, item)| item))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::class::Class;
    use crate::engine::prefixes::Prefix;

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

    /// Of 10,000 beginnings, one call each is made at once, and the others wait for it.
    #[test]
    fn ten_thousand_beginnings_wait_and_leave_in_the_order_of_the_input() {
        const BEGINNINGS: u32 = 10_000;
        let class = Class::new([A]);
        let prefix = |item: u64| Prefix::new(item as u32 % BEGINNINGS + 1, [true]);
        let mut waiting = Waiting::default();
        let items = 3 * u64::from(BEGINNINGS);
        for item in 0..items {
            waiting.pass_over_at(Place::new(&class, 0, prefix(item)), item, item);
        }
        let mut availability = Availability::default();
        for (call, held) in [3, 17, 4_000].into_iter().enumerate() {
            let call = call as u64;
            availability
                .prefixes
                .begin(prefix(held), &class, 0, call, at(1));
        }
        let is_held = |item: &u64| [3, 17, 4_000].contains(&(item % u64::from(BEGINNINGS)));
        let open: Vec<u64> = (0..items).filter(|item| !is_held(item)).collect();
        let mut left = Vec::new();
        while let Some(item) = waiting.pop(&availability, at(2)) {
            left.push(item);
        }
        assert_eq!(left, open);
        (0..3).for_each(|call| availability.prefixes.end(call, Some(true), at(3)));
        let rest = std::iter::from_fn(|| waiting.pop(&availability, at(3)));
        assert!(rest.eq((0..items).filter(is_held)));
        assert!(waiting.is_empty());
    }
}
