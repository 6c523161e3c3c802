//! Reading the requests of a batch, one by one: what validation finds before anything is worked on,
//! and reading one again when its result is wanted.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Family;
use super::life::{Blob, Failure, Fate, Item};
use crate::dialect::Dialect;
use crate::http::Version;
use crate::prompt::{Fault, Prompt};
use crate::script::prompt_key;
use crate::trouble::Form;
use crate::{SimConfig, Trouble, anthropic, gemini, openai, responses};

/// More than these are not told.
const FAILURES: usize = 50;
pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const RESPONSES: &str = "/v1/responses";

/// The protocol of the requests that go there.
pub(super) fn spoken_at(endpoint: &str, dialect: Dialect) -> Dialect {
    match endpoint {
        RESPONSES => Dialect::Responses,
        _ => dialect,
    }
}

pub(super) const CHAT_AT_AZURE: &str = "/chat/completions";

/// How the requests of one batch are to be read.
#[derive(Debug, Clone)]
pub(super) struct Reading<'a> {
    pub(super) family: Family,
    pub(super) dialect: Dialect,
    /// Where its requests go, in whose lines that stands.
    pub(super) endpoint: &'a str,
    pub(super) version: Version,
    /// The batch's, where the requests do not name one each.
    pub(super) model: &'a str,
    pub(super) config: &'a SimConfig,
}

/// What was read of all requests.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAiLine<'a> {
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MistralLine<'a> {
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnthropicLine<'a> {
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GeminiLine<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    request: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct XaiLine<'a> {
    #[serde(borrow)]
    batch_request_id: Cow<'a, str>,
    #[serde(borrow)]
    batch_request: XaiRequest<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct XaiRequest<'a> {
    #[serde(borrow)]
    chat_get_completion: &'a RawValue,
}

/// The id of a request and what it asks for.
pub(super) fn split<'l>(
    family: Family,
    endpoint: &str,
    line: &'l [u8],
) -> Result<(Cow<'l, str>, &'l RawValue), (&'static str, String)> {
    fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, (&'static str, String)> {
        serde_json::from_slice(line).map_err(|error| {
            let code = match error.classify() {
                serde_json::error::Category::Data => "invalid_request",
                _ => "invalid_json_line",
            };
            (code, format!("This line is not a request: {error}"))
        })
    }
    let (id, body) = match family {
        // Requests that were added to a container have a form of their own.
        Family::Xai if !line.starts_with(b"{\"custom_id\"") => match read::<XaiLine<'_>>(line) {
            Ok(line) => (
                line.batch_request_id,
                line.batch_request.chat_get_completion,
            ),
            Err(_) => openai_line(read(line)?, endpoint)?,
        },
        Family::OpenAi | Family::Groq | Family::Xai => openai_line(read(line)?, endpoint)?,
        Family::Mistral | Family::Together => {
            let line: MistralLine<'_> = read(line)?;
            (line.custom_id, line.body)
        }
        Family::Anthropic => {
            let line: AnthropicLine<'_> = read(line)?;
            (line.custom_id, line.params)
        }
        Family::Gemini => {
            let line: GeminiLine<'_> = read(line)?;
            (line.key, line.request)
        }
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=64).contains(&id.len()) || !id.bytes().all(plain) {
        let message = "custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'";
        return Err(("invalid_custom_id", message.to_owned()));
    }
    Ok((id, body))
}

fn openai_line<'l>(
    line: OpenAiLine<'l>,
    endpoint: &str,
) -> Result<(Cow<'l, str>, &'l RawValue), (&'static str, String)> {
    if line.method != "POST" {
        return Err(("invalid_method", "The method must be POST.".to_owned()));
    }
    if line.url != endpoint {
        let message = format!("The url must be the batch's endpoint, {endpoint}.");
        return Err(("invalid_url", message));
    }
    Ok((line.custom_id, line.body))
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

    /// Reads one request that stands `at` this place of its blob.
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
        };
        self.judge(intake, &mut item, body, number);
        intake.items.push(item);
    }

    fn judge(&self, intake: &mut Intake, item: &mut Item, body: &RawValue, number: Option<u64>) {
        // Anthropic and Mistral find out only when they come to the request.
        let strict = !matches!(self.family, Family::Anthropic | Family::Mistral);
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
        } else if intake.model != prompt.model
            && matches!(self.family, Family::OpenAi | Family::Mistral)
        {
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

    /// Reads what a request asks for as a call would.
    pub(super) fn prompt(&self, body: &RawValue) -> Result<Prompt, Fault> {
        let bytes = body.get().as_bytes();
        match self.dialect {
            Dialect::OpenAi(vendor) => match openai::parse(bytes, vendor) {
                Err(Fault::Missing(at)) if at == "model" && self.family == Family::Mistral => {
                    let mut named = serde_json::from_slice::<Value>(bytes).unwrap_or_default();
                    named["model"] = self.model.into();
                    openai::parse(named.to_string().as_bytes(), vendor)
                }
                read => read,
            },
            Dialect::Responses => responses::parse(bytes),
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

/// Refuses the fields that Anthropic takes from single calls alone.
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
