//! The index of a file's items, in the three orders of its life: by id while earlier results are
//! matched, in input order while items are sent, by id again when results are put into order. Each
//! order is a type; the entries are sorted in place.

use std::collections::HashMap;

use rayon::prelude::*;

use super::entry::{Entry, State};
use super::id::{IdHash, auto_id, parse_auto};
use crate::bulk::input::EarlierResult;

/// What the check of a file has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) items: u64,
    /// Items for which neither they nor the run name a model.
    pub(crate) unnamed: u64,
    /// Items that make no prompt.
    pub(crate) bad: u64,
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

/// The index by id: what a check leaves behind.
#[derive(Debug)]
pub(crate) struct Matching {
    pub(super) entries: Vec<Entry>,
    hash: IdHash,
    /// Different ids of one hash, with their offsets; empty but for a freak of nature.
    collisions: HashMap<String, u64>,
    totals: Totals,
    pub(super) unknown_lines: u64,
}

impl Matching {
    /// Sorts entries whose ids are hashed.
    pub(super) fn new(mut entries: Vec<Entry>, hash: IdHash, totals: Totals) -> Self {
        entries.par_sort_unstable_by_key(Entry::id_key);
        Self {
            entries,
            hash,
            collisions: HashMap::new(),
            totals,
            unknown_lines: 0,
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn set_collisions(&mut self, collisions: HashMap<String, u64>) {
        self.collisions = collisions;
    }

    /// What the check has counted.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Where the item of that id is in this order. An id that the input does not have is taken for
    /// another one if 64 bits of SHA-256 agree; its fingerprint would have to agree as well before
    /// anything was skipped.
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        let auto = parse_auto(id).and_then(|(request, ordinal)| self.automatic(request, ordinal));
        if auto.is_some() {
            return auto;
        }
        let hash = (self.hash)(id);
        let start = self.entries.partition_point(|e| e.id < hash);
        let own = |i: usize| {
            self.entries
                .get(i)
                .is_some_and(|e| e.id == hash && !e.is_auto())
        };
        if !own(start) || !own(start + 1) {
            return own(start).then_some(start);
        }
        let key = (hash, false, 0, *self.collisions.get(id)?);
        self.entries.binary_search_by_key(&key, Entry::id_key).ok()
    }

    /// Where the item with that automatic id is.
    pub(super) fn automatic(&self, request: u64, ordinal: u32) -> Option<usize> {
        let key = (self.hash)(&auto_id(request, 1));
        let first = (key, true, request, 0);
        let start = self.entries.partition_point(|e| e.id_key() < first);
        let at = start + usize::try_from(ordinal).ok()?.checked_sub(1)?;
        let entry = self.entries.get(at)?;
        (entry.is_auto() && entry.request == request).then_some(at)
    }

    /// Takes note of an earlier result line. A later line of the same request overrides it; one of
    /// another request does not, so that an answer counts again when the input asks for it again.
    pub(crate) fn match_line(
        &mut self,
        id: &str,
        request_hash_prefix: u64,
        ended: EarlierResult,
    ) -> Match {
        let Some(at) = self.find(id) else {
            self.unknown_lines += 1;
            return Match::Unknown;
        };
        let entry = &mut self.entries[at];
        let (state, found) = match ended {
            _ if entry.request != request_hash_prefix => match entry.state() {
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

    /// Ends the matching: from here on items are in input order.
    pub(crate) fn finish(mut self) -> FileIndex {
        let mut tally = MatchCounts {
            unknown_lines: self.unknown_lines,
            ..MatchCounts::default()
        };
        let mut group = None;
        let mut ordinal = 0;
        for entry in &mut self.entries {
            match entry.state() {
                State::New => tally.new += 1,
                State::Done => tally.done += 1,
                State::Failed => tally.failed += 1,
                State::Unusable => tally.unusable += 1,
                State::Changed => tally.changed += 1,
            }
            let untold = entry.is_bad() && entry.state() != State::Failed;
            tally.bad_untold += u64::from(untold);
            if entry.is_auto() {
                tally.automatic += 1;
                let same = group == Some(entry.request);
                ordinal = if same { ordinal + 1 } else { 1 };
                group = Some(entry.request);
                entry.id = ordinal;
            } else {
                group = None;
            }
        }
        self.entries.par_sort_unstable_by_key(Entry::offset);
        FileIndex {
            entries: self.entries,
            hash: self.hash,
            collisions: self.collisions,
            totals: self.totals,
            tally,
        }
    }
}

/// The index in input order; `i` counts items from 0.
#[derive(Debug)]
pub(crate) struct FileIndex {
    pub(super) entries: Vec<Entry>,
    pub(super) hash: IdHash,
    pub(super) collisions: HashMap<String, u64>,
    pub(super) totals: Totals,
    pub(super) tally: MatchCounts,
}

impl FileIndex {
    /// Items.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
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
        self.entries[i].offset()
    }

    /// Where it ends at the latest: at the next item or the end of the input.
    pub(crate) fn end(&self, i: usize) -> u64 {
        self.entries
            .get(i + 1)
            .map_or(self.totals.bytes, Entry::offset)
    }

    /// The class that was given to it.
    pub(crate) fn class(&self, i: usize) -> u16 {
        self.entries[i].class()
    }

    /// The first 8 bytes of its fingerprint.
    pub(crate) fn request_prefix(&self, i: usize) -> u64 {
        self.entries[i].request
    }

    /// True when it makes no prompt, so that it is never sent.
    pub(crate) fn is_bad(&self, i: usize) -> bool {
        self.entries[i].is_bad()
    }

    /// How it stands towards earlier results.
    pub(crate) fn state(&self, i: usize) -> State {
        self.entries[i].state()
    }

    #[cfg(test)]
    /// True when it need not be sent again.
    pub(crate) fn is_done(&self, i: usize) -> bool {
        self.state(i) == State::Done
    }

    /// Its place among equal requests without an id; none when it has an id of its own.
    pub(super) fn ordinal(&self, i: usize) -> Option<u32> {
        let entry = &self.entries[i];
        entry
            .is_auto()
            .then(|| u32::try_from(entry.id).unwrap_or(u32::MAX))
    }

    /// True when item `i` has that id of its own.
    pub(super) fn has_own_id(&self, i: usize, id: &str) -> bool {
        let entry = &self.entries[i];
        !entry.is_auto() && entry.id == (self.hash)(id)
    }

    /// True when somebody has it in hand, or its result came in this run.
    pub(crate) fn is_taken(&self, i: usize) -> bool {
        self.entries[i].is_held() || self.entries[i].is_settled()
    }

    /// Sorts by id for a last time. The offsets give way to positions, so this needs no memory but
    /// the items can no longer be read.
    pub(crate) fn into_positions(mut self) -> Positions {
        for offset in self.collisions.values_mut() {
            *offset = self.entries.partition_point(|e| e.offset() < *offset) as u64;
        }
        let hash = self.hash;
        self.entries
            .par_iter_mut()
            .enumerate()
            .for_each(|(i, entry)| {
                entry.set_offset(i as u64);
                if entry.is_auto() {
                    entry.id = hash(&auto_id(entry.request, 1));
                }
            });
        let mut by_id = Matching::new(self.entries, hash, self.totals);
        by_id.set_collisions(self.collisions);
        Positions(by_id)
    }
}

/// The index by id, for putting results into input order.
#[derive(Debug)]
pub(crate) struct Positions(Matching);

impl Positions {
    /// Items.
    pub(crate) fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// The position of the item with that id in the input, from 0.
    pub(crate) fn of(&self, id: &str) -> Option<usize> {
        let at = self.0.find(id)?;
        usize::try_from(self.0.entries[at].offset()).ok()
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
