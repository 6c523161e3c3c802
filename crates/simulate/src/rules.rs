//! Tables in `rules/` with the documented behaviour of the vendors: the objects of requests, with their fields and the
//! types and values of these. The module that uses a table reads it once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Reads a table, which is a part of this crate.
pub(super) fn table<T: DeserializeOwned>(name: &str, text: &str) -> T {
    let table = serde_json::from_str(text);
    table.unwrap_or_else(|error| panic!("rules/{name}.json: {error}"))
}

/// The objects of one API by name.
type Api = BTreeMap<String, Rule>;

static TABLES: LazyLock<BTreeMap<&str, Api>> = LazyLock::new(|| {
    let tables = [
        ("openai", include_str!("../rules/openai.json")),
        ("anthropic", include_str!("../rules/anthropic.json")),
        ("gemini", include_str!("../rules/gemini.json")),
    ];
    let read = |(name, text)| (name, table(name, text));
    tables.into_iter().map(read).collect()
});

/// The rule for an object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// The known fields.
    #[serde(default)]
    fields: BTreeMap<String, Field>,
    /// Whether unknown fields, or unknown kinds, are accepted.
    #[serde(default)]
    open: bool,
    /// The field whose value selects another rule, and the rules by its value.
    by: Option<String>,
    #[serde(default)]
    kinds: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    /// `string`, `boolean`, `integer`, `number`, `array`, `object`, the name of an object's rule, a list of such objects
    /// as `NAME[]`, or one of these after `string or`. If it is absent, any value is accepted.
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    required: bool,
    /// Whether an empty value is rejected.
    #[serde(default)]
    filled: bool,
    /// The limits of a number, or of the number of characters or elements.
    from: Option<f64>,
    to: Option<f64>,
    /// The accepted values.
    words: Option<Vec<Value>>,
}

/// The elements of a list; empty for any other value.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text, or those of all parts together.
pub(super) fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        parts => list(parts).map(|part| text(&part["text"])).collect(),
    }
}

/// Reads a body of JSON and checks it against a rule of an API.
pub(super) fn read(body: &[u8], api: &str, rule: &str) -> Result<Value, Fault> {
    let value = serde_json::from_slice(body).map_err(|_| Fault::not_json())?;
    check(&value, "", api, rule)?;
    Ok(value)
}

/// Rejects an object at this place that violates a rule of an API. Null counts as absent.
pub(super) fn check(value: &Value, at: &str, api: &str, rule: &str) -> Result<(), Fault> {
    check_object(&TABLES[api], value, at, rule)
}

/// Rejects fields that are not `known`.
pub(super) fn only(
    fields: &Map<String, Value>,
    at: &str,
    known: impl Fn(&str) -> bool,
) -> Result<(), Fault> {
    match fields.keys().find(|name| !known(name)) {
        Some(name) => Err(Fault::unknown(place(at, name))),
        None => Ok(()),
    }
}

/// The place of a field of an object.
fn place(at: &str, name: &str) -> String {
    match at {
        "" => name.to_owned(),
        at => format!("{at}.{name}"),
    }
}

fn check_object(api: &Api, value: &Value, at: &str, name: &str) -> Result<(), Fault> {
    let Some(object) = value.as_object() else {
        return Err(wrong(at, "an object"));
    };
    let rule = &api[name];
    if let Some(by) = &rule.by {
        let at_kind = place(at, by);
        let Some(kind) = value[by].as_str() else {
            return Err(Fault::missing(at_kind));
        };
        return match rule.kinds.get(kind) {
            Some(rule) => check_object(api, value, at, rule),
            None if rule.open => Ok(()),
            None => Err(bad_value(at_kind)),
        };
    }
    if !rule.open {
        only(object, at, |name| rule.fields.contains_key(name))?;
    }
    let mut fields = rule.fields.iter();
    fields.try_for_each(|(name, field)| check_field(api, &value[name], place(at, name), field))
}

fn check_field(api: &Api, value: &Value, at: String, field: &Field) -> Result<(), Fault> {
    if value.is_null() {
        return if field.required {
            Err(Fault::missing(at))
        } else {
            Ok(())
        };
    }
    let length = match value {
        Value::String(text) => Some(text.chars().count()),
        Value::Array(list) => Some(list.len()),
        _ => None,
    };
    let words = field.words.as_ref();
    if field.filled && length == Some(0) || words.is_some_and(|words| !words.contains(value)) {
        return Err(bad_value(at));
    }
    let measure = value.as_f64().or(length.map(|length| length as f64));
    let (from, to) = (field.from.unwrap_or(f64::MIN), field.to.unwrap_or(f64::MAX));
    if let Some(found) = measure.filter(|measure| !(from..=to).contains(measure)) {
        let message = format!("'{at}' must be from {from} to {to}, found {found}.");
        return Err(Fault::invalid(at, message));
    }
    let kind = match field.kind.strip_prefix("string or ") {
        Some(_) if value.is_string() => return Ok(()),
        Some(other) => other,
        None => &field.kind,
    };
    let (fits, expected) = match kind {
        "" => return Ok(()),
        "string" => (value.is_string(), "a string"),
        "boolean" => (value.is_boolean(), "a boolean"),
        "array" => (value.is_array(), "an array"),
        "object" => (value.is_object(), "an object"),
        "integer" => (value.is_u64(), "a non-negative integer"),
        "number" => (value.is_number(), "a number"),
        kind => {
            let Some(item) = kind.strip_suffix("[]") else {
                return check_object(api, value, &at, kind);
            };
            let list = value.as_array().ok_or_else(|| wrong(&at, "an array"))?;
            let mut items = list.iter().enumerate();
            return items.try_for_each(|(nth, value)| {
                check_object(api, value, &format!("{at}[{nth}]"), item)
            });
        }
    };
    if fits {
        Ok(())
    } else {
        Err(wrong(&at, expected))
    }
}

fn bad_value(at: String) -> Fault {
    let message = format!("Invalid value for '{at}'.");
    Fault::invalid(at, message)
}

fn wrong(at: &str, expected: &str) -> Fault {
    let message = format!("Invalid type for '{at}': expected {expected}.");
    Fault::invalid(at, message)
}

/// An error in a request. Places are paths such as `messages[0].content`; the empty path is the whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: String,
    /// `not_json`, `unknown`, `missing` or `invalid`.
    pub(super) kind: &'static str,
    /// Why a value is invalid.
    pub(super) message: String,
}

impl Fault {
    fn new(at: impl Into<String>, kind: &'static str, message: impl Into<String>) -> Fault {
        Fault {
            at: at.into(),
            kind,
            message: message.into(),
        }
    }

    pub(super) fn not_json() -> Fault {
        Fault::new("", "not_json", "")
    }

    /// A field that the API does not know.
    pub(super) fn unknown(at: impl Into<String>) -> Fault {
        Fault::new(at, "unknown", "")
    }

    pub(super) fn missing(at: impl Into<String>) -> Fault {
        Fault::new(at, "missing", "")
    }

    pub(super) fn invalid(at: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault::new(at, "invalid", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_client::{cases, with};
    use serde_json::json;

    #[test]
    fn a_rule_says_what_is_wrong_with_an_object() {
        let api = json!({
            "root": {"fields": {
                "a": {"type": "string", "required": true, "words": ["x", "y"]},
                "b": {"type": "inner[]", "filled": true},
                "s": {"type": "string or inner[]"}, "t": {"type": "string", "to": 2}}},
            "inner": {"by": "type", "kinds": {"one": "one"}},
            "one": {"open": true, "fields": {"i": {"type": "integer", "from": 2}}}});
        let api: Api = serde_json::from_value(api).unwrap();
        for (more, wanted) in cases(
            r#"
            {"b": [{"type": "one", "i": 2, "more": 1}], "s": "xy"} =>
            {"s": [{"type": "one", "i": 2, "more": 1}], "t": "ää"} =>
            {"z": 1} => z
            {"a": null} => a
            {"a": "z"} => a
            {"b": []} => b
            {"b": [{"type": "one", "i": 2}, {"type": "two"}]} => b[1].type
            {"b": [{}]} => b[0].type
            {"b": [{"type": "one", "i": 1}]} => b[0].i
            {"b": [3]} => b[0]
            {"t": "xyz"} => t
        "#,
        ) {
            let found = check_object(&api, &with(json!({"a": "x"}), more), "", "root");
            let at = found.map_or_else(|fault| fault.at, |_| String::new());
            assert_eq!(at, wanted, "{more}");
        }
    }

    /// Each table can be read, and each rule that it names is there.
    #[test]
    fn all_tables_are_in_order() {
        let plain = [
            "", "string", "boolean", "array", "object", "integer", "number",
        ];
        for (name, api) in TABLES.iter() {
            for rule in api.values() {
                let kinds = rule.fields.values().map(|field| &field.kind);
                for kind in kinds.chain(rule.kinds.values()) {
                    let kind = kind.strip_prefix("string or ").unwrap_or(kind);
                    let kind = kind.strip_suffix("[]").unwrap_or(kind);
                    assert!(
                        plain.contains(&kind) || api.contains_key(kind),
                        "{name}: {kind}"
                    );
                }
            }
        }
    }
}
