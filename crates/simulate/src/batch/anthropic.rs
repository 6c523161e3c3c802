//! Message batches as Anthropic has them: sent whole, judged request by request, and counted only when
//! they have ended.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::intake::{Intake, hours};
use super::life::{Batch, Blob, Plan};
use super::results::Which;
use super::send::Reply;
use super::{BatchPoint, Desk, Outcome, Refusal, show};
use crate::prompt::Fault;

pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let path: Vec<_> = desk.address.path.split('/').skip(4).collect();
    let show = |batch: &Batch, now| show::batch(desk, batch, now, true);
    if !matches!((desk.method, path.as_slice()), ("GET", [])) {
        desk.query("")?;
    }
    match (desk.method, path.as_slice()) {
        ("POST", []) => create(desk, body),
        ("GET", []) => list(desk),
        ("GET", [id]) => desk.status(id, show),
        ("POST", [id, "cancel"]) => desk.cancel(id, show),
        ("GET", [id, "results"]) => results(desk, id),
        ("DELETE", [id]) => delete(desk, id),
        _ => Err(Refusal::Nowhere),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    requests: Vec<&'a RawValue>,
}

fn create(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    if body.len() as u64 > desk.family.max_bytes(desk.batches()) {
        return Err(Refusal::bad(413, "Request exceeds the maximum size"));
    }
    let read: Body<'_> = serde_json::from_slice(&body)
        .map_err(|error| Fault::invalid("requests", "", format!("requests: {error}")))?;
    if read.requests.is_empty() {
        let message = "requests: List should have at least 1 item after validation";
        return Err(Fault::invalid("requests", "", message).into());
    }
    let mut intake = Intake::default();
    let reading = desk.reading("");
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
        sealed: true,
        requests: Some((Arc::new(Blob::whole(body)), intake.items)),
        failures: Vec::new(),
        tokens: intake.tokens,
    };
    desk.create(plan, |batch, now| show::batch(desk, batch, now, true))
}

fn list(desk: &Desk<'_>) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    let query = desk.query("batches")?;
    let limit = query.whole("limit", 1..=1_000, 20)?;
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let mut batches = inner.listed(desk.family, now, desk.batches());
        let find = |batches: &[&Batch], id: &str| {
            let place = batches.iter().position(|batch| batch.id == id);
            place.ok_or_else(|| Refusal::missing("batch", id))
        };
        let more = match (query.get("after_id"), query.get("before_id")) {
            (Some(_), Some(_)) => {
                let message = "Only one of after_id and before_id may be given";
                return Err(Fault::invalid("after_id", "", message).into());
            }
            (None, Some(before)) => {
                batches.truncate(find(&batches, before)?);
                let first = batches.len().saturating_sub(limit);
                batches.drain(..first);
                first > 0
            }
            (after, None) => {
                if let Some(after) = after {
                    let place = find(&batches, after)?;
                    batches.drain(..=place);
                }
                let more = batches.len() > limit;
                batches.truncate(limit);
                more
            }
        };
        let data: Vec<_> = batches
            .iter()
            .map(|batch| show::batch(desk, batch, now, true))
            .collect();
        let id = |batch: Option<&&Batch>| batch.map(|batch| batch.id.clone());
        Ok(Reply::Json(json!({"data": data, "has_more": more,
            "first_id": id(batches.first()), "last_id": id(batches.last())})))
    })
}

fn results(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|inner, now| {
        let place = inner.batch(desk.family, id);
        let place = place.ok_or_else(|| Refusal::missing("batch", id))?;
        match inner.batches[place].ended(now, desk.batches()) {
            None => Err(Refusal::bad(
                404,
                format!("Batch {id} has no available results."),
            )),
            Some(ended) if !desk.is_kept(ended, now) => Err(Refusal::told(
                404,
                format!("The results of batch {id} are gone."),
            )),
            Some(_) => Ok(desk.results(inner, place, Which::All)),
        }
    })
}

fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    desk.with(|inner, now| {
        let place = inner.batch(desk.family, id);
        let place = place.ok_or_else(|| Refusal::missing("batch", id))?;
        let batch = &mut inner.batches[place];
        if batch.ended(now, desk.batches()).is_none() {
            return Err(Refusal::bad(
                400,
                format!("Batch {id} has not ended; cancel it first."),
            ));
        }
        batch.deleted = true;
        Ok(())
    })?;
    desk.pass(BatchPoint::DeleteDone);
    Ok(Reply::Json(
        json!({"id": id, "type": "message_batch_deleted"}),
    ))
}
