//! Features that only xAI's batches have: requests that are added one call at a time, and results in pages.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::form::Query;
use super::intake::{CHAT, Intake, split};
use super::life::{Batch, Blob, Fate};
use super::results::{Results, Which};
use super::send::{Reply, Source};
use super::store::Spoiled;
use super::{Desk, Family, Outcome, Refusal};
use crate::prompt::Fault;

/// The most bytes of one call that adds requests.
const ADDED: usize = 25_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Added<'a> {
    #[serde(borrow)]
    batch_requests: Vec<&'a RawValue>,
}

pub(super) fn add(desk: &Desk<'_>, id: &str, body: Vec<u8>) -> Outcome {
    if body.len() > ADDED {
        return Err(Refusal::bad(
            413,
            format!("The body is larger than {ADDED} bytes."),
        ));
    }
    let mut intake = Intake::default();
    let added: Added<'_> = serde_json::from_slice(&body)
        .map_err(|error| Fault::invalid("batch_requests", error.to_string()))?;
    let reading = desk.reading(CHAT, "");
    for raw in &added.batch_requests {
        reading.part(&mut intake, &body, raw);
    }
    // Each call is judged as a whole, and at once.
    let intake = desk.accept(intake);
    if let Some(failure) = intake.failures.first() {
        return Err(Refusal::told(400, failure.message.clone()));
    }
    let blob = Arc::new(Blob::whole(body));
    desk.with(|inner, now| {
        let place = inner.batch(desk.family, id)?;
        let batch = &inner.batches[place];
        if batch.plan.sealed || batch.cancelled.is_some() {
            return Err(Refusal::told(
                400,
                "No requests can be added to this batch.",
            ));
        }
        let new = intake
            .items
            .iter()
            .map(|item| id_of(&blob, item.at, item.size));
        let known = ids(batch);
        if let Some(twice) = new.clone().find(|id| known.contains(id)) {
            let message = format!("The batch has a request '{twice}' already.");
            return Err(Refusal::bad(400, message));
        }
        if let (true, Some((model, _))) = (batch.plan.model.is_empty(), intake.tokens.first()) {
            inner.batches[place].plan.model = model.clone();
        }
        inner.add(place, blob, intake.items, now, desk.config());
        Ok(Reply::Json(json!({})))
    })
}

fn id_of(blob: &Blob, at: u32, size: u32) -> String {
    let at = at as usize;
    let line = &blob.bytes[at..at + size as usize];
    split(Family::Xai, CHAT, line).map_or_else(|_| String::new(), |(id, _)| id)
}

fn ids(batch: &Batch) -> Vec<String> {
    let parts = batch.parts.iter();
    let items = parts.flat_map(|part| part.items.iter().map(|item| (&part.blob, item)));
    items
        .map(|(blob, item)| id_of(blob, item.at, item.size))
        .collect()
}

/// A page of a batch's requests.
pub(super) fn requests(desk: &Desk<'_>, id: &str, query: &Query) -> Outcome {
    desk.with(|inner, now| {
        let batch = &inner.batches[inner.batch(desk.family, id)?];
        let stopped = batch.phase(now, desk.batches()).is_over();
        let ids = ids(batch);
        let paging = desk.wire().parts.as_ref().ok_or(Refusal::Nowhere)?;
        let (range, facts) = paging.find(query, &ids, "request")?;
        let fates = batch.parts.iter();
        let fates = fates.flat_map(|part| (0..part.items.len()).map(|place| part.fate(place)));
        let rows = ids.iter().zip(fates).skip(range.start).take(range.len());
        let rows = rows.map(|(id, fate)| {
            let state = match fate {
                Fate::Waiting if stopped => "cancelled",
                Fate::Waiting | Fate::Missing => "pending",
                fate if fate.is_error() => "failed",
                _ => "succeeded",
            };
            json!({"batch_request_id": id, "endpoint": CHAT, "model": batch.plan.model, "state": state})
        });
        Ok(paging.reply(facts, rows.collect()))
    })
}

/// A page of a batch's results.
pub(super) fn results(desk: &Desk<'_>, id: &str, query: &Query) -> Outcome {
    desk.with(|inner, now| {
        let batch = &inner.batches[inner.batch(desk.family, id)?];
        let ended = batch.ended(now, desk.batches());
        if ended.is_some_and(|ended| !desk.is_kept(ended, now)) {
            return Err(Refusal::missing("batch result", id));
        }
        let created = desk.unix(batch.created);
        let results = Results::new(batch, desk.config(), Which::All, created);
        let paging = desk.wire().parts.as_ref().ok_or(Refusal::Nowhere)?;
        let all = vec![String::new(); results.len()];
        let (mut range, facts) = paging.find(query, &all, "result")?;
        let spoiled = inner.next_download();
        if spoiled == Spoiled::Short {
            range.end = range.start + range.len() * 2 / 3;
        }
        let mut body = br#"{"results":["#.to_vec();
        for line in range.clone() {
            if line > range.start {
                body.push(b',');
            }
            results.write(&mut body, desk.config(), line);
        }
        let next = facts.fill(&"$token".into());
        body.extend_from_slice(format!(r#"],"pagination_token":{next}}}"#).as_bytes());
        Ok(Reply::Download(Source::Page(body), spoiled))
    })
}
