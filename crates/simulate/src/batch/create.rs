//! Creating batches: from a file, or from the requests in the body.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::intake::Intake;
use super::life::{Blob, Failure, Plan, Reading};
use super::wire::Create;
use super::{BatchPoint, Desk, Family, Outcome, Refusal, Reply};
use crate::anthropic::Version;
use crate::fault::Fault;
use crate::{gemini, rules};

/// Counts a request to create a batch, and holds it if the test requests that. Returns an empty batch.
fn arrived(desk: &Desk<'_>, model: &str, hours: u64) -> Plan {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    Plan {
        reading: Reading {
            family: desk.family,
            dialect: desk.dialect,
            version: Version::of(desk.request),
            model: model.to_owned(),
        },
        label: Value::Null,
        window: Duration::from_secs(hours * 3_600),
        input: None,
        requests: None,
        failures: Vec::new(),
        tokens: Vec::new(),
    }
}

/// Creates a batch of the requests in a file; `model` is that of the address, where it has one.
pub(super) fn from_file(desk: &Desk<'_>, model: &str, body: &[u8]) -> Outcome {
    let rules = desk.wire().create.as_ref().ok_or(Refusal::Nowhere)?;
    let mut plan = arrived(desk, model, rules.hours);
    let root = match desk.family {
        Family::Gemini => gemini::read(body, &rules.rule)?["batch"].take(),
        _ => rules::read(body, &rules.api, &rules.rule)?,
    };
    let endpoint = root["endpoint"].as_str();
    if endpoint.is_some_and(|endpoint| desk.wire().url.as_deref() != Some(endpoint)) {
        let message = "Invalid endpoint: the simulator runs no batches for it.";
        return Err(Fault::invalid("endpoint", message).into());
    }
    if !model.is_empty() && !desk.config().knows_model(model) {
        return Err(Refusal::missing("model", model));
    }
    let labels = ["metadata", "name", "displayName"].into_iter();
    plan.label = labels
        .filter_map(|name| root.get(name).cloned())
        .next()
        .unwrap_or_default();
    let input = root["input_file_id"].as_str();
    let input = input
        .or(root["inputConfig"]["fileName"].as_str())
        .unwrap_or_default();
    plan.input = Some(input.to_owned());
    read(desk, rules, input, &mut plan)?;
    make(desk, plan)
}

/// Reads the requests of an input file; one that is not there is a failure of validation at most APIs.
fn read(desk: &Desk<'_>, rules: &Create, id: &str, plan: &mut Plan) -> Result<(), Refusal> {
    let found = desk.with(|inner, _| {
        let file = inner.file(desk.family, id)?;
        Some((Arc::clone(&file.blob), file.looked_at))
    });
    match found {
        None if rules.needs_file => Err(Refusal::missing("file", id)),
        None => {
            plan.failures.push(Failure {
                line: None,
                code: "invalid_input_file",
                message: format!("The input file {id} does not exist."),
            });
            Ok(())
        }
        Some((_, false)) if rules.looked_at => {
            let message = "The input file has not been processed yet: look at its status first.";
            Err(Refusal::bad(400, message))
        }
        Some((blob, _)) => {
            let intake = plan.reading.lines(&blob, desk.config());
            accept(desk, plan, intake, blob);
            Ok(())
        }
    }
}

/// Puts the requests into the batch, by the rules for whole batches.
fn accept(desk: &Desk<'_>, plan: &mut Plan, mut intake: Intake, blob: Arc<Blob>) {
    let most = desk.wire().max_requests.unwrap_or(u64::MAX);
    if intake.items.len() as u64 > most {
        intake.malformed = true;
        let message = format!("The batch has more than {most} requests.");
        intake.fail(None, "too_many_requests", message);
    }
    if intake.malformed {
        desk.shared.ledger.malformed();
    }
    if plan.reading.model.is_empty() {
        plan.reading.model = intake.model;
    }
    plan.requests = Some((blob, intake.items));
    plan.failures = intake.failures;
    plan.tokens = intake.tokens;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    requests: Vec<&'a RawValue>,
}

/// Creates a batch of the requests in a body, as Anthropic has it.
pub(super) fn inline(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let mut plan = arrived(desk, "", 24);
    if body.len() as u64 > desk.wire().max_bytes {
        return Err(Refusal::bad(413, "Request exceeds the maximum size"));
    }
    let read: Body<'_> = serde_json::from_slice(&body)
        .map_err(|error| Fault::invalid("requests", format!("requests: {error}")))?;
    if read.requests.is_empty() {
        let message = "requests: List should have at least 1 item after validation";
        return Err(Fault::invalid("requests", message).into());
    }
    let mut intake = Intake::default();
    for request in &read.requests {
        let line = request.get().as_bytes();
        let at = line.as_ptr() as usize - body.as_ptr() as usize;
        plan.reading
            .line(&mut intake, line, at, None, desk.config());
    }
    accept(desk, &mut plan, intake, Arc::new(Blob::whole(body)));
    match plan.failures.first() {
        Some(failure) => Err(Refusal::told(400, format!("requests: {}", failure.message))),
        None => make(desk, plan),
    }
}

/// Creates a batch and returns it, unless the reply is lost on purpose or the queue is full.
fn make(desk: &Desk<'_>, plan: Plan) -> Outcome {
    let told = desk.with(|inner, now| {
        if matches!(desk.family, Family::Anthropic | Family::Gemini)
            && let Some(model) = inner.too_many_tokens(&plan, now, desk.batches())
        {
            let message = format!("Too many tokens of batches are enqueued for {model}.");
            return Err(Refusal::told(429, message));
        }
        let place = inner.create(plan, now, desk.config());
        Ok(place.map(|place| desk.show(&inner.batches[place], now)))
    })?;
    desk.pass(BatchPoint::CreateDone);
    Ok(told.map_or(Reply::Nothing, Reply::Json))
}
