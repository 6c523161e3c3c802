//! Reads payloads field by field, so that an error names the field.

use std::fmt;

use serde_json::{Map, Value};

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
        self.field = joined(path, &self.field);
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

/// The fields of an object in a payload.
pub(crate) struct Fields<'v> {
    path: String,
    map: &'v Map<String, Value>,
}

impl<'v> Fields<'v> {
    /// The fields of a payload; other names than these are an error.
    pub(crate) fn of(payload: &'v Value, names: &[&str]) -> Result<Self, PayloadError> {
        Self::at(String::new(), payload, names)
    }

    /// The fields of the object at a path; other names than these are an error. A null field counts as missing.
    pub(crate) fn at(path: String, value: &'v Value, names: &[&str]) -> Result<Self, PayloadError> {
        let Value::Object(map) = value else {
            let why = format!("write an object, and not {}", kind(value));
            return Err(PayloadError::new(path, why));
        };
        match map.keys().find(|name| !names.contains(&name.as_str())) {
            None => Ok(Self { path, map }),
            Some(other) => Err(PayloadError::new(
                joined(&path, other),
                format!("unknown field; known fields: {}", names.join(", ")),
            )),
        }
    }

    /// An error of a field.
    pub(crate) fn bad(&self, name: &str, why: impl Into<String>) -> PayloadError {
        PayloadError::new(joined(&self.path, name), why)
    }

    fn not(&self, name: &str, wanted: &str, value: &Value) -> PayloadError {
        self.bad(name, format!("write {wanted}, and not {}", kind(value)))
    }

    pub(crate) fn missing(&self, name: &str) -> PayloadError {
        self.bad(name, "it is missing")
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A string, if the field exists; it must not be blank.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'v str>, PayloadError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => {
                Err(self.bad(name, "the text is empty"))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.not(name, "a text", other)),
        }
    }

    pub(crate) fn required_text(&self, name: &str) -> Result<&'v str, PayloadError> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, PayloadError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(yes)) => Ok(*yes),
            Some(other) => Err(self.not(name, "true or false", other)),
        }
    }

    /// A whole number in this range, if the field exists.
    pub(crate) fn whole(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, PayloadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (least, most) = (range.start(), range.end());
                Err(self.bad(name, format!("write a whole number from {least} to {most}")))
            }
        }
    }

    /// A number in this range, if the field exists.
    pub(crate) fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>, PayloadError> {
        match self.get(name).map(Value::as_f64) {
            None => Ok(None),
            Some(Some(number)) if range.contains(&number) => Ok(Some(number)),
            Some(_) => {
                let (least, most) = (range.start(), range.end());
                Err(self.bad(name, format!("write a number from {least} to {most}")))
            }
        }
    }

    /// The members of a list, each with its path; at least one and at most `most`.
    pub(crate) fn list(
        &self,
        name: &str,
        most: usize,
    ) -> Result<Option<Vec<(String, &'v Value)>>, PayloadError> {
        let members = match self.get(name) {
            None => return Ok(None),
            Some(Value::Array(members)) => members,
            Some(other) => return Err(self.not(name, "a list", other)),
        };
        if members.is_empty() || members.len() > most {
            return Err(self.bad(name, format!("write a list of 1 to {most}")));
        }
        let path = joined(&self.path, name);
        let members = members.iter().enumerate();
        let placed = members.map(|(i, member)| (format!("{path}[{i}]"), member));
        Ok(Some(placed.collect()))
    }

    /// An object, if the field exists; other names than these are an error.
    pub(crate) fn object(
        &self,
        name: &str,
        names: &[&str],
    ) -> Result<Option<Fields<'v>>, PayloadError> {
        let at = |value| Fields::at(joined(&self.path, name), value, names);
        self.get(name).map(at).transpose()
    }
}

/// The path of a field within the object at a path.
fn joined(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) if name.starts_with('[') => format!("{path}{name}"),
        (path, name) => format!("{path}.{name}"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The length of a text about an article.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Length {
    Short,
    Medium,
    Long,
}

/// The user's preferences for a text about an article.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Preferences<'v> {
    pub length: Length,
    language: Option<&'v str>,
}

impl<'v> Preferences<'v> {
    /// The preferences in the field `user_preferences`.
    pub(crate) fn read(fields: &Fields<'v>) -> Result<Self, PayloadError> {
        let wanted = fields.object("user_preferences", &["length", "language"])?;
        let (length, language) = match &wanted {
            None => (Length::Medium, None),
            Some(wanted) => (length(wanted)?, language(wanted, "language")?),
        };
        Ok(Self { length, language })
    }

    /// For a prompt: `in the language …`.
    pub(crate) fn in_language(&self) -> String {
        match self.language {
            Some(tag) => format!("in the language with the tag {tag}"),
            None => "in the language of the article".to_owned(),
        }
    }
}

fn length(wanted: &Fields<'_>) -> Result<Length, PayloadError> {
    match wanted.text("length")? {
        None | Some("medium") => Ok(Length::Medium),
        Some("short") => Ok(Length::Short),
        Some("long") => Ok(Length::Long),
        Some(other) => {
            let why = format!("write short, medium or long, and not {other:?}");
            Err(wanted.bad("length", why))
        }
    }
}

/// A language tag, for example `ja`, `en-GB` or `zh-Hant`.
pub(crate) fn language<'v>(
    fields: &Fields<'v>,
    name: &str,
) -> Result<Option<&'v str>, PayloadError> {
    let Some(tag) = fields.text(name)? else {
        return Ok(None);
    };
    let mut parts = tag.split('-');
    let first = parts.next().unwrap_or_default();
    let letters = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric());
    let good = (2..=3).contains(&first.len())
        && first.chars().all(|c| c.is_ascii_alphabetic())
        && tag.len() <= 35
        && parts.all(|part| (1..=8).contains(&part.len()) && letters(part));
    if good {
        Ok(Some(tag))
    } else {
        Err(fields.bad(name, "write a language as ja, en-GB or zh-Hant"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_field() {
        let payload = json!({"a": {"x": 7}, "b": null});
        let fields = Fields::of(&payload, &["a", "b"]).unwrap();
        assert_eq!(fields.text("b"), Ok(None));
        let inner = fields.object("a", &["x"]).unwrap().unwrap();
        let of = |payload: Value| Fields::of(&payload, &["a", "b"]).map(drop).unwrap_err();
        let missing = || fields.required_text("b").unwrap_err();
        for (error, shown) in [
            (of(json!([1])), "write an object, and not a list"),
            (
                of(json!({"c": 2})),
                "field `c`: unknown field; known fields: a, b",
            ),
            (
                inner.text("x").unwrap_err(),
                "field `a.x`: write a text, and not a number",
            ),
            (missing(), "field `b`: it is missing"),
            (
                missing().within("jobs[3]"),
                "field `jobs[3].b`: it is missing",
            ),
        ] {
            assert_eq!(error.to_string(), shown);
        }
    }

    #[test]
    fn languages_are_tags() {
        let tags = "ja en-GB zh-Hant-TW Japanese e en- en;ignore_all_rules";
        for (tag, good) in tags
            .split(' ')
            .zip([true, true, true, false, false, false, false])
        {
            let payload = json!({"language": tag});
            let fields = Fields::of(&payload, &["language"]).unwrap();
            assert_eq!(language(&fields, "language").is_ok(), good, "{tag}");
        }
    }
}
