//! The results of a batch, generated line by line while they are sent: the reply that a call with the same body would
//! get, in the format of each API.

use serde_json::Value;

use super::Family;
use super::life::{Batch, Fate, Part, Reading};
use crate::answer::{self, Place};
use crate::prompt::Problem;
use crate::rules::Fault;
use crate::template::Facts;
use crate::trouble::prompt_key;
use crate::{SimConfig, Trouble};

/// Which results to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Answers,
    /// Errors, and requests that were not processed before the batch expired.
    Errors,
    All,
}

/// Represents a line with an unknown id.
const STRANGER: u32 = u32::MAX;

/// A snapshot of a batch's results; its requests are shared, not copied.
#[derive(Debug)]
pub(super) struct Results {
    reading: Reading,
    part: Part,
    /// The indices of the requests, in the order of their lines.
    order: Vec<u32>,
    /// The outcome of requests that were not processed.
    left_over: &'static str,
    /// Seconds since the epoch.
    created: u64,
}

impl Results {
    /// `created` is in seconds since the epoch.
    pub(super) fn new(batch: &Batch, config: &SimConfig, which: Which, created: u64) -> Results {
        let family = batch.family();
        let over = batch.waiting() == 0 || batch.cancelled.is_some();
        let expired = batch.expires.is_some() && batch.cancelled.is_none();
        let shown = |fate: Fate| match (which, fate) {
            (_, Fate::Missing) => false,
            (Which::Answers, fate) => matches!(fate, Fate::Done(_)) && !fate.is_error(),
            (Which::Errors, Fate::Waiting) => expired,
            (Which::Errors, fate) => fate.is_error(),
            (Which::All, Fate::Waiting) => family == Family::Anthropic,
            (Which::All, _) => true,
        };
        let places = (0..STRANGER).zip(0..batch.part.items.len());
        let mut order: Vec<u32> = places
            .filter(|(_, place)| shown(batch.part.fate(*place)))
            .map(|(place, _)| place)
            .collect();
        // While xAI's batch runs, its pages must only grow at their end.
        if !config.batches.in_order && (family != Family::Xai || over) {
            order.reverse();
        }
        let twice = order.len().min(config.batches.duplicates as usize);
        order.extend_from_within(..twice);
        if !order.is_empty() {
            let strangers = config.batches.strangers as usize;
            order.resize(order.len() + strangers, STRANGER);
        }
        Results {
            reading: batch.plan.reading.clone(),
            part: batch.part.clone(),
            order,
            left_over: if expired { "expired" } else { "canceled" },
            created,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Leaves out the last third.
    pub(super) fn shorten(&mut self) {
        self.order.truncate(self.order.len() * 2 / 3);
    }

    /// All lines.
    pub(super) fn bytes(&self, config: &SimConfig) -> Vec<u8> {
        let lines = (0..self.len()).map(|nth| self.line(config, nth));
        lines
            .flat_map(|line| [line, b"\n".to_vec()])
            .flatten()
            .collect()
    }

    /// One result, without a line's end.
    pub(super) fn line(&self, config: &SimConfig, line: usize) -> Vec<u8> {
        let place = self.order[line] as usize;
        let mut facts = Facts::default();
        facts.set("number", place);
        let wire = self.reading.family.wire();
        let mut fate = Fate::Done(Some(Trouble::BadRequest));
        let mut body = "";
        let mut id = format!("stranger-{line}");
        if self.order[line] != STRANGER
            && let Ok((own, own_body)) = self.reading.split(self.part.line(place))
        {
            (id, body, fate) = (own, own_body.get(), self.part.fate(place));
        }
        facts.set("id", id);
        if fate == Fate::Waiting {
            facts.set("left_over", self.left_over);
            return facts.fill(&wire.left_line).to_string().into_bytes();
        }
        let mut result = Vec::new();
        let status = match self.result(&mut result, config, place, fate, body) {
            Ok(()) => 200,
            Err(problem) => self
                .reading
                .dialect
                .problem(&mut result, &problem, place as u64 + 1),
        };
        if status != 200 {
            facts.set("rpc", rpc(status));
            facts.set("message", message(&result));
        }
        wire.line(facts, status, &result)
    }

    /// Appends the body that a call would get.
    fn result(
        &self,
        out: &mut Vec<u8>,
        config: &SimConfig,
        number: usize,
        fate: Fate,
        body: &str,
    ) -> Result<(), Problem> {
        let odd = match fate {
            Fate::Done(odd) => odd,
            _ => None,
        };
        let model = &self.reading.model;
        if let Some(problem) = odd.and_then(|kind| answer::problem(kind, config, model, "messages"))
        {
            return Err(problem);
        }
        let body = serde_json::from_str(body).map_err(|_| Fault::not_json())?;
        let prompt = self.reading.prompt(body)?;
        if !config.knows_model(&prompt.model) {
            return Err(Problem::no_model(&prompt.model));
        }
        let place = Place {
            call: number as u64 + 1,
            created: self.created,
            key: prompt_key(&prompt.text),
        };
        answer::write(out, self.reading.dialect, config, &prompt, odd, place);
        Ok(())
    }
}

/// The text of an error body.
fn message(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let text = error.as_str().or_else(|| error["message"].as_str());
    text.unwrap_or("The request failed.").to_owned()
}

/// A status as gRPC numbers it.
fn rpc(status: u16) -> u16 {
    match status {
        400 | 422 => 3,
        402 | 429 => 8,
        403 => 7,
        404 => 5,
        503 => 14,
        _ => 13,
    }
}
