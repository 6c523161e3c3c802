//! Outcomes as result lines.

use std::time::Duration;

use crate::base::memory::UnwrittenResult;
use crate::base::{Error, Paid, Usd};
use crate::llm::outcome::Outcome;
use crate::observe::tally::Measure;

use super::input::Item;
pub(crate) use super::input::Named;

impl Named {
    /// Takes what only the result line of an item needs.
    pub(super) fn of(item: &mut Item) -> Self {
        let request = &mut item.request;
        Self {
            id: request.id.clone().unwrap_or_default(),
            request_hash: std::mem::take(&mut item.request_hash),
            model: request.model.clone(),
            input: request.input.take(),
        }
    }

    /// Adds the fields that describe the item.
    pub(super) fn item(&self, outcome: Outcome) -> Outcome {
        Outcome {
            id: Some(self.id.clone()),
            request_hash: Some(self.request_hash.clone()),
            input: self.input.clone(),
            ..outcome
        }
    }
}

/// The finished lines of a pack.
#[derive(Default)]
pub(crate) struct Lines {
    pub bytes: Vec<u8>,
    pub measure: Measure,
    /// Failures of single texts of a pack.
    pub failures: Vec<Error>,
    /// Counts the lines in the memory of the process until they are written.
    pub unwritten: Option<UnwrittenResult>,
}

/// The cost of an item whose answer was billed for another one.
const FREE: Paid = Paid {
    usage: None,
    cost_usd: Some(Usd::ZERO),
};

/// The outcome of an item that shares another item's outcome and has no cost of its own.
pub(super) fn shared_outcome(outcome: &Outcome) -> Outcome {
    let mut shared = outcome.clone();
    shared.answered_by = shared.answered_by.or(shared.id.take());
    (shared.attempts, shared.latency) = (0, Duration::ZERO);
    shared.result = match shared.result {
        Ok(mut answer) => {
            answer.set_paid(FREE);
            Ok(answer)
        }
        Err(error) => Err(error.with_paid(FREE)),
    };
    shared
}

/// The line of an item that was never sent.
pub(super) fn unsent_line(bytes: &mut Vec<u8>, named: &Named, error: Error) -> Result<(), Error> {
    let outcome = Outcome {
        model: named.model.clone(),
        ..Outcome::new(None, Err(error))
    };
    named.item(outcome).write_line(bytes)
}

/// Capacity that the buffer keeps between two writes; embeddings may have needed much more.
pub(super) const REUSED_BUFFER_BYTES: usize = 1 << 20;

/// Splits lines; each keeps its line end.
pub(crate) fn each_line(lines: &[u8]) -> Vec<Vec<u8>> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    lines.map(<[u8]>::to_vec).collect()
}
