//! What is kept of one item: 24 bytes, of which one word packs where it is, its class and its
//! flags. The flags travel with the entry when it is sorted, which a list beside it would not.

use crate::llm::hash::sample_mask;

const CLASS_SHIFT: u32 = 8;
const OFFSET_SHIFT: u32 = CLASS_SHIFT + 16;
const STATE: u64 = 0b111;
const AUTO: u64 = 1 << 3;
const LIKE_AUTO: u64 = 1 << 4;
const HELD: u64 = 1 << 5;
const SETTLED: u64 = 1 << 6;
const BAD: u64 = 1 << 7;

/// Larger inputs cannot be indexed: 1 TiB.
pub(super) const LARGEST_FILE: u64 = 1 << (u64::BITS - OFFSET_SHIFT);

/// How an item stands towards earlier results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No earlier result.
    New,
    /// Succeeded before, and the request is still the same.
    Done,
    /// Failed before, and the request is still the same.
    Failed,
    /// Has a result of another request.
    Changed,
    /// Failed before with a reply that was paid for and cannot be used, and the request is still the
    /// same.
    Unusable,
}

/// How an item of an earlier run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EarlierResult {
    Success,
    Failure,
    /// With a reply that was paid for and cannot be used.
    Unusable,
}

/// How many bits of the hash of an id give way to the number of the sample.
const SAMPLE_BITS: u32 = 16;
const SAMPLE: u64 = (1 << SAMPLE_BITS) - 1;
/// In place of the number: an id of its own that looks like one of a sample.
const LIKE_SAMPLE: u64 = SAMPLE;

/// What an item is found by: the hash of the id, and which sample it is of what has this id; 0 if it is the item
/// itself.
pub(super) fn id_key(hash: u64, sample: u32) -> u64 {
    hash & !SAMPLE | u64::from(sample)
}

/// The same for an id of its own that looks like one of a sample.
pub(super) fn like_sample_key(hash: u64) -> u64 {
    hash | LIKE_SAMPLE
}

/// An item of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The hash of its id, and which sample it is. In input order an item without an id of its own has its ordinal
    /// among equal requests in place of the hash, which can be made again from `request`.
    pub(super) id: u64,
    /// The first 8 bytes of the fingerprint of its request.
    pub(super) request: u64,
    packed: u64,
}

impl Entry {
    pub(super) fn new(id: u64, request: u64, offset: u64, class: u16) -> Self {
        debug_assert!(offset < LARGEST_FILE);
        Self {
            id: id_key(id, 0),
            request,
            packed: offset << OFFSET_SHIFT | u64::from(class) << CLASS_SHIFT,
        }
    }

    /// A sample of it.
    pub(super) fn sampled(mut self, sample: u32) -> Self {
        self.id = id_key(self.id, sample);
        self.request ^= sample_mask(sample);
        self
    }

    /// Which sample it is of the item with its id; none if it is the item itself.
    pub(super) fn sample(&self) -> Option<u32> {
        match self.id & SAMPLE {
            0 | LIKE_SAMPLE => None,
            sample => Some(sample as u32),
        }
    }

    /// True unless it is a further sample of a record.
    pub(super) fn is_first(&self) -> bool {
        self.sample().is_none_or(|sample| sample == 1)
    }

    /// The first 8 bytes of the fingerprint of its first sample.
    pub(super) fn first_request(&self) -> u64 {
        self.request ^ sample_mask(self.sample().unwrap_or(0))
    }

    /// Puts another value in the place of its id's hash.
    pub(super) fn set_id(&mut self, hash: u64) {
        self.id = hash & !SAMPLE | self.id & SAMPLE;
    }

    /// Puts its ordinal among equal requests there.
    pub(super) fn set_ordinal(&mut self, ordinal: u32) {
        self.set_id(u64::from(ordinal) << SAMPLE_BITS);
    }

    pub(super) fn ordinal(&self) -> u32 {
        u32::try_from(self.id >> SAMPLE_BITS).unwrap_or(u32::MAX)
    }

    /// Its own id looks like that of a sample.
    pub(super) fn like_sample(mut self) -> Self {
        self.id |= LIKE_SAMPLE;
        self
    }

    pub(super) fn is_like_sample(&self) -> bool {
        self.id & SAMPLE == LIKE_SAMPLE
    }

    /// Its id is made from its fingerprint.
    pub(super) fn automatic(mut self) -> Self {
        self.packed |= AUTO;
        self
    }

    /// Its own id looks like an automatic one.
    pub(super) fn like_automatic(mut self) -> Self {
        self.packed |= LIKE_AUTO;
        self
    }

    /// It makes no prompt.
    pub(super) fn bad(mut self) -> Self {
        self.packed |= BAD;
        self
    }

    pub(super) fn is_bad(&self) -> bool {
        self.packed & BAD != 0
    }

    pub(super) fn is_auto(&self) -> bool {
        self.packed & AUTO != 0
    }

    pub(super) fn is_like_auto(&self) -> bool {
        self.packed & LIKE_AUTO != 0
    }

    pub(super) fn offset(&self) -> u64 {
        self.packed >> OFFSET_SHIFT
    }

    pub(super) fn set_offset(&mut self, offset: u64) {
        let rest = self.packed & ((1 << OFFSET_SHIFT) - 1);
        self.packed = offset << OFFSET_SHIFT | rest;
    }

    pub(super) fn class(&self) -> u16 {
        (self.packed >> CLASS_SHIFT) as u16
    }

    pub(super) fn state(&self) -> State {
        match self.packed & STATE {
            0 => State::New,
            1 => State::Done,
            2 => State::Failed,
            3 => State::Changed,
            _ => State::Unusable,
        }
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.packed = self.packed & !STATE | state as u64;
    }

    /// Somebody else has it in hand, and its result will come.
    pub(super) fn is_held(&self) -> bool {
        self.packed & HELD != 0
    }

    #[cfg(feature = "queue")]
    pub(super) fn set_held(&mut self, held: bool) {
        self.packed = self.packed & !HELD | if held { HELD } else { 0 };
    }

    /// Its result came in this run.
    pub(super) fn is_settled(&self) -> bool {
        self.packed & SETTLED != 0
    }

    #[cfg(feature = "queue")]
    pub(super) fn settle(&mut self) {
        self.packed = self.packed & !HELD | SETTLED;
    }

    /// Sorts in the order of the input.
    pub(super) fn place_key(&self) -> (u64, u64) {
        (self.offset(), self.id & SAMPLE)
    }

    /// Sorts by id; items without one come after the others and are grouped by request, each group
    /// in input order.
    pub(super) fn id_key(&self) -> (u64, bool, u64, u64) {
        let auto = self.is_auto();
        (
            self.id,
            auto,
            if auto { self.request } else { 0 },
            self.offset(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_24_bytes_and_its_parts_do_not_mix() {
        assert_eq!(size_of::<Entry>(), 24);
        let mut entry = Entry::new(1, 2, LARGEST_FILE - 1, u16::MAX);
        assert!(!entry.is_auto() && !entry.is_like_auto());
        assert_eq!(entry.state(), State::New);
        for state in [
            State::Changed,
            State::Unusable,
            State::Failed,
            State::Done,
            State::New,
        ] {
            entry.set_state(state);
            assert_eq!(entry.state(), state);
        }
        assert_eq!(entry.offset(), LARGEST_FILE - 1);
        assert_eq!(entry.class(), u16::MAX);
        let mut entry = Entry::new(1, 2, 77, 5).automatic();
        entry.set_state(State::Changed);
        entry.set_offset(78);
        assert!(entry.is_auto() && !entry.is_like_auto());
        assert_eq!((entry.offset(), entry.class()), (78, 5));
        assert_eq!(entry.state(), State::Changed);
        assert!(Entry::new(1, 2, 3, 4).like_automatic().is_like_auto());
        assert!(!entry.is_bad());
        let entry = entry.bad();
        assert!(entry.is_bad() && entry.is_auto() && entry.offset() == 78);
    }
}
