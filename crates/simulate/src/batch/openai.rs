//! Batches as OpenAI has them, and Groq's idea of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::intake::{CHAT, CHAT_AT_AZURE, Intake, RESPONSES, hours};
use super::life::{Batch, Failure, Plan};
use super::send::Reply;
use super::{BatchPoint, Desk, Family, Outcome, Refusal, files, show, store};
use crate::objects;
use crate::prompt::Fault;
use crate::tree::{Object, Spelling};

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
        ("POST", ["batches", id, "cancel"]) => {
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
    let rule = match desk.family {
        Family::OpenAi => "batch_openai",
        _ => "batch_groq",
    };
    let root = objects::request(&value, Spelling::Exact, "openai", rule)?;
    let text = |name| root.text(name).map(Option::unwrap_or_default);
    let input = text("input_file_id")?;
    let endpoint = text("endpoint")?;
    let newer = endpoint == RESPONSES && desk.family == Family::OpenAi && !desk.is_azure();
    let chat = if desk.is_azure() { CHAT_AT_AZURE } else { CHAT };
    if endpoint != chat && !newer {
        let message = format!("Invalid endpoint: the simulator runs no batches for '{endpoint}'.");
        return Err(Fault::invalid("endpoint", "invalid_value", message).into());
    }
    let window = window(desk.family, text("completion_window")?)?;
    metadata(&root, 64)?;
    if desk.is_azure() && !desk.with(|inner, _| inner.was_looked_at(input)) {
        let message = "The input file has not been processed yet: look at its status first.";
        return Err(Refusal::bad(400, message));
    }
    let intake = read_at(desk, endpoint, input, "");
    let plan = Plan {
        family: desk.family,
        version: desk.version,
        label: store::label(root.get("metadata")),
        model: intake.model,
        endpoint: endpoint.to_owned(),
        window,
        input: Some(input.to_owned()),
        sealed: true,
        requests: intake.requests,
        failures: intake.failures,
        tokens: intake.tokens,
    };
    desk.create(plan, |batch, now| show::batch(desk, batch, now, true))
}

/// What an input file holds.
pub(super) struct Input {
    pub(super) model: String,
    pub(super) requests: Option<(Arc<super::Blob>, Vec<super::Item>)>,
    pub(super) failures: Vec<Failure>,
    pub(super) tokens: Vec<(String, u64)>,
}

/// Reads an input file; one that is not there is a failure of validation.
pub(super) fn read(desk: &Desk<'_>, id: &str, model: &str) -> Input {
    read_at(desk, CHAT, id, model)
}

/// The same for requests that go elsewhere.
fn read_at(desk: &Desk<'_>, endpoint: &str, id: &str, model: &str) -> Input {
    let blob = desk.with(|inner, _| {
        let file = inner.file(id).filter(|file| file.family == desk.family);
        file.map(|file| Arc::clone(&file.blob))
    });
    let Some(blob) = blob else {
        let failure = Failure {
            line: None,
            code: "invalid_input_file",
            message: format!("The input file {id} does not exist."),
        };
        return Input {
            model: String::new(),
            requests: None,
            failures: vec![failure],
            tokens: Vec::new(),
        };
    };
    let Intake {
        items,
        failures,
        model,
        tokens,
        ..
    } = desk.accept(desk.reading_at(endpoint, model).lines(&blob));
    Input {
        model,
        requests: Some((blob, items)),
        failures,
        tokens,
    }
}

fn window(family: Family, text: &str) -> Result<Duration, Fault> {
    let read = match (family, text) {
        (_, "24h") => Some(24),
        (Family::Groq, text) => match text.split_at_checked(text.len().saturating_sub(1)) {
            Some((number, "h")) => number.parse::<u64>().ok(),
            Some((number, "d")) => number
                .parse::<u64>()
                .ok()
                .and_then(|days| days.checked_mul(24)),
            _ => None,
        },
        _ => None,
    };
    match read {
        Some(length @ 24..=168) => Ok(hours(length)),
        _ => {
            let message = format!("Invalid value: '{text}'. Supported value is: '24h'.");
            Err(Fault::invalid(
                "completion_window",
                "invalid_value",
                message,
            ))
        }
    }
}

/// Up to 16 pairs of short strings.
pub(super) fn metadata(root: &Object<'_>, longest: usize) -> Result<(), Fault> {
    let Some(value) = root.get("metadata") else {
        return Ok(());
    };
    let bad = |message: &str| Fault::invalid("metadata", "invalid_value", message);
    let pairs = value
        .as_object()
        .ok_or_else(|| bad("'metadata' must be an object."))?;
    if pairs.len() > 16 {
        return Err(bad("'metadata' must have at most 16 pairs."));
    }
    let fits = |(key, value): (&String, &Value)| {
        let value = value.as_str().map(|text| text.chars().count());
        (1..=longest).contains(&key.chars().count()) && value.is_some_and(|size| size <= 512)
    };
    if pairs.iter().all(fits) {
        Ok(())
    } else {
        Err(bad("'metadata' takes short strings only."))
    }
}

fn list(desk: &Desk<'_>) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    let groq = desk.family == Family::Groq;
    let query = desk.query("batches")?;
    let limit = if groq {
        20
    } else {
        query.whole("limit", 1..=100, 20)?
    };
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let mut batches = inner.listed(desk.family, now, desk.batches());
        let known: Vec<_> = query.all("id").collect();
        if known.len() > 200 {
            return Err(Refusal::bad(400, "At most 200 ids can be asked for."));
        }
        if !known.is_empty() {
            batches.retain(|batch| known.contains(&batch.id.as_str()));
        }
        if let Some(after) = query.get("after").or_else(|| query.get("cursor")) {
            let place = batches.iter().position(|batch| batch.id == after);
            let place = place.ok_or_else(|| Refusal::missing("batch", after))?;
            batches.drain(..=place);
        }
        let more = batches.len() > limit;
        batches.truncate(limit);
        let data: Vec<_> = batches
            .iter()
            .map(|batch| show::batch(desk, batch, now, true))
            .collect();
        let first = batches.first().map(|batch| batch.id.as_str());
        let last = batches.last().map(|batch| batch.id.as_str());
        Ok(Reply::Json(if groq {
            let next = last.filter(|_| more);
            json!({"object": "list", "data": data, "paging": {"next_cursor": next}})
        } else {
            json!({"object": "list", "data": data, "first_id": first, "last_id": last,
                "has_more": more})
        }))
    })
}
