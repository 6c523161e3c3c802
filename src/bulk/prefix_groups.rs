//! The items of a file whose prompts begin with the same long text that the provider caches. They are sent before the
//! others and one group after the other, so that the cache is still there when the next one is sent.

use std::collections::HashMap;

use crate::base::Time;
use crate::engine::availability::Availability;
use crate::engine::class::Class;
use crate::engine::prefixes::Prefix;
use crate::llm::prompt_cache::PromptPrefix;
use crate::llm::route::Route;

use super::input::FileIndex;
use super::options::FileRunOptions;
use super::prompts::RequestKind;
use super::shared::SharedFile;

/// The items that a run of a file sends.
pub(super) struct ItemsToSend<'s> {
    pub shared: &'s SharedFile,
    pub options: &'s FileRunOptions,
}

impl ItemsToSend<'_> {
    /// The groups of the items, and the beginning that is cached for each kind.
    pub(super) fn groups(
        &self,
        kinds: &[RequestKind],
        classes: &[Class],
        route: &Route<'_>,
    ) -> (PrefixGroups, Vec<Prefix>) {
        let beginnings: Vec<_> = kinds.iter().map(|kind| kind.prefix).collect();
        let index = &self.shared.index;
        let is_sent =
            |item: &usize| self.options.wants(index, *item) && !self.shared.equals.is_spared(*item);
        let most = self.options.max_items.unwrap_or(usize::MAX);
        let mut items = (0..index.len()).filter(is_sent).take(most);
        let mut decide = |kind: usize, count: usize, number: u32| match &beginnings[kind] {
            Some(beginning) => route.prefix(beginning, &kinds[kind].request(), Some(count), number),
            None => Prefix::NONE,
        };
        PrefixGroups::of(index, &mut items, &beginnings, classes, &mut decide)
    }
}

/// The beginnings of a stream, whose items are not counted in advance.
#[derive(Default)]
pub(super) struct StreamPrefixes(HashMap<PromptPrefix, u32>);

impl StreamPrefixes {
    pub(super) fn of(&mut self, kind: &RequestKind, route: &Route<'_>) -> Prefix {
        let Some(beginning) = kind.prefix else {
            return Prefix::NONE;
        };
        let next = self.0.len() as u32 + 1;
        let number = *self.0.entry(beginning).or_insert(next);
        route.prefix(&beginning, &kind.request(), None, number)
    }
}

/// Which beginning is cached at which steps, by the kinds of items, and the groups of items.
#[derive(Default)]
pub(super) struct PrefixGroups {
    /// The items, group by group, and within a group in the order of the input: 4 bytes per item of a group.
    order: Vec<u32>,
    groups: Vec<Group>,
    /// Groups before this one have no item left.
    first: usize,
    /// One bit per item: whether it is in a group. Empty if there are no groups.
    members: Vec<u64>,
}

struct Group {
    /// The first item that was not taken, and the end, both positions in the order.
    next: usize,
    end: usize,
    prefix: Prefix,
    class: Class,
}

impl PrefixGroups {
    /// Groups the items to send, which are in order. `beginnings` has one for each kind of item. `decide` gets a kind and
    /// the number of items that share its beginning. Returns the decision for each kind.
    pub(super) fn of(
        index: &FileIndex,
        items: &mut dyn Iterator<Item = usize>,
        beginnings: &[Option<PromptPrefix>],
        classes: &[Class],
        decide: &mut dyn FnMut(usize, usize, u32) -> Prefix,
    ) -> (Self, Vec<Prefix>) {
        let mut decided = vec![Prefix::NONE; beginnings.len()];
        if beginnings.iter().all(Option::is_none) {
            return (Self::default(), decided);
        }
        let kind = |item: &usize| usize::from(index.class(*item));
        let items: Vec<u32> = items
            .filter(|item| beginnings[kind(item)].is_some())
            .map(|item| item as u32)
            .collect();
        // Several kinds may have one beginning, for example with other temperatures.
        let mut numbers: HashMap<PromptPrefix, (u32, usize)> = HashMap::new();
        for beginning in items
            .iter()
            .filter_map(|item| beginnings[kind(&(*item as usize))])
        {
            let next = numbers.len() as u32 + 1;
            numbers.entry(beginning).or_insert((next, 0)).1 += 1;
        }
        let mut sizes = vec![0; numbers.len()];
        let mut owners = vec![None; numbers.len()];
        for (at, beginning) in beginnings.iter().enumerate() {
            let found = beginning
                .as_ref()
                .and_then(|beginning| numbers.get(beginning));
            if let Some((number, count)) = found {
                decided[at] = decide(at, *count, *number);
                if decided[at] != Prefix::NONE {
                    sizes[*number as usize - 1] = *count;
                    owners[*number as usize - 1] = Some(at);
                }
            }
        }
        let mut groups = Self::default();
        groups.members.resize(index.len().div_ceil(64), 0);
        let mut starts = vec![0; sizes.len()];
        let mut end = 0;
        for ((start, size), owner) in starts.iter_mut().zip(&sizes).zip(&owners) {
            *start = end;
            end += size;
            if let Some(kind) = owner {
                groups.groups.push(Group {
                    next: *start,
                    end,
                    prefix: decided[*kind],
                    class: classes[*kind].clone(),
                });
            }
        }
        groups.order.resize(end, 0);
        for item in items {
            let kind = kind(&(item as usize));
            let number = beginnings[kind].and_then(|beginning| numbers.get(&beginning));
            if let (Some((number, _)), true) = (number, decided[kind] != Prefix::NONE) {
                let place = &mut starts[*number as usize - 1];
                groups.order[*place] = item;
                *place += 1;
                groups.members[item as usize / 64] |= 1 << (item % 64);
            }
        }
        (groups, decided)
    }

    /// Whether the item is in a group.
    pub(super) fn has(&self, item: usize) -> bool {
        let bits = self.members.get(item / 64);
        bits.is_some_and(|bits| bits >> (item % 64) & 1 == 1)
    }

    /// The next item of the first group that may send one.
    pub(super) fn take(&mut self, availability: &Availability, now: Time) -> Option<usize> {
        while self
            .groups
            .get(self.first)
            .is_some_and(|group| group.next == group.end)
        {
            self.first += 1;
        }
        let groups = self.groups.iter_mut().skip(self.first);
        let mut open = groups.filter(|group| {
            group.next < group.end
                && !availability.is_paused(&group.class, 0, now)
                && !availability.is_held(group.prefix, &group.class, 0, now)
        });
        let group = open.next()?;
        let item = self.order[group.next];
        group.next += 1;
        Some(item as usize)
    }

    /// Whether no group has an item left.
    pub(super) fn is_empty(&self) -> bool {
        let mut left = self.groups.iter().skip(self.first);
        left.all(|group| group.next == group.end)
    }
}
