//! The index of a file's items, in two orders: by id while earlier results are matched, and in input order while items are
//! sent. The entries are sorted in place.

use crate::llm::native::NativeFormat;
use crate::llm::providers::further;
use std::collections::HashSet;
use std::ops::Deref;

use rayon::prelude::*;

use super::entry::{Entry, State};
use super::id::{RecordId, id_hash};

/// The order of the items.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Order {
    #[default]
    ById,
    OfInput,
}

/// The index: the result of a check, by id.
#[derive(Debug, Default, Clone)]
pub(crate) struct FileIndex {
    entries: Vec<Entry>,
    order: Order,
    /// Size of the files.
    bytes: u64,
    /// Items without a model in the item or the settings.
    pub(crate) unnamed: u64,
    /// Items whose conversation ends with a message of the assistant.
    pub(crate) answered: u64,
    /// Items that do not keep all fields of their rows, because the rows are large.
    pub(crate) cut: u64,
    /// The formats of lines that only one provider gets.
    pub(crate) native: Vec<NativeFormat>,
    /// Number of result lines (not ids) for which the input has no item.
    pub(crate) unknown_lines: u64,
}

/// The items in the current order.
impl Deref for FileIndex {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.entries
    }
}

impl FileIndex {
    /// Sorts entries, and numbers those without an own id.
    pub(super) fn new(entries: Vec<Entry>, bytes: u64) -> Self {
        let mut index = Self {
            entries,
            order: Order::OfInput,
            bytes,
            unnamed: 0,
            answered: 0,
            cut: 0,
            native: Vec::new(),
            unknown_lines: 0,
        };
        index.number();
        index
    }

    fn number(&mut self) {
        self.sort(Order::ById);
        let mut last = None;
        let mut ordinal = 0;
        for entry in self.entries.iter_mut().filter(|entry| entry.is_auto()) {
            ordinal = match last.replace(entry.request) {
                Some(same) if same == entry.request => ordinal + 1,
                _ => 1,
            };
            entry.set_ordinal(ordinal);
        }
    }

    fn sort(&mut self, order: Order) {
        match std::mem::replace(&mut self.order, order) {
            before if before == order => {}
            Order::ById => self.entries.par_sort_unstable_by_key(Entry::offset),
            Order::OfInput => self.entries.par_sort_unstable_by_key(Entry::id_key),
        }
    }

    #[cfg(test)]
    pub(crate) fn finish(mut self) -> Self {
        self.in_order();
        self
    }

    /// Sorts the items by id, for comparisons with results.
    pub(crate) fn by_id(&mut self) -> &mut Self {
        self.sort(Order::ById);
        self
    }

    /// Sorts the items in the order of the input.
    pub(crate) fn in_order(&mut self) -> &mut Self {
        self.sort(Order::OfInput);
        self
    }

    /// Number of items in this state.
    pub(crate) fn count(&self, state: State) -> u64 {
        self.count_by(|entry| entry.state() == state)
    }

    /// Number of such items.
    pub(crate) fn count_by(&self, counts: impl Fn(&Entry) -> bool) -> u64 {
        self.iter().filter(|entry| counts(entry)).count() as u64
    }

    /// Turns the records at these offsets, which repeat an id, into failed items.
    pub(super) fn set_aside(&mut self, repeats: &HashSet<u64>) {
        let entries = self.entries.iter_mut();
        for entry in entries.filter(|entry| repeats.contains(&entry.offset())) {
            *entry = entry.repeated();
        }
        // The entries that have changed are not where they belong.
        self.order = Order::OfInput;
        self.number();
    }

    /// The position of the item with that id in this order. An id that the input does not have is mistaken for another
    /// one if 64 bits of SHA-256 are equal; nothing is skipped unless the request hash is equal as well.
    pub(crate) fn find(&self, id: &str) -> Option<usize> {
        RecordId::readings(id).find_map(|record| self.at(record))
    }

    /// The position of the record with this id, of those with an equal own id the first one.
    pub(super) fn at(&self, record: RecordId<'_>) -> Option<usize> {
        let (key, before) = match record {
            RecordId::Own(id) => ((false, id_hash(id), 0), 0),
            // Equal requests are next to each other, in the order of their ordinals.
            RecordId::Auto { request, ordinal } => ((true, request, 0), ordinal.checked_sub(1)?),
        };
        let at = self.partition_point(|entry| entry.id_key() < key) + before as usize;
        let (is_auto, id, _) = self.get(at)?.id_key();
        ((is_auto, id) == (key.0, key.1)).then_some(at)
    }

    /// The numbers of the items, in the order of the input.
    pub(crate) fn in_input_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.par_sort_unstable_by_key(|item| self[*item as usize].offset());
        order
    }

    /// Records an earlier result line, and returns its meaning for the item of the input, if there is one. A later line of
    /// the same request overrides it; one of another request does not, so that an answer counts again if the input returns
    /// to its request.
    pub(crate) fn match_line(
        &mut self,
        id: &str,
        request_hash_prefix: u64,
        ended: State,
    ) -> Option<State> {
        let Some(at) = self.find(id) else {
            self.unknown_lines += 1;
            return None;
        };
        let entry = &mut self.entries[at];
        let same = entry.request == request_hash_prefix;
        let found = if same { ended } else { State::Changed };
        if found != State::Changed || entry.state() == State::New {
            entry.set_state(found);
        }
        Some(found)
    }

    /// Upper bound for the end of item `i`: the next item or the end of the input.
    pub(crate) fn end(&self, i: usize) -> u64 {
        self.get(i + 1).map_or(self.bytes, Entry::offset)
    }

    /// Sorts items by request, and those of one request in the order of the input.
    pub(crate) fn sort_by_request(&self, items: &mut [u32]) {
        items.par_sort_unstable_by_key(|item| (self[*item as usize].request, *item));
    }

    /// Marks these items, and no others, as following others.
    pub(crate) fn set_followers(&mut self, followers: &[u32]) {
        self.entries
            .iter_mut()
            .for_each(|entry| entry.follow(false));
        for item in followers {
            self.entries[*item as usize].follow(true);
        }
    }

    /// The id of item `i`, if a record with that own id, or without one, is the one that was checked.
    pub(super) fn item_id<'a>(&self, i: usize, own: Option<&'a str>) -> Option<RecordId<'a>> {
        let entry = self[i];
        match own {
            Some(id) if !entry.is_auto() && entry.id == id_hash(id) => Some(RecordId::Own(id)),
            None if entry.is_auto() => Some(RecordId::Auto {
                request: entry.request,
                ordinal: entry.ordinal(),
            }),
            _ => None,
        }
    }
}

/// How a result or a job that runs elsewhere matches the input.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fit {
    /// The input has this item with the same request.
    Same(Entry),
    /// The input had this request before.
    Other,
    /// The input has no such id (any more).
    Unknown,
}

impl FileIndex {
    /// How a result or a job that runs elsewhere matches the input.
    pub(crate) fn fit(&self, id: &str, request_hash_prefix: u64) -> Fit {
        match self.find(id).map(|at| self[at]) {
            None => Fit::Unknown,
            Some(entry) if entry.request != request_hash_prefix => Fit::Other,
            Some(entry) => Fit::Same(entry),
        }
    }

    /// Marks the item at this position as processed by a job.
    pub(crate) fn hold(&mut self, at: usize) {
        self.entries[at].hold();
    }

    /// The same for the item with that id.
    pub(crate) fn hold_id(&mut self, id: &str) {
        if let Some(at) = self.find(id) {
            self.hold(at);
        }
    }

    /// Removes all such marks.
    pub(crate) fn release_all(&mut self) {
        self.entries.iter_mut().for_each(Entry::release);
    }

    /// Records a result that arrived in this run. Returns the state before.
    pub(crate) fn settle(&mut self, id: &str, success: bool) -> Option<State> {
        let at = self.find(id)?;
        let entry = &mut self.entries[at];
        let before = entry.state();
        entry.settle(if success { State::Done } else { State::Failed });
        Some(before)
    }
}

/// Why these providers do not get a line in that format, which only one provider gets; `None` if one does, or if no
/// provider is known.
pub(crate) fn refused(format: NativeFormat, providers: &[String]) -> Option<String> {
    let whys = providers
        .iter()
        .map(|provider| further::refused(format, provider));
    let whys: Vec<String> = whys.collect::<Option<_>>()?;
    let why = format!("found that {}; nothing was sent", whys.join("; "));
    (!whys.is_empty()).then_some(why)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
