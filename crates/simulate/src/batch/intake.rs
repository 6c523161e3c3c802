//! Reads the requests of a batch, one by one: for the errors that validation reports, and again when the result of a
//! request is needed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::life::{Blob, Failure, Fate, Item, Plan, Reading};
use super::wire::Create;
use super::{BatchPoint, Desk, Family, Outcome, Refusal, Reply};
use crate::prompt::Prompt;
use crate::rules::{self, Fault};
use crate::trouble::{Form, prompt_key};
use crate::{SimConfig, Trouble, answer, gemini};

/// Maximum number of reported errors.
const FAILURES: usize = 50;

/// Fields that Anthropic supports only in single calls.
const NEVER_IN_BATCHES: [&str; 5] = [
    "stream",
    "speed",
    "store",
    "previous_thread_event_id",
    "cache_hint",
];

/// The facts about all requests that were read.
#[derive(Debug, Default)]
pub(super) struct Intake {
    pub(super) items: Vec<Item>,
    pub(super) failures: Vec<Failure>,
    /// Whether something was not as the API has it, poison aside.
    pub(super) malformed: bool,
    pub(super) model: String,
    /// The prompt tokens of each model.
    pub(super) tokens: Vec<(String, u64)>,
    ids: HashSet<u64>,
}

type Reason = (&'static str, String);

/// One request of a batch, in whatever API.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "custom_id", alias = "key")]
    id: String,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow, alias = "params", alias = "request")]
    body: &'a RawValue,
}

impl Reading {
    /// The id of a request, and its body.
    pub(super) fn split<'l>(&self, line: &'l [u8]) -> Result<(String, &'l RawValue), Reason> {
        let line: Line<'l> = serde_json::from_slice(line).map_err(|error| {
            let code = match error.classify() {
                Category::Data => "invalid_request",
                _ => "invalid_json_line",
            };
            (code, format!("This line is not a request: {error}"))
        })?;
        let url = self.family.wire().url.as_deref();
        if line.method.as_deref() != url.map(|_| "POST") || line.url.as_deref() != url {
            let message = format!(
                "The method and the url must be POST {}.",
                url.unwrap_or_default()
            );
            return Err(("invalid_url", message));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=64).contains(&line.id.len()) || !line.id.bytes().all(plain) {
            let message = "custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'";
            return Err(("invalid_custom_id", message.to_owned()));
        }
        Ok((line.id, line.body))
    }

    /// Reads the body of a request like that of a call.
    pub(super) fn prompt(&self, body: &RawValue) -> Result<Prompt, Fault> {
        if self.family == Family::Anthropic {
            let fields: Result<BTreeMap<&str, &RawValue>, _> = serde_json::from_str(body.get());
            let fields = fields.unwrap_or_default();
            let never = NEVER_IN_BATCHES
                .into_iter()
                .find(|name| fields.contains_key(name));
            if let Some(name) = never {
                return Err(Fault::unknown(name));
            }
        }
        let bytes = body.get().as_bytes();
        self.dialect.prompt(bytes, &self.model)
    }

    /// Reads all lines of a file.
    pub(super) fn lines(&self, blob: &Blob, config: &SimConfig) -> Intake {
        let mut intake = Intake::default();
        let bytes = blob.get();
        let mut at = 0;
        let mut number = 0;
        while at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
            number += 1;
            let line = &bytes[at..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.line(
                &mut intake,
                line,
                blob.range.start + at,
                Some(number),
                config,
            );
            at = end + 1;
        }
        intake
    }

    /// Reads one request at this position of its blob.
    pub(super) fn line(
        &self,
        intake: &mut Intake,
        line: &[u8],
        at: usize,
        number: Option<u64>,
        config: &SimConfig,
    ) {
        let split = self.split(line).and_then(|(id, body)| {
            let is_new = intake.ids.insert(prompt_key(&id));
            let message = format!("The custom_id '{id}' is used more than once.");
            is_new
                .then_some(body)
                .ok_or(("duplicate_custom_id", message))
        });
        let body = match split {
            Ok(body) => body,
            Err((code, message)) => {
                intake.malformed = true;
                return intake.fail(number, code, message);
            }
        };
        if let Some(recorder) = &config.recorder {
            recorder.record(body.get().as_bytes());
        }
        let mut item = Item {
            at: u32::try_from(at).unwrap_or(u32::MAX),
            size: u32::try_from(line.len()).unwrap_or(u32::MAX),
            key: 0,
            form: Form::Text,
            fate: Fate::Waiting,
            costs: [0; 2],
        };
        match self.prompt(body) {
            Ok(prompt) => self.judge(intake, &mut item, prompt, number, config),
            Err(fault) => {
                intake.malformed = true;
                item.fate = Fate::Invalid;
                let message = format!("The request is invalid at '{}': {fault:?}", fault.at);
                self.fail(intake, number, "invalid_request", message);
            }
        }
        intake.items.push(item);
    }

    /// Fails the whole batch; Anthropic reports errors only when it processes the request.
    fn fail(&self, intake: &mut Intake, line: Option<u64>, code: &'static str, message: String) {
        if self.family != Family::Anthropic {
            intake.fail(line, code, message);
        }
    }

    fn judge(
        &self,
        intake: &mut Intake,
        item: &mut Item,
        prompt: Prompt,
        number: Option<u64>,
        config: &SimConfig,
    ) {
        item.key = prompt_key(&prompt.text);
        item.form = Form::of(prompt.shape.is_some());
        item.costs = [None, Some(Trouble::Empty)].map(|odd| {
            let tokens = answer::tokens(&prompt, config, odd);
            config.prices.cost(&prompt.model, tokens, true)
        });
        let model = prompt.model;
        if !config.knows_model(&model) {
            item.fate = Fate::Invalid;
            let message = match self.family {
                Family::Xai => format!("The model {model} is not supported for batch processing."),
                _ => format!("The model `{model}` does not exist."),
            };
            self.fail(intake, number, "model_not_found", message);
        }
        if intake.model.is_empty() {
            intake.model.clone_from(&model);
        } else if intake.model != model && matches!(self.family, Family::OpenAi | Family::Azure) {
            intake.malformed = true;
            let message = "All requests of a batch must name the same model.".to_owned();
            intake.fail(number, "mismatched_model", message);
        }
        let poison = config.batches.poison.as_ref();
        if poison.is_some_and(|poison| prompt.text.contains(poison.as_str())) {
            if self.family == Family::Anthropic {
                item.fate = Fate::Done(Some(Trouble::BadRequest));
            }
            let number = number.filter(|_| !config.batches.hide_lines);
            let message = "The simulator refuses this prompt.".to_owned();
            self.fail(intake, number, "invalid_request", message);
        }
        match intake.tokens.iter_mut().find(|(name, _)| *name == model) {
            Some((_, tokens)) => *tokens += prompt.tokens,
            None => intake.tokens.push((model, prompt.tokens)),
        }
    }
}

impl Intake {
    pub(super) fn fail(&mut self, line: Option<u64>, code: &'static str, message: String) {
        if self.failures.len() < FAILURES {
            self.failures.push(Failure {
                line,
                code,
                message,
            });
        }
    }
}

/// Counts a request to create a batch, and holds it if the test requests that. Returns an empty batch.
fn arrived(desk: &Desk<'_>, model: &str, hours: u64) -> Plan {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    Plan {
        reading: Reading {
            family: desk.family,
            dialect: desk.dialect,
            model: model.to_owned(),
        },
        label: Value::Null,
        window: Duration::from_secs(hours * 3_600),
        input: None,
        requests: None,
        failures: Vec::new(),
        tokens: Vec::new(),
    }
}

/// Creates a batch of the requests in a file; `model` is that of the address, where it has one.
pub(super) fn from_file(desk: &Desk<'_>, model: &str, body: &[u8]) -> Outcome {
    let rules = desk.wire().create.as_ref().ok_or(Refusal::Nowhere)?;
    let mut plan = arrived(desk, model, rules.hours);
    let root = match desk.family {
        Family::Gemini => gemini::read(body, &rules.rule)?["batch"].take(),
        _ => rules::read(body, &rules.api, &rules.rule)?,
    };
    let endpoint = root["endpoint"].as_str();
    if endpoint.is_some_and(|endpoint| desk.wire().url.as_deref() != Some(endpoint)) {
        let message = "Invalid endpoint: the simulator runs no batches for it.";
        return Err(Fault::invalid("endpoint", message).into());
    }
    if !model.is_empty() && !desk.config().knows_model(model) {
        return Err(Refusal::missing("model", model));
    }
    let labels = ["metadata", "name", "displayName"].into_iter();
    plan.label = labels
        .filter_map(|name| root.get(name).cloned())
        .next()
        .unwrap_or_default();
    let input = root["input_file_id"].as_str();
    let input = input
        .or(root["inputConfig"]["fileName"].as_str())
        .unwrap_or_default();
    plan.input = Some(input.to_owned());
    read(desk, rules, input, &mut plan)?;
    make(desk, plan)
}

/// Reads the requests of an input file; one that is not there is a failure of validation at most APIs.
fn read(desk: &Desk<'_>, rules: &Create, id: &str, plan: &mut Plan) -> Result<(), Refusal> {
    let found = desk.with(|inner, _| {
        let file = inner.file(desk.family, id)?;
        Some((Arc::clone(&file.blob), file.looked_at))
    });
    match found {
        None if rules.needs_file => Err(Refusal::missing("file", id)),
        None => {
            plan.failures.push(Failure {
                line: None,
                code: "invalid_input_file",
                message: format!("The input file {id} does not exist."),
            });
            Ok(())
        }
        Some((_, false)) if rules.looked_at => {
            let message = "The input file has not been processed yet: look at its status first.";
            Err(Refusal::bad(400, message))
        }
        Some((blob, _)) => {
            let intake = plan.reading.lines(&blob, desk.config());
            accept(desk, plan, intake, blob);
            Ok(())
        }
    }
}

/// Puts the requests into the batch, by the rules for whole batches.
fn accept(desk: &Desk<'_>, plan: &mut Plan, mut intake: Intake, blob: Arc<Blob>) {
    let most = desk.wire().max_requests.unwrap_or(u64::MAX);
    if intake.items.len() as u64 > most {
        intake.malformed = true;
        let message = format!("The batch has more than {most} requests.");
        intake.fail(None, "too_many_requests", message);
    }
    if intake.malformed {
        desk.shared.ledger.malformed();
    }
    if plan.reading.model.is_empty() {
        plan.reading.model = intake.model;
    }
    plan.requests = Some((blob, intake.items));
    plan.failures = intake.failures;
    plan.tokens = intake.tokens;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    requests: Vec<&'a RawValue>,
}

/// Creates a batch of the requests in a body, as Anthropic has it.
pub(super) fn inline(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let mut plan = arrived(desk, "", 24);
    if body.len() as u64 > desk.wire().max_bytes {
        return Err(Refusal::bad(413, "Request exceeds the maximum size"));
    }
    let read: Body<'_> = serde_json::from_slice(&body)
        .map_err(|error| Fault::invalid("requests", format!("requests: {error}")))?;
    if read.requests.is_empty() {
        let message = "requests: List should have at least 1 item after validation";
        return Err(Fault::invalid("requests", message).into());
    }
    let mut intake = Intake::default();
    for request in &read.requests {
        let line = request.get().as_bytes();
        let at = line.as_ptr() as usize - body.as_ptr() as usize;
        plan.reading
            .line(&mut intake, line, at, None, desk.config());
    }
    accept(desk, &mut plan, intake, Arc::new(Blob::whole(body)));
    match plan.failures.first() {
        Some(failure) => Err(Refusal::told(400, format!("requests: {}", failure.message))),
        None => make(desk, plan),
    }
}

/// Creates a batch and returns it, unless the reply is lost on purpose or the queue is full.
fn make(desk: &Desk<'_>, plan: Plan) -> Outcome {
    let told = desk.with(|inner, now| {
        if matches!(desk.family, Family::Anthropic | Family::Gemini)
            && let Some(model) = inner.too_many_tokens(&plan, now, desk.batches())
        {
            let message = format!("Too many tokens of batches are enqueued for {model}.");
            return Err(Refusal::told(429, message));
        }
        let place = inner.create(plan, now, desk.config());
        Ok(place.map(|place| desk.show(&inner.batches[place], now)))
    })?;
    desk.pass(BatchPoint::CreateDone);
    Ok(told.map_or(Reply::Nothing, Reply::Json))
}
