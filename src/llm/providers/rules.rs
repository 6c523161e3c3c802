//! Reads error bodies in all known formats, and has the rules that give a failed reply the kind of its error, in the order in which they are tried: those
//! that recognize a prompt that is too long, those of the vendor (`tables/vendors.json`), those of its dialect, of gateways, and of statuses in general
//! (`tables/errors.json`). The first rule that matches decides.

use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::base::ErrorKind;
use crate::base::json_mend::leniently;
use crate::base::json_read::table;
use crate::base::verdict::Whom;

use super::limits::duration;

/// One rule. The lists that it has must each have an entry that occurs in the body of the reply.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// The lowest and the highest status.
    status: (u16, u16),
    /// Values of its code, type, status word, reason or quota.
    #[serde(default)]
    words: Vec<String>,
    /// Parts of such values.
    #[serde(default)]
    word_parts: Vec<String>,
    /// Parts of its message, in lower case.
    #[serde(default)]
    texts: Vec<String>,
    /// What its message begins with, in lower case.
    #[serde(default)]
    starts: Vec<String>,
    /// Parts of a message that is another's.
    #[serde(default)]
    unless: Vec<String>,
    /// How a message begins that is about a place in the request.
    #[serde(default)]
    unless_starts: Vec<String>,
    pub kind: ErrorKind,
    /// What a refusal of a batch means, if the kind does not say it.
    pub batch: Option<InBatch>,
    /// Whether its message begins with the place of a request in a batch.
    #[serde(default)]
    pub names: bool,
    /// How long to wait if the server reports no time.
    wait_seconds: Option<u64>,
    /// Whether the server is still loading its model.
    #[serde(default)]
    pub loading: bool,
    /// Whom the error concerns, if its kind does not say it.
    pub whom: Option<Whom>,
    /// Whether it applies because no other rule matched.
    #[serde(default)]
    pub default: bool,
    #[serde(rename = "note", default)]
    _note: IgnoredAny,
}

/// What a refusal of a batch means.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InBatch {
    TooLarge,
    /// The queue of the account is full: a smaller batch may fit.
    Room,
    Wait,
    NoFile,
    Unnamed,
}

impl Rule {
    /// Whether it is about a code or a text, not only about a status.
    pub fn is_listed(&self) -> bool {
        let lists = [&self.words, &self.word_parts, &self.texts, &self.starts];
        lists.iter().any(|list| !list.is_empty())
    }

    /// How long to wait if the server reports no time.
    pub fn default_wait(&self) -> Option<Duration> {
        self.wait_seconds.map(Duration::from_secs)
    }

    fn fits(&self, status: u16, error_body: &ErrorBody) -> bool {
        let any_word = |list: &[String], fits: fn(&str, &str) -> bool| {
            let fits = |listed: &String| error_body.words.iter().any(|word| fits(word, listed));
            list.is_empty() || list.iter().any(fits)
        };
        // What is said of a parameter is not said of the account.
        let is_of_account = matches!(
            self.kind,
            ErrorKind::Auth | ErrorKind::Quota | ErrorKind::RateLimited
        );
        let by_text = !self.texts.is_empty() || !self.starts.is_empty();
        (self.status.0..=self.status.1).contains(&status)
            && (error_body.param.is_empty() || !(by_text && is_of_account))
            && any_word(&self.words, |word, listed| word == listed)
            && any_word(&self.word_parts, |word, part| word.contains(part))
            && (self.texts.is_empty() || error_body.mentions(&self.texts))
            && (self.starts.is_empty() || error_body.begins(&self.starts))
            && !error_body.mentions(&self.unless)
            && !error_body.begins(&self.unless_starts)
    }
}

/// The rules that are not those of one vendor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorRules {
    #[serde(rename = "notes")]
    _notes: IgnoredAny,
    too_long: Vec<Rule>,
    pub openai: Vec<Rule>,
    pub anthropic: Vec<Rule>,
    pub gemini: Vec<Rule>,
    gateways: Vec<Rule>,
    common: Vec<Rule>,
    /// The statuses of errors of Anthropic in replies to calls, by their types.
    pub anthropic_statuses: Vec<(String, u16)>,
    /// The statuses of codes in OpenAI's format, where an error has no status.
    pub openai_statuses: Vec<(String, u16)>,
    /// Parameters of a batch itself.
    pub batch_parameters: Vec<String>,
    /// Codes of invalid requests, beside those that begin with `invalid`.
    pub request_codes: Vec<String>,
    /// The codes of errors of Google, their names, and their statuses in replies to calls.
    pub google_codes: Vec<(u64, String, u16)>,
}

pub(super) static RULES: LazyLock<ErrorRules> =
    LazyLock::new(|| table(include_str!("tables/errors.json")));

/// The rule for a failed reply: the first that matches, of the vendor, its dialect, gateways and all.
pub(super) fn classify<'r>(
    own: &'r [Rule],
    of_dialect: &'r [Rule],
    status: u16,
    error_body: &ErrorBody,
) -> &'r Rule {
    let general = [&RULES.gateways[..], &RULES.common];
    let rules = [&RULES.too_long[..], own, of_dialect].into_iter();
    let mut rules = rules.chain(general).flatten();
    let fitting = rules.find(|rule| rule.fits(status, error_body));
    fitting.expect("the last rule fits every failure")
}

/// An error as the provider reports it.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    pub message: String,
    /// All codes of the error: code, type, status, reason, quota. The most specific comes first.
    pub words: Vec<String>,
    /// The parameter that is at fault.
    pub param: String,
    /// The HTTP status, if the body repeats it.
    pub status: Option<u16>,
    /// The wait that the body requests.
    pub wait: Option<Duration>,
    /// The text that the model wrote instead of the requested JSON.
    pub written: Option<String>,
}

impl ErrorBody {
    pub(super) fn from_body(body: &[u8]) -> Option<Self> {
        let (value, _): (Value, _) = leniently(body, |text| serde_json::from_str(text)).ok()?;
        // Gemini sometimes puts its error into a list.
        let value = match &value {
            Value::Array(list) => list.first()?,
            other => other,
        };
        // Cloudflare and watsonx have a list of errors, and no text beside it.
        let has = |value: &Value, name| !word(value.get(name)).is_empty();
        let is_told = has(value, "message") || has(value, "detail");
        let first = || value.get("errors").filter(|_| !is_told)?.get(0);
        let first = || first().filter(|first| first.is_string() || has(first, "message"));
        if let Some(error) = value.get("error").filter(|e| !e.is_null()).or_else(first) {
            let mut error_body = Self::from_error(error);
            error_body.note(value.get("code"));
            return Some(error_body);
        }
        let mut error_body = Self::from_error(value);
        if let Some(detail) = value.get("detail") {
            error_body.message = match detail {
                Value::Array(faults) => {
                    cut(faults.iter().map(fault).collect::<Vec<_>>().join("; "))
                }
                _ => word(Some(detail)),
            };
        }
        (!error_body.message.is_empty()).then_some(error_body)
    }

    /// An error inside of a body: an object, or only its text.
    pub(super) fn from_error(error: &Value) -> Self {
        if error.is_string() {
            return Self {
                message: word(Some(error)),
                ..Self::default()
            };
        }
        let mut error_body = Self {
            message: word(error.get("message")),
            // LiteLLM writes the None of Python as a text.
            param: word(error.get("param").filter(|param| *param != "None")),
            ..Self::default()
        };
        for field in ["code", "status", "type"] {
            error_body.note(error.get(field));
        }
        // Groq: the model did not write the requested JSON.
        if let Some(written) = error.get("failed_generation") {
            error_body.words.push("failed_generation".to_owned());
            error_body.written = Some(word(Some(written))).filter(|text| !text.is_empty());
        }
        match error.get("details") {
            Some(Value::Array(details)) => details.iter().for_each(|d| error_body.note_detail(d)),
            Some(details) => error_body.note(details.get("error_code")),
            None => {}
        }
        if let Some(behind) = error.get("metadata") {
            error_body.note_behind(behind);
        }
        if error_body.wait.is_none() {
            error_body.wait = wait_in(&error_body.message);
        }
        error_body
    }

    fn note(&mut self, value: Option<&Value>) {
        let word = word(value);
        match word.parse() {
            _ if word.is_empty() => {}
            Ok(status) => self.status = self.status.or(Some(status)),
            Err(_) => self.words.push(word),
        }
    }

    /// OpenRouter's details of a failure: the provider behind it, and its message.
    fn note_behind(&mut self, behind: &Value) {
        self.note(behind.get("error_type"));
        self.note(behind.get("limit_source"));
        let said = word(behind.get("raw"));
        if said.is_empty() {
            return;
        }
        let who = Some(word(behind.get("provider_name"))).filter(|who| !who.is_empty());
        let who = who.map_or_else(String::new, |who| format!(" ({who})"));
        self.message = cut(format!("{}{who}: {said}", self.message));
    }

    /// One of Google's typed details.
    fn note_detail(&mut self, detail: &Value) {
        self.note(detail.get("reason"));
        if let Some(wait) = detail.get("retryDelay").and_then(Value::as_str) {
            self.wait = duration(wait);
        }
        let violations = detail.get("violations").and_then(Value::as_array);
        for violation in violations.into_iter().flatten() {
            self.note(violation.get("quotaId"));
        }
    }

    pub(super) fn mentions(&self, texts: &[impl AsRef<str>]) -> bool {
        let message = self.message.to_lowercase();
        texts.iter().any(|text| message.contains(text.as_ref()))
    }

    fn begins(&self, texts: &[String]) -> bool {
        let message = self.message.to_lowercase();
        texts.iter().any(|text| message.starts_with(text))
    }

    /// The complete message for users; `verb` is what the provider did.
    pub(super) fn text(&self, provider: &str, verb: &str) -> String {
        let code = self.words.first();
        let code = code.map_or_else(String::new, |code| format!(" ({code})"));
        format!("{provider} {verb}{code}: {}", self.message)
    }
}

/// One of FastAPI's faults: its place and its text. It also repeats what was sent, which may be all of it.
fn fault(fault: &Value) -> String {
    let Some(place) = fault.get("loc").and_then(Value::as_array) else {
        return word(Some(fault));
    };
    let place: Vec<String> = place.iter().map(|part| word(Some(part))).collect();
    format!("{}: {}", place.join("."), word(fault.get("msg")))
}

/// Finds a wait in texts such as "Please try again in 388ms.", "Please retry after 6 seconds." and "Please retry in
/// 17.2s.", also within a quoted text.
fn wait_in(message: &str) -> Option<Duration> {
    let error_body = |words| Some(message.split_once(words)?.1);
    let mut ways = ["ry again in ", "etry after ", "etry in "].into_iter();
    let rest = ways.find_map(error_body)?;
    let word = rest.split_whitespace().next()?;
    duration(word.trim_end_matches(['.', ',', ';', ')', '"', '\'']))
}

/// The maximum length of a message, in bytes: enough for a long list of errors, and small enough for a result line.
pub(super) const LONGEST_WORD: usize = 16 * 1024;

/// The beginning of a text that is too long for a word.
pub(super) fn cut(text: String) -> String {
    cut_to(LONGEST_WORD, text)
}

/// The first bytes of a text, and a sign that it goes on.
pub(super) fn cut_to(most: usize, mut text: String) -> String {
    if text.len() > most {
        // Cut between words, because half of a key that a server repeats would not be recognized as a key.
        let mut bytes = text.bytes().take(most);
        let blank = bytes.rposition(|b| b.is_ascii_whitespace());
        text.truncate(blank.map_or(0, |at| at + 1));
        text.push('…');
    }
    text
}

/// A scalar as text, cut at the maximum length; empty for null.
pub(super) fn word(value: Option<&Value>) -> String {
    cut(match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    })
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
