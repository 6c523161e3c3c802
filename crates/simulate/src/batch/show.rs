//! Batches and files as each API shows them, by the templates in `rules/batches.json`.

use std::time::Duration;

use serde_json::{Value, json};

use super::life::{Batch, Phase};
use super::store::File;
use super::{Desk, Family};
use crate::template::Facts;

/// A batch; lists omit some of the `full` fields.
pub(super) fn batch(desk: &Desk<'_>, batch: &Batch, now: Duration, full: bool) -> Value {
    let (config, wire) = (desk.batches(), desk.wire());
    let phase = batch.phase(now, config);
    let ended = batch.ended(now, config);
    let host = desk.header("host");
    let kept = ended.is_some_and(|ended| desk.is_kept(ended, now));
    let [output, error_file] = ids(desk, batch, now);
    let mut facts = Facts::default();
    facts.set("id", batch.id.as_str());
    facts.set("host", host);
    facts.set("endpoint", wire.url.as_deref());
    facts.set("input", batch.plan.input.as_deref());
    facts.set("label", batch.plan.label.clone());
    facts.set("model", batch.plan.reading.model.as_str());
    facts.set("hours", batch.plan.window.as_secs() / 3_600);
    facts.set("state", wire.state(phase));
    facts.set("over", ended.map(|_| true));
    facts.set("kept", kept.then_some(true));
    times(&mut facts, desk, batch, now);
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
    let worked = (batch.done + batch.failed) as f64 / total.max(1) as f64;
    facts.set("percent", worked * 100.0);
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
        facts.set("results", Family::Gemini.results_id(&batch.id, ""));
    }
    facts.set("error", error);
    facts.fill(&wire.batch)
}

/// The times of a batch's events.
fn times(facts: &mut Facts, desk: &Desk<'_>, batch: &Batch, now: Duration) {
    let config = desk.batches();
    let phase = batch.phase(now, config);
    let ended = batch.ended(now, config);
    let began = batch.began(config);
    let kept = ended.is_some_and(|ended| desk.is_kept(ended, now));
    let ended_so = |so: Phase| ended.filter(|_| phase == so);
    for (name, time) in [
        ("created", Some(batch.created)),
        (
            "began",
            Some(began).filter(|began| now >= *began && !batch.has_failed()),
        ),
        ("expires", Some(batch.created + batch.plan.window)),
        ("updated", Some(ended.unwrap_or(now))),
        ("ended", ended),
        ("ended_well", ended_so(Phase::Ended)),
        ("ended_failed", ended_so(Phase::Failed)),
        ("ended_expired", ended_so(Phase::Expired)),
        ("ended_cancelled", ended_so(Phase::Cancelled)),
        ("archived", ended.filter(|_| !kept)),
        ("cancelled", batch.cancelled),
        (
            "stopped",
            batch
                .cancelled
                .or(ended_so(Phase::Failed))
                .or(ended_so(Phase::Expired)),
        ),
    ] {
        facts.set(name, time.map(|time| desk.millis(time)));
    }
}

/// Why validation failed, in the forms that the APIs have for it.
fn failures(facts: &mut Facts, batch: &Batch) {
    let failures = &batch.plan.failures;
    let first = failures.first();
    facts.set("failure", first.map(|failure| failure.message.as_str()));
    let each = failures.iter().map(|failure| {
        json!({"code": failure.code, "line": failure.line, "message": failure.message,
            "param": null})
    });
    facts.set("failures", each.collect::<Value>());
    let texts = failures.iter().map(|failure| match failure.line {
        Some(line) => format!("line {line}: {}", failure.message),
        None => failure.message.clone(),
    });
    facts.set("failure_text", texts.collect::<Vec<_>>().join("; "));
}

/// An input file.
pub(super) fn file(desk: &Desk<'_>, file: &File) -> Value {
    let wire = desk.wire();
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
    facts.set("bytes", file.blob.range.len());
    facts.set("created", desk.millis(file.created));
    facts.set("expires", desk.millis(file.created + kept));
    facts.set("processed", looked_at);
    facts.fill(&wire.file)
}

/// The ids of the output file and the error file of a batch, once it has ended.
fn ids(desk: &Desk<'_>, batch: &Batch, now: Duration) -> [Option<String>; 2] {
    if batch.ended(now, desk.batches()).is_none() {
        return [None, None];
    }
    let there = batch.has_results();
    let id = |kind, there: bool| there.then(|| desk.family.results_id(&batch.id, kind));
    [id("output", there[0]), id("error", there[1])]
}
