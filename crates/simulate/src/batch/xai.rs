//! Batches as xAI has them: a container with a name, filled from a file or request by request, whose
//! state nothing tells but its counts.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::intake::{Intake, hours, split};
use super::life::{Batch, Blob, Fate, Plan};
use super::results::{Results, Which};
use super::send::{Reply, Source};
use super::store::Spoiled;
use super::{BatchPoint, Desk, Outcome, Refusal, files, openai, show};
use crate::objects;
use crate::prompt::Fault;
use crate::tree::Spelling;

/// The most bytes of one call that adds requests.
const ADDED: usize = 25_000_000;

pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let path: Vec<_> = desk.address.path.split('/').skip(2).collect();
    let show = |batch: &Batch, now| show::batch(desk, batch, now, true);
    match (desk.method, path.as_slice()) {
        (_, ["files", rest @ ..]) => files::serve(desk, rest, body),
        ("POST", ["batches"]) => create(desk, &body),
        ("GET", ["batches"]) => list(desk),
        ("GET", ["batches", id]) => {
            desk.query("")?;
            desk.status(id, show)
        }
        ("POST", ["batches", id]) => match id.strip_suffix(":cancel") {
            Some(id) => desk.cancel(id, show),
            None => Err(Refusal::Nowhere),
        },
        ("POST", ["batches", id, "requests"]) => add(desk, id, body),
        ("GET", ["batches", id, "requests"]) => requests(desk, id),
        ("GET", ["batches", id, "results"]) => results(desk, id),
        _ => Err(Refusal::Nowhere),
    }
}

fn create(desk: &Desk<'_>, body: &[u8]) -> Outcome {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    desk.query("")?;
    let value = desk.json(body)?;
    let root = objects::request(&value, Spelling::Exact, "openai", "batch_xai")?;
    let name = root.text("name")?.unwrap_or_default();
    let mut plan = Plan {
        family: desk.family,
        version: desk.version,
        label: name.into(),
        model: String::new(),
        endpoint: String::new(),
        window: hours(24 * 30),
        input: None,
        sealed: false,
        requests: None,
        failures: Vec::new(),
        tokens: Vec::new(),
    };
    if let Some(input) = root.text("input_file_id")? {
        if !desk.with(|inner, _| {
            inner
                .file(input)
                .is_some_and(|file| file.family == desk.family)
        }) {
            return Err(Refusal::missing("file", input));
        }
        let read = openai::read(desk, input, "");
        plan.sealed = true;
        plan.input = Some(input.to_owned());
        plan.model = read.model;
        plan.requests = read.requests;
        plan.failures = read.failures;
        plan.tokens = read.tokens;
    }
    desk.create(plan, |batch, now| show::batch(desk, batch, now, true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Added<'a> {
    #[serde(borrow)]
    batch_requests: Vec<&'a RawValue>,
}

fn add(desk: &Desk<'_>, id: &str, body: Vec<u8>) -> Outcome {
    desk.query("")?;
    if body.len() > ADDED {
        return Err(Refusal::bad(
            413,
            format!("The body is larger than {ADDED} bytes."),
        ));
    }
    let mut intake = Intake::default();
    let added: Added<'_> = serde_json::from_slice(&body)
        .map_err(|error| Fault::invalid("batch_requests", "", error.to_string()))?;
    let reading = desk.reading("");
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
        let place = inner.batch(desk.family, id);
        let place = place.ok_or_else(|| Refusal::missing("batch", id))?;
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
    split(super::Family::Xai, super::intake::CHAT, line)
        .map_or_else(|_| String::new(), |(id, _)| id.into_owned())
}

fn ids(batch: &Batch) -> Vec<String> {
    let parts = batch.parts.iter();
    let items = parts.flat_map(|part| part.items.iter().map(|item| (&part.blob, item)));
    items
        .map(|(blob, item)| id_of(blob, item.at, item.size))
        .collect()
}

fn list(desk: &Desk<'_>) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    let query = desk.query("batches")?;
    let limit = query.whole("limit", 1..=100, 100)?;
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let mut batches = inner.listed(desk.family, now, desk.batches());
        if let Some(token) = query.get("pagination_token") {
            let place = batches.iter().position(|batch| batch.id == token);
            batches.drain(..place.ok_or_else(bad_token)?);
        }
        let next = batches.get(limit).map(|batch| batch.id.clone());
        let shown = batches.iter().take(limit);
        let shown: Vec<_> = shown
            .map(|batch| show::batch(desk, batch, now, true))
            .collect();
        Ok(Reply::Json(
            json!({"batches": shown, "pagination_token": next}),
        ))
    })
}

fn bad_token() -> Refusal {
    Refusal::bad(400, "The pagination_token is not one that was given out.")
}

/// Where a page of `all` things begins, and the token of the next one.
fn page(token: Option<&str>, limit: usize, all: usize) -> Result<(usize, Option<String>), Refusal> {
    let start = match token {
        None => 0,
        Some(token) => {
            let number = token
                .strip_prefix("page-")
                .and_then(|text| text.parse().ok());
            number.filter(|start| *start <= all).ok_or_else(bad_token)?
        }
    };
    let next = (start + limit < all).then(|| format!("page-{}", start + limit));
    Ok((start, next))
}

fn requests(desk: &Desk<'_>, id: &str) -> Outcome {
    let query = desk.query("requests")?;
    let limit = query.whole("limit", 1..=1_000, 100)?;
    desk.with(|inner, now| {
        let place = inner.batch(desk.family, id);
        let batch = &inner.batches[place.ok_or_else(|| Refusal::missing("batch", id))?];
        let stopped = batch.phase(now, desk.batches()).is_over();
        let (start, next) = page(query.get("pagination_token"), limit, batch.total() as usize)?;
        let rows = batch.parts.iter().flat_map(|part| {
            let items = part.items.iter().enumerate();
            items.map(move |(place, item)| {
                let state = match part.fate(place) {
                    Fate::Waiting if stopped => "cancelled",
                    Fate::Waiting | Fate::Missing => "pending",
                    fate if fate.is_error() => "failed",
                    _ => "succeeded",
                };
                (part, item, state)
            })
        });
        let rows: Vec<_> = rows
            .skip(start)
            .take(limit)
            .map(|(part, item, state)| {
                json!({"batch_request_id": id_of(&part.blob, item.at, item.size),
                    "endpoint": "/v1/chat/completions", "model": batch.plan.model, "state": state})
            })
            .collect();
        Ok(Reply::Json(
            json!({"batch_request_metadata": rows, "pagination_token": next}),
        ))
    })
}

fn results(desk: &Desk<'_>, id: &str) -> Outcome {
    let query = desk.query("results")?;
    let limit = query.whole("limit", 1..=1_000, 100)?;
    desk.with(|inner, now| {
        let place = inner.batch(desk.family, id);
        let place = place.ok_or_else(|| Refusal::missing("batch", id))?;
        let batch = &inner.batches[place];
        let ended = batch.ended(now, desk.batches());
        if ended.is_some_and(|ended| !desk.is_kept(ended, now)) {
            return Err(Refusal::missing("batch result", id));
        }
        let created = desk.unix(batch.created);
        let results = Results::new(batch, desk.config(), Which::All, created);
        let (start, next) = page(query.get("pagination_token"), limit, results.len())?;
        let spoiled = inner.next_download();
        let mut end = results.len().min(start + limit);
        if spoiled == Spoiled::Short {
            end = start + (end - start) * 2 / 3;
        }
        let mut body = br#"{"results":["#.to_vec();
        for line in start..end {
            if line > start {
                body.push(b',');
            }
            results.write(&mut body, desk.config(), line);
        }
        body.extend_from_slice(format!(r#"],"pagination_token":{}}}"#, json!(next)).as_bytes());
        Ok(Reply::Download(Source::Page(body), spoiled))
    })
}
