//! Batches as Together has them: no label, no counts, a list of one page.

use std::time::Duration;

use serde_json::{Value, json};

use super::intake::{CHAT, hours};
use super::life::{Batch, Phase, Plan};
use super::send::Reply;
use super::{BatchPoint, Desk, Outcome, files, openai};
use crate::prompt::Fault;
use crate::reply::Rfc3339;
use crate::tree::{Object, Spelling};

pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let path: Vec<_> = desk.address.path.split('/').skip(2).collect();
    let show = |batch: &Batch, now| show(desk, batch, now);
    desk.query(&[])?;
    match (desk.method, path.as_slice()) {
        (_, ["files", rest @ ..]) => files::serve(desk, rest, body),
        ("POST", ["batches"]) => create(desk, &body),
        ("GET", ["batches"]) => {
            desk.pass(BatchPoint::ListArrived);
            desk.with(|inner, now| {
                inner.counts.lists += 1;
                let batches = inner.listed(desk.family, now, desk.batches());
                let shown: Vec<_> = batches.iter().map(|batch| show(batch, now)).collect();
                Ok(Reply::Json(shown.into()))
            })
        }
        ("GET", ["batches", id]) => desk.status(id, show),
        ("POST", ["batches", id, "cancel"]) => desk.cancel(id, show),
        _ => Err(super::Refusal::Nowhere),
    }
}

fn create(desk: &Desk<'_>, body: &[u8]) -> Outcome {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    let value = desk.json(body)?;
    let root = Object::new(&value, "", Spelling::Exact)?;
    root.only(&[
        "endpoint",
        "input_file_id",
        "completion_window",
        "priority",
        "model_id",
    ])?;
    let text = |name| root.text(name)?.ok_or_else(|| root.missing(name));
    let (input, endpoint) = (text("input_file_id")?, text("endpoint")?);
    if endpoint != CHAT {
        let message = format!("the simulator runs batches for '{CHAT}' alone");
        return Err(Fault::invalid("endpoint", "invalid_value", message).into());
    }
    if root
        .text("completion_window")?
        .is_some_and(|text| text != "24h")
    {
        let message = "completion_window cannot be changed";
        return Err(Fault::invalid("completion_window", "invalid_value", message).into());
    }
    let read = openai::read(desk, input, "");
    let plan = Plan {
        family: desk.family,
        version: desk.version,
        label: Value::Null,
        model: read.model,
        endpoint: endpoint.to_owned(),
        window: hours(24),
        input: Some(input.to_owned()),
        sealed: true,
        requests: read.requests,
        failures: read.failures,
        tokens: read.tokens,
    };
    desk.create(plan, |batch, now| json!({"job": show(desk, batch, now)}))
}

fn show(desk: &Desk<'_>, batch: &Batch, now: Duration) -> Value {
    let config = desk.batches();
    let phase = batch.phase(now, config);
    let status = match phase {
        Phase::Validating => "VALIDATING",
        Phase::Running | Phase::Finalizing | Phase::Cancelling => "IN_PROGRESS",
        Phase::Ended => "COMPLETED",
        Phase::Failed => "FAILED",
        Phase::Expired => "EXPIRED",
        Phase::Cancelled => "CANCELLED",
    };
    let time = |time: Duration| Rfc3339(desk.unix(time)).to_string();
    let done = (batch.done + batch.failed) as f64 / (batch.total().max(1)) as f64;
    let [output, error] = files::ids(desk, batch, now);
    let mut shown = json!({"id": batch.id, "user_id": "user-sim",
        "input_file_id": batch.plan.input, "status": status,
        "job_deadline": time(batch.created + batch.plan.window),
        "created_at": time(batch.created), "endpoint": batch.plan.endpoint,
        "progress": (done * 100.0), "model_id": batch.plan.model});
    for (name, file) in [("output_file_id", output), ("error_file_id", error)] {
        if let Some(file) = file {
            shown[name] = file.into();
        }
    }
    if let Some(ended) = batch.ended(now, config) {
        shown["completed_at"] = time(ended).into();
    }
    if phase == Phase::Failed {
        let failures = batch.plan.failures.iter();
        let told = failures.map(|failure| match failure.line {
            Some(line) => format!("line {line}: {}", failure.message),
            None => failure.message.clone(),
        });
        shown["error"] = told.collect::<Vec<_>>().join("; ").into();
    }
    shown
}
