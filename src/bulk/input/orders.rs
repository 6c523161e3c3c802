//! Recognizes fingerprints of earlier versions, which left out the order of the fields in schemas and tools. Such a
//! fingerprint differs from today's by a mask, one for each order. Most inputs have one mask, that of their schema.

use std::collections::HashSet;

use super::id::{ItemId, RecordId};

/// The masks of an input.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    first: Option<u64>,
    masks: HashSet<u64>,
    /// Of items without ids of their own and with another mask than the first: their fingerprints by the earlier rule, and
    /// by that of today.
    others: Vec<(u64, u64)>,
}

impl Orders {
    /// Adds the mask of a request, 0 if it has none, and its fingerprint if its id is made from that.
    pub(super) fn add(&mut self, mask: u64, automatic: Option<u64>) {
        if mask == 0 {
            return;
        }
        self.masks.insert(mask);
        if *self.first.get_or_insert(mask) != mask {
            self.others
                .extend(automatic.map(|request| (request ^ mask, request)));
        }
    }

    /// All have been added.
    pub(super) fn seal(&mut self) {
        self.others.sort_unstable();
        self.others.dedup();
        self.others.shrink_to_fit();
    }

    /// Whether an item asks what has this fingerprint, by the rule of today or of earlier versions. Both are given by their
    /// first 8 bytes.
    pub(super) fn is_same(&self, item: u64, other: u64) -> bool {
        item == other || self.masks.contains(&(item ^ other))
    }

    /// The items of today that one without an id of its own may be, which an earlier version called by this id.
    pub(super) fn items_of_old<'a>(&self, item: ItemId<'a>) -> impl Iterator<Item = ItemId<'a>> {
        let made = match item.record {
            RecordId::Auto { request, ordinal } => Some((request, ordinal)),
            RecordId::Own(_) => None,
        };
        made.into_iter().flat_map(move |(old, ordinal)| {
            let start = self.others.partition_point(|(other, _)| *other < old);
            let others = self.others[start..].iter();
            let others = others.take_while(move |(other, _)| *other == old);
            let first = self.first.map(|mask| old ^ mask);
            let requests = first.into_iter().chain(others.map(|(_, new)| *new));
            requests.map(move |request| ItemId {
                record: RecordId::Auto { request, ordinal },
                ..item
            })
        })
    }
}

/// What an earlier version called the item of this id, if the id is made from the fingerprint.
pub(crate) fn old_id(id: &str, mask: u64) -> Option<String> {
    let item = ItemId::readings(id).find(|item| matches!(item.record, RecordId::Auto { .. }))?;
    let RecordId::Auto { request, ordinal } = item.record else {
        return None;
    };
    let record = RecordId::Auto {
        request: request ^ mask,
        ordinal,
    };
    Some(ItemId { record, ..item }.to_string())
}
