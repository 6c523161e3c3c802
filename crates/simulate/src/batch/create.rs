//! Creating batches: from a file, or from the requests in the body.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::intake::{CHAT, Intake, hours};
use super::life::{Blob, Failure, Plan};
use super::{BatchPoint, Desk, Family, Outcome, Refusal, show};
use crate::objects;
use crate::prompt::Fault;
use crate::tree::{Object, Spelling};

/// The fields of a request that creates a batch from a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    /// The rule for the body.
    api: String,
    rule: String,
    /// The endpoints for the requests; all that the rule allows if empty.
    #[serde(default)]
    endpoints: Vec<String>,
    /// The hours until it expires.
    hours: u64,
    /// Whether a missing file is rejected immediately instead of by validation.
    #[serde(default)]
    needs_file: bool,
}

/// Creates a batch of the requests in a file; `model` is that of the address, where it has one.
pub(super) fn from_file(desk: &Desk<'_>, model: &str, body: &[u8]) -> Outcome {
    arrived(desk);
    let rules = desk.wire().create.as_ref().ok_or(Refusal::Nowhere)?;
    let value = desk.json(body)?;
    let spelling = match desk.family {
        Family::Gemini => Spelling::Protobuf,
        _ => Spelling::Exact,
    };
    let root = objects::request(&value, spelling, &rules.api, &rules.rule)?;
    // In Google's format the fields are in a nested object.
    let root = root.object("batch")?.unwrap_or(root);
    let endpoint = root.text("endpoint")?.unwrap_or_default();
    if !rules.endpoints.is_empty() && !rules.endpoints.iter().any(|known| known == endpoint) {
        let message = format!("Invalid endpoint: the simulator runs no batches for '{endpoint}'.");
        return Err(Fault::invalid("endpoint", message).into());
    }
    let model = match model {
        "" => root.text("model")?.unwrap_or_default(),
        model => model,
    };
    if !model.is_empty() && !desk.config().knows_model(model) {
        return Err(Refusal::missing("model", model));
    }
    let input = input(&root)?;
    let mut plan = Plan {
        family: desk.family,
        version: desk.version,
        label: ["metadata", "name", "displayName"]
            .into_iter()
            .find_map(|name| root.get(name).cloned())
            .unwrap_or_default(),
        model: model.to_owned(),
        endpoint: endpoint.to_owned(),
        window: hours(rules.hours),
        input: input.map(str::to_owned),
        requests: None,
        failures: Vec::new(),
        tokens: Vec::new(),
    };
    if let Some(input) = input {
        read(desk, rules, input, &mut plan)?;
    }
    desk.create(plan, |batch, now| show::batch(desk, batch, now, true))
}

/// Counts a request to create a batch, and holds it if the test requests that.
fn arrived(desk: &Desk<'_>) {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
}

/// The id of the input file.
fn input<'v>(root: &Object<'v>) -> Result<Option<&'v str>, Fault> {
    if let Some(config) = root.object("inputConfig")? {
        return config.text("fileName");
    }
    root.text("input_file_id")
}

/// Reads the requests of an input file; one that is not there is a failure of validation at most APIs.
fn read(desk: &Desk<'_>, rules: &Rules, id: &str, plan: &mut Plan) -> Result<(), Refusal> {
    let found = desk.with(|inner, _| {
        let file = inner.file(id).filter(|file| file.family == desk.family);
        file.map(|file| (Arc::clone(&file.blob), file.looked_at))
    });
    let Some((blob, looked_at)) = found else {
        if rules.needs_file {
            return Err(Refusal::missing("file", id));
        }
        plan.model = String::new();
        plan.failures.push(Failure {
            line: None,
            code: "invalid_input_file",
            message: format!("The input file {id} does not exist."),
        });
        return Ok(());
    };
    if desk.is_azure() && !looked_at {
        let message = "The input file has not been processed yet: look at its status first.";
        return Err(Refusal::bad(400, message));
    }
    let endpoint = match plan.endpoint.as_str() {
        "" => CHAT,
        endpoint => endpoint,
    };
    let intake = desk.accept(desk.reading(endpoint, &plan.model).lines(&blob));
    if plan.model.is_empty() {
        plan.model = intake.model;
    }
    plan.requests = Some((blob, intake.items));
    plan.failures = intake.failures;
    plan.tokens = intake.tokens;
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    requests: Vec<&'a RawValue>,
}

/// Creates a batch of the requests in a body, as Anthropic has it.
pub(super) fn inline(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    arrived(desk);
    if body.len() as u64 > desk.family.max_bytes(desk.batches()) {
        return Err(Refusal::bad(413, "Request exceeds the maximum size"));
    }
    let read: Body<'_> = serde_json::from_slice(&body)
        .map_err(|error| Fault::invalid("requests", format!("requests: {error}")))?;
    if read.requests.is_empty() {
        let message = "requests: List should have at least 1 item after validation";
        return Err(Fault::invalid("requests", message).into());
    }
    let mut intake = Intake::default();
    let reading = desk.reading(CHAT, "");
    for request in &read.requests {
        reading.part(&mut intake, &body, request);
    }
    let intake = desk.accept(intake);
    if let Some(failure) = intake.failures.into_iter().next() {
        return Err(Refusal::told(400, format!("requests: {}", failure.message)));
    }
    let plan = Plan {
        family: desk.family,
        version: desk.version,
        label: Value::Null,
        model: intake.model,
        endpoint: String::new(),
        window: hours(24),
        input: None,
        requests: Some((Arc::new(Blob::whole(body)), intake.items)),
        failures: Vec::new(),
        tokens: intake.tokens,
    };
    desk.create(plan, |batch, now| show::batch(desk, batch, now, true))
}
