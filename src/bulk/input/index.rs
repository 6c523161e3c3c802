//! The index of a file's items, in the three orders of its life: by id while earlier results are
//! matched, in input order while items are sent, by id again when the output is tidied up. Each
//! order is a type; the entries are sorted in place.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering as Order};

use parking_lot::RwLock;
use rayon::prelude::*;

use super::attached::AttachedFiles;
use super::entry::{Entry, IdKey, State, auto_key, sample_key};
use super::id::{IdHash, ItemId, RecordId};
use crate::bulk::input::EarlierResult;
use crate::llm::hash::sample_mask;

/// What the check of a file has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) items: u64,
    /// Items for which neither they nor the run name a model.
    pub(crate) unnamed: u64,
    /// Items that make no prompt.
    pub(crate) bad: u64,
    /// Records that are left out, since a field of their prompt is null.
    pub(crate) left_out: u64,
    /// Input tokens, estimated.
    pub(crate) tokens: u64,
    /// Size of the files.
    pub(crate) bytes: u64,
}

/// How a result line fits the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// A success of the same request.
    Done,
    /// A result of another request.
    Changed,
    /// A failure of the same request.
    Failed,
    /// The same with a reply that was paid for and cannot be used.
    Unusable,
    /// The input has no such id.
    Unknown,
}

/// The record that a result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordOf {
    pub(crate) offset: u64,
    /// Which of the answers to it the result is.
    pub(crate) sample: u16,
    pub(crate) makes_prompt: bool,
    /// It asks what the result answers.
    pub(crate) is_same: bool,
}

/// How the items stand after matching.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MatchCounts {
    pub(crate) new: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) unusable: u64,
    pub(crate) changed: u64,
    /// Result lines (not ids) that the input has no item for.
    pub(crate) unknown_lines: u64,
    /// Items whose id was made for them.
    pub(crate) automatic: u64,
    /// Items that make no prompt and have no result that says so.
    pub(crate) bad_untold: u64,
}

/// What is wrong with records that repeat an id, by their offsets.
#[derive(Debug, Default)]
struct Repeats(HashMap<u64, String>);

/// The index by id: what a check leaves behind.
#[derive(Debug)]
pub(crate) struct Matching {
    pub(super) entries: Vec<Entry>,
    hash: IdHash,
    /// Different ids of one hash, with their offsets; empty but for a freak of nature.
    collisions: HashMap<String, u64>,
    /// What is wrong with records that repeat an id, by their offsets.
    repeats: Box<Repeats>,
    totals: Totals,
    /// What of them is to be sent along.
    pub(crate) attached: AttachedFiles,
    pub(super) unknown_lines: u64,
    /// A line was that of an item by the id that it has with, or without, samples.
    pub(super) is_renamed: bool,
}

impl Matching {
    /// Sorts entries, and numbers those without an id of their own.
    pub(super) fn new(entries: Vec<Entry>, hash: IdHash, totals: Totals) -> Self {
        let mut index = Self::sorted(entries, hash, totals);
        let mut last = None;
        let mut ordinal = 0_u32;
        for entry in index.entries.iter_mut().filter(|entry| entry.is_auto()) {
            let (request, offset) = (entry.first_request(), entry.offset());
            match last {
                Some((same, before)) if same == request => ordinal += u32::from(before != offset),
                _ => ordinal = 1,
            }
            last = Some((request, offset));
            entry.set_ordinal(ordinal);
        }
        index
    }

    fn sorted(mut entries: Vec<Entry>, hash: IdHash, totals: Totals) -> Self {
        entries.par_sort_unstable_by_key(Entry::id_key);
        Self {
            entries,
            hash,
            collisions: HashMap::new(),
            repeats: Box::default(),
            totals,
            attached: AttachedFiles::default(),
            unknown_lines: 0,
            is_renamed: false,
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Makes failed items of records that repeat an id.
    pub(super) fn set_aside(self, repeats: HashMap<u64, String>) -> Self {
        if repeats.is_empty() {
            return self;
        }
        let Self {
            mut entries,
            mut totals,
            ..
        } = self;
        entries.retain(|entry| entry.is_first() || !repeats.contains_key(&entry.offset()));
        let of_repeats = entries
            .iter_mut()
            .filter(|entry| repeats.contains_key(&entry.offset()));
        for entry in of_repeats {
            totals.bad += u64::from(!entry.is_bad());
            *entry = entry.repeated();
        }
        totals.items = entries.len() as u64;
        Self {
            attached: self.attached,
            repeats: Box::new(Repeats(repeats)),
            ..Self::new(entries, self.hash, totals)
        }
    }

    pub(super) fn set_collisions(&mut self, collisions: HashMap<String, u64>) {
        self.collisions = collisions;
    }

    /// What the check has counted.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Where the item of that id is in this order. An id that the input does not have is taken for another one if
    /// 64 bits of SHA-256 agree, or 54 for a sample; its fingerprint would have to agree as well before anything was
    /// skipped.
    pub(crate) fn find(&self, id: &str) -> Option<usize> {
        ItemId::readings(id).find_map(|item| self.at(item))
    }

    /// Where the item is whose id was made, and is this one.
    pub(super) fn find_made(&self, id: &str) -> Option<usize> {
        let first = |item: ItemId<'_>| match item.sample {
            None => self.at(ItemId {
                sample: Some(1),
                ..item
            }),
            Some(_) => None,
        };
        ItemId::made(id).find_map(|item| self.at(item).or_else(|| first(item)))
    }

    /// Where the item is that asks the same and has the id, or had it with, or without, samples. And its id, if that
    /// is another one.
    pub(super) fn find_same(&self, id: &str, request: u64) -> Option<(usize, Option<String>)> {
        if let Some(at) = self.find(id) {
            return Some((at, None));
        }
        let mut samples = ItemId::readings(id).filter_map(ItemId::renamed);
        samples.find_map(|other| {
            let at = self.at(other)?;
            (self.entries[at].request == request).then(|| (at, Some(other.to_string())))
        })
    }

    fn at(&self, item: ItemId<'_>) -> Option<usize> {
        match item.record {
            RecordId::Auto { request, ordinal } => {
                let key = |entry: &Entry| (entry.is_auto(), entry.first_request(), entry.id);
                let wanted = (request, auto_key(ordinal, item.sample));
                self.entries
                    .binary_search_by(|entry| match key(entry) {
                        (false, ..) => Ordering::Less,
                        (true, request, id) => (request, id).cmp(&wanted),
                    })
                    .ok()
            }
            RecordId::Own(id) => self.own(id, item.sample),
        }
    }

    fn own(&self, id: &str, sample: Option<u32>) -> Option<usize> {
        let hash = (self.hash)(id);
        let key = sample.map_or(hash, |sample| sample_key(hash, sample));
        let key = |place: u64| -> IdKey { (false, key, sample.is_some(), place, 0) };
        let start = self.entries.partition_point(|e| e.id_key() < key(0));
        let same = |i: usize| {
            let entry = self.entries.get(i);
            entry.is_some_and(|e| e.id_key() == key(e.offset()))
        };
        if !same(start) || !same(start + 1) {
            return same(start).then_some(start);
        }
        let place = *self.collisions.get(id)?;
        self.entries
            .binary_search_by_key(&key(place), Entry::id_key)
            .ok()
    }

    /// The offset of the item of that id, if it asks what has this fingerprint, and its id, if that is another
    /// one by now.
    pub(crate) fn offset_of(
        &self,
        id: &str,
        request_hash_prefix: u64,
    ) -> Option<(u64, Option<String>)> {
        let (at, renamed) = self.find_same(id, request_hash_prefix)?;
        let entry = &self.entries[at];
        (entry.request == request_hash_prefix).then(|| (entry.offset(), renamed))
    }

    /// Items.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of the item of that id in this order, or of the one that asks the same and has another id by now.
    pub(crate) fn item_of(&self, id: &str, request_hash_prefix: u64) -> Option<usize> {
        let (at, _) = self.find_same(id, request_hash_prefix)?;
        Some(at)
    }

    #[cfg(test)]
    /// The position of the item of that id in the input, from 0.
    pub(super) fn position(&self, id: &str) -> Option<usize> {
        let at = self.find(id)?;
        let order = self.in_input_order();
        order.iter().position(|item| *item as usize == at)
    }

    /// The numbers of the items, in the order of the input.
    pub(crate) fn in_input_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.entries.len() as u32).collect();
        order.par_sort_unstable_by_key(|item| self.entries[*item as usize].place_key());
        order
    }

    /// True when an earlier line was one of an item that has another id by now.
    pub(crate) fn is_renamed(&self) -> bool {
        self.is_renamed
    }

    /// Takes note of an earlier result line. A later line of the same request overrides it; one of
    /// another request does not, so that an answer counts again when the input asks for it again.
    pub(crate) fn match_line(
        &mut self,
        id: &str,
        request_hash_prefix: u64,
        ended: EarlierResult,
    ) -> Match {
        let Some((at, renamed)) = self.find_same(id, request_hash_prefix) else {
            self.unknown_lines += 1;
            return Match::Unknown;
        };
        self.is_renamed |= renamed.is_some();
        let entry = &mut self.entries[at];
        let is_same = entry.request == request_hash_prefix;
        let (state, found) = match ended {
            _ if !is_same => match entry.state() {
                State::New => (State::Changed, Match::Changed),
                state => (state, Match::Changed),
            },
            EarlierResult::Success => (State::Done, Match::Done),
            EarlierResult::Failure => (State::Failed, Match::Failed),
            EarlierResult::Unusable => (State::Unusable, Match::Unusable),
        };
        entry.set_state(state);
        found
    }

    /// True if the output has no answer to some item.
    pub(crate) fn lacks_answers(&self) -> bool {
        let mut prompts = self.entries.iter().filter(|entry| !entry.is_bad());
        prompts.any(|entry| entry.state() != State::Done)
    }

    /// True for an item that asks the same and that the output has no answer to.
    pub(crate) fn lacks_answer(&self, id: &str, request_hash_prefix: u64) -> bool {
        let found = self.find_same(id, request_hash_prefix);
        let entry = found.map(|(at, _)| &self.entries[at]);
        entry.is_some_and(|entry| {
            entry.request == request_hash_prefix && !entry.is_bad() && entry.state() != State::Done
        })
    }

    /// Whether a line answers what the item of that id asks; `None` if there is no such item.
    pub(crate) fn answers(&self, id: &str, request_hash_prefix: u64) -> Option<bool> {
        let (at, _) = self.find_same(id, request_hash_prefix)?;
        Some(self.entries[at].request == request_hash_prefix)
    }

    /// The record that a result belongs to, be it of another sample than the input asks for.
    pub(crate) fn record_of(&self, id: &str, request_hash_prefix: u64) -> Option<RecordOf> {
        let found = self.find(id);
        let found = found.map(|at| (at, self.entries[at].sample().unwrap_or(1), 0));
        let of_other_sample = |item: ItemId<'_>| {
            let mut first = [None, Some(1)].into_iter();
            let at = first.find_map(|sample| self.at(ItemId { sample, ..item }))?;
            let sample = item.sample.unwrap_or(1);
            Some((at, sample, sample_mask(sample)))
        };
        let others = || ItemId::readings(id).find_map(of_other_sample);
        let (at, sample, mask) = found.or_else(others)?;
        let entry = &self.entries[at];
        Some(RecordOf {
            offset: entry.offset(),
            sample: u16::try_from(sample).unwrap_or(u16::MAX),
            makes_prompt: !entry.is_bad(),
            is_same: entry.is_auto() || entry.request == request_hash_prefix ^ mask,
        })
    }

    /// Records, each of which may make several items.
    pub(crate) fn records(&self) -> u64 {
        let first = self.entries.iter().filter(|entry| entry.is_first());
        first.count() as u64
    }

    /// True when the id of an item may be made of what it asks.
    pub(crate) fn has_automatic_ids(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.is_auto() && !entry.is_bad())
    }

    /// Ends the matching: from here on items are in input order.
    pub(crate) fn finish(mut self) -> FileIndex {
        let mut tally = MatchCounts {
            unknown_lines: self.unknown_lines,
            ..MatchCounts::default()
        };
        for entry in &self.entries {
            match entry.state() {
                State::New => tally.new += 1,
                State::Done => tally.done += 1,
                State::Failed => tally.failed += 1,
                State::Unusable => tally.unusable += 1,
                State::Changed => tally.changed += 1,
            }
            let untold = entry.is_bad() && entry.state() != State::Failed;
            tally.bad_untold += u64::from(untold);
            tally.automatic += u64::from(entry.is_auto());
        }
        self.entries.par_sort_unstable_by_key(Entry::place_key);
        FileIndex {
            entries: RwLock::new(self.entries),
            hash: self.hash,
            collisions: self.collisions,
            repeats: self.repeats,
            end: AtomicU64::new(self.totals.bytes),
            totals: self.totals,
            tally,
        }
    }
}

/// The index in input order; `i` counts items from 0.
#[derive(Debug)]
pub(crate) struct FileIndex {
    /// Those of a stream come one after the other.
    pub(super) entries: RwLock<Vec<Entry>>,
    pub(super) hash: IdHash,
    pub(super) collisions: HashMap<String, u64>,
    repeats: Box<Repeats>,
    /// Where the last record ends.
    end: AtomicU64,
    pub(super) totals: Totals,
    pub(super) tally: MatchCounts,
}

impl FileIndex {
    /// Items.
    pub(crate) fn len(&self) -> usize {
        self.entries.read().len()
    }

    #[cfg(test)]
    /// What the check has counted.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// What the matching has found.
    pub(crate) fn tally(&self) -> MatchCounts {
        self.tally
    }

    /// Where item `i` begins.
    pub(crate) fn offset(&self, i: usize) -> u64 {
        self.entry(i).offset()
    }

    /// Where it ends at the latest: at the next item or the end of the input.
    pub(crate) fn end(&self, i: usize) -> u64 {
        let entries = self.entries.read();
        let begins = entries[i].offset();
        let mut behind = entries[i + 1..].iter().map(Entry::offset);
        // Samples of one record have one place.
        behind
            .find(|offset| *offset != begins)
            .unwrap_or(self.end.load(Order::Acquire))
    }

    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Order::Release);
    }

    pub(super) fn entry(&self, i: usize) -> Entry {
        self.entries.read()[i]
    }

    /// Sorts items by their requests, and those of one request in the order of the input.
    pub(crate) fn sort_by_request(&self, items: &mut [u32]) {
        let entries = self.entries.read();
        let entries: &[Entry] = &entries;
        items.par_sort_unstable_by_key(|item| (entries[*item as usize].request, *item));
    }

    /// The class that was given to it.
    pub(crate) fn class(&self, i: usize) -> u16 {
        self.entry(i).class()
    }

    /// The first 8 bytes of its fingerprint.
    pub(crate) fn request_prefix(&self, i: usize) -> u64 {
        self.entry(i).request
    }

    /// True when it makes no prompt, so that it is never sent.
    pub(crate) fn is_bad(&self, i: usize) -> bool {
        self.entry(i).is_bad()
    }

    /// How it stands towards earlier results.
    pub(crate) fn state(&self, i: usize) -> State {
        self.entry(i).state()
    }

    #[cfg(test)]
    /// True when it need not be sent again.
    pub(crate) fn is_done(&self, i: usize) -> bool {
        self.state(i) == State::Done
    }

    /// What item `i` is called, if a record with that id of its own, or without one, is what was checked.
    pub(super) fn item_id<'a>(&self, i: usize, own: Option<&'a str>) -> Option<ItemId<'a>> {
        let entry = self.entry(i);
        let record = match own {
            Some(id) if entry.is_of((self.hash)(id)) => RecordId::Own(id),
            None if entry.is_auto() => RecordId::Auto {
                request: entry.first_request(),
                ordinal: entry.ordinal(),
            },
            _ => return None,
        };
        Some(ItemId {
            record,
            sample: entry.sample(),
        })
    }

    /// What is wrong with item `i`, if it repeats an id.
    pub(super) fn repeats(&self, i: usize) -> Option<&str> {
        self.repeats.0.get(&self.offset(i)).map(String::as_str)
    }

    /// Which sample of its record it is; none if that asks for one answer.
    pub(super) fn sample(&self, i: usize) -> Option<u32> {
        self.entry(i).sample()
    }

    /// True when somebody has it in hand, or its result came in this run.
    pub(crate) fn is_taken(&self, i: usize) -> bool {
        let entry = self.entry(i);
        entry.is_held() || entry.is_settled()
    }

    /// Sorts by id again; nothing is lost.
    pub(crate) fn into_matching(self) -> Matching {
        let repeats = self.repeats;
        let mut by_id = Matching::sorted(self.entries.into_inner(), self.hash, self.totals);
        by_id.set_collisions(self.collisions);
        by_id.repeats = repeats;
        by_id.unknown_lines = self.tally.unknown_lines;
        by_id
    }

    /// The same when the run is over, although the thread that reads a stream may never end. No items are left here.
    pub(crate) fn take_matching(&self) -> Matching {
        let taken = Self {
            entries: std::mem::take(&mut *self.entries.write()).into(),
            hash: self.hash,
            collisions: self.collisions.clone(),
            repeats: Box::default(),
            end: self.end.load(Order::Acquire).into(),
            totals: self.totals,
            tally: self.tally,
        };
        taken.into_matching()
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
