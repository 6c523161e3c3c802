//! Marks items in the index, by id, whose calls are made elsewhere.

use super::entry::{Entry, State};
use super::index::{FileIndex, Matching};

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

impl Matching {
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

    /// Marks the item as processed by a job.
    pub(crate) fn hold(&mut self, id: &str) {
        if let Some(at) = self.find(id) {
            self.entries[at].hold();
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

impl FileIndex {
    /// Marks it as processed by a job.
    pub(crate) fn hold(&mut self, i: usize) {
        self.entries[i].hold();
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::{RecordId, id_hash};

    use super::super::index::Totals;
    use super::*;
    use crate::bulk::input::EarlierResult;

    fn own(id: &str, request: u64, offset: u64) -> Entry {
        Entry::new(id_hash(id), request, offset, 0)
    }

    fn auto(request: u64, offset: u64) -> Entry {
        Entry::automatic(request, offset, 0)
    }

    fn auto_id(request: u64, ordinal: u32) -> String {
        RecordId::Auto { request, ordinal }.to_string()
    }

    #[test]
    fn lookups_by_id_work_after_sorting_back() {
        let mut entries: Vec<Entry> = (0..4).map(|i| own(&format!("o{i}"), i, 10 * i)).collect();
        entries.extend([5, 6, 5].iter().zip(4..).map(|(&r, i)| auto(r, 10 * i)));
        let mut index = Matching::new(entries, Totals::default());
        index.match_line("o1", 1, EarlierResult::Success);
        index.hold("o2");
        let second = auto_id(5, 2);
        index.hold(&second);
        let mut index = index.finish().into_matching();
        let same = |state, held, settled| Fit::Same {
            state,
            held,
            settled,
        };
        assert_eq!(index.fit("o1", 1), same(State::Done, false, false));
        assert_eq!(index.fit("o2", 2), same(State::New, true, false));
        assert_eq!(index.fit("o2", 9), Fit::Other);
        assert_eq!(index.fit("o9", 9), Fit::Unknown);
        assert_eq!(index.fit(&second, 5), same(State::New, true, false));
        assert_eq!(index.fit(&auto_id(5, 3), 5), Fit::Unknown);
        assert_eq!(index.settle("o2", false), Some(State::New));
        assert_eq!(index.fit("o2", 2), same(State::Failed, false, true));
        index.release_all();
        let index = index.finish();
        let taken: Vec<usize> = (0..7).filter(|i| index.is_taken(*i)).collect();
        assert_eq!(taken, [2]);
    }
}
