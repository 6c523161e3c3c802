//! `/v1/batches`: what clients ask for. What becomes of it is up to [`progress`](super::progress).

use std::collections::{BTreeMap, HashMap};

use batchwright::ProcessId;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use strum::VariantArray as _;

use super::files::{self, page};
use super::{ALL, of_batches};
use crate::api::once;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{BatchRecord, BatchState, FileRecord, Stored as _, id_of, new_id};

/// Most batches of one page, and how many there are on one unless somebody says so.
const MOST: usize = 100;
const DEFAULT: usize = 20;
/// Most hours that a batch may be given.
const MOST_HOURS: u64 = 14 * 24;

/// `POST /v1/batches`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let key = once::named(app, call)?;
    let asked: Map<String, Value> = call.json()?;
    let body = Value::Object(asked.clone()).to_string();
    let request = once::hash(&[body.as_bytes()]);
    let id = id_of("batch_", key.unwrap_or_else(ProcessId::new));
    let mut record = record(app, id, asked)?;
    record.request = Some(request);
    let known = app.records.transaction(|database| -> Result<_, Problem> {
        if let Some(known) = BatchRecord::get(database, &record.id)? {
            return Ok(Some(known));
        }
        let input = FileRecord::get(database, &record.input_file)?;
        if input.is_none_or(|input| input.purpose != "batch") {
            let why = format!("no file {} with the purpose batch", record.input_file);
            return Err(Problem::invalid(why).param("input_file_id"));
        }
        app.records.tell_end(database, &record.id)?;
        record.store(database)?;
        Ok(None)
    })?;
    if known
        .as_ref()
        .is_some_and(|known| known.request != record.request)
    {
        return Err(once::another());
    }
    app.records.secure();
    app.batches.wake();
    let shown = described(app, known.as_ref().unwrap_or(&record))?;
    Ok(once::replayed(Response::json(200, &shown), known.is_some()))
}

/// The batch that a client asks for.
fn record(app: &App, id: String, mut asked: Map<String, Value>) -> Result<BatchRecord, Problem> {
    let input_file = required(&mut asked, "input_file_id")?;
    let named = required(&mut asked, "endpoint")?;
    let Some(endpoint) = of_batches(&named) else {
        let all = ALL.join(", ");
        let why = format!("batches for {named:?} are not supported; use one of {all}");
        return Err(Problem::invalid(why).param("endpoint"));
    };
    let window = required(&mut asked, "completion_window")?;
    let hours = hours(&window).ok_or_else(|| {
        let why = format!("completion_window is a number of hours up to {MOST_HOURS}, as in 24h");
        Problem::invalid(why).param("completion_window")
    })?;
    let mut given = |name: &str| asked.remove(name).filter(|value| !value.is_null());
    let metadata = given("metadata").map(metadata).transpose()?;
    let kept = given("output_expires_after").map(kept).transpose()?;
    let (_, created_at) = app.time();
    Ok(BatchRecord {
        id,
        state: BatchState::Validating,
        process: ProcessId::new(),
        endpoint: endpoint.to_owned(),
        input_file,
        output_file: new_id("file-"),
        error_file: new_id("file-"),
        output_kept: kept,
        metadata,
        request: None,
        model: None,
        faults: Vec::new(),
        total: 0,
        ended: None,
        totals: None,
        created_at,
        expires_at: created_at + hours * 3600,
        times: HashMap::new(),
        has_output: false,
        has_errors: false,
    })
}

fn hours(window: &str) -> Option<u64> {
    let hours = window.strip_suffix('h')?.parse().ok()?;
    (1..=MOST_HOURS).contains(&hours).then_some(hours)
}

/// A text that a body must have.
fn required(body: &mut Map<String, Value>, name: &'static str) -> Result<String, Problem> {
    match body.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => {
            let why = format!("Missing required parameter: '{name}'.");
            Err(Problem::new(400, "missing_required_parameter", why).param(name))
        }
        Some(_) => {
            let why = format!("Invalid type for '{name}': expected a string.");
            Err(Problem::new(400, "invalid_type", why).param(name))
        }
    }
}

fn metadata(given: Value) -> Result<Box<RawValue>, Problem> {
    let refused = || {
        let why =
            "metadata may have up to 16 texts of at most 512 characters, with names of at most 64";
        Problem::invalid(why).param("metadata")
    };
    let pairs: BTreeMap<String, String> = serde_json::from_value(given).map_err(|_| refused())?;
    let fits = |(key, value): (&String, &String)| {
        key.chars().count() <= 64 && value.chars().count() <= 512
    };
    if pairs.len() <= 16 && pairs.iter().all(fits) {
        Ok(to_raw_value(&pairs).expect("texts have a form in JSON"))
    } else {
        Err(refused())
    }
}

/// How many seconds the files of results are to be kept.
fn kept(given: Value) -> Result<u64, Problem> {
    let (anchor, seconds) = (given["anchor"].as_str(), given["seconds"].as_u64());
    files::kept(anchor, seconds, "output_expires_after")
}

/// `GET /v1/batches/{id}`.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let record = found(app, call)?;
    Ok(Response::json(200, &described(app, &record)?))
}

/// `GET /v1/batches`: newest first.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let limit = call.limit(DEFAULT, MOST)?;
    let after: Option<String> = call.query("after")?;
    let database = app.records.single();
    if let Some(after) = &after
        && BatchRecord::get(&database, after)?.is_none()
    {
        return Err(no_such(after).param("after"));
    }
    let found = BatchRecord::list(&database, None, after.as_deref(), false, limit + 1)?;
    // The queue may answer slowly, and nobody has to wait for it here.
    drop(database);
    let shown = found.iter().map(|record| described(app, record));
    Ok(page(shown.collect::<Result<_, _>>()?, limit))
}

/// `POST /v1/batches/{id}/cancel`: what waits is cancelled, what runs may end.
pub(super) fn cancel(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let id = found(app, call)?.id;
    let mut runs = false;
    let record = app.records.transaction(|database| {
        BatchRecord::change(database, &id, |record| {
            runs = record.state == BatchState::InProgress;
            match record.state {
                BatchState::Validating | BatchState::InProgress => {
                    record.enter(BatchState::Cancelling);
                    Ok(())
                }
                BatchState::Cancelling => Ok(()),
                ended => {
                    let why = format!("Cannot cancel a batch with status '{}'.", ended.as_str());
                    Err(Problem::conflict(why))
                }
            }
        })
    })?;
    if runs {
        // At once: another server may be the one that brings batches on, and each request that starts is paid for.
        app.queue.cancel(record.process)?;
    }
    app.batches.wake();
    Ok(Response::json(200, &described(app, &record)?))
}

fn found(app: &App, call: &Call<'_>) -> Result<BatchRecord, Problem> {
    let id: String = call.param("batch_id")?;
    BatchRecord::get(&app.records.single(), &id)?.ok_or_else(|| no_such(&id))
}

fn no_such(id: &str) -> Problem {
    Problem::not_found(format!("No batch found with id '{id}'.")).param("batch_id")
}

/// A batch as OpenAI describes one. While its requests are in the queue, that knows how many have ended.
fn described(app: &App, batch: &BatchRecord) -> Result<Value, Problem> {
    let (completed, failed) = match batch.totals {
        Some(totals) => (totals.completed, totals.failed),
        None => match app.queue.process(batch.process)? {
            Some(process) => (process.counts.completed, process.counts.failed),
            None => batch.ended.unwrap_or_default(),
        },
    };
    let usage = batch.totals.map(|totals| {
        let used = totals.usage;
        json!({
            "input_tokens": used.input_tokens,
            "input_tokens_details": {"cached_tokens": used.cached_input_tokens},
            "output_tokens": used.output_tokens,
            "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
            "total_tokens": used.input_tokens + used.output_tokens,
        })
    });
    let errors =
        (!batch.faults.is_empty()).then(|| json!({"object": "list", "data": batch.faults}));
    let mut shown = json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": errors,
        "input_file_id": batch.input_file,
        "completion_window": format!("{}h", batch.expires_at.saturating_sub(batch.created_at) / 3600),
        "status": batch.state.as_str(),
        "output_file_id": batch.has_output.then_some(&batch.output_file),
        "error_file_id": batch.has_errors.then_some(&batch.error_file),
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        "request_counts": {"total": batch.total, "completed": completed, "failed": failed},
        "usage": usage,
        "metadata": batch.metadata,
    });
    for state in &BatchState::VARIANTS[1..] {
        shown[format!("{}_at", state.as_str())] = json!(batch.times.get(state));
    }
    Ok(shown)
}
