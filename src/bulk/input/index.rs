//! The index of a file's items, in two orders: by id while earlier results are matched, and in input order while items are
//! sent. The entries are sorted in place.

use crate::llm::native::NativeFormat;
use crate::llm::providers::further;
use std::collections::HashSet;

use rayon::prelude::*;

use super::EarlierResult;
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
    pub(super) entries: Vec<Entry>,
    order: Order,
    /// Size of the files.
    bytes: u64,
    /// Items without a model in the item or the settings.
    pub(crate) unnamed: u64,
    /// The formats of lines that only one provider gets.
    pub(crate) native: Vec<NativeFormat>,
    unknown_lines: u64,
}

impl FileIndex {
    /// Sorts entries, and numbers those without an own id.
    pub(super) fn new(entries: Vec<Entry>, bytes: u64) -> Self {
        let mut index = Self {
            entries,
            order: Order::OfInput,
            bytes,
            unnamed: 0,
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

    /// Number of items with a generated id.
    pub(crate) fn automatic(&self) -> u64 {
        self.count_by(Entry::is_auto)
    }

    /// Number of items that make no prompt and have no result line about it.
    pub(crate) fn untold(&self) -> u64 {
        self.count_by(|entry| entry.is_bad() && entry.state() != State::Failed)
    }

    fn count_by(&self, counts: impl Fn(&Entry) -> bool) -> u64 {
        self.entries.iter().filter(|entry| counts(entry)).count() as u64
    }

    /// Number of result lines (not ids) for which the input has no item.
    pub(crate) fn unknown_lines(&self) -> u64 {
        self.unknown_lines
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
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

    /// Number of items that make no prompt.
    pub(crate) fn bad(&self) -> u64 {
        self.count_by(Entry::is_bad)
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
        let at = self.entries.partition_point(|entry| entry.id_key() < key) + before as usize;
        let (is_auto, id, _) = self.entries.get(at)?.id_key();
        ((is_auto, id) == (key.0, key.1)).then_some(at)
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the item at this position in this order has this request now.
    pub(crate) fn is_current(&self, at: usize, request_hash_prefix: u64) -> bool {
        self.entries[at].request == request_hash_prefix
    }

    /// The numbers of the items, in the order of the input.
    pub(crate) fn in_input_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.entries.len() as u32).collect();
        order.par_sort_unstable_by_key(|item| self.entries[*item as usize].offset());
        order
    }

    /// Records an earlier result line, and returns its meaning for the item of the input, if there is one. A later line of
    /// the same request overrides it; one of another request does not, so that an answer counts again if the input returns
    /// to its request.
    pub(crate) fn match_line(
        &mut self,
        id: &str,
        request_hash_prefix: u64,
        ended: EarlierResult,
    ) -> Option<State> {
        let Some(at) = self.find(id) else {
            self.unknown_lines += 1;
            return None;
        };
        let entry = &mut self.entries[at];
        let found = match ended {
            _ if entry.request != request_hash_prefix => State::Changed,
            EarlierResult::Success => State::Done,
            EarlierResult::Failure => State::Failed,
            EarlierResult::Unusable => State::Unusable,
        };
        if found != State::Changed || entry.state() == State::New {
            entry.set_state(found);
        }
        Some(found)
    }

    /// True if the output has no answer to some item.
    pub(crate) fn lacks_answers(&self) -> bool {
        let mut prompts = self.entries.iter().filter(|entry| !entry.is_bad());
        prompts.any(|entry| entry.state() != State::Done)
    }

    /// True for an item with the same request that has no answer in the output.
    pub(crate) fn lacks_answer(&self, id: &str, request_hash_prefix: u64) -> bool {
        let entry = self.find(id).map(|at| &self.entries[at]);
        entry.is_some_and(|entry| {
            entry.request == request_hash_prefix && !entry.is_bad() && entry.state() != State::Done
        })
    }

    /// The offset of item `i`.
    pub(crate) fn offset(&self, i: usize) -> u64 {
        self.entry(i).offset()
    }

    /// Upper bound for its end: the next item or the end of the input.
    pub(crate) fn end(&self, i: usize) -> u64 {
        let next = self.entries.get(i + 1);
        next.map_or(self.bytes, Entry::offset)
    }

    pub(super) fn entry(&self, i: usize) -> Entry {
        self.entries[i]
    }

    /// Sorts items by request, and those of one request in the order of the input.
    pub(crate) fn sort_by_request(&self, items: &mut [u32]) {
        let entries = &self.entries;
        items.par_sort_unstable_by_key(|item| (entries[*item as usize].request, *item));
    }

    /// Its class.
    pub(crate) fn class(&self, i: usize) -> u16 {
        self.entry(i).class()
    }

    /// The first 8 bytes of its request hash.
    pub(crate) fn request_prefix(&self, i: usize) -> u64 {
        self.entry(i).request
    }

    /// True if it makes no prompt, so it is never sent.
    pub(crate) fn is_bad(&self, i: usize) -> bool {
        self.entry(i).is_bad()
    }

    /// Whether it is not sent, because another item with the same request is, or its answer is known.
    pub(crate) fn follows(&self, i: usize) -> bool {
        self.entry(i).follows()
    }

    /// Marks it as such.
    pub(crate) fn follow(&mut self, i: usize) {
        self.entries[i].follow(true);
    }

    /// Removes all such marks.
    pub(crate) fn follow_none(&mut self) {
        self.entries
            .iter_mut()
            .for_each(|entry| entry.follow(false));
    }

    /// Its state after comparison with earlier results.
    pub(crate) fn state(&self, i: usize) -> State {
        self.entry(i).state()
    }

    /// The id of item `i`, if a record with that own id, or without one, is the one that was checked.
    pub(super) fn item_id<'a>(&self, i: usize, own: Option<&'a str>) -> Option<RecordId<'a>> {
        let entry = self.entry(i);
        match own {
            Some(id) if entry.is_of(id_hash(id)) => Some(RecordId::Own(id)),
            None if entry.is_auto() => Some(RecordId::Auto {
                request: entry.request,
                ordinal: entry.ordinal(),
            }),
            _ => None,
        }
    }

    /// Whether the record of item `i` repeats an id. Such an item has no own id, although its record has one.
    pub(super) fn may_repeat(&self, i: usize) -> bool {
        self.entry(i).is_bad() && self.entry(i).is_auto()
    }

    /// True if another worker processes it, or its result arrived in this run.
    pub(crate) fn is_taken(&self, i: usize) -> bool {
        let entry = self.entry(i);
        entry.is_held() || entry.is_settled()
    }

    /// Whether an item makes a prompt, its state is wanted, and no other worker processes it. Reads its entry once: this
    /// is asked several times for each item of a file.
    pub(crate) fn is_open(&self, i: usize, wants: impl Fn(State) -> bool) -> bool {
        let entry = self.entry(i);
        wants(entry.state()) && !entry.is_held() && !entry.is_settled() && !entry.is_bad()
    }
}

/// How a job that runs elsewhere matches the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The input has the same request.
    Same {
        /// The state of the item according to the output.
        state: State,
        /// Another job with the same request is known.
        held: bool,
        /// Its result arrived in this run.
        settled: bool,
    },
    /// The input had this request before.
    Other,
    /// The input has no such id (any more).
    Unknown,
}

impl FileIndex {
    /// How a job that runs elsewhere matches the input.
    pub(crate) fn fit(&self, id: &str, request_hash_prefix: u64) -> Fit {
        let Some(entry) = self.find(id).map(|at| &self.entries[at]) else {
            return Fit::Unknown;
        };
        if entry.request != request_hash_prefix {
            return Fit::Other;
        }
        Fit::Same {
            state: entry.state(),
            held: entry.is_held(),
            settled: entry.is_settled(),
        }
    }

    /// True if no job of the item at this position exists, and the output has no line of it.
    pub(crate) fn is_new(&self, at: usize) -> bool {
        self.entries
            .get(at)
            .is_some_and(|entry| entry.state() == State::New && !entry.is_held())
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
