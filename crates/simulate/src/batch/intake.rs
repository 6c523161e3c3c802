//! Reads the requests of a batch, one by one, for the errors that validation reports.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::life::{Failure, Fate, Item, Plan};
use super::{BatchPoint, Desk, Outcome, Reply};
use crate::dialect::Dialect;
use crate::problems::Problem;
use crate::prompt::{Prompt, Tokens};
use crate::rules::{self, Fault};
use crate::trouble::{Form, prompt_key};
use crate::{Trouble, Vendor, gemini};

/// Maximum number of reported errors.
const FAILURES: usize = 50;

/// The code and the message of a failure.
type Reason = (&'static str, String);

/// One request of a batch, in whatever API.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "custom_id", alias = "key")]
    id: String,
    method: Option<String>,
    url: Option<String>,
    #[serde(alias = "params", alias = "request")]
    body: Box<RawValue>,
}

impl Desk<'_> {
    /// Reads the body of a request of a batch for this model like that of a call.
    pub(super) fn prompt(&self, body: &RawValue, model: &str) -> Result<Prompt, Fault> {
        let never = &self.wire.never;
        if !never.is_empty() {
            let fields: Map<String, Value> = serde_json::from_str(body.get()).unwrap_or_default();
            rules::only(&fields, "", |name| !never.iter().any(|field| field == name))?;
        }
        self.dialect.prompt(body.get().as_bytes(), model)
    }
}

/// Reads the requests of a batch into its plan.
struct Intake<'a> {
    desk: &'a Desk<'a>,
    plan: &'a mut Plan,
    ids: HashSet<String>,
    /// Whether something was not as the API has it, poison aside.
    malformed: bool,
}

impl Intake<'_> {
    /// Reads a request, which has a number if it is a line of a file.
    fn line(&mut self, line: &[u8], number: Option<u64>) {
        let (id, body) = match self.split(line) {
            Ok(split) => split,
            Err(reason) => {
                self.malformed = true;
                return self.fail(number, reason);
            }
        };
        if let Some(recorder) = &self.desk.config().recorder {
            recorder.record(body.get().as_bytes());
        }
        let read = self.desk.prompt(&body, &self.plan.model);
        let mut item = Item {
            id,
            body,
            key: 0,
            form: Form::Text,
            fate: Fate::Waiting,
            costs: [0; 2],
        };
        match read {
            Ok(prompt) => self.judge(&mut item, prompt, number),
            Err(fault) => {
                self.malformed = true;
                item.fate = Fate::Invalid;
                let message = format!("The request is invalid at '{}': {fault:?}", fault.at);
                self.fail_item(number, ("invalid_request", message));
            }
        }
        self.plan.items.push(item);
    }

    /// The id of a request, and its body.
    fn split(&mut self, line: &[u8]) -> Result<(String, Box<RawValue>), Reason> {
        let line: Line = serde_json::from_slice(line).map_err(|error| {
            let code = match error.classify() {
                Category::Data => "invalid_request",
                _ => "invalid_json_line",
            };
            (code, format!("This line is not a request: {error}"))
        })?;
        let url = self.desk.wire.url.as_deref();
        if line.method.as_deref() != url.map(|_| "POST") || line.url.as_deref() != url {
            let url = url.unwrap_or_default();
            let message = format!("The method and the url must be POST {url}.");
            return Err(("invalid_url", message));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=64).contains(&line.id.len()) || !line.id.bytes().all(plain) {
            let message = "custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'";
            return Err(("invalid_custom_id", message.to_owned()));
        }
        if !self.ids.insert(line.id.clone()) {
            let message = format!("The custom_id '{}' is used more than once.", line.id);
            return Err(("duplicate_custom_id", message));
        }
        Ok((line.id, line.body))
    }

    fn judge(&mut self, item: &mut Item, prompt: Prompt, number: Option<u64>) {
        let config = self.desk.config();
        let dialect = self.plan.dialect;
        item.key = prompt_key(&prompt.text);
        item.form = Form::of(prompt.shape.is_some());
        item.costs = [None, Some(Trouble::Empty)].map(|odd| {
            let tokens = Tokens::of(&prompt, config, odd);
            config.cost(&prompt.model, tokens, true)
        });
        self.plan.tokens += prompt.tokens;
        let model = prompt.model;
        if !config.knows_model(&model) {
            item.fate = Fate::Invalid;
            let message = match dialect {
                Dialect::OpenAi(Some(Vendor::Xai)) => {
                    format!("The model {model} is not supported for batch processing.")
                }
                _ => format!("The model `{model}` does not exist."),
            };
            self.fail_item(number, ("model_not_found", message));
        }
        let mixes = |vendor| matches!(vendor, Some(Vendor::Groq | Vendor::Xai));
        let of_batch = &mut self.plan.model;
        if of_batch.is_empty() {
            *of_batch = model;
        } else if *of_batch != model && matches!(dialect, Dialect::OpenAi(vendor) if !mixes(vendor))
        {
            self.malformed = true;
            let message = "All requests of a batch must name the same model.".to_owned();
            self.fail(number, ("mismatched_model", message));
        }
        let poison = config.batches.poison.as_ref();
        if poison.is_some_and(|poison| prompt.text.contains(poison.as_str())) {
            if dialect == Dialect::Anthropic {
                item.fate = Fate::Done(Some(Trouble::BadRequest));
            }
            let number = number.filter(|_| !config.batches.hide_lines);
            let message = "The simulator refuses this prompt.".to_owned();
            self.fail_item(number, ("invalid_request", message));
        }
    }

    /// Fails the whole batch because of a request; Anthropic reports its error only when it processes it.
    fn fail_item(&mut self, line: Option<u64>, reason: Reason) {
        if self.plan.dialect != Dialect::Anthropic {
            self.fail(line, reason);
        }
    }

    fn fail(&mut self, line: Option<u64>, (code, message): Reason) {
        if self.plan.failures.len() < FAILURES {
            self.plan.failures.push(Failure {
                line,
                code,
                message,
            });
        }
    }
}

/// Reads requests, each with its number if it has one, into a plan, and applies the rules for whole batches.
fn take<'l>(
    desk: &Desk<'_>,
    plan: &mut Plan,
    lines: impl Iterator<Item = (&'l [u8], Option<u64>)>,
) {
    let mut intake = Intake {
        desk,
        plan,
        ids: HashSet::new(),
        malformed: false,
    };
    for (line, number) in lines {
        intake.line(line, number);
    }
    let most = desk.wire.max_requests.unwrap_or(u64::MAX);
    if intake.plan.items.len() as u64 > most {
        intake.malformed = true;
        let message = format!("The batch has more than {most} requests.");
        intake.fail(None, ("too_many_requests", message));
    }
    if intake.malformed {
        desk.shared.ledger.lock().counts.malformed += 1;
    }
}

/// Counts a request to create a batch, holds it if the test requests that, and creates the batch unless its queue is
/// full; the reply may be lost on purpose. `model` is that of the address, where it has one.
pub(super) fn create(desk: &Desk<'_>, model: &str, body: &[u8]) -> Outcome {
    desk.with(|store, _| store.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    let mut plan = Plan {
        dialect: desk.dialect,
        prefix: &desk.wire.batch_id,
        model: model.to_owned(),
        ..Plan::default()
    };
    match desk.dialect {
        Dialect::Anthropic => inline(desk, &mut plan, body)?,
        _ => from_file(desk, &mut plan, body)?,
    }
    let told = desk.with(|store, now| {
        if matches!(desk.dialect, Dialect::Anthropic | Dialect::Gemini)
            && store.is_full(&plan, now, desk.batches())
        {
            let message = format!(
                "Too many tokens of batches are enqueued for {}.",
                plan.model
            );
            return Err(Problem::told(429, message));
        }
        let place = store.create(plan, now, desk.config());
        Ok(place.map(|place| desk.show(&store.batches[place], now)))
    })?;
    desk.pass(BatchPoint::CreateDone);
    Ok(told.map_or(Reply::Nothing, |told| Reply::Json(told, None)))
}

/// Plans a batch of the requests in a file; one that is not there is a failure of validation at most APIs.
fn from_file(desk: &Desk<'_>, plan: &mut Plan, body: &[u8]) -> Result<(), Problem> {
    let rules = &desk.wire.create;
    let root = match desk.dialect {
        Dialect::Gemini => gemini::read(body, &rules.rule)?["batch"].take(),
        _ => rules::read(body, "openai", &rules.rule)?,
    };
    let endpoint = root["endpoint"].as_str();
    if endpoint.is_some_and(|endpoint| desk.wire.url.as_deref() != Some(endpoint)) {
        let message = "Invalid endpoint: the simulator runs no batches for it.";
        return Err(Fault::invalid("endpoint", message).into());
    }
    if !plan.model.is_empty() && !desk.config().knows_model(&plan.model) {
        return Err(Problem::missing("model", &plan.model));
    }
    let mut labels = ["metadata", "name", "displayName"].into_iter();
    let label = labels.find_map(|name| root.get(name).cloned());
    plan.label = label.unwrap_or_default();
    let input = root["input_file_id"].as_str();
    let input = input.or(root["inputConfig"]["fileName"].as_str());
    let id = input.unwrap_or_default();
    plan.input = Some(id.to_owned());
    let found = desk.with(|store, _| {
        let file = store.file(desk.dialect, id)?;
        Some((Arc::clone(&file.content), file.looked_at))
    });
    match found {
        None if rules.needs_file => return Err(Problem::missing("file", id)),
        None => plan.failures.push(Failure {
            line: None,
            code: "invalid_input_file",
            message: format!("The input file {id} does not exist."),
        }),
        Some((_, false)) if rules.looked_at => {
            let message = "The input file has not been processed yet: look at its status first.";
            return Err(Problem::bad(400, message));
        }
        Some((content, _)) => {
            let lines = content.split_inclusive(|byte| *byte == b'\n');
            take(desk, plan, lines.zip((1..).map(Some)));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    requests: Vec<&'a RawValue>,
}

/// Plans a batch of the requests in a body, as Anthropic has it.
fn inline(desk: &Desk<'_>, plan: &mut Plan, body: &[u8]) -> Result<(), Problem> {
    if body.len() as u64 > desk.wire.max_bytes {
        return Err(Problem::bad(413, "Request exceeds the maximum size"));
    }
    let read: Body<'_> = serde_json::from_slice(body)
        .map_err(|error| Fault::invalid("requests", format!("requests: {error}")))?;
    if read.requests.is_empty() {
        let message = "requests: List should have at least 1 item after validation";
        return Err(Fault::invalid("requests", message).into());
    }
    let lines = read.requests.iter();
    take(desk, plan, lines.map(|line| (line.get().as_bytes(), None)));
    match plan.failures.first() {
        Some(failure) => Err(Problem::told(400, format!("requests: {}", failure.message))),
        None => Ok(()),
    }
}
