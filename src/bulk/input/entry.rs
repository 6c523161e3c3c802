//! The index entry of one item: 24 bytes; one word contains its position, its class and its flags. The flags move with
//! the entry when it is sorted; a separate list would not.

const CLASS_SHIFT: u32 = 8;
const OFFSET_SHIFT: u32 = CLASS_SHIFT + 16;
const STATE: u64 = 0b111;
/// Another worker processes it; its result will arrive.
const HELD: u64 = 1 << 3;
const AUTO: u64 = 1 << 4;
const BAD: u64 = 1 << 5;
const FOLLOWS: u64 = 1 << 6;
/// Its result arrived in this run.
const SETTLED: u64 = 1 << 7;

/// Larger inputs cannot be indexed: 1 TiB.
pub(super) const LARGEST_FILE: u64 = 1 << (u64::BITS - OFFSET_SHIFT);

/// The state of an item after comparison with earlier results. The last three are also how an earlier run ended; better
/// ends come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// No earlier result.
    New,
    /// Has a result of another request.
    Changed,
    /// Failed before, and the request is still the same.
    Failed,
    /// Failed before with a billed but unusable reply, and the request is still the same.
    Unusable,
    /// Succeeded before, and the request is still the same.
    Done,
}

const STATES: [State; 5] = [
    State::New,
    State::Changed,
    State::Failed,
    State::Unusable,
    State::Done,
];

/// An item of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// The hash of its id; without an own id its ordinal among equal requests.
    pub(super) id: u64,
    /// The first 8 bytes of its request hash.
    pub(crate) request: u64,
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

    /// An entry without an own id: the id is made from the request hash and the ordinal among equal requests.
    pub(super) fn automatic(request: u64, offset: u64, class: u16) -> Self {
        let mut entry = Self::new(0, request, offset, class);
        entry.packed |= AUTO;
        entry
    }

    pub(super) fn set_ordinal(&mut self, ordinal: u32) {
        self.id = ordinal.into();
    }

    pub(super) fn ordinal(&self) -> u32 {
        u32::try_from(self.id).unwrap_or(u32::MAX)
    }

    /// Marks it as making no prompt.
    pub(super) fn bad(mut self) -> Self {
        self.packed |= BAD;
        self
    }

    /// Marks it as repeating an id: it makes no prompt, and its id is made from its request.
    pub(super) fn repeated(self) -> Self {
        Self::automatic(self.request, self.offset(), self.class()).bad()
    }

    /// True if it makes no prompt, so it is never sent.
    pub(crate) fn is_bad(&self) -> bool {
        self.packed & BAD != 0
    }

    /// Whether its record repeats an id. Such an item has no own id, although its record has one.
    pub(super) fn may_repeat(&self) -> bool {
        self.is_bad() && self.is_auto()
    }

    /// True if it makes no prompt, and the output has no line that says so.
    pub(crate) fn is_untold(&self) -> bool {
        self.is_bad() && self.state() != State::Failed
    }

    /// True if it makes a prompt, and the output has no answer to it.
    pub(crate) fn lacks_answer(&self) -> bool {
        !self.is_bad() && self.state() != State::Done
    }

    /// Whether its id is made from its request.
    pub(crate) fn is_auto(&self) -> bool {
        self.packed & AUTO != 0
    }

    /// Whether it is not sent, because another item with the same request is, or its answer is known.
    pub(crate) fn follows(&self) -> bool {
        self.packed & FOLLOWS != 0
    }

    pub(super) fn follow(&mut self, yes: bool) {
        self.packed = (self.packed & !FOLLOWS) | (FOLLOWS * u64::from(yes));
    }

    pub(crate) fn offset(&self) -> u64 {
        self.packed >> OFFSET_SHIFT
    }

    pub(crate) fn class(&self) -> u16 {
        (self.packed >> CLASS_SHIFT) as u16
    }

    /// Its state after comparison with earlier results.
    pub(crate) fn state(&self) -> State {
        STATES[(self.packed & STATE) as usize]
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.packed = self.packed & !STATE | state as u64;
    }

    /// Whether another worker processes it and its result will arrive.
    pub(crate) fn is_held(&self) -> bool {
        self.packed & HELD != 0
    }

    pub(super) fn hold(&mut self) {
        if !self.is_settled() {
            self.packed |= HELD;
        }
    }

    /// Marks it as processed by no one.
    pub(super) fn release(&mut self) {
        self.packed &= !HELD;
    }

    /// Whether its result arrived in this run.
    pub(crate) fn is_settled(&self) -> bool {
        self.packed & SETTLED != 0
    }

    /// True if another worker processes it, or its result arrived in this run.
    pub(crate) fn is_taken(&self) -> bool {
        self.packed & (HELD | SETTLED) != 0
    }

    pub(super) fn settle(&mut self, state: State) {
        self.release();
        self.set_state(state);
        self.packed |= SETTLED;
    }

    /// The sort key by id. Items without an own id come after the others, grouped by request and in input order, so
    /// that their ordinals rise.
    pub(super) fn id_key(&self) -> (bool, u64, u64) {
        let key = if self.is_auto() {
            self.request
        } else {
            self.id
        };
        (self.is_auto(), key, self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_24_bytes_and_its_parts_do_not_mix() {
        assert_eq!(size_of::<Entry>(), 24);
        let (last, class) = (LARGEST_FILE - 1, u16::MAX);
        let kept = |entry: &Entry| {
            (
                entry.offset(),
                entry.class(),
                entry.is_auto(),
                entry.is_bad(),
            )
        };
        for (mut entry, parts) in [
            (Entry::new(1, 2, last, class), (last, class, false, false)),
            (Entry::automatic(2, 77, 5), (77, 5, true, false)),
            (Entry::automatic(2, 77, 5).bad(), (77, 5, true, true)),
        ] {
            assert_eq!(entry.state(), State::New);
            for state in STATES {
                let mut entry = entry;
                entry.set_state(state);
                entry.hold();
                assert!(entry.is_held() && !entry.is_settled());
                entry.release();
                assert!(!entry.is_held() && entry.state() == state);
                entry.hold();
                entry.settle(State::Failed);
                entry.hold();
                assert!(!entry.is_held() && entry.is_settled());
                assert_eq!((entry.state(), kept(&entry)), (State::Failed, parts));
            }
            entry.set_ordinal(9);
            assert_eq!((entry.ordinal(), kept(&entry)), (9, parts));
        }
    }
}
