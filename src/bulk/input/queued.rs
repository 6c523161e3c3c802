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
