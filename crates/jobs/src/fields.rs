//! Reads payloads, so that an error names the field, and what the fields of several types have in common.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use batchwright::{Error, ErrorKind};

/// Why a payload is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PayloadError {
    /// The field, for example `user_preferences.length`; empty if the error concerns the whole payload.
    pub field: String,
    /// What is wrong with the field, and which values are allowed.
    pub message: String,
}

impl PayloadError {
    /// An error of a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// The same error for a payload that is a part of another one.
    pub(crate) fn within(mut self, path: &str) -> Self {
        self.field = match &*self.field {
            "" => path.to_owned(),
            field => format!("{path}.{field}"),
        };
        self
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.field {
            "" => f.write_str(&self.message),
            field => write!(f, "field `{field}`: {}", self.message),
        }
    }
}

impl std::error::Error for PayloadError {}

impl From<PayloadError> for Error {
    fn from(error: PayloadError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}

/// Reads a payload. Optional fields may be null.
pub(crate) fn read<'v, T: Deserialize<'v>>(payload: &'v Value) -> Result<T, PayloadError> {
    serde_path_to_error::deserialize(payload).map_err(|error| {
        let why = error.inner().to_string();
        let missing = why.strip_prefix("missing field `");
        let found = match missing.and_then(|rest| rest.strip_suffix('`')) {
            Some(name) => PayloadError::new(name, "it is missing"),
            None => PayloadError::new("", why),
        };
        match &*error.path().to_string() {
            "." => found,
            path => found.within(path),
        }
    })
}

/// Rejects a list that is empty or has more than `most` members.
pub(crate) fn check_list<T>(field: &str, list: &[T], most: usize) -> Result<(), PayloadError> {
    if (1..=most).contains(&list.len()) {
        return Ok(());
    }
    let why = format!("write a list of 1 to {most}");
    Err(PayloadError::new(field, why))
}

/// A text that is not blank.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Text(pub String);

impl TryFrom<String> for Text {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.trim().is_empty() {
            return Err("the text is empty");
        }
        Ok(Self(text))
    }
}

/// The length of a text about an article.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Length {
    Short,
    #[default]
    Medium,
    Long,
}

/// A language tag, for example `ja`, `en-GB` or `zh-Hant`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Language(pub String);

impl TryFrom<String> for Language {
    type Error = &'static str;

    fn try_from(tag: String) -> Result<Self, Self::Error> {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let first = tag.split('-').next().unwrap_or_default();
        if tag.len() <= 35 && (2..=3).contains(&first.len()) && tag.split('-').all(is_part) {
            return Ok(Self(tag));
        }
        Err("write a language as ja, en-GB or zh-Hant")
    }
}

/// The user's preferences for a text about an article.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Preferences {
    pub length: Option<Length>,
    language: Option<Language>,
}

impl Preferences {
    /// For a prompt: `in the language …`.
    pub(crate) fn in_language(&self) -> String {
        match &self.language {
            Some(Language(tag)) => format!("in the language with the tag {tag}"),
            None => "in the language of the article".to_owned(),
        }
    }
}
