//! The wire formats of files and batches, as `rules/batches.json` has them for each API.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Desk;
use super::life::{Batch, Phase};
use super::store::File;
use crate::Vendor;
use crate::dialect::Dialect;
use crate::problems::Problem;
use crate::rules::{self, Fault};
use crate::template::Facts;

/// The APIs by name.
pub(super) static TABLE: LazyLock<BTreeMap<String, Wire>> =
    LazyLock::new(|| rules::table("batches", include_str!("../../rules/batches.json")));

/// How this API shows files and batches, if it has them.
pub(super) fn wire(dialect: Dialect) -> Option<&'static Wire> {
    TABLE.get(match dialect {
        Dialect::OpenAi(Some(Vendor::DeepInfra)) => Vendor::OpenAi.name(),
        dialect => dialect.vendor_name(),
    })
}

/// How one API shows batches, and how large they may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    pub(super) max_requests: Option<u64>,
    pub(super) max_bytes: u64,
    /// Fields that are only for single calls.
    #[serde(default)]
    pub(super) never: Vec<String>,
    /// The requests that there are, and how lists are cut: of batches, and of results.
    pub(super) routes: Vec<Route>,
    pub(super) batches: Paging,
    pub(super) parts: Option<Paging>,
    /// The address in the requests of a batch, which have a method and an address then.
    pub(super) url: Option<String>,
    pub(super) create: Create,
    /// The reply to a deletion.
    #[serde(default)]
    pub(super) deleted_batch: Value,
    #[serde(default)]
    pub(super) deleted_file: Value,
    /// The word for a missing file.
    #[serde(default)]
    pub(super) file_word: String,
    /// The names of the phases; empty for APIs that only report counts.
    #[serde(default)]
    states: BTreeMap<String, String>,
    /// Further fields of a batch in this final state.
    #[serde(default)]
    pub(super) errors: BTreeMap<String, Value>,
    /// What ids begin with.
    pub(super) batch_id: String,
    pub(super) file_id: String,
    pub(super) batch: Value,
    #[serde(default)]
    pub(super) file: Value,
    /// How long a file is kept.
    #[serde(default)]
    pub(super) file_hours: u64,
    /// A result: of a success, of an error, and of a request that was not processed.
    pub(super) line: Value,
    pub(super) failed_line: Option<Value>,
    pub(super) left_line: Value,
}

/// A request that creates a batch from a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// The rule for its body, at an API that has files.
    #[serde(default)]
    pub(super) rule: String,
    /// The hours until the batch expires.
    pub(super) hours: u64,
    /// Whether a missing file is rejected immediately instead of by validation.
    #[serde(default)]
    pub(super) needs_file: bool,
    /// Whether the file must have been polled before.
    #[serde(default)]
    pub(super) looked_at: bool,
}

impl Wire {
    /// The API's name of a phase.
    pub(super) fn state(&self, phase: Phase) -> &str {
        self.states.get(phase.name()).map_or("", String::as_str)
    }
}

/// The purpose of a request.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Upload,
    UploadParts,
    File,
    Content,
    DeleteFile,
    Create,
    List,
    Status,
    Cancel,
    Delete,
    Results,
    ResultPage,
}

/// One kind of request.
#[derive(Debug, Deserialize)]
pub(super) struct Route {
    pub(super) method: String,
    /// An address, in which `<>` stands for an id; text inside of the brackets belongs to the id.
    path: String,
    pub(super) action: Action,
    /// The fields that its query may have.
    #[serde(default)]
    pub(super) query: Vec<String>,
}

impl Route {
    /// The id in an address with this pattern; empty if the pattern has none.
    pub(super) fn id<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some((before, rest)) = self.path.split_once('<') else {
            return (path == self.path).then_some("");
        };
        let (folder, behind) = rest.split_once('>')?;
        let id = path.strip_prefix(before)?.strip_suffix(behind)?;
        let name = id.strip_prefix(folder)?;
        (!name.is_empty() && !name.contains('/')).then_some(id)
    }
}

/// The fields of an address's query.
pub(super) type Query = BTreeMap<String, String>;

/// Parses a query that may only have these fields.
pub(super) fn query(query: &str, known: &[String]) -> Result<Query, Fault> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    let fields: Query = pairs.map(pair).collect();
    match fields.keys().find(|name| !known.contains(name)) {
        Some(name) => Err(Fault::unknown(name)),
        None => Ok(fields),
    }
}

/// Resolves `%41`.
fn decode(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text);
    decoded.decode_utf8_lossy().into_owned()
}

/// How an API cuts lists into pages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// The field for the size of a page, its default and its most.
    limit: (String, usize, usize),
    /// The field for the id before the first item, or for the first id.
    after: Option<String>,
    from: Option<String>,
    /// A page as it is sent.
    pub(super) reply: Value,
}

impl Paging {
    /// The position of a page among all `ids`, and the facts about it.
    pub(super) fn find(
        &self,
        query: &Query,
        ids: &[String],
    ) -> Result<(Range<usize>, Facts), Problem> {
        let (name, usual, most) = &self.limit;
        let limit = match query.get(name).map(|limit| limit.parse()) {
            None => *usual,
            Some(Ok(limit)) if (1..=*most).contains(&limit) => limit,
            Some(_) => {
                let message = format!("Invalid '{name}': expected a number from 1 to {most}.");
                return Err(Fault::invalid(name, message).into());
            }
        };
        let place = |field: &Option<String>| {
            let id = query.get(field.as_ref()?)?;
            let place = ids.iter().position(|known| known == id);
            Some(place.ok_or_else(|| Problem::bad(400, format!("There is no page at '{id}'."))))
        };
        let start = match place(&self.after).transpose()? {
            Some(after) => after + 1,
            None => place(&self.from).transpose()?.unwrap_or(0),
        };
        let end = ids.len().min(start.saturating_add(limit));
        let id = |place: Option<usize>| ids.get(place?).map(String::as_str);
        let last = end.checked_sub(1).filter(|last| *last >= start);
        let more = end < ids.len();
        let mut facts = Facts::default();
        facts.set("first", id(last.map(|_| start)));
        facts.set("last", id(last));
        facts.set("more", more);
        facts.set("cursor", id(last.filter(|_| more)));
        facts.set("next_id", id(Some(end)));
        Ok((start..end, facts))
    }
}

/// A batch; lists omit some of the `full` fields.
pub(super) fn batch(desk: &Desk<'_>, batch: &Batch, now: Duration, full: bool) -> Value {
    let (config, wire) = (desk.batches(), desk.wire);
    let phase = batch.phase(now, config);
    let ended = batch.ended(now, config);
    let kept = ended.is_some_and(|ended| desk.is_kept(ended, now));
    let there = batch.has_results().map(|there| there && ended.is_some());
    let id = |kind, there: bool| there.then(|| desk.results_id(&batch.id, kind));
    let (output, error_file) = (id("output", there[0]), id("error", there[1]));
    let mut facts = Facts::default();
    facts.set("id", batch.id.as_str());
    facts.set("host", desk.header("host"));
    facts.set("endpoint", wire.url.as_deref());
    facts.set("input", batch.plan.input.as_deref());
    facts.set("label", batch.plan.label.clone());
    facts.set("model", batch.plan.model.as_str());
    facts.set("hours", wire.create.hours);
    facts.set("state", wire.state(phase));
    facts.set("over", ended.map(|_| true));
    facts.set("kept", kept.then_some(true));
    times(&mut facts, desk, batch, now, kept);
    let failed = phase == Phase::Failed;
    let (total, waiting) = (batch.total(), batch.waiting());
    let accepted = !failed && phase != Phase::Validating;
    let stopped = matches!(phase, Phase::Cancelled | Phase::Expired);
    for (name, count, counts) in [
        ("total", total, true),
        ("waiting", waiting, true),
        ("done", batch.done, true),
        ("failed", batch.failed, true),
        ("accepted", total, accepted),
        ("accepted_done", batch.done, accepted),
        ("accepted_failed", batch.failed, accepted),
        // A request that goes missing is not pending once its batch has ended.
        ("pending", waiting, accepted && !stopped),
        ("left_over", waiting, accepted && stopped),
        ("left_cancelled", waiting, phase == Phase::Cancelled),
        ("left_expired", waiting, phase == Phase::Expired),
        ("processing", total, ended.is_none()),
        ("ended_done", batch.done, ended.is_some()),
        ("ended_errors", batch.failed, ended.is_some()),
    ] {
        facts.set(name, if counts { count } else { 0 });
    }
    // At Azure an ended batch always has the field for an error file, which may be empty.
    let none = ended.map(|_| String::new());
    facts.set("error_file_or_none", error_file.clone().or(none));
    facts.set("output", output);
    facts.set("error_file", error_file);
    if failed {
        failures(&mut facts, batch);
    }
    let error = wire.errors.get(phase.name()).map(|error| facts.fill(error));
    if ended.is_some() && error.is_none() && full {
        facts.set("results", desk.results_id(&batch.id, ""));
    }
    facts.set("error", error);
    facts.fill(&wire.batch)
}

/// The times of a batch's events.
fn times(facts: &mut Facts, desk: &Desk<'_>, batch: &Batch, now: Duration, kept: bool) {
    let config = desk.batches();
    let phase = batch.phase(now, config);
    let ended = batch.ended(now, config);
    let began = Some(batch.began(config)).filter(|began| now >= *began && !batch.has_failed());
    let ended_so = |so: Phase| ended.filter(|_| phase == so);
    let failed = ended_so(Phase::Failed).or(ended_so(Phase::Expired));
    let window = Duration::from_secs(desk.wire.create.hours * 3_600);
    for (name, time) in [
        ("created", Some(batch.created)),
        ("began", began),
        ("expires", Some(batch.created + window)),
        ("updated", Some(ended.unwrap_or(now))),
        ("ended", ended),
        ("ended_well", ended_so(Phase::Ended)),
        ("ended_failed", ended_so(Phase::Failed)),
        ("ended_expired", ended_so(Phase::Expired)),
        ("ended_cancelled", ended_so(Phase::Cancelled)),
        ("archived", ended.filter(|_| !kept)),
        ("cancelled", batch.cancelled),
        ("stopped", batch.cancelled.or(failed)),
    ] {
        facts.set(name, time.map(|time| desk.millis(time)));
    }
}

/// Why validation failed.
fn failures(facts: &mut Facts, batch: &Batch) {
    let failures = &batch.plan.failures;
    let first = failures.first();
    facts.set("failure", first.map(|failure| failure.message.as_str()));
    let each = failures.iter().map(|failure| {
        json!({"code": failure.code, "line": failure.line, "message": failure.message,
            "param": null})
    });
    facts.set("failures", each.collect::<Value>());
}

/// An input file.
pub(super) fn file(desk: &Desk<'_>, file: &File) -> Value {
    let wire = desk.wire;
    let kept = Duration::from_secs(wire.file_hours * 3_600);
    let looked_at = if file.looked_at {
        "processed"
    } else {
        "pending"
    };
    let mut facts = Facts::default();
    facts.set("host", desk.header("host"));
    facts.set("id", file.id.as_str());
    facts.set("name", file.name.as_str());
    facts.set("purpose", file.purpose.as_str());
    facts.set("bytes", file.content.len());
    facts.set("created", desk.millis(file.created));
    facts.set("expires", desk.millis(file.created + kept));
    facts.set("processed", looked_at);
    facts.fill(&wire.file)
}
