//! The results of a batch, generated line by line while they are sent: the reply that a call with the same body would
//! get, in the format of each API.

use serde_json::Value;
use serde_json::value::RawValue;

use super::life::{Batch, Fate, Item};
use super::store::Spoiled;
use super::{Desk, Reply};
use crate::dialect::Dialect;
use crate::problems::{self, Problem};
use crate::template::Facts;
use crate::{Trouble, Vendor};

/// Which results to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Answers,
    /// Errors, and requests that were not processed before the batch expired.
    Errors,
    All,
}

/// The indices of the requests in the order of their results, the other way round unless that is configured; `None` is
/// a line with an unknown id.
pub(super) fn order(desk: &Desk<'_>, batch: &Batch, which: Which) -> Vec<Option<usize>> {
    let config = desk.batches();
    let over = batch.waiting() == 0 || batch.cancelled.is_some();
    let shown = |fate: Fate| match (which, fate) {
        (_, Fate::Missing) => false,
        (Which::Answers, fate) => matches!(fate, Fate::Done(_)) && !fate.is_error(),
        (Which::Errors, Fate::Waiting) => batch.has_expired(),
        (Which::Errors, fate) => fate.is_error(),
        (Which::All, Fate::Waiting) => desk.dialect == Dialect::Anthropic,
        (Which::All, _) => true,
    };
    let places = 0..batch.plan.items.len();
    let places = places.filter(|place| shown(batch.fate(*place)));
    let mut order: Vec<_> = places.map(Some).collect();
    // While xAI's batch runs, its pages must only grow at their end.
    if !config.in_order && (desk.dialect != Dialect::OpenAi(Some(Vendor::Xai)) || over) {
        order.reverse();
    }
    let twice = order.len().min(config.duplicates as usize);
    order.extend_from_within(..twice);
    if !order.is_empty() {
        order.resize(order.len() + config.strangers as usize, None);
    }
    order
}

/// All lines; a short download lacks the last third.
pub(super) fn download(desk: &Desk<'_>, batch: &Batch, which: Which, spoiled: Spoiled) -> Reply {
    let mut order = order(desk, batch, which);
    if spoiled == Spoiled::Short {
        order.truncate(order.len() * 2 / 3);
    }
    let lines = order.iter().enumerate();
    let lines: String = lines
        .map(|(nth, place)| format!("{}\n", line(desk, batch, nth, *place)))
        .collect();
    Reply::Download(Some("application/x-jsonl"), lines.into_bytes(), spoiled)
}

/// One result.
pub(super) fn line(desk: &Desk<'_>, batch: &Batch, nth: usize, place: Option<usize>) -> Value {
    let item = place.map(|place| (&batch.plan.items[place], batch.fate(place)));
    let number = place.unwrap_or(nth);
    let mut facts = Facts::default();
    facts.set("number", number);
    let id = item.map_or_else(|| format!("stranger-{nth}"), |(item, _)| item.id.clone());
    facts.set("id", id);
    if let Some((_, Fate::Waiting)) = item {
        let is_late = batch.has_expired();
        facts.set("left_over", if is_late { "expired" } else { "canceled" });
        return facts.fill(&desk.wire.left_line);
    }
    let (mut status, mut template) = (200, &desk.wire.line);
    let number = number as u64 + 1;
    let body = result(desk, batch, item, number).unwrap_or_else(|problem| {
        let (refused, body) = desk.dialect.problem(&problem, number);
        status = refused;
        template = desk.wire.failed_line.as_ref().unwrap_or(template);
        facts.set("rpc", rpc(status));
        facts.set("message", message(&body));
        body
    });
    facts.set("status", status);
    facts.set("body", body);
    facts.fill(template)
}

/// The body that a call would get; that of a bad request if there is no such item.
fn result(
    desk: &Desk<'_>,
    batch: &Batch,
    item: Option<(&Item, Fate)>,
    call: u64,
) -> Result<Value, Problem> {
    let config = desk.config();
    let odd = match item {
        Some((_, Fate::Done(odd))) => odd,
        Some(_) => None,
        None => Some(Trouble::BadRequest),
    };
    let problem = |kind| problems::of(kind, config, &batch.plan.model, "messages");
    if let Some(problem) = odd.and_then(problem) {
        return Err(problem);
    }
    let body = item.map_or(RawValue::NULL, |(item, _)| &*item.body);
    let prompt = desk.prompt(body, &batch.plan.model)?;
    if !config.knows_model(&prompt.model) {
        return Err(Problem::no_model(&prompt.model));
    }
    let created = desk.millis(batch.created) / 1_000;
    Ok(desk.dialect.reply(config, &prompt, odd, (call, created)))
}

/// The text of an error body.
fn message(body: &Value) -> &str {
    let error = &body["error"];
    let text = error.as_str().or_else(|| error["message"].as_str());
    text.unwrap_or("The request failed.")
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
