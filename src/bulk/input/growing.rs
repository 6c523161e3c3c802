//! The index of a stream, which grows as its items arrive.

use super::entry::{Entry, State};
use super::id::id_hash;
use super::index::{FileIndex, Matching, Totals};
use super::stream::StreamedItem;

/// Items that have arrived, in the order of the stream.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    entries: Vec<Entry>,
    /// The end of the last item's record.
    end: u64,
    /// Number of bytes of the items to send.
    pub(crate) bytes: usize,
    /// Number of items to send.
    pub(crate) wanted: usize,
    /// Whether they may share calls.
    pub(crate) packs: bool,
}

impl Arrival {
    pub(crate) fn add(&mut self, item: &StreamedItem, class: u16, state: State) {
        let mut entry = item.entry.of_class(class);
        entry.set_state(state);
        self.entries.push(entry);
        self.end = item.end;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl FileIndex {
    /// The index of a stream before its first item.
    pub(crate) fn growing() -> Self {
        Matching::new(Vec::new(), id_hash, Totals::default()).finish()
    }

    /// Adds items at the end.
    pub(crate) fn grow(&self, arrival: Arrival) {
        self.entries.write().extend(arrival.entries);
        self.set_end(arrival.end);
    }

    /// Whether an item had a different request in an earlier run.
    pub(crate) fn has_changed(&self) -> bool {
        let entries = self.entries.read();
        entries.iter().any(|entry| entry.state() == State::Changed)
    }

    /// Number of items in each state that is not sent: finished ones, failed ones, and failed ones with a billed reply.
    pub(crate) fn left(&self, wants: impl Fn(State) -> bool) -> (u64, u64, u64) {
        let (mut done, mut failed, mut unusable) = (0, 0, 0);
        for entry in self.entries.read().iter() {
            match entry.state() {
                State::Done => done += 1,
                State::Failed if !wants(State::Failed) => failed += 1,
                State::Unusable if !wants(State::Unusable) => unusable += 1,
                State::New | State::Changed | State::Failed | State::Unusable => {}
            }
        }
        (done, failed + unusable, unusable)
    }
}
