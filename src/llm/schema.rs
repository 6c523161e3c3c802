//! JSON Schemas: compiled once, shared by all threads, never fetched from anywhere.
//!
//! Without the feature `schema` every schema is taken as it is and every value fits; the log says so
//! once.

use std::collections::HashSet;
use std::sync::LazyLock;
#[cfg(not(feature = "schema"))]
use std::sync::Once;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base::json_read::table;

#[cfg(feature = "schema")]
pub(crate) use super::schema_compiled::Schema;

/// Name of a schema that has no title. Not that of its file, whose renaming would change the
/// fingerprint of every request.
const UNTITLED: &str = "answer";

/// The longest name that providers take.
pub(super) const NAME_LEN: usize = 64;

/// Keywords of JSON Schema, by what they mean here: `schema_keywords.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keywords {
    /// Those that do not restrict an answer. Other words that start with `$` do not either, except references.
    pub notes: HashSet<String>,
    /// Those that an answer can violate.
    pub demands: HashSet<String>,
    /// Those of strict schemas; OpenAI refuses a request with any other.
    strict: HashSet<String>,
    strict_formats: HashSet<String>,
    /// Those that a schema for Anthropic keeps as they are.
    pub anthropic: HashSet<String>,
    pub anthropic_formats: HashSet<String>,
}

pub(super) static KEYWORDS: LazyLock<Keywords> =
    LazyLock::new(|| table(include_str!("schema_keywords.json")));

const UNRESTRICTED: &str = "it does not restrict an answer";

/// Checks a schema that a user gave.
///
/// # Errors
/// If it is no object, is in the wrapping of an API, or restricts nothing, for example because it is an example of an
/// answer.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    let Some(fields) = schema.as_object() else {
        return Err("a JSON Schema is an object".to_owned());
    };
    let has_inner = ["schema", "json_schema"]
        .iter()
        .any(|name| fields.get(*name).is_some_and(Value::is_object));
    // No schema has that type, and one that has only a name and a schema restricts nothing.
    if fields.get("type").is_some_and(|kind| kind == "json_schema")
        || has_inner && !is_demanding(fields)
    {
        let why = "it is in the wrapping of an API; only the schema in it is needed";
        return Err(why.to_owned());
    }
    if is_example(fields) {
        return Err(format!("{UNRESTRICTED}; is it an example of one?"));
    }
    if is_demanding(fields) {
        Ok(())
    } else {
        Err(UNRESTRICTED.to_owned())
    }
}

/// Whether it restricts nothing, and has fields that no schema has.
pub(crate) fn is_example(schema: &Map<String, Value>) -> bool {
    let of_schemas = |name: &String| name.starts_with('$') || KEYWORDS.notes.contains(name);
    !is_demanding(schema) && !schema.keys().all(of_schemas)
}

fn is_demanding(schema: &Map<String, Value>) -> bool {
    schema.keys().any(|name| KEYWORDS.demands.contains(name))
}

/// Whether the name is one that providers take.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=NAME_LEN).contains(&name.len()) && name.bytes().all(allowed)
}

/// The schema's title in letters, digits, `_` and `-`; without one, `answer`.
pub(crate) fn name(schema: &Value) -> String {
    let title = schema.get("title").and_then(Value::as_str);
    let mut name = String::new();
    for letter in title.unwrap_or_default().trim().chars() {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => name.push(letter),
            _ if name.ends_with('_') => {}
            _ => name.push('_'),
        }
    }
    name.truncate(NAME_LEN);
    match name.trim_matches('_') {
        "" => UNTITLED.to_owned(),
        _ => name,
    }
}

/// Whether a provider can enforce the schema to the letter: the root is an object, every object in
/// it requires all its properties and allows no others, and nothing is in it that OpenAI is not
/// known to take. A schema that is not strict is still kept to, if less firmly; a refused one
/// brings no answer at all.
pub(crate) fn is_strict(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("object") && strict(schema)
}

fn strict(schema: &Value) -> bool {
    let Some(fields) = schema.as_object() else {
        return false;
    };
    let only = |known: &[&str]| fields.keys().all(|key| known.contains(&key.as_str()));
    if let Some(target) = fields.get("$ref") {
        let target = target.as_str().unwrap_or_default();
        let local = ["#/$defs/", "#/definitions/"]
            .iter()
            .any(|place| target.starts_with(place));
        return only(&["$ref"]) && (local || target == "#");
    }
    if let Some(choices) = fields.get("anyOf") {
        let choices = choices.as_array();
        return only(&["anyOf", "title", "description"])
            && choices.is_some_and(|choices| choices.iter().all(strict));
    }
    let known = |key: &String| key == "type" || KEYWORDS.strict.contains(key);
    let group = |key: &str| match fields.get(key) {
        None => true,
        Some(Value::Object(group)) => group.values().all(strict),
        Some(_) => false,
    };
    let format = fields.get("format").is_none_or(|format| {
        let name = format.as_str();
        name.is_some_and(|name| KEYWORDS.strict_formats.contains(name))
    });
    // No looking around.
    let pattern = fields.get("pattern").and_then(Value::as_str);
    fields.keys().all(known)
        && fields.contains_key("type")
        && (!allows(fields, "object", "properties") || closed(fields))
        && (!allows(fields, "array", "items") || fields.get("items").is_some_and(strict))
        && ["properties", "$defs", "definitions"]
            .into_iter()
            .all(group)
        && format
        && !pattern.is_some_and(|pattern| pattern.contains("(?"))
}

/// Whether a value may be of this type, or is treated so by a keyword.
fn allows(fields: &Map<String, Value>, kind: &str, keyword: &str) -> bool {
    fields.contains_key(keyword)
        || match fields.get("type") {
            Some(Value::String(name)) => name == kind,
            Some(Value::Array(names)) => names.iter().any(|name| name == kind),
            _ => false,
        }
}

/// Whether an object requires all its properties, and names no others.
fn closed(fields: &Map<String, Value>) -> bool {
    let properties = fields.get("properties").and_then(Value::as_object);
    let required = fields.get("required").and_then(Value::as_array);
    let (Some(properties), Some(required)) = (properties, required) else {
        return false;
    };
    let known = |name: &Value| name.as_str().is_some_and(|n| properties.contains_key(n));
    fields.get("additionalProperties") == Some(&Value::Bool(false))
        && required.iter().all(known)
        && properties
            .keys()
            .all(|name| required.iter().any(|r| r == name))
}

/// A schema that nothing is held against.
#[cfg(not(feature = "schema"))]
#[derive(Clone)]
pub(crate) struct Schema;

#[cfg(not(feature = "schema"))]
impl Schema {
    pub(crate) fn compile(_: &Value) -> Result<Self, String> {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            log::warn!(
                "answers are checked for being JSON and not against their schema: that takes the feature \
                 `schema` of batchwright"
            );
        });
        Ok(Self)
    }

    pub(crate) fn misfit(&self, _: &Value) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_without_a_restriction_are_rejected() {
        let cases = include_str!("schema_given_cases.json");
        let cases: Vec<(Value, String)> = serde_json::from_str(cases).unwrap();
        for (given, expected) in cases {
            assert_eq!(check(&given).err(), Some(expected));
        }
    }

    #[test]
    fn the_title_names_the_schema_in_the_letters_that_providers_take() {
        for (title, expected) in [
            ("Invoice", "Invoice"),
            (" an invoice (v2) ", "an_invoice_v2_"),
            ("Größe", "Gr_e"),
            ("请求", "answer"),
            ("", "answer"),
        ] {
            assert_eq!(name(&json!({"title": title})), expected);
        }
        assert_eq!(name(&json!({})), "answer");
        assert_eq!(name(&json!({"title": 5})), "answer");
        assert_eq!(name(&json!({"title": "x".repeat(99)})).len(), NAME_LEN);
    }

    #[test]
    fn a_schema_is_strict_when_every_object_is_closed_and_complete() {
        let cases = include_str!("schema_cases.json");
        let cases: Map<String, Value> = serde_json::from_str(cases).unwrap();
        for (kind, schemas) in &cases {
            for schema in schemas.as_array().unwrap() {
                assert_eq!(is_strict(schema), kind == "strict", "{schema}");
            }
        }
    }
}

#[cfg(all(test, feature = "schema"))]
#[path = "schema_tests.rs"]
mod schema_tests;
