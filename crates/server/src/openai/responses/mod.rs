//! `/v1/responses`: answers in the format of OpenAI's Responses API, at every provider. Responses are stored, so that
//! others can continue them; those in the background are jobs of the queue.

mod events;
pub(super) mod object;
pub(super) mod request;
mod stored;

use std::cell::Cell;

use batchwright::queue::ProcessInfo;
use batchwright::{Error, Job, ProcessId, Request};
use serde_json::{Map, Value, json};

pub(super) use stored::{remove, tidy};

use self::events::Events;
use self::request::Own;
use self::stored::{Stored, found, listed};
use super::answer::Reply;
use super::arriving::Piece;
use super::direct;
use super::endpoints::{RESPONSES, prefix};
use super::files::page;
use super::parts::{MOST_BYTES, Parts};
use super::stream::{AnswerEvents, Changed};
use crate::api::once;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::files::id_of;
use crate::records::objects::ObjectRecord;
use crate::records::{Hash, hash};

/// Most items of one page, and how many there are unless the client says so.
const MOST: usize = 100;
const DEFAULT: usize = 20;

/// `POST /v1/responses`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let own = Own::take(&mut body)?;
    let mut items = request::items(&body)?;
    if let Some(previous) = &own.previous {
        let mut conversation = conversation(app, previous)?;
        conversation.append(&mut items);
        body.insert("input".to_owned(), conversation.clone().into());
        items = conversation;
    }
    let request = request::of_body(body, &own, app.is_strict(&call.head)?)?;
    refuse_untranslated(app, &request)?;
    let key = once::key(call)?;
    if own.background {
        return in_background(app, call, key, request, items);
    }
    // Until it is answered: then it has the id of the answer, which requests with the same key share.
    let id = id_of(prefix(RESPONSES), ProcessId::new());
    let mut stored = Stored::queued(&id, items, &request);
    stored
        .response
        .insert("status".to_owned(), "in_progress".into());
    // While the call waits, the items are in the database and not in memory.
    if own.store {
        let record = stored.record(&id, None);
        record.insert(&mut app.records.single())?;
    }
    let response = own.stream.then_some(stored.response);
    drop(stored.input);
    let is_answered = Cell::new(false);
    let answer = Unanswered {
        app,
        id: &id,
        is_stored: own.store,
        is_answered: &is_answered,
    };
    let parts = Parts {
        model: request.model.clone(),
        requests: vec![request],
        as_base64: false,
    };
    let answered = match response {
        Some(response) => {
            let mut events = ResponseEvents::new(answer, response);
            direct::streamed(app, call, RESPONSES, parts, &mut events)
        }
        None => direct::answered(app, call, RESPONSES, parts, |reply| {
            let mut response = object(reply);
            answer.store(&mut response);
            Response::json(200, &response)
        }),
    };
    if own.store && !is_answered.get() {
        ObjectRecord::delete(&mut app.records.single(), &id)?;
    }
    answered
}

/// The response object of a reply.
fn object(reply: &Reply) -> Map<String, Value> {
    match reply {
        Reply::Json(Value::Object(response)) => response.clone(),
        _ => Map::new(),
    }
}

/// A response without its answer.
struct Unanswered<'a> {
    app: &'a App,
    /// The id until it is answered.
    id: &'a str,
    is_stored: bool,
    is_answered: &'a Cell<bool>,
}

impl Unanswered<'_> {
    /// Stores the answered response, if its client wants that.
    fn store(&self, response: &mut Map<String, Value>) {
        self.is_answered.set(true);
        if self.is_stored
            && let Err(problem) = store(self.app, self.id, response)
        {
            log::warn!("{} is answered and not stored: {problem}", self.id);
            response.insert("store".to_owned(), false.into());
        }
    }
}

/// The events of a response that is streamed.
struct ResponseEvents<'a> {
    answer: Unanswered<'a>,
    /// The response before its answer.
    response: Map<String, Value>,
    events: Events,
}

impl<'a> ResponseEvents<'a> {
    fn new(answer: Unanswered<'a>, response: Map<String, Value>) -> Self {
        Self {
            answer,
            response,
            events: Events::default(),
        }
    }
}

impl AnswerEvents for ResponseEvents<'_> {
    fn begin(&mut self, id: &str, model: &str) -> String {
        self.response.insert("id".to_owned(), id.into());
        if self.response.get("model").is_none_or(|named| named == "") {
            self.response.insert("model".to_owned(), model.into());
        }
        self.events
            .begin(&self.response, id.trim_start_matches("resp_"));
        // The fields of the request may be large: while it waits, they are in the database.
        self.response = object::queued(id, model, &Map::new());
        self.events.take()
    }

    fn piece(&mut self, piece: &Piece) -> String {
        self.events.piece(piece);
        self.events.take()
    }

    fn end(&mut self, reply: &Reply) -> Result<String, (String, Changed)> {
        let mut response = object(reply);
        self.events.keep_before_refusal(&mut response);
        let ordered = self.events.order(&mut response);
        self.answer.store(&mut response);
        let ended = ordered.and_then(|()| self.events.end(&response));
        self.response = response;
        let events = self.events.take();
        match ended {
            Ok(()) => Ok(events),
            Err(changed) => Err((events, changed)),
        }
    }

    fn changed(&mut self, _: &Reply) -> String {
        let response = json!({"response": self.response});
        self.events.error(Changed::CODE, Changed::WHY, response);
        self.events.take()
    }

    fn failed(&mut self, error: &Error) -> String {
        object::fail(&mut self.response, error);
        self.events.close(&self.response);
        self.events.take()
    }

    fn broken(&mut self, problem: &Problem) -> String {
        self.events
            .error(problem.code(), &problem.to_string(), json!({}));
        self.events.take()
    }
}

fn streamed(response: &Map<String, Value>, after: Option<u64>) -> Response {
    let events = events::events(response, after);
    Response::full(200, "text/event-stream", events.into_bytes())
}

/// Stores an answered response in place of the one that was in progress with the id `begun`.
fn store(app: &App, begun: &str, response: &Map<String, Value>) -> Result<(), Problem> {
    let Some((mut record, mut stored)) = found(app, begun)? else {
        return Err(Problem::not_found("it was deleted for want of room"));
    };
    stored.response.clone_from(response);
    record.set(&stored);
    let id = response.get("id").and_then(Value::as_str);
    record.id = id.unwrap_or_default().to_owned();
    app.records.transaction(|database| {
        ObjectRecord::delete(database, begun)?;
        // An answer that was given before has the same id.
        ObjectRecord::delete(database, &record.id)?;
        Ok(record.insert(database)?)
    })
}

/// The items of an earlier response.
fn conversation(app: &App, id: &str) -> Result<Vec<Value>, Problem> {
    let refused = |code, why: String| Problem::new(400, code, why).param("previous_response_id");
    let missing = || {
        let why = format!("Previous response with id '{id}' not found.");
        refused("previous_response_not_found", why)
    };
    let (_, stored) = found(app, id)?.ok_or_else(missing)?;
    if !matches!(stored.status(), "completed" | "incomplete") {
        let why = format!("{id} is {} and cannot be continued", stored.status());
        return Err(refused("invalid_request", why));
    }
    Ok(stored.conversation())
}

/// Refuses a request with a field that only OpenAI has, unless OpenAI may answer it.
fn refuse_untranslated(app: &App, request: &Request) -> Result<(), Problem> {
    let lost = request.native.as_ref();
    let Some(field) = lost.and_then(|native| native.untranslated()) else {
        return Ok(());
    };
    let providers = app.limits.of(request);
    let Some(first) = providers.first() else {
        return Ok(());
    };
    if providers.iter().any(|limits| limits.provider == "openai") {
        return Ok(());
    }
    let why = format!("{field} is not supported at {}", first.provider);
    Err(Problem::invalid(why).param(field))
}

/// Enqueues a response that its client polls. With a key, once.
fn in_background(
    app: &App,
    call: &Call<'_>,
    key: Option<Hash>,
    request: Request,
    items: Vec<Value>,
) -> Result<Response, Problem> {
    let asked = Job::from(request.clone()).into_parts().request_hash;
    let asked = asked.unwrap_or_default();
    once::made(app, key, |process, check| {
        check(hash(&[b"background", asked.as_bytes()]))?;
        let Some(process) = process else {
            return Ok(Value::Null);
        };
        let id = id_of(prefix(RESPONSES), process);
        // A server that died may have made it.
        if key.is_some()
            && let Some((_, known)) = found(app, &id)?
        {
            if !known.is_open() || app.queue.process(process)?.is_some() {
                return Ok(known.response.into());
            }
            // It was never enqueued.
            ObjectRecord::delete(&mut app.records.single(), &id)?;
        }
        let stored = Stored::queued(&id, items, &request);
        // Before the job: its answer is found by this record.
        let record = stored.record(&id, Some(process));
        record.insert(&mut app.records.single())?;
        let name = format!("{} {} {id}", call.head.method, call.head.path);
        let info = ProcessInfo::new().name(name).collector(&id);
        let queue = app.queue.described(info);
        let job = Job::from(request.with_id(&id)).direct();
        if let Err(error) = queue.enqueue(process, [job]) {
            ObjectRecord::delete(&mut app.records.single(), &id)?;
            return Err(error.into());
        }
        Ok(stored.response.into())
    })
}

/// `GET /v1/responses/{id}`.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["stream", "starting_after"])?;
    let (_, stored) = existing(app, call)?;
    if call.query("stream")? != Some(true) {
        return Ok(Response::json(200, &stored.response));
    }
    if stored.is_open() {
        let why = "a response is streamed once it has ended: poll it without stream";
        return Err(Problem::invalid(why).param("stream"));
    }
    Ok(streamed(&stored.response, call.query("starting_after")?))
}

/// `DELETE /v1/responses/{id}`.
pub(super) fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let (record, _) = existing(app, call)?;
    remove(app, &record)?;
    let deleted = json!({"id": record.id, "object": "response", "deleted": true});
    Ok(Response::json(200, &deleted))
}

/// `POST /v1/responses/{id}/cancel`: what waits is cancelled; a call in progress ends, and its answer is kept.
pub(super) fn cancel(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let (record, stored) = existing(app, call)?;
    if stored.response.get("background") != Some(&Value::Bool(true)) {
        let why = "only responses that were created with background: true can be cancelled";
        return Err(Problem::invalid(why).param("response_id"));
    }
    if let Some(process) = record.process {
        app.queue.cancel(process)?;
    }
    let (_, stored) = existing(app, call)?;
    Ok(Response::json(200, &stored.response))
}

/// `GET /v1/responses/{id}/input_items`: newest first unless `order=asc`.
pub(super) fn input_items(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["after", "limit", "order"])?;
    let limit = call.limit(DEFAULT, MOST)?;
    let after: Option<String> = call.query("after")?;
    let is_ascending = call.is_ascending()?;
    let (record, stored) = existing(app, call)?;
    let items = stored.input.iter().enumerate();
    let mut items: Vec<Value> = items.map(|(n, item)| listed(item, &record.id, n)).collect();
    if !is_ascending {
        items.reverse();
    }
    let from = match &after {
        None => 0,
        Some(after) => {
            let found = items.iter().position(|item| item["id"] == after.as_str());
            let missing = || Problem::invalid(format!("there is no item {after}")).param("after");
            found.ok_or_else(missing)? + 1
        }
    };
    Ok(page(&items[from..], limit, Value::clone, |item| {
        item["id"].as_str().unwrap_or_default()
    }))
}

fn existing(app: &App, call: &mut Call<'_>) -> Result<(ObjectRecord, Stored), Problem> {
    let id: String = call.param("response_id")?;
    let missing =
        || Problem::not_found(format!("Response with id '{id}' not found.")).param("response_id");
    found(app, &id)?.ok_or_else(missing)
}
