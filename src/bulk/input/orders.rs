//! Recognizes fingerprints of earlier versions, which left out the order of the fields in schemas and tools. Such a
//! fingerprint differs from today's by a mask. An input has few masks: one for each order of a schema.

use std::collections::HashSet;

use super::id::{ItemId, RecordId};

/// Ids of earlier versions are looked up under at most this many masks.
const MOST_TRIED: usize = 1_000;

/// The masks of an input.
#[derive(Debug, Default)]
pub(crate) struct Orders(HashSet<u64>);

impl Orders {
    /// Adds the mask of a request; 0 is none.
    pub(super) fn add(&mut self, mask: u64) {
        if mask != 0 {
            self.0.insert(mask);
        }
    }

    /// Whether an item asks what has this fingerprint, by the rule of today or of earlier versions. Both are given by their
    /// first 8 bytes.
    pub(super) fn is_same(&self, item: u64, other: u64) -> bool {
        item == other || self.0.contains(&(item ^ other))
    }

    /// The items of today that one without an id of its own may be, which an earlier version called by this id.
    pub(super) fn items_of_old<'a>(&self, item: ItemId<'a>) -> impl Iterator<Item = ItemId<'a>> {
        let made = match item.record {
            RecordId::Auto { request, ordinal } => Some((request, ordinal)),
            RecordId::Own(_) => None,
        };
        made.into_iter().flat_map(move |(request, ordinal)| {
            let tried = self.0.iter().take(MOST_TRIED);
            tried.map(move |mask| ItemId {
                record: RecordId::Auto {
                    request: request ^ mask,
                    ordinal,
                },
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
