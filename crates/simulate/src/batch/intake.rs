//! Reads the requests of a batch, one by one: for the errors that validation reports, and again when the result of a
//! request is needed.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Family;
use super::life::{Blob, Failure, Fate, Item};
use crate::dialect::Dialect;
use crate::http::Version;
use crate::prompt::{Fault, Prompt};
use crate::script::prompt_key;
use crate::trouble::Form;
use crate::{SimConfig, Trouble, answer, anthropic, gemini, openai};

/// Maximum number of reported errors.
const FAILURES: usize = 50;
pub(super) const CHAT: &str = "/v1/chat/completions";

pub(super) const CHAT_AT_AZURE: &str = "/chat/completions";

/// How the requests of one batch are to be read.
#[derive(Debug, Clone)]
pub(super) struct Reading<'a> {
    pub(super) family: Family,
    pub(super) dialect: Dialect,
    /// The endpoint of its requests, for APIs whose lines contain it.
    pub(super) endpoint: &'a str,
    pub(super) version: Version,
    /// The batch's, where the requests do not name one each.
    pub(super) model: &'a str,
    pub(super) config: &'a SimConfig,
}

/// The facts about all requests that were read.
#[derive(Debug, Default)]
pub(super) struct Intake {
    pub(super) items: Vec<Item>,
    pub(super) failures: Vec<Failure>,
    /// Whether something was not as the API has it, poison aside.
    pub(super) malformed: bool,
    pub(super) model: String,
    pub(super) tokens: Vec<(String, u64)>,
    ids: HashSet<u64>,
}

/// The form of a request in a batch: the names of its fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestForm {
    id: String,
    body: String,
    /// Whether it also has a method and an address.
    #[serde(default)]
    addressed: bool,
}

type Reason = (&'static str, String);

/// The id of a request, and its body.
pub(super) fn split<'l>(
    family: Family,
    endpoint: &str,
    line: &'l [u8],
) -> Result<(String, &'l RawValue), Reason> {
    let fields = fields(line)?;
    let form = &family.wire().request;
    let addressed: &[&str] = if form.addressed {
        &["method", "url"]
    } else {
        &[]
    };
    let own = [form.id.as_str(), &form.body];
    let known = own.iter().chain(addressed);
    if let Some(name) = known.clone().find(|name| !fields.contains_key(**name)) {
        return Err(invalid(format!("missing field `{name}`")));
    }
    let mut names = fields.keys();
    if let Some(name) = names.find(|name| !known.clone().any(|known| known == name)) {
        return Err(invalid(format!("unknown field `{name}`")));
    }
    let text = |name: &str| serde_json::from_str::<String>(fields[name].get()).map_err(invalid);
    let id = text(&form.id)?;
    if form.addressed && text("method")? != "POST" {
        return Err(("invalid_method", "The method must be POST.".to_owned()));
    }
    if form.addressed && text("url")? != endpoint {
        let message = format!("The url must be the batch's endpoint, {endpoint}.");
        return Err(("invalid_url", message));
    }
    let body = fields[&form.body];
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=64).contains(&id.len()) || !id.bytes().all(plain) {
        let message = "custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'";
        return Err(("invalid_custom_id", message.to_owned()));
    }
    Ok((id, body))
}

/// The fields of an object, without duplicates.
struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, _>()? {
                    if fields.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("duplicate field `{name}`")));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn fields(json: &[u8]) -> Result<BTreeMap<String, &RawValue>, Reason> {
    let read: Result<Fields<'_>, _> = serde_json::from_slice(json);
    let read = read.map_err(|error| match error.classify() {
        serde_json::error::Category::Data => invalid(error),
        _ => ("invalid_json_line", invalid(error).1),
    });
    read.map(|Fields(fields)| fields)
}

fn invalid(why: impl Display) -> Reason {
    let message = format!("This line is not a request: {why}");
    ("invalid_request", message)
}

impl Reading<'_> {
    /// Reads all lines of a file.
    pub(super) fn lines(&self, blob: &Blob) -> Intake {
        let mut intake = Intake::default();
        let bytes = blob.get();
        let mut at = 0;
        let mut number = 0;
        while at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
            number += 1;
            let line = bytes[at..end]
                .strip_suffix(b"\r")
                .unwrap_or(&bytes[at..end]);
            self.line(&mut intake, line, blob.range.start + at, Some(number));
            at = end + 1;
        }
        if intake.items.is_empty() && intake.failures.is_empty() {
            intake.malformed = true;
            intake.fail(None, "empty_file", "The input file is empty.".to_owned());
        }
        intake
    }

    /// Reads one request that is a part of `body`.
    pub(super) fn part(&self, intake: &mut Intake, body: &[u8], part: &RawValue) {
        let part = part.get().as_bytes();
        let at = part.as_ptr() as usize - body.as_ptr() as usize;
        self.line(intake, part, at, None);
    }

    /// Reads one request at this position of its blob.
    pub(super) fn line(&self, intake: &mut Intake, line: &[u8], at: usize, number: Option<u64>) {
        let (id, body) = match split(self.family, self.endpoint, line) {
            Ok(split) => split,
            Err((code, message)) => {
                intake.malformed = true;
                return intake.fail(number, code, message);
            }
        };
        if !intake.ids.insert(prompt_key(&id)) {
            intake.malformed = true;
            let message = format!("The custom_id '{id}' is used more than once.");
            return intake.fail(number, "duplicate_custom_id", message);
        }
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
        self.judge(intake, &mut item, body, number);
        intake.items.push(item);
    }

    fn judge(&self, intake: &mut Intake, item: &mut Item, body: &RawValue, number: Option<u64>) {
        // Anthropic reports errors only when it processes the request.
        let strict = self.family != Family::Anthropic;
        let prompt = match self.prompt(body) {
            Ok(prompt) => prompt,
            Err(fault) => {
                intake.malformed = true;
                item.fate = Fate::Invalid;
                if strict {
                    let message = format!("The request is invalid at '{}': {fault:?}", fault.at());
                    intake.fail(number, "invalid_request", message);
                }
                return;
            }
        };
        item.key = prompt_key(&prompt.text);
        item.costs = [None, Some(Trouble::Empty)].map(|odd| {
            let tokens = answer::tokens(&prompt, self.config, odd);
            self.config.prices.cost(&prompt.model, tokens, true)
        });
        if prompt.shape.is_some() {
            item.form = Form::Shaped;
        }
        if !self.config.knows_model(&prompt.model) {
            item.fate = Fate::Invalid;
            if strict {
                let message = match self.family {
                    Family::Xai => format!(
                        "The model {} is not supported for batch processing.",
                        prompt.model
                    ),
                    _ => format!("The model `{}` does not exist.", prompt.model),
                };
                intake.fail(number, "model_not_found", message);
            }
        }
        if intake.model.is_empty() {
            intake.model = prompt.model.clone();
        } else if intake.model != prompt.model && self.family == Family::OpenAi {
            intake.malformed = true;
            let message = "All requests of a batch must name the same model.".to_owned();
            intake.fail(number, "mismatched_model", message);
        }
        match intake
            .tokens
            .iter_mut()
            .find(|(name, _)| *name == prompt.model)
        {
            Some((_, tokens)) => *tokens += prompt.tokens,
            None => {
                intake.tokens.push((prompt.model.clone(), prompt.tokens));
            }
        }
        let poison = self.config.batches.poison.as_ref();
        if poison.is_some_and(|poison| prompt.text.contains(poison.as_str())) {
            if self.family == Family::Anthropic {
                item.fate = Fate::Done(Some(Trouble::BadRequest));
            } else {
                let number = number.filter(|_| self.config.batches.name_lines);
                let message = "The simulator refuses this prompt.".to_owned();
                intake.fail(number, "invalid_request", message);
            }
        }
    }

    /// Reads the body of a request like that of a call.
    pub(super) fn prompt(&self, body: &RawValue) -> Result<Prompt, Fault> {
        let bytes = body.get().as_bytes();
        match self.dialect {
            Dialect::OpenAi(vendor) => openai::parse(bytes, vendor),
            Dialect::Anthropic => {
                never_in_batches(bytes)?;
                anthropic::parse(bytes, self.version)
            }
            Dialect::Gemini => gemini::parse(bytes, self.model),
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

/// Rejects fields that Anthropic supports only in single calls.
fn never_in_batches(body: &[u8]) -> Result<(), Fault> {
    const NEVER: [&str; 5] = [
        "stream",
        "speed",
        "store",
        "previous_thread_event_id",
        "cache_hint",
    ];
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    match NEVER.into_iter().find(|name| value.get(name).is_some()) {
        Some(name) => Err(Fault::Unknown(name.to_owned())),
        None => Ok(()),
    }
}

/// Whole hours as a duration, for a batch's window.
pub(super) fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}
