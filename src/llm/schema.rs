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
}

pub(super) static KEYWORDS: LazyLock<Keywords> = LazyLock::new(|| {
    let keywords = serde_json::from_str(include_str!("schema_keywords.json"));
    keywords.expect("the tests read this file too")
});

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
mod schema_tests {
    use std::thread;

    use serde_json::json;

    use super::*;

    fn fault(schema: Value) -> String {
        Schema::compile(&schema).err().unwrap()
    }

    #[test]
    fn a_bad_schema_is_refused_with_the_place_of_the_fault() {
        let found = fault(json!({"properties": {"a": {"type": "strin"}}}));
        assert!(
            found.starts_with("at /properties/a/type: \"strin\" is not valid"),
            "{found}"
        );
        let found = fault(json!({"properties": {"a": {"pattern": "("}}}));
        assert_eq!(found, "at /properties/a/pattern: \"(\" is not a \"regex\"");
        assert_eq!(
            fault(json!({"$ref": "#/$defs/x"})),
            "Pointer '/$defs/x' does not exist"
        );
    }

    #[test]
    fn nothing_outside_of_a_schema_is_fetched() {
        for uri in [
            "http://127.0.0.1:9/s.json",
            "file:///etc/passwd",
            "other.json",
        ] {
            let found = fault(json!({"properties": {"a": {"$ref": uri}}}));
            let expected = format!(
                "\"{uri}\" is outside of the schema and is not fetched: put it under \"$defs\""
            );
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_mismatch_names_places_and_no_values() {
        let schema = json!({"type": "object", "required": ["b"], "properties": {
            "a": {"type": "array", "items": {"type": "integer"}}, "c": {"enum": ["x", "y"]}}});
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.misfit(&json!({"a": [1], "b": 0})), None);
        let found = schema
            .misfit(&json!({"a": [1, "secret"], "c": "secret"}))
            .unwrap();
        assert!(!found.contains("secret"), "{found}");
        assert!(found.contains("\"b\" is a required property"), "{found}");
        assert!(
            found.contains("at /a/1: value is not of type \"integer\""),
            "{found}"
        );
        assert!(
            found.contains("at /c: value is not one of \"x\" or \"y\""),
            "{found}"
        );
    }

    #[test]
    fn nesting_ends_before_the_stack_does() {
        let nested = |levels| {
            let wrap = |schema, _| json!({"items": schema});
            (0..levels).fold(json!({"type": "integer"}), wrap)
        };
        // Pool threads have the standard 2 MiB.
        let compiled = thread::spawn(move || Schema::compile(&nested(99)).is_ok());
        assert!(compiled.join().unwrap());
        assert_eq!(fault(nested(200)), "it is nested more than 100 levels deep");
    }

    #[test]
    fn circular_references_end() {
        let circle = json!({"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}});
        for looping in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$ref": "#/$defs/a", "$defs": circle}),
        ] {
            let schema = Schema::compile(&looping).unwrap();
            schema.misfit(&json!([1]));
        }
        let chain = (0..200).map(|n| {
            let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
            (n.to_string(), next)
        });
        let mut links: Map<String, Value> = chain.collect();
        links.insert("200".to_owned(), json!({"type": "integer"}));
        let chain = json!({"$ref": "#/$defs/0", "$defs": links});
        let compiled = thread::spawn(move || {
            let schema = Schema::compile(&chain).unwrap();
            (schema.misfit(&json!(1)), schema.misfit(&json!("1")))
        });
        let (fits, misfit) = compiled.join().unwrap();
        assert!(fits.is_none() && misfit.is_some());
    }

    #[test]
    fn mismatches_are_not_searched_in_a_value_with_very_many() {
        let schema = Schema::compile(&json!({"items": {"type": "string"}})).unwrap();
        assert_eq!(schema.misfit(&json!(vec!["x"; 300_000])), None);
        let found = schema.misfit(&json!(vec![1; 300_000])).unwrap();
        assert_eq!(found, "in too many places to list");
        let found = schema.misfit(&json!(vec![1; 20_000])).unwrap();
        assert!(found.starts_with("at /0: value is not of type"), "{found}");
    }

    /// A tree whose nodes are one of two kinds: what does not fit at its bottom does not fit in twice as
    /// many ways with each level.
    #[test]
    fn alternatives_within_alternatives_do_not_multiply_the_work() {
        let children = json!({"child": {"$ref": "#/$defs/node"}, "leaf": {"type": "string"}});
        let kind =
            |required| json!({"type": "object", "properties": children, "required": required});
        let schema = json!({"$ref": "#/$defs/node", "$defs": {"node":
            {"anyOf": [kind(json!([])), kind(json!(["child"])), kind(json!(["leaf"]))]}}});
        let schema = Schema::compile(&schema).unwrap();
        let tree = |depth, leaf: Value| {
            let wrap = |node, _| json!({"child": node, "leaf": "x"});
            (0..depth).fold(json!({"leaf": leaf}), wrap)
        };
        // Pool threads have the standard 2 MiB.
        let checked = thread::spawn(move || {
            for depth in [1, 5, 20, 60, 126] {
                assert_eq!(schema.misfit(&tree(depth, json!("x"))), None);
                let found = schema.misfit(&tree(depth, json!(["secret"]))).unwrap();
                assert!(found.len() < 500 && !found.contains("secret"), "{found}");
            }
            let found = schema.misfit(&tree(1, json!(1))).unwrap();
            assert_eq!(
                found,
                "value is not valid under any of the schemas listed in the 'anyOf' keyword"
            );
        });
        checked.join().unwrap();
    }

    #[test]
    fn mismatches_of_every_keyword_are_named() {
        let schema = json!({"type": "object", "required": ["b"], "minProperties": 1,
            "properties": {"a": {"uniqueItems": true, "contains": {"const": 1}}},
            "propertyNames": {"maxLength": 3}, "additionalProperties": {"type": ["null", "integer"]}});
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.misfit(&json!({"a": [1, 2], "b": null})), None);
        for (value, expected) in [
            (
                json!({"b": 1, "a": [1, 1]}),
                "at /a: value has non-unique elements",
            ),
            (
                json!({"b": 1, "long": 1}),
                "\"long\" is longer than 3 characters",
            ),
            (
                json!({"b": "x"}),
                "at /b: value is not of types \"null\", \"integer\"",
            ),
            (json!({}), "\"b\" is a required property"),
        ] {
            let found = schema.misfit(&value).unwrap();
            assert!(
                found.contains(expected) || found.contains("b\" is a"),
                "{found}"
            );
        }
    }

    #[test]
    fn each_thread_gets_its_own_schema() {
        thread::scope(|scope| {
            for offset in 0..4 {
                scope.spawn(move || {
                    for n in (0..200).map(|n| (n + offset * 50) % 200) {
                        let schema = Schema::compile(&json!({"const": n})).unwrap();
                        assert_eq!(schema.misfit(&json!(n)), None);
                        assert!(schema.misfit(&json!(n + 1)).is_some());
                    }
                });
            }
        });
    }
}
