//! Checks the objects of a request against the tables in `rules/`: their fields, the values of these, and the messages
//! for other values.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::problems::dotted;
use super::prompt::Fault;
use super::rules::{self, Rules};
use super::template::Facts;
use super::tree::{Object, Spelling, snake, wrong};

/// The objects of requests, API by API.
pub(super) static TABLES: Rules<BTreeMap<&str, Api>> = Rules::new(|| {
    let tables = [
        ("openai", include_str!("../rules/openai.json")),
        ("anthropic", include_str!("../rules/anthropic.json")),
        ("gemini", include_str!("../rules/gemini.json")),
    ];
    let read = |(name, text)| Ok((name, rules::read(name, text, Api::check_table)?));
    tables.into_iter().map(read).collect()
});

/// The objects of one API by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    /// The error code of rules without a code.
    code: String,
    objects: BTreeMap<String, Rule>,
}

/// The rule for an object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// The known fields, in the order of the checks. Without this list there are none.
    #[serde(default)]
    fields: Fields,
    /// Whether unknown fields are accepted.
    #[serde(default)]
    open: bool,
    /// The field whose value selects another rule.
    by: Option<String>,
    /// The rules by the value of that field. Other values are accepted if there is no message in `other`.
    #[serde(default)]
    kinds: BTreeMap<String, String>,
    /// The message for another value.
    other: Option<String>,
    /// The message if that field is missing, instead of the default message.
    absent: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
struct Fields(Vec<(String, Field)>);

impl TryFrom<Map<String, Value>> for Fields {
    type Error = String;

    fn try_from(fields: Map<String, Value>) -> Result<Fields, String> {
        let read = fields.into_iter().map(|(name, field)| {
            let field = serde_json::from_value(field).map_err(|e| format!("{name}: {e}"))?;
            Ok((name, field))
        });
        read.collect::<Result<_, String>>().map(Fields)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    /// `string`, `boolean`, `integer`, `number`, `array`, `strings`, `object`, `name`, the name of an object's rule, a
    /// list of such objects as `NAME[]`, or one of these after `string or`. If it is absent, any value is accepted.
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    required: bool,
    /// The limits of a number.
    from: Option<f64>,
    to: Option<f64>,
    /// The accepted values.
    words: Option<Vec<Value>>,
    /// The maximum length of a string in bytes, and the message for a longer one.
    longest: Option<usize>,
    too_long: Option<String>,
    /// The characters of a name in addition to letters, digits, `_` and `-`.
    #[serde(default)]
    characters: String,
    code: Option<String>,
    /// The message for a value that is not accepted, instead of the default message.
    message: Option<String>,
    /// The message for an empty value; if it is absent, empty values are accepted.
    empty: Option<String>,
    /// The message if the field is missing; if it is absent, the field is optional.
    absent: Option<String>,
}

/// Rejects an object that violates a rule of an API.
pub(super) fn check(object: &Object<'_>, api: &str, rule: &str) -> Result<(), Fault> {
    rules::get(&TABLES)[api].check(object, rule)
}

impl Api {
    /// Checks the table.
    fn check_table(&self) -> Result<(), String> {
        for (name, rule) in &self.objects {
            let fields = rule.fields.0.iter().map(|(_, field)| field.kind.as_str());
            for kind in fields.chain(rule.kinds.values().map(String::as_str)) {
                let kind = kind.strip_prefix("string or ").unwrap_or(kind);
                let object = kind.strip_suffix("[]").unwrap_or(kind);
                let plain = [
                    "", "string", "boolean", "integer", "number", "array", "strings", "object",
                    "name",
                ];
                if !plain.contains(&kind) && !self.objects.contains_key(object) {
                    return Err(format!("{name} has {kind}, which is not there"));
                }
            }
        }
        Ok(())
    }

    fn check(&'static self, object: &Object<'_>, name: &str) -> Result<(), Fault> {
        let rule = &self.objects[name];
        if let Some(by) = &rule.by {
            let Some(value) = object.text(by)? else {
                return Err(self.absent(object, by, rule.absent.as_ref()));
            };
            return match (rule.kinds.get(value), &rule.other) {
                (Some(kind), _) => self.check(object, kind),
                (None, None) => Ok(()),
                (None, Some(message)) => {
                    let facts = facts(object.at(by), &value.into());
                    Err(Fault::invalid(
                        object.at(by),
                        &self.code,
                        facts.text(message),
                    ))
                }
            };
        }
        if !rule.open {
            object.only(rule.fields.0.iter().map(|(name, _)| name.as_str()))?;
        }
        let mut fields = rule.fields.0.iter();
        fields.try_for_each(|(name, field)| self.field(object, name, field))
    }

    fn absent(&'static self, object: &Object<'_>, name: &str, message: Option<&String>) -> Fault {
        let Some(message) = message else {
            return object.missing(name);
        };
        let facts = facts(object.at(name), &Value::Null);
        Fault::invalid(object.at(name), &self.code, facts.text(message))
    }

    fn field(
        &'static self,
        object: &Object<'_>,
        name: &str,
        field: &'static Field,
    ) -> Result<(), Fault> {
        let Some(value) = object.get(name) else {
            return if field.required || field.absent.is_some() {
                let fault = self.absent(object, name, field.absent.as_ref());
                Err(match (fault, &field.code) {
                    (Fault::Invalid { at, message, .. }, Some(code)) => {
                        Fault::invalid(at, code, message)
                    }
                    (fault, _) => fault,
                })
            } else {
                Ok(())
            };
        };
        let fault = |mut facts: Facts, message: &str| {
            let words = field.words.iter().flatten().filter_map(Value::as_str);
            facts.set("words", words.collect::<Vec<_>>().join("', '"));
            let code = field.code.as_ref().unwrap_or(&self.code);
            Err(Fault::invalid(object.at(name), code, facts.text(message)))
        };
        let fault = |message: &str| fault(facts(object.at(name), value), message);
        let kind = match field.kind.strip_prefix("string or ") {
            Some(_) if value.is_string() => "string",
            Some(other) if !value.is_array() && !self.objects.contains_key(other) => {
                return Err(wrong(object.at(name), "a string or an array"));
            }
            Some(other) => other,
            None => &field.kind,
        };
        self.typed(object, name, kind, field)?;
        let text = value.as_str().unwrap_or_default();
        let is_empty = match value {
            Value::Array(list) => list.is_empty(),
            value => value.is_string() && text.is_empty(),
        };
        if let (true, Some(message)) = (is_empty, &field.empty) {
            return fault(message);
        }
        let message = |usual: &'static str| field.message.as_deref().unwrap_or(usual);
        if kind == "name" {
            is_name(object, name, field.longest.unwrap_or(64), &field.characters)?;
        } else if field.longest.is_some_and(|longest| text.len() > longest) {
            return fault(field.too_long.as_deref().unwrap_or("too long"));
        }
        if field
            .words
            .as_ref()
            .is_some_and(|words| !words.contains(value))
        {
            return fault(message("Invalid value: '{value}'."));
        }
        Ok(())
    }

    /// Rejects a value that is not of this type.
    fn typed(
        &'static self,
        object: &Object<'_>,
        name: &str,
        kind: &str,
        field: &Field,
    ) -> Result<(), Fault> {
        match kind {
            "" => {}
            "string" | "name" => drop(object.text(name)?),
            "boolean" => drop(object.flag(name)?),
            "array" => drop(object.list(name)?),
            "strings" => {
                let list = object.list(name)?;
                if !list.into_iter().flatten().all(Value::is_string) {
                    return Err(wrong(object.at(name), "an array of strings"));
                }
            }
            "object" => drop(object.object(name)?),
            "integer" => drop(object.whole(name, field.from.unwrap_or(0.0) as u64)?),
            "number" => {
                let bounds = (field.from.unwrap_or(f64::MIN), field.to.unwrap_or(f64::MAX));
                object.number(name, bounds.0..=bounds.1)?;
            }
            kind => match kind.strip_suffix("[]") {
                Some(kind) => {
                    let mut list = object.objects(name)?.unwrap_or_default().into_iter();
                    list.try_for_each(|item| self.check(&item, kind))?;
                }
                None => {
                    if let Some(inner) = object.object(name)? {
                        self.check(&inner, kind)?;
                    }
                }
            },
        }
        Ok(())
    }
}

/// The facts for messages.
fn facts(at: String, value: &Value) -> Facts {
    let mut facts = Facts::default();
    facts.set("dotted", dotted(&at));
    facts.set("snake", snake(&at));
    facts.set("at", at);
    facts.set("length", value.as_str().map(str::len));
    facts.set("value", value.clone());
    facts
}

/// Rejects a name that a tool cannot have.
pub(super) fn is_name(
    object: &Object<'_>,
    field: &str,
    longest: usize,
    more: &str,
) -> Result<(), Fault> {
    let name = object.text(field)?.unwrap_or_default();
    let plain = |letter: char| {
        letter.is_ascii_alphanumeric() || "_-".contains(letter) || more.contains(letter)
    };
    if !name.is_empty() && name.len() <= longest && name.chars().all(plain) {
        return Ok(());
    }
    let message =
        format!("Invalid name: expected 1 to {longest} of the characters a-z, A-Z, 0-9, _ and -.");
    Err(Fault::invalid(object.at(field), "invalid_value", message))
}

/// Reads a body as an object and checks it. The object borrows the value.
pub(super) fn request<'v>(
    value: &'v Value,
    spelling: Spelling,
    api: &str,
    rule: &str,
) -> Result<Object<'v>, Fault> {
    let root = Object::new(value, "", spelling)?;
    check(&root, api, rule)?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(objects: &Value) -> Result<&'static Api, String> {
        let api = json!({"code": "c", "objects": objects});
        let api: Api = serde_json::from_value(api).map_err(|error| error.to_string())?;
        api.check_table()?;
        Ok(Box::leak(Box::new(api)))
    }

    #[test]
    fn a_rule_says_what_is_wrong_with_an_object() {
        let api = table(&json!({
            "root": {"fields": {
                "a": {"type": "string", "required": true, "words": ["x", "y"], "message": "{at}: {value}, not {words}"},
                "b": {"type": "inner[]", "empty": "{dotted} is empty", "code": "d"},
                "n": {"type": "name", "longest": 3, "characters": ":"},
                "s": {"type": "string or inner[]", "longest": 2, "too_long": "{length} bytes"}}},
            "inner": {"by": "type", "kinds": {"one": "one"}, "other": "no {value}", "absent": "none"},
            "one": {"open": true, "fields": {"i": {"type": "integer", "from": 2}}}}))
        .unwrap();
        let said = |more: Value| {
            let mut body = json!({"a": "x"});
            for (name, value) in more.as_object().unwrap() {
                body[name] = value.clone();
            }
            let root = Object::new(&body, "", Spelling::Exact).unwrap();
            match api.check(&root, "root") {
                Ok(()) => "good".to_owned(),
                Err(Fault::Invalid { at, code, message }) => format!("{at} {code} {message}"),
                Err(fault) => format!("{fault:?}"),
            }
        };
        let one = json!({"type": "one", "i": 2, "more": 1});
        for (more, wanted) in [
            (json!({"b": [one], "n": "a:b", "s": "xy"}), "good"),
            (json!({"s": [one]}), "good"),
            (json!({"z": 1}), "Unknown(\"z\")"),
            (json!({"a": null}), "Missing(\"a\")"),
            (json!({"a": "z"}), "a c a: z, not x', 'y"),
            (json!({"b": []}), "b d b is empty"),
            (json!({"b": [one, {"type": "two"}]}), "b[1].type c no two"),
            (json!({"b": [{}]}), "b[0].type c none"),
            (
                json!({"b": [{"type": "one", "i": 1}]}),
                "b[0].i integer_below_min_value 'b[0].i' must be at least 2.",
            ),
            (json!({"s": "xyz"}), "s c 3 bytes"),
            (
                json!({"n": "a b"}),
                "n invalid_value Invalid name: expected 1 to 3 of the characters a-z, A-Z, 0-9, _ and -.",
            ),
        ] {
            assert_eq!(said(more.clone()), wanted, "{more}");
        }
    }

    #[test]
    fn a_table_that_cannot_be_meant_is_refused() {
        for (objects, wanted) in [
            (
                json!({"a": {"fields": {"x": {"type": "words"}}}}),
                "a has words, which is not there",
            ),
            (
                json!({"a": {"by": "x", "kinds": {"y": "b"}}}),
                "a has b, which is not there",
            ),
            (
                json!({"a": {"fields": {"x": {"least": 1}}}}),
                "x: unknown field `least`",
            ),
        ] {
            let error = table(&objects).unwrap_err();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
