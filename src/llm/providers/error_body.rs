//! Reads error bodies in all known formats.

use std::time::Duration;

use serde_json::Value;

use super::limits::duration;

/// An error as the provider reports it.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    pub message: String,
    /// All codes of the error: code, type, status, reason, quota. The most specific comes first.
    pub words: Vec<String>,
    /// The HTTP status, if the body repeats it.
    pub status: Option<u16>,
    /// The wait that the body requests.
    pub wait: Option<Duration>,
    /// The text that the model wrote instead of the requested JSON.
    pub written: Option<String>,
}

impl ErrorBody {
    pub(super) fn from_body(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        // Gemini sometimes puts its error into a list.
        let value = match &value {
            Value::Array(list) => list.first()?,
            other => other,
        };
        if let Some(error) = value.get("error").filter(|e| !e.is_null()) {
            let mut error_body = Self::from_error(error);
            error_body.note(value.get("code"));
            return Some(error_body);
        }
        let mut error_body = Self::from_error(value);
        if let Some(detail) = value.get("detail") {
            error_body.message = word(Some(detail));
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
        let who = word(behind.get("provider_name"));
        let who = if who.is_empty() {
            who
        } else {
            format!(" ({who})")
        };
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

    /// The complete message for users.
    pub(super) fn text(&self, provider: &str, status: u16) -> String {
        match self.words.first() {
            Some(code) => format!("{provider} answered {status} ({code}): {}", self.message),
            None => format!("{provider} answered {status}: {}", self.message),
        }
    }
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
const LONGEST_WORD: usize = 16 * 1024;

fn cut(mut text: String) -> String {
    if text.len() > LONGEST_WORD {
        // Cut between words, because half of a key that a server repeats would not be recognized as a key.
        let blank = text
            .bytes()
            .take(LONGEST_WORD)
            .rposition(|b| b.is_ascii_whitespace());
        text.truncate(blank.map_or(0, |at| at + 1));
        text.push('…');
    }
    text
}

/// Like [`word`], but takes the value.
pub(super) fn own_word(value: Option<Value>) -> String {
    match value {
        Some(Value::String(text)) => cut(text),
        other => word(other.as_ref()),
    }
}

/// A scalar as text, cut at the maximum length; empty for null.
pub(super) fn word(value: Option<&Value>) -> String {
    cut(match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    })
}
