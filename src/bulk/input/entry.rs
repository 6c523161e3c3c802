//! What is kept of one item: 24 bytes, of which one word packs where it is, its class and its
//! flags. The flags travel with the entry when it is sorted, which a list beside it would not.

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

/// An item of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The hash of its id. In input order an item without an id of its own has its ordinal among
    /// equal requests here instead, since that hash can be made again from `request`.
    pub(super) id: u64,
    /// The first 8 bytes of the fingerprint of its request.
    pub(super) request: u64,
    packed: u64,
}

impl Entry {
    pub(super) fn new(id: u64, request: u64, offset: u64, class: u16) -> Self {
        debug_assert!(offset < LARGEST_FILE);
        Self {
            id,
            request,
            packed: offset << OFFSET_SHIFT | u64::from(class) << CLASS_SHIFT,
        }
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
