//! Checks the objects of a request against the tables in `rules/`: their fields, and the types and values of these.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::prompt::Fault;
use super::rules;
use super::tree::{Object, Spelling};

/// The objects of one API by name.
type Api = BTreeMap<String, Rule>;

/// The objects of requests, API by API.
static TABLES: LazyLock<BTreeMap<&str, Api>> = LazyLock::new(|| {
    let tables = [
        ("openai", include_str!("../rules/openai.json")),
        ("anthropic", include_str!("../rules/anthropic.json")),
        ("gemini", include_str!("../rules/gemini.json")),
    ];
    let read = |(name, text)| (name, rules::read(name, text));
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
    /// The limits of a number.
    from: Option<f64>,
    to: Option<f64>,
    /// The accepted values.
    words: Option<Vec<Value>>,
}

/// Rejects an object that violates a rule of an API.
pub(super) fn check(object: &Object<'_>, api: &str, rule: &str) -> Result<(), Fault> {
    check_rule(&TABLES[api], object, rule)
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

fn check_rule(api: &Api, object: &Object<'_>, name: &str) -> Result<(), Fault> {
    let rule = &api[name];
    if let Some(by) = &rule.by {
        let value = object.text(by)?.ok_or_else(|| object.missing(by))?;
        return match rule.kinds.get(value) {
            Some(kind) => check_rule(api, object, kind),
            None if rule.open => Ok(()),
            None => Err(bad_value(object, by)),
        };
    }
    if !rule.open {
        object.only(rule.fields.keys().map(String::as_str))?;
    }
    let mut fields = rule.fields.iter();
    fields.try_for_each(|(name, field)| check_field(api, object, name, field))
}

fn check_field(api: &Api, object: &Object<'_>, name: &str, field: &Field) -> Result<(), Fault> {
    let Some(value) = object.get(name) else {
        return if field.required {
            Err(object.missing(name))
        } else {
            Ok(())
        };
    };
    let is_empty = value == "" || value.as_array().is_some_and(Vec::is_empty);
    let words = field.words.as_ref();
    if field.filled && is_empty || words.is_some_and(|words| !words.contains(value)) {
        return Err(bad_value(object, name));
    }
    let kind = match field.kind.strip_prefix("string or ") {
        Some(_) if value.is_string() => return Ok(()),
        Some(other) => other,
        None => &field.kind,
    };
    match kind {
        "" => Ok(()),
        "string" => object.text(name).map(drop),
        "boolean" => object.flag(name).map(drop),
        "array" => object.list(name).map(drop),
        "object" => object.object(name).map(drop),
        "integer" => object
            .whole(name, field.from.unwrap_or(0.0) as u64)
            .map(drop),
        "number" => {
            let bounds = field.from.unwrap_or(f64::MIN)..=field.to.unwrap_or(f64::MAX);
            object.number(name, bounds).map(drop)
        }
        kind => match kind.strip_suffix("[]") {
            Some(kind) => {
                let mut list = object.objects(name)?.unwrap_or_default().into_iter();
                list.try_for_each(|item| check_rule(api, &item, kind))
            }
            None => {
                let mut inner = object.object(name)?.into_iter();
                inner.try_for_each(|inner| check_rule(api, &inner, kind))
            }
        },
    }
}

fn bad_value(object: &Object<'_>, name: &str) -> Fault {
    let at = object.at(name);
    let message = format!("Invalid value for '{at}'.");
    Fault::invalid(at, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_says_what_is_wrong_with_an_object() {
        let api = json!({
            "root": {"fields": {
                "a": {"type": "string", "required": true, "words": ["x", "y"]},
                "b": {"type": "inner[]", "filled": true},
                "s": {"type": "string or inner[]"}}},
            "inner": {"by": "type", "kinds": {"one": "one"}},
            "one": {"open": true, "fields": {"i": {"type": "integer", "from": 2}}}});
        let api: Api = serde_json::from_value(api).unwrap();
        let at = |more: Value| {
            let mut body = json!({"a": "x"});
            for (name, value) in more.as_object().unwrap() {
                body[name] = value.clone();
            }
            let root = Object::new(&body, "", Spelling::Exact).unwrap();
            check_rule(&api, &root, "root").map_err(|fault| fault.at().to_owned())
        };
        let one = json!({"type": "one", "i": 2, "more": 1});
        for good in [json!({"b": [one], "s": "xy"}), json!({"s": [one]})] {
            assert_eq!(at(good), Ok(()));
        }
        for (more, wanted) in [
            (json!({"z": 1}), "z"),
            (json!({"a": null}), "a"),
            (json!({"a": "z"}), "a"),
            (json!({"b": []}), "b"),
            (json!({"b": [one, {"type": "two"}]}), "b[1].type"),
            (json!({"b": [{}]}), "b[0].type"),
            (json!({"b": [{"type": "one", "i": 1}]}), "b[0].i"),
        ] {
            assert_eq!(at(more.clone()), Err(wanted.to_owned()), "{more}");
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
