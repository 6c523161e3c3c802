//! Outcomes as result lines.

use std::time::Duration;

use crate::base::memory::UnwrittenResult;
use crate::base::{Error, Paid, Usd};
use crate::llm::outcome::Outcome;
use crate::llm::reply_details::RawJson;
use crate::observe::tally::{Measure, Tally};

use super::input::{BadRow, Item};

/// The fields of a result line that describe its item.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub id: String,
    pub request_hash: String,
    pub model: Option<String>,
    /// The kept fields of its row.
    pub input: Option<RawJson>,
}

impl Named {
    pub(super) fn of(item: Item) -> Self {
        let Item {
            request,
            request_hash,
        } = item;
        Self {
            id: request.id.unwrap_or_default(),
            request_hash,
            model: request.model,
            input: request.input,
        }
    }

    pub(super) fn of_bad_row(row: BadRow) -> Self {
        Self {
            id: row.id,
            request_hash: row.request_hash,
            model: None,
            input: row.input,
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

/// An item that gets the answer of another one with an equal request.
pub(crate) struct Equal {
    pub named: Named,
    /// True if an earlier run wrote a line for it.
    pub supersedes: bool,
}

/// The finished lines of a pack.
#[derive(Default)]
pub(crate) struct Lines {
    pub bytes: Vec<u8>,
    pub measure: Measure,
    /// Number of lines of items that share an answer or a failure and had a line already.
    pub superseded: u64,
    /// A shared failure, and the number of items that share it.
    pub failed: Option<(Error, u64)>,
    /// Failures of single texts of a pack.
    pub failures: Vec<Error>,
    /// Counts the lines in the memory of the process until they are written.
    pub unwritten: Option<UnwrittenResult>,
}

impl Lines {
    fn add_failed(&mut self, error: &Error) {
        let (_, items) = self.failed.get_or_insert_with(|| (error.clone(), 0));
        *items += 1;
    }

    /// Adds the results of items without a call to the tally.
    pub(crate) fn tell(&self, step: u8, tally: &mut Tally) {
        tally.answered(step, &self.measure);
        if let Some((error, items)) = &self.failed {
            tally.failed_as_equals(error, *items);
        }
    }

    /// Adds the line of an item that shares the answer, or the failure, of another one.
    pub(crate) fn add_equal(&mut self, outcome: &Outcome, equal: &Equal) {
        let shared = shared_outcome(outcome, &equal.named);
        if shared.write_line(&mut self.bytes).is_ok() {
            self.superseded += u64::from(equal.supersedes);
            match &shared.result {
                Ok(answer) => self.measure.add_equal(answer),
                Err(error) => self.add_failed(error),
            }
        }
    }
}

/// The cost of an item whose answer was billed for another one.
const FREE: Paid = Paid {
    usage: None,
    cost_usd: Some(Usd::ZERO),
    cache_saved: 0,
};

/// The outcome of an item that shares another item's outcome and has no cost of its own.
fn shared_outcome(outcome: &Outcome, named: &Named) -> Outcome {
    let mut shared = outcome.clone();
    let sent = shared.id.replace(named.id.clone());
    shared.answered_by = shared.answered_by.or(sent);
    shared.input.clone_from(&named.input);
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
