//! Batches as Together has them: no label, no counts, a list of one page.

use std::time::Duration;

use serde_json::{Value, json};

use super::intake::hours;
use super::life::{Batch, Phase, Plan};
use super::send::Reply;
use super::{BatchPoint, Desk, Outcome, files, openai};
use crate::objects;
use crate::reply::Rfc3339;
use crate::tree::Spelling;

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
    let root = objects::request(&value, Spelling::Exact, "openai", "batch_together")?;
    let text = |name| root.text(name).map(Option::unwrap_or_default);
    let (input, endpoint) = (text("input_file_id")?, text("endpoint")?);
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
