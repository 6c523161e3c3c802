//! The results of a batch, generated line by line while they are sent: the reply that a call with the same body would
//! get, in the format of each API.

use serde_json::Value;

use super::life::{Batch, Fate};
use super::store::Spoiled;
use super::{Desk, Family};
use crate::answer::{self, Place};
use crate::prompt::Problem;
use crate::rules::Fault;
use crate::template::Facts;
use crate::{SimConfig, Trouble};

/// Which results to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Answers,
    /// Errors, and requests that were not processed before the batch expired.
    Errors,
    All,
}

/// A batch's results, the other way round than its requests unless that is configured.
pub(super) struct Results<'a> {
    batch: &'a Batch,
    config: &'a SimConfig,
    /// The indices of the requests, in the order of their lines; `None` is a line with an unknown id.
    order: Vec<Option<usize>>,
    /// Seconds since the epoch.
    created: u64,
}

impl<'a> Results<'a> {
    pub(super) fn new(batch: &'a Batch, desk: &Desk<'a>, which: Which) -> Results<'a> {
        let config = &desk.shared.config;
        let family = batch.family();
        let over = batch.waiting() == 0 || batch.cancelled.is_some();
        let shown = |fate: Fate| match (which, fate) {
            (_, Fate::Missing) => false,
            (Which::Answers, fate) => matches!(fate, Fate::Done(_)) && !fate.is_error(),
            (Which::Errors, Fate::Waiting) => batch.has_expired(),
            (Which::Errors, fate) => fate.is_error(),
            (Which::All, Fate::Waiting) => family == Family::Anthropic,
            (Which::All, _) => true,
        };
        let places = 0..batch.plan.items.len();
        let places = places.filter(|place| shown(batch.fate(*place)));
        let mut order: Vec<_> = places.map(Some).collect();
        // While xAI's batch runs, its pages must only grow at their end.
        if !config.batches.in_order && (family != Family::Xai || over) {
            order.reverse();
        }
        let twice = order.len().min(config.batches.duplicates as usize);
        order.extend_from_within(..twice);
        if !order.is_empty() {
            let strangers = config.batches.strangers as usize;
            order.resize(order.len() + strangers, None);
        }
        Results {
            batch,
            config,
            order,
            created: desk.millis(batch.created) / 1_000,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// All lines; a short download lacks the last third.
    pub(super) fn bytes(&self, spoiled: Spoiled) -> Vec<u8> {
        let shown = match spoiled {
            Spoiled::Short => self.len() * 2 / 3,
            _ => self.len(),
        };
        let lines = (0..shown).map(|nth| self.line(nth));
        lines
            .flat_map(|line| [line, b"\n".to_vec()])
            .flatten()
            .collect()
    }

    /// One result, without a line's end.
    pub(super) fn line(&self, line: usize) -> Vec<u8> {
        let reading = &self.batch.plan.reading;
        let mut facts = Facts::default();
        let mut fate = Fate::Done(Some(Trouble::BadRequest));
        let mut body = "";
        let mut id = format!("stranger-{line}");
        if let Some(place) = self.order[line]
            && let Ok((own, own_body)) = reading.split(self.batch.line(place))
        {
            (id, body, fate) = (own, own_body.get(), self.batch.fate(place));
        }
        let number = self.order[line].unwrap_or(line);
        facts.set("number", number);
        facts.set("id", id);
        let wire = reading.family.wire();
        if fate == Fate::Waiting {
            let left_over = if self.batch.has_expired() {
                "expired"
            } else {
                "canceled"
            };
            facts.set("left_over", left_over);
            return facts.fill(&wire.left_line).to_string().into_bytes();
        }
        let mut result = Vec::new();
        let number = number as u64 + 1;
        let status = match self.result(&mut result, number, fate, body) {
            Ok(()) => 200,
            Err(problem) => reading.dialect.problem(&mut result, &problem, number),
        };
        if status != 200 {
            facts.set("rpc", rpc(status));
            facts.set("message", message(&result));
        }
        wire.line(facts, status, &result)
    }

    /// Appends the body that a call would get.
    fn result(&self, out: &mut Vec<u8>, call: u64, fate: Fate, body: &str) -> Result<(), Problem> {
        let (config, reading) = (self.config, &self.batch.plan.reading);
        let odd = match fate {
            Fate::Done(odd) => odd,
            _ => None,
        };
        let problem = |kind| answer::problem(kind, config, &reading.model, "messages");
        if let Some(problem) = odd.and_then(problem) {
            return Err(problem);
        }
        let body = serde_json::from_str(body).map_err(|_| Fault::not_json())?;
        let prompt = reading.prompt(body)?;
        if !config.knows_model(&prompt.model) {
            return Err(Problem::no_model(&prompt.model));
        }
        let place = Place {
            call,
            created: self.created,
        };
        answer::write(out, reading.dialect, config, &prompt, odd, place);
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
