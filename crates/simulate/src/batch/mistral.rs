//! Batch jobs as Mistral has them: one model to a job, and lines of a form of their own.

use serde_json::{Value, json};

use super::intake::hours;
use super::life::{Batch, Plan};
use super::send::Reply;
use super::{BatchPoint, Desk, Outcome, Refusal, files, openai, show, store};
use crate::objects;
use crate::prompt::{Fault, Problem};
use crate::reply::Rfc3339;
use crate::tree::Spelling;

pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let path: Vec<_> = desk.address.path.split('/').skip(2).collect();
    let show = |batch: &Batch, now| show::batch(desk, batch, now, true);
    match (desk.method, path.as_slice()) {
        (_, ["files", rest @ ..]) => files::serve(desk, rest, body),
        ("POST", ["batch", "jobs"]) => create(desk, &body),
        ("GET", ["batch", "jobs"]) => list(desk),
        ("GET", ["batch", "jobs", id]) => {
            desk.query("batch")?;
            desk.status(id, show)
        }
        ("POST", ["batch", "jobs", id, "cancel"]) => {
            desk.query("")?;
            desk.cancel(id, show)
        }
        _ => Err(Refusal::Nowhere),
    }
}

fn create(desk: &Desk<'_>, body: &[u8]) -> Outcome {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    desk.query("")?;
    let value = desk.json(body)?;
    let root = objects::request(&value, Spelling::Exact, "openai", "batch_mistral")?;
    let text = |name| root.text(name).map(Option::unwrap_or_default);
    let endpoint = text("endpoint")?;
    let model = text("model")?;
    if !desk.config().knows_model(model) {
        return Err(Refusal::told(400, format!("Invalid model: {model}")));
    }
    let inputs = root.list("input_files")?;
    let Some([Value::String(input)]) = inputs.map(Vec::as_slice) else {
        let message = "The simulator takes one input file to a job.";
        return Err(Fault::invalid("input_files", "too_long", message).into());
    };
    openai::metadata(&root, 32)?;
    let timeout = root.whole("timeout_hours", 1)?.unwrap_or(24);
    if timeout >= 7 * 24 {
        let message = "Input should be less than 168";
        return Err(Fault::invalid("timeout_hours", "less_than", message).into());
    }
    if !desk.with(|inner, _| {
        inner
            .file(input)
            .is_some_and(|file| file.family == desk.family)
    }) {
        return Err(Refusal::missing("file", input));
    }
    let read = openai::read(desk, input, model);
    let plan = Plan {
        family: desk.family,
        version: desk.version,
        label: store::label(root.get("metadata")),
        model: model.to_owned(),
        endpoint: endpoint.to_owned(),
        window: hours(timeout),
        input: Some(input.clone()),
        sealed: true,
        requests: read.requests,
        failures: read.failures,
        tokens: read.tokens,
    };
    desk.create(plan, |batch, now| show::batch(desk, batch, now, true))
}

fn list(desk: &Desk<'_>) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    let query = desk.query("batches")?;
    let (page, size) = files::page(&query)?;
    let after = query.get("created_after").map(seconds).transpose()?;
    let states: Vec<_> = query.all("status").collect();
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let mut batches = inner.listed(desk.family, now, desk.batches());
        batches.retain(|batch| {
            let state = desk.wire().state(batch.phase(now, desk.batches()));
            query
                .get("model")
                .is_none_or(|model| batch.plan.model == model)
                && (states.is_empty() || states.contains(&state))
                && after.is_none_or(|after| desk.unix(batch.created) >= after)
        });
        match query.get("order_by") {
            None | Some("-created") => {}
            Some("created") => batches.reverse(),
            Some(_) => {
                let message = "Input should be 'created' or '-created'";
                return Err(Fault::invalid("order_by", "enum", message).into());
            }
        }
        let shown = batches.iter().skip(page * size).take(size);
        let data: Vec<_> = shown
            .map(|batch| show::batch(desk, batch, now, true))
            .collect();
        Ok(Reply::Json(
            json!({"object": "list", "data": data, "total": batches.len()}),
        ))
    })
}

/// A time such as `2026-11-20T05:00:00Z` in seconds since the epoch.
fn seconds(text: &str) -> Result<u64, Refusal> {
    let time = humantime::parse_rfc3339_weak(text).ok();
    let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map(|since| since.as_secs()).ok_or_else(|| {
        let message = format!("Input should be a time such as {}", Rfc3339(0));
        Problem::Fault(Fault::invalid("created_after", "datetime", message)).into()
    })
}

impl From<Problem<'static>> for Refusal {
    fn from(problem: Problem<'static>) -> Refusal {
        Refusal::Problem(problem)
    }
}
