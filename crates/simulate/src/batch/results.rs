//! The results of a batch, generated line by line while they are sent: the reply that a call with the same body would
//! get, in the format of each API.

use serde_json::Value;

use super::Family;
use super::intake::{CHAT, CHAT_AT_AZURE, Reading, split};
use super::life::{Batch, Fate, Part};
use crate::answer::{self, Place};
use crate::dialect::Dialect;
use crate::http::Version;
use crate::prompt::Problem;
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

/// Represents a line with an unknown id.
const STRANGER: u32 = u32::MAX;

/// A snapshot of a batch's results; its requests are shared, not copied.
#[derive(Debug)]
pub(super) struct Results {
    family: Family,
    dialect: Dialect,
    endpoint: &'static str,
    version: Version,
    model: String,
    part: Part,
    /// The indices of the requests, in the order of their lines.
    order: Vec<u32>,
    /// The outcome of requests that were not processed.
    left_over: &'static str,
    /// Seconds since the epoch.
    created: u64,
}

/// The endpoint in the lines of its input, for APIs that have one.
fn endpoint_of(batch: &Batch) -> &'static str {
    match &*batch.plan.endpoint {
        CHAT_AT_AZURE => CHAT_AT_AZURE,
        _ => CHAT,
    }
}

impl Results {
    /// `created` is in seconds since the epoch.
    pub(super) fn new(batch: &Batch, config: &SimConfig, which: Which, created: u64) -> Results {
        let family = batch.plan.family;
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
        let part = &batch.part;
        let fates = (0..part.items.len()).map(|place| part.fate(place));
        let places = (0..STRANGER).zip(fates);
        let mut order: Vec<u32> = places
            .filter(|(_, fate)| shown(*fate))
            .map(|(place, _)| place)
            .collect();
        // While xAI's batch runs, its pages must only grow at their end.
        if config.batches.reorder && (family != Family::Xai || over) {
            order = scatter(&order);
        }
        let twice = order.len().min(config.batches.duplicates as usize);
        order.extend_from_within(..twice);
        if !order.is_empty() {
            let strangers = config.batches.strangers as usize;
            order.resize(order.len() + strangers, STRANGER);
        }
        Results {
            family,
            dialect: family.dialect(config),
            endpoint: endpoint_of(batch),
            version: batch.plan.version,
            model: batch.plan.model.clone(),
            part: batch.part.clone(),
            order,
            left_over: if expired { "expired" } else { "canceled" },
            created,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The bytes of all lines.
    pub(super) fn size(&self, config: &SimConfig) -> u64 {
        let mut line = Vec::new();
        let sizes = (0..self.len()).map(|nth| {
            line.clear();
            self.write(&mut line, config, nth);
            line.len() as u64 + 1
        });
        sizes.sum()
    }

    /// Leaves out the last third.
    pub(super) fn shorten(&mut self) {
        self.order.truncate(self.order.len() * 2 / 3);
    }

    /// Appends one result without a line's end.
    pub(super) fn write(&self, out: &mut Vec<u8>, config: &SimConfig, line: usize) {
        let place = self.order[line] as usize;
        if self.order[line] == STRANGER {
            let id = format!("stranger-{line}");
            let fate = Fate::Done(Some(Trouble::BadRequest));
            return self.wrap(out, config, place, &id, fate, "");
        }
        if let Ok((id, body)) = split(self.family, self.endpoint, self.part.line(place)) {
            self.wrap(out, config, place, &id, self.part.fate(place), body.get());
        }
    }

    fn wrap(
        &self,
        out: &mut Vec<u8>,
        config: &SimConfig,
        number: usize,
        id: &str,
        fate: Fate,
        body: &str,
    ) {
        let wire = self.family.wire();
        let mut facts = Facts::default();
        facts.set("id", id);
        facts.set("number", number);
        if fate == Fate::Waiting {
            facts.set("left_over", self.left_over);
            return wire.left_line(out, &facts);
        }
        let mut result = Vec::new();
        let status = self.result(&mut result, config, number, fate, body);
        if status != 200 {
            facts.set("rpc", rpc(status));
            facts.set("message", message(&result));
        }
        wire.line(out, facts, status, &result);
    }

    /// Appends the body that a call would get, and returns its status.
    fn result(
        &self,
        out: &mut Vec<u8>,
        config: &SimConfig,
        number: usize,
        fate: Fate,
        body: &str,
    ) -> u16 {
        let call = number as u64 + 1;
        let dialect = self.dialect;
        if let Fate::Done(Some(kind)) = fate
            && let Some(problem) = answer::problem(kind, config, &self.model, "messages")
        {
            return dialect.problem(out, &problem, call);
        }
        let reading = Reading {
            family: self.family,
            dialect,
            endpoint: self.endpoint,
            version: self.version,
            model: &self.model,
            config,
        };
        let Ok(body) = serde_json::from_str(body) else {
            return dialect.problem(out, &Problem::ServerError, call);
        };
        let prompt = match reading.prompt(body) {
            Ok(prompt) if config.knows_model(&prompt.model) => prompt,
            Ok(prompt) => {
                return dialect.problem(out, &Problem::NoModel(&prompt.model), call);
            }
            Err(fault) => return dialect.problem(out, &Problem::Fault(fault), call),
        };
        let odd = match fate {
            Fate::Done(odd) => odd,
            _ => None,
        };
        let place = Place {
            call,
            created: self.created,
            key: crate::script::prompt_key(&prompt.text),
        };
        answer::write(out, dialect, config, &prompt, odd, place);
        200
    }
}

/// The same places in an order that is another one from two on.
fn scatter(places: &[u32]) -> Vec<u32> {
    let count = places.len();
    let divides = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a > 1
    };
    // Steps that share no divisor with the count reach every index once.
    let golden = (count * 5 / 8).max(1);
    let step = (golden..).find(|step| !divides(*step, count)).unwrap_or(1);
    let order = (0..count).map(|nth| places[(count / 2 + nth * step) % count]);
    order.collect()
}

/// The text of an error body.
fn message(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let text = error.as_str().or_else(|| error["message"].as_str());
    text.unwrap_or("The request failed.").to_owned()
}

/// A status as gRPC numbers it.
pub(super) fn rpc(status: u16) -> u16 {
    match status {
        400 | 422 => 3,
        402 | 429 => 8,
        403 => 7,
        404 => 5,
        503 => 14,
        _ => 13,
    }
}
