//! Stored responses: read, and completed when their job in the background has ended.

use batchwright::queue::{ConsumeError, JobResult, ProcessInfo, ProcessState};
use batchwright::{Error, ErrorKind, JobQueue, ProcessId, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::object;
use crate::app::App;
use crate::openai::answer;
use crate::openai::files::KEPT_SECONDS;
use crate::problem::Problem;
use crate::records::files::now;
use crate::records::objects::{ObjectKind, ObjectRecord};
use crate::records::settled;

/// Seconds after which a job that is not in the queue is lost. Until then its creation may be in progress.
const CREATED_BY: u64 = 60;

/// What is stored of a response.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    /// All items that the model got, as clients and earlier responses have them.
    pub input: Vec<Value>,
    pub response: Map<String, Value>,
}

impl Stored {
    /// A response that is not answered yet.
    pub fn queued(id: &str, input: Vec<Value>, request: &Request) -> Self {
        let model = request.model.as_deref().unwrap_or_default();
        Self {
            input,
            response: object::queued(id, model, &fields(request)),
        }
    }

    /// The record of a response that a process of the queue may make.
    pub fn record(&self, id: &str, process: Option<ProcessId>) -> ObjectRecord {
        let (id, expires_at) = (id.to_owned(), now() + KEPT_SECONDS);
        let mut record = ObjectRecord::new(ObjectKind::Response, id, expires_at);
        record.process = process;
        record.set(self);
        record
    }

    /// The items of a conversation that continues this one.
    pub fn conversation(self) -> Vec<Value> {
        let mut items = self.input;
        if let Some(Value::Array(output)) = self.response.get("output") {
            items.extend(output.iter().cloned());
        }
        items
    }

    pub fn status(&self) -> &str {
        let status = self.response.get("status").and_then(Value::as_str);
        status.unwrap_or_default()
    }

    pub fn is_open(&self) -> bool {
        matches!(self.status(), "queued" | "in_progress")
    }

    fn set_status(&mut self, status: &str) {
        self.response.insert("status".to_owned(), status.into());
    }

    fn end(&mut self, result: &JobResult) {
        let result = answer::outcome(result).and_then(|outcome| outcome.result);
        if let Err(error) = object::complete(&mut self.response, &result) {
            object::fail(&mut self.response, error);
        }
    }
}

/// The fields of a request that its response repeats.
fn fields(request: &Request) -> Map<String, Value> {
    let form = request.input.as_ref();
    let form = form.and_then(|form| form.parse::<Map<String, Value>>().ok());
    let fields = form.and_then(|mut form| form.remove("response"));
    match fields {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// The response with this id, as it is now; `None` if it is not stored.
///
/// # Errors
/// When it cannot be read or completed.
pub(super) fn found(app: &App, id: &str) -> Result<Option<(ObjectRecord, Stored)>, Problem> {
    let record = ObjectRecord::get(&mut app.records.single(), ObjectKind::Response, id)?;
    let Some(mut record) = record.filter(|record| record.expires_at > now()) else {
        return Ok(None);
    };
    let mut stored: Stored = record.read()?;
    if let Some(process) = record.process {
        match app.queue.process(process)? {
            Some(state) if state.is_finished() => take(app, &mut record, &mut stored, process)?,
            Some(state) => stored.set_status(status(&state)),
            None => end_without(app, &mut record, &mut stored)?,
        }
    }
    Ok(Some((record, stored)))
}

fn status(process: &ProcessState) -> &'static str {
    match process.counts.in_progress + process.counts.at_provider {
        0 => "queued",
        _ => "in_progress",
    }
}

/// The queue as the only collector of the result of a response.
fn queue_of(app: &App, id: &str) -> JobQueue {
    app.queue.described(ProcessInfo::new().collector(id))
}

/// Moves the result of the job from the queue into the record.
fn take(
    app: &App,
    record: &mut ObjectRecord,
    stored: &mut Stored,
    process: ProcessId,
) -> Result<(), Problem> {
    let id = record.id.clone();
    let moved = queue_of(app, &id).consume_as(process, &id, |results| {
        results.iter().for_each(|result| stored.end(result));
        record.set(stored);
        // With its process, so that after a crash the queue deletes the result then.
        record.update(&mut app.records.single())
    });
    match moved {
        Ok(_) => {}
        // Another thread or server does the same.
        Err(ConsumeError::Queue(error)) if error.kind() == ErrorKind::Transient => {
            stored.set_status("in_progress");
            return Ok(());
        }
        Err(ConsumeError::Save(error) | ConsumeError::Queue(error)) => return Err(error.into()),
    }
    end_without(app, record, stored)
}

/// Completes a record whose job is not in the queue any more, as it is now: another thread or server may have completed
/// it meanwhile.
fn end_without(app: &App, record: &mut ObjectRecord, stored: &mut Stored) -> Result<(), Problem> {
    let id = record.id.clone();
    let known = app.records.transaction(|database| {
        let known = ObjectRecord::get(database, ObjectKind::Response, &id)?;
        let Some(mut known) = known else {
            return Ok(None);
        };
        let mut stored: Stored = known.read()?;
        let created = stored.response.get("created_at").and_then(Value::as_u64);
        let may_come = stored.is_open() && created.unwrap_or(0) + CREATED_BY > now();
        if known.process.is_some() && !may_come {
            if stored.is_open() {
                let why = "the job of this response is no longer in the queue: it was deleted, or another program took its result";
                object::fail(&mut stored.response, &Error::new(ErrorKind::NotFound, why));
                known.set(&stored);
            }
            known.process = None;
            known.update(database)?;
        }
        Ok::<_, Problem>(Some((known, stored)))
    })?;
    if let Some((now_known, now_stored)) = known {
        (*record, *stored) = (now_known, now_stored);
    }
    Ok(())
}

/// Completes responses whose jobs have ended, and deletes expired objects and those that are too large together.
///
/// # Errors
/// When the queue or the records cannot be read or written.
pub(in super::super) fn tidy(app: &App) -> Result<(), Problem> {
    let mut database = app.records.single();
    for (id, process) in ObjectRecord::in_progress(&mut database)? {
        let state = app.queue.process(process)?;
        if state.is_some_and(|state| !state.is_finished()) {
            continue;
        }
        if let Err(problem) = found(app, &id) {
            log::warn!("{id} cannot be completed yet: {}", problem.for_log());
        }
    }
    for object in ObjectRecord::expired(&mut database, settled::seconds())? {
        remove(app, &object)?;
    }
    let most = app.openai.response_bytes;
    Ok(ObjectRecord::shrink(
        &mut database,
        ObjectKind::Response,
        most,
    )?)
}

/// Deletes an object, with its job or its bytes.
///
/// # Errors
/// When that fails; then it is still listed.
pub(in super::super) fn remove(app: &App, object: &ObjectRecord) -> Result<(), Problem> {
    if let Some(process) = object.process {
        queue_of(app, &object.id).delete(process)?;
    }
    if object.kind == ObjectKind::Part {
        app.openai.storage.remove(&object.id)?;
    }
    Ok(ObjectRecord::delete(&mut app.records.single(), &object.id)?)
}

/// An item of an input as OpenAI lists it: with an id, a status, and contents that are lists.
pub(super) fn listed(item: &Value, id: &str, number: usize) -> Value {
    let mut item = item.clone();
    let kind = item["type"].as_str().unwrap_or("message").to_owned();
    let prefix = match kind.as_str() {
        "message" => "msg",
        "function_call" => "fc",
        "reasoning" => "rs",
        _ => "item",
    };
    let part = match item["role"].as_str() {
        Some("assistant") => json!({"type": "output_text", "annotations": []}),
        _ => json!({"type": "input_text"}),
    };
    if let Some(Value::String(text)) = item.get("content") {
        let mut part = part;
        part["text"] = text.as_str().into();
        item["content"] = json!([part]);
    }
    item["type"] = kind.into();
    if item["id"].as_str().is_none() {
        let id = id.trim_start_matches("resp_");
        item["id"] = format!("{prefix}_{id}_{number}").into();
    }
    if item["status"].as_str().is_none() {
        item["status"] = "completed".into();
    }
    item
}
