//! Outcomes as result lines.

use crate::base::error::Error;
use crate::base::usage::Paid;
use crate::llm::outcome::Outcome;
use crate::llm::outcome_builder::OutcomeBuilder;
use crate::llm::reply_details::RawJson;
use crate::observe::tally::{Measure, Tally};

use super::input::{BadRow, Item};

/// What a result line says of its item besides the outcome.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub id: String,
    pub request_hash: String,
    pub model: Option<String>,
    /// What is kept of its row.
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

    /// The same with what the result line says of the item.
    pub(super) fn item(&self, asked: OutcomeBuilder) -> OutcomeBuilder {
        OutcomeBuilder {
            id: Some(self.id.clone()),
            request_hash: Some(self.request_hash.clone()),
            input: self.input.clone(),
            ..asked
        }
    }
}

/// An item that is answered with another one, which asks the same.
pub(crate) struct Equal {
    pub named: Named,
    /// True when an earlier run wrote a line for it.
    pub supersedes: bool,
}

/// The finished lines of a pack.
#[derive(Default)]
pub(crate) struct Lines {
    pub bytes: Vec<u8>,
    pub measure: Measure,
    /// Lines of items that share an answer or a failure and had a line already.
    pub superseded: u64,
    /// Items that share a failure.
    pub failed: Option<(Error, u64)>,
    /// Failures of single texts of a pack.
    pub failures: Vec<Error>,
}

impl Lines {
    /// Adds the line of an item that has its answer from an earlier run, and returns what it says.
    pub(crate) fn add_reused(&mut self, outcome: Outcome, named: Named) -> Result<Outcome, Error> {
        let outcome = reused(outcome, named);
        outcome.write_line(&mut self.bytes)?;
        if let Ok(answer) = &outcome.result {
            self.measure.add_reused(answer);
        }
        Ok(outcome)
    }

    fn add_failed(&mut self, error: &Error) {
        let (_, items) = self.failed.get_or_insert_with(|| (error.clone(), 0));
        *items += 1;
    }

    /// Items that share a failure, and how many of them had a line already.
    pub(crate) fn failed_too(&self) -> (u64, u64) {
        let failed = self.failed.as_ref();
        failed.map_or((0, 0), |(_, items)| (*items, self.superseded))
    }

    /// Counts what they say of items that no call was made for.
    pub(crate) fn tell(&self, step: u8, tally: &mut Tally) {
        tally.answered(step, &self.measure);
        if let Some((error, items)) = &self.failed {
            tally.failed_as_equals(error, *items);
        }
    }

    /// Adds the line of an item that has its answer, or its failure, from another one.
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

/// What costs an item nothing, since it was paid for elsewhere.
const FREE: Paid = Paid {
    usage: None,
    cost_usd: Some(0.0),
};

/// An answer of an earlier run as that of an item.
fn reused(mut outcome: Outcome, named: Named) -> Outcome {
    outcome.id = Some(named.id);
    outcome.input = named.input;
    outcome.answered_by = None;
    outcome.reused = true;
    outcome = outcome.with_calls(0, None);
    if let Ok(answer) = &mut outcome.result {
        answer.set_paid(FREE);
    }
    outcome
}

/// What another item's outcome is for an item that asks the same: paid for there.
fn shared_outcome(outcome: &Outcome, named: &Named) -> Outcome {
    let mut shared = free(outcome);
    shared.id = Some(named.id.clone());
    shared.input.clone_from(&named.input);
    shared
}

/// An item's outcome for one that has no id yet: it names who was asked, and costs nothing.
pub(super) fn free(outcome: &Outcome) -> Outcome {
    let mut shared = outcome.clone();
    shared.answered_by = shared.answered_by.take().or(shared.id.take());
    shared = shared.with_calls(0, None);
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
    let asked = OutcomeBuilder {
        model: named.model.clone(),
        ..OutcomeBuilder::default()
    };
    named.item(asked).build(Err(error)).write_line(bytes)
}

/// What the buffer keeps between two writes; vectors may have needed much more.
pub(super) const REUSED_BUFFER_BYTES: usize = 1 << 20;

/// The lines apart, each with its end.
pub(crate) fn each_line(lines: &[u8]) -> Vec<Vec<u8>> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    lines.map(<[u8]>::to_vec).collect()
}
