//! Finds items of a file with equal requests: one item of each group is sent, and all items get its answer.

use std::ops::Range;

use super::input::FileIndex;

/// Groups of items whose request hashes have the same first 64 bits, and which may share an answer. Takes 4 bytes per
/// item of a group, and 1 bit for each other item.
#[derive(Default)]
pub(super) struct Equals {
    /// Items of groups, group by group, and within a group in the order of the input.
    order: Vec<u32>,
    /// One bit per item: whether it is not sent.
    spared: Vec<u64>,
}

impl Equals {
    /// The groups of the `wanted` items, including groups of one item, whose answer may exist elsewhere.
    pub(super) fn of(index: &FileIndex, wanted: impl Fn(usize) -> bool) -> Self {
        let items = (0..index.len()).filter(|item| wanted(*item));
        let mut order: Vec<u32> = items.filter_map(|item| u32::try_from(item).ok()).collect();
        index.sort_by_request(&mut order);
        Self {
            order,
            spared: Vec::new(),
        }
    }

    /// The positions of the items with this request hash prefix.
    pub(super) fn group(&self, index: &FileIndex, request: u64) -> Range<u32> {
        let prefix = |item: &u32| index.request_prefix(*item as usize);
        let start = self.order.partition_point(|item| prefix(item) < request);
        let rest = &self.order[start..];
        // A group may be the whole file, and this is called for each of its results, so the search must be fast.
        let len = if rest.first().is_some_and(|item| prefix(item) == request) {
            rest.partition_point(|item| prefix(item) == request)
        } else {
            0
        };
        start as u32..(start + len) as u32
    }

    /// The item at a position of a group.
    pub(super) fn item(&self, place: u32) -> usize {
        self.order[place as usize] as usize
    }

    /// Marks the item as not sent.
    pub(super) fn spare_item(&mut self, item: usize, index: &FileIndex) {
        self.spare(item, index.len());
    }

    fn spare(&mut self, item: usize, items: usize) {
        self.spared.resize(items.div_ceil(64), 0);
        self.spared[item / 64] |= 1 << (item % 64);
    }

    /// From now on the first item of each group is sent for all of it. Items without duplicates leave their groups.
    pub(super) fn choose(&mut self, index: &FileIndex) {
        let items = index.len();
        let prefix = |item: u32| index.request_prefix(item as usize);
        let (mut kept, mut start) = (0, 0);
        while start < self.order.len() {
            let request = prefix(self.order[start]);
            let others = self.order[start + 1..].iter();
            let end = start + 1 + others.take_while(|item| prefix(**item) == request).count();
            if end - start > 1 {
                self.order.copy_within(start..end, kept);
                let first = kept;
                kept += end - start;
                for other in first + 1..kept {
                    self.spare(self.order[other] as usize, items);
                }
            }
            start = end;
        }
        self.order.truncate(kept);
        self.order.shrink_to_fit();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Number of items that are not sent.
    pub(super) fn spared_items(&self) -> u64 {
        let ones = self.spared.iter().map(|word| u64::from(word.count_ones()));
        ones.sum()
    }

    /// Whether the item is not sent, because another item is or its answer is known.
    pub(super) fn is_spared(&self, item: usize) -> bool {
        let word = self.spared.get(item / 64);
        word.is_some_and(|word| word & 1 << (item % 64) != 0)
    }

    /// The positions of the items that share the answer of this one.
    pub(super) fn asked_for(&self, index: &FileIndex, item: usize) -> Range<u32> {
        if self.order.is_empty() || self.is_spared(item) {
            return 0..0;
        }
        let group = self.group(index, index.request_prefix(item));
        if group.is_empty() || self.item(group.start) != item {
            0..0
        } else {
            group.start + 1..group.end
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::cancel::Context;
    use crate::bulk::prompts::{CheckedFile, PromptSettings, Prompts};

    /// A file with these prompts.
    pub(in crate::bulk) fn checked(prompts: &[&str]) -> CheckedFile {
        checked_file("in.txt", &prompts.join("\n"), &PromptSettings::new())
    }

    /// A file with this name and this text.
    pub(in crate::bulk) fn checked_file(
        name: &str,
        text: &str,
        settings: &PromptSettings,
    ) -> CheckedFile {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let prompts = Prompts::open(&path, settings, &Context::new(), &|_, _| {}).unwrap();
        prompts.file
    }

    #[test]
    fn a_file_without_duplicates_needs_no_memory() {
        let index = checked(&["a", "b", "c"]).items.finish();
        let mut equals = Equals::of(&index, |_| true);
        equals.choose(&index);
        assert!(equals.is_empty() && equals.spared.is_empty());
        assert_eq!(equals.asked_for(&index, 1), 0..0);
    }
}
