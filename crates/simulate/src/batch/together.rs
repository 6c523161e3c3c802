//! Batches as Together has them: no label, no counts, a list of one page.

use serde_json::{Value, json};

use super::intake::hours;
use super::life::{Batch, Plan};
use super::send::Reply;
use super::{BatchPoint, Desk, Outcome, files, openai, show};
use crate::objects;
use crate::tree::Spelling;

pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let path: Vec<_> = desk.address.path.split('/').skip(2).collect();
    let show = |batch: &Batch, now| show::batch(desk, batch, now, true);
    desk.query("")?;
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
    desk.create(
        plan,
        |batch, now| json!({"job": show::batch(desk, batch, now, true)}),
    )
}
