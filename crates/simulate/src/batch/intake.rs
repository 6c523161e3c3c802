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
}

/// Reads the requests of a batch into its plan.
struct Intake<'a> {
    config: &'a SimConfig,
    plan: &'a mut Plan,
    ids: HashSet<u64>,
    /// Whether something was not as the API has it, poison aside.
    malformed: bool,
}

impl<'a> Intake<'a> {
    fn new(plan: &'a mut Plan, desk: &Desk<'a>) -> Intake<'a> {
        Intake {
            config: &desk.shared.config,
            plan,
            ids: HashSet::new(),
            malformed: false,
        }
    }

    /// Reads all lines of the file.
    fn lines(&mut self) {
        let blob = Arc::clone(&self.plan.blob);
        let mut at = blob.range.start;
        for (line, number) in blob.get().split(|byte| *byte == b'\n').zip(1..) {
            // The last line end is no beginning of a line.
            if at < blob.range.end {
                let whole = line.strip_suffix(b"\r").unwrap_or(line);
                self.line(whole, at, Some(number));
            }
            at += line.len() + 1;
        }
    }

    /// Reads one request at this position of its blob.
    fn line(&mut self, line: &[u8], at: usize, number: Option<u64>) {
        let split = self.plan.reading.split(line).and_then(|(id, body)| {
            let is_new = self.ids.insert(prompt_key(&id));
            let message = format!("The custom_id '{id}' is used more than once.");
            is_new
                .then_some(body)
                .ok_or(("duplicate_custom_id", message))
        });
        let body = match split {
            Ok(body) => body,
            Err((code, message)) => {
                self.malformed = true;
                return self.fail(number, code, message);
            }
        };
        if let Some(recorder) = &self.config.recorder {
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
        match self.plan.reading.prompt(body) {
            Ok(prompt) => self.judge(&mut item, prompt, number),
            Err(fault) => {
                self.malformed = true;
                item.fate = Fate::Invalid;
                let message = format!("The request is invalid at '{}': {fault:?}", fault.at);
                self.fail_item(number, "invalid_request", message);
            }
        }
        self.plan.items.push(item);
    }

    fn judge(&mut self, item: &mut Item, prompt: Prompt, number: Option<u64>) {
        let config = self.config;
        let family = self.plan.reading.family;
        item.key = prompt_key(&prompt.text);
        item.form = Form::of(prompt.shape.is_some());
        item.costs = [None, Some(Trouble::Empty)].map(|odd| {
            let tokens = answer::tokens(&prompt, config, odd);
            config.cost(&prompt.model, tokens, true)
        });
        let model = prompt.model;
        if !config.knows_model(&model) {
            item.fate = Fate::Invalid;
            let message = match family {
                Family::Xai => format!("The model {model} is not supported for batch processing."),
                _ => format!("The model `{model}` does not exist."),
            };
            self.fail_item(number, "model_not_found", message);
        }
        let of_batch = &mut self.plan.reading.model;
        if of_batch.is_empty() {
            of_batch.clone_from(&model);
        } else if *of_batch != model && matches!(family, Family::OpenAi | Family::Azure) {
            self.malformed = true;
            let message = "All requests of a batch must name the same model.".to_owned();
            self.fail(number, "mismatched_model", message);
        }
        let poison = config.batches.poison.as_ref();
        if poison.is_some_and(|poison| prompt.text.contains(poison.as_str())) {
            if family == Family::Anthropic {
                item.fate = Fate::Done(Some(Trouble::BadRequest));
            }
            let number = number.filter(|_| !config.batches.hide_lines);
            let message = "The simulator refuses this prompt.".to_owned();
            self.fail_item(number, "invalid_request", message);
        }
        let mut known = self.plan.tokens.iter_mut();
        match known.find(|(name, _)| *name == model) {
            Some((_, tokens)) => *tokens += prompt.tokens,
            None => self.plan.tokens.push((model, prompt.tokens)),
        }
    }

    /// Fails the whole batch because of a request; Anthropic reports its error only when it processes it.
    fn fail_item(&mut self, line: Option<u64>, code: &'static str, message: String) {
        if self.plan.reading.family != Family::Anthropic {
            self.fail(line, code, message);
        }
    }

    fn fail(&mut self, line: Option<u64>, code: &'static str, message: String) {
        if self.plan.failures.len() < FAILURES {
            self.plan.failures.push(Failure {
                line,
                code,
                message,
            });
        }
    }

    /// The rules for whole batches.
    fn end(mut self, desk: &Desk<'_>) {
        let most = desk.wire().max_requests.unwrap_or(u64::MAX);
        if self.plan.items.len() as u64 > most {
            self.malformed = true;
            let message = format!("The batch has more than {most} requests.");
            self.fail(None, "too_many_requests", message);
        }
        if self.malformed {
            desk.shared.ledger.malformed();
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
        blob: Arc::default(),
        items: Vec::new(),
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
            plan.blob = blob;
            let mut intake = Intake::new(plan, desk);
            intake.lines();
            intake.end(desk);
            Ok(())
        }
    }
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
    let mut intake = Intake::new(&mut plan, desk);
    for request in &read.requests {
        let line = request.get().as_bytes();
        let at = line.as_ptr() as usize - body.as_ptr() as usize;
        intake.line(line, at, None);
    }
    intake.end(desk);
    plan.blob = Arc::new(Blob::whole(body));
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
