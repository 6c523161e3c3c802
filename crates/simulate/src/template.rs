//! Templates of JSON: the tables contain bodies with names in place of values.
//!
//! A string that consists of `$name` is replaced by the value of that name, which can have any type; `{name}` inside of
//! a string is replaced by its text. A key that ends in `?` is left out if its value is null. An object with `if`
//! becomes null if that is null, and is then left out of lists; otherwise its `then` replaces it, if it has one.
//!
//! `$name|shape` converts a value: a time, which is in milliseconds, into `unix` seconds, into `rfc3339`, into the same
//! with `millis`, or into its `day`; a number into `text`; and `some` makes null from zero and from empty values.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

/// The values of a template's names.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts(Vec<(&'static str, Value)>);

impl Facts {
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push((name, value.into()));
    }

    /// The last value with this name, or null.
    fn get(&self, name: &str) -> Value {
        let found = self.0.iter().rev().find(|(known, _)| *known == name);
        found.map_or(Value::Null, |(_, value)| value.clone())
    }

    /// A text with all names in it replaced.
    pub(super) fn text(&self, template: &str) -> String {
        let mut parts = template.split('{');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match part.split_once('}') {
                Some((name, rest)) => {
                    match self.get(name) {
                        Value::String(text) => out += &text,
                        Value::Null => {}
                        other => out += &other.to_string(),
                    }
                    out += rest;
                }
                None => out = out + "{" + part,
            }
        }
        out
    }

    /// A value with all names in it replaced.
    pub(super) fn fill(&self, template: &Value) -> Value {
        match template {
            Value::String(text) => match text.strip_prefix('$') {
                Some(name) => {
                    let mut steps = name.split('|');
                    let value = self.get(steps.next().unwrap_or_default());
                    steps.fold(value, shaped)
                }
                None => self.text(text).into(),
            },
            Value::Array(list) => {
                let list = list.iter().filter(|item| self.is_shown(item));
                list.map(|item| self.fill(item)).collect()
            }
            Value::Object(_) if !self.is_shown(template) => Value::Null,
            Value::Object(fields) => match fields.get("then") {
                Some(then) if fields.contains_key("if") => self.fill(then),
                _ => Value::Object(self.object(fields)),
            },
            other => other.clone(),
        }
    }

    fn object(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        let fields = fields.iter().filter(|(name, _)| *name != "if");
        let filled = fields.map(|(name, value)| (name, self.fill(value)));
        filled
            .filter_map(|(name, value)| match name.strip_suffix('?') {
                Some(name) => (!value.is_null()).then(|| (name.to_owned(), value)),
                None => Some((name.clone(), value)),
            })
            .collect()
    }

    fn is_shown(&self, item: &Value) -> bool {
        let condition = item.get("if");
        condition.is_none_or(|condition| !self.fill(condition).is_null())
    }
}

/// A value in this shape; null stays null.
fn shaped(value: Value, shape: &str) -> Value {
    let millis = value.as_u64().unwrap_or_default();
    let time = || rfc3339(millis / 1_000);
    match shape {
        _ if value.is_null() => Value::Null,
        "unix" => (millis / 1_000).into(),
        "rfc3339" => time().into(),
        "millis" => format!("{}.{:03}Z", time().trim_end_matches('Z'), millis % 1_000).into(),
        "day" => time()[..10].into(),
        "text" => value.to_string().into(),
        "some" if value == 0 || value == "" || value == Value::Array(Vec::new()) => Value::Null,
        _ => value,
    }
}

/// The text after a status.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        529 => "Overloaded",
        status => http_net::reason_phrase(status),
    }
}

/// Seconds since the epoch as `2026-11-20T05:00:00Z`.
pub(super) fn rfc3339(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    humantime::format_rfc3339_seconds(time.unwrap_or(UNIX_EPOCH)).to_string()
}
