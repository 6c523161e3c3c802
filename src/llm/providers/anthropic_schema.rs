//! Reduces a JSON Schema to what Anthropic supports, because it rejects every request whose schema has more.
//!
//! The copy is closed: each object forbids properties that it does not name. Bounds, patterns and other keywords move
//! into the description, as in Anthropic's own SDKs. Afterwards the answer is validated against the complete schema.
//! Sources: "JSON Schema limitations" in the documentation of structured outputs; `lib/_parse/_transform.py` of the
//! Python SDK.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// `tables/anthropic_schema.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keywords {
    /// Keywords that the copy has, in the same or in another form.
    copied: HashSet<String>,
    /// Keywords that do not restrict an answer.
    silent: HashSet<String>,
    /// Keywords next to a reference that can be dropped without a loss.
    notes: HashSet<String>,
    /// Formats of strings.
    formats: HashSet<String>,
}

static KEYWORDS: LazyLock<Keywords> = LazyLock::new(|| {
    let keywords = serde_json::from_str(include_str!("tables/anthropic_schema.json"));
    keywords.expect("the tests read this file too")
});

/// The maximum numbers of optional properties and of unions in one request. Anthropic rejects more.
const MOST_OPTIONAL: usize = 24;
const MOST_UNIONS: usize = 16;

/// The keywords that contain definitions.
const GROUPS: [&str; 2] = ["$defs", "definitions"];

/// The copy of a schema. `None` if no copy would allow the answers that the schema allows, for example for objects with
/// arbitrary keys, lists of any items or recursion, or if the copy is too large.
pub(super) fn anthropic(schema: &Value) -> Option<Value> {
    let mut out = copy(schema)?;
    for group in GROUPS {
        if let Some(inner) = schema.get(group) {
            out[group] = copies(inner)?;
        }
    }
    let (mut optional, mut unions) = (0, 0);
    measure(&out, &mut optional, &mut unions);
    let small = optional <= MOST_OPTIONAL && unions <= MOST_UNIONS;
    (small && is_resolved(&out)).then_some(out)
}

fn measure(copy: &Value, optional: &mut usize, unions: &mut usize) {
    let Value::Object(fields) = copy else {
        let items = copy.as_array().into_iter().flatten();
        return items.for_each(|item| measure(item, optional, unions));
    };
    let size = |name| match fields.get(name) {
        Some(Value::Object(inner)) => inner.len(),
        Some(Value::Array(inner)) => inner.len(),
        _ => 0,
    };
    *optional += size("properties").saturating_sub(size("required"));
    *unions += usize::from(size("anyOf") > 0);
    (fields.values()).for_each(|value| measure(value, optional, unions));
}

fn copies(schemas: &Value) -> Option<Value> {
    let named = schemas.as_object()?.iter();
    let copies = named.map(|(name, schema)| Some((name.clone(), copy(schema)?)));
    copies.collect::<Option<Map<_, _>>>().map(Value::Object)
}

fn copy(schema: &Value) -> Option<Value> {
    let fields = schema.as_object()?;
    if let Some(target) = fields.get("$ref") {
        let harmless = |name: &String| {
            name == "$ref" || KEYWORDS.silent.contains(name) || KEYWORDS.notes.contains(name)
        };
        return fields.keys().all(harmless).then(|| json!({"$ref": target}));
    }
    let mut out = form(fields)?;
    if let Some(title) = fields.get("title") {
        out["title"] = title.clone();
    }
    let unsaid = fields.iter().filter(|(name, value)| !is_said(name, value));
    let unsaid: Map<String, Value> = unsaid.map(|(n, v)| (n.clone(), v.clone())).collect();
    let description = fields.get("description").and_then(Value::as_str);
    let description = match (description, unsaid.is_empty()) {
        (None, true) => return Some(out),
        (None, false) => Value::Object(unsaid).to_string(),
        (Some(text), true) => text.to_owned(),
        (Some(text), false) => format!("{text}\n\n{}", Value::Object(unsaid)),
    };
    out["description"] = description.into();
    Some(out)
}

fn is_said(name: &str, value: &Value) -> bool {
    match name {
        "minItems" => is_taken_least(value),
        "format" => is_taken_format(value),
        _ => KEYWORDS.copied.contains(name) || KEYWORDS.silent.contains(name),
    }
}

fn is_taken_least(least: &Value) -> bool {
    matches!(least.as_u64(), Some(0 | 1))
}

fn is_taken_format(format: &Value) -> bool {
    format
        .as_str()
        .is_some_and(|name| KEYWORDS.formats.contains(name))
}

/// The constraints of a schema, without its descriptions.
fn form(fields: &Map<String, Value>) -> Option<Value> {
    if fields.contains_key("allOf") {
        // Closed objects that each name a part of the properties exclude each other.
        return None;
    }
    let only = fields.get("const").map(std::slice::from_ref);
    let choices = fields.get("enum").and_then(Value::as_array);
    if let Some(values) = only.or(choices.map(Vec::as_slice)) {
        let plain = |value: &Value| !value.is_object() && !value.is_array();
        let mut out = json!({"enum": values});
        if let Some(name @ Value::String(_)) = fields.get("type") {
            out["type"] = name.clone();
        }
        return (!values.is_empty() && values.iter().all(plain)).then_some(out);
    }
    let mut choices = ["anyOf", "oneOf"].iter().filter_map(|key| fields.get(*key));
    if let Some(first) = choices.next() {
        let beside = ["properties", "required", "items", "prefixItems"];
        if choices.next().is_some() || beside.iter().any(|key| fields.contains_key(*key)) {
            return None;
        }
        let copies = first.as_array()?.iter().map(copy);
        return Some(json!({"anyOf": copies.collect::<Option<Vec<_>>>()?}));
    }
    match fields.get("type") {
        Some(Value::String(name)) => typed(name, fields),
        Some(Value::Array(names)) => {
            let forms = names.iter().map(|name| typed(name.as_str()?, fields));
            Some(json!({"anyOf": forms.collect::<Option<Vec<_>>>()?}))
        }
        None if fields.contains_key("properties") => typed("object", fields),
        None if fields.contains_key("items") => typed("array", fields),
        _ => None,
    }
}

fn typed(name: &str, fields: &Map<String, Value>) -> Option<Value> {
    let mut out = json!({"type": name});
    match name {
        "object" => {
            let properties = fields.get("properties").and_then(Value::as_object)?;
            let open = match fields.get("additionalProperties") {
                Some(Value::Object(others)) => !others.is_empty(),
                _ => fields.contains_key("patternProperties"),
            };
            let required = fields.get("required").and_then(Value::as_array);
            let is_named = |name: &Value| name.as_str().is_some_and(|n| properties.contains_key(n));
            if open || properties.is_empty() || !required.is_none_or(|r| r.iter().all(is_named)) {
                return None;
            }
            out["properties"] = copies(&fields["properties"])?;
            out["additionalProperties"] = false.into();
            if let Some(required) = required {
                out["required"] = json!(required);
            }
        }
        "array" => {
            if fields.contains_key("prefixItems") {
                return None;
            }
            out["items"] = copy(fields.get("items")?)?;
            if let Some(least) = fields.get("minItems").filter(|least| is_taken_least(least)) {
                out["minItems"] = least.clone();
            }
        }
        "string" => {
            if let Some(format) = fields.get("format").filter(|name| is_taken_format(name)) {
                out["format"] = format.clone();
            }
        }
        _ => {}
    }
    Some(out)
}

/// Whether all references lead to definitions, and no definition is recursive.
fn is_resolved(schema: &Value) -> bool {
    let mut all = Vec::new();
    references(schema, &mut all);
    let known = |target: &&str| {
        let group = |group| {
            target
                .strip_prefix("#/")?
                .strip_prefix(group)?
                .strip_prefix('/')
        };
        let name = GROUPS.into_iter().find_map(group);
        name.is_some_and(|name| !name.contains('/')) && schema.pointer(&target[1..]).is_some()
    };
    if !all.iter().all(known) {
        return false;
    }
    all.sort_unstable();
    all.dedup();
    let mut open: Vec<(&str, Vec<&str>)> = Vec::new();
    for target in all {
        let mut next = Vec::new();
        references(
            schema.pointer(&target[1..]).unwrap_or(&Value::Null),
            &mut next,
        );
        open.push((target, next));
    }
    // Removes definitions without a reference to another one, until only recursive ones remain.
    loop {
        let names: Vec<&str> = open.iter().map(|(name, _)| *name).collect();
        open.retain(|(_, next)| next.iter().any(|name| names.contains(name)));
        if open.is_empty() || open.len() == names.len() {
            return open.is_empty();
        }
    }
}

fn references<'s>(schema: &'s Value, found: &mut Vec<&'s str>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_closed_and_unsupported_keywords_move_to_the_description() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Row",
            "type": "object", "required": ["age"], "minProperties": 1,
            "properties": {
                "age": {"type": "integer", "minimum": 1, "description": "in years"},
                "tags": {"type": "array", "minItems": 2, "items": {"type": "string", "format": "phone"}},
                "days": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "date"}},
                "note": {"type": ["string", "null"], "maxLength": 5},
                "kind": {"const": "a"},
                "of": {"oneOf": [{"$ref": "#/$defs/o", "description": "x"}, {"type": "null"}]},
            },
            "$defs": {"o": {"properties": {"b": {"enum": [1, null]}}, "additionalProperties": true}},
        });
        let expected = json!({
            "type": "object", "title": "Row", "required": ["age"], "additionalProperties": false,
            "description": "{\"minProperties\":1}",
            "properties": {
                "age": {"type": "integer", "description": "in years\n\n{\"minimum\":1}"},
                "tags": {"type": "array", "description": "{\"minItems\":2}",
                    "items": {"type": "string", "description": "{\"format\":\"phone\"}"}},
                "days": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "date"}},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}],
                    "description": "{\"maxLength\":5}"},
                "kind": {"enum": ["a"]},
                "of": {"anyOf": [{"$ref": "#/$defs/o"}, {"type": "null"}]},
            },
            "$defs": {"o": {"type": "object", "properties": {"b": {"enum": [1, null]}},
                "additionalProperties": false}},
        });
        let copy = anthropic(&schema).unwrap();
        assert_eq!(copy, expected, "{copy:#}");
        // A second pass changes nothing.
        assert_eq!(anthropic(&copy).unwrap(), copy);
    }

    #[test]
    fn there_is_no_copy_that_excludes_allowed_answers() {
        let object = |inner: Value| json!({"type": "object", "properties": {"a": inner}});
        let with_def = |inner: Value| {
            let mut schema = object(json!({"$ref": "#/$defs/d"}));
            schema["$defs"] = json!({"d": inner});
            schema
        };
        for schema in [
            json!(true),
            json!({}),
            json!({"type": "object"}),
            json!({"type": "array"}),
            object(json!({"type": "object", "additionalProperties": {"type": "string"}})),
            object(
                json!({"type": "object", "patternProperties": {"x": {}}, "properties": {"b": {}}}),
            ),
            object(json!({"type": "array", "prefixItems": [{"type": "null"}], "items": false})),
            object(json!({"enum": [{"b": 1}]})),
            object(json!({"enum": []})),
            object(json!({"allOf": [object(json!({"type": "null"}))]})),
            object(
                json!({"type": "object", "properties": {"b": {"type": "null"}}, "required": ["c"]}),
            ),
            object(json!({"anyOf": [{"required": ["b"]}], "properties": {"b": {"type": "null"}}})),
            object(json!({"$ref": "#"})),
            object(json!({"$ref": "https://example.com/s"})),
            object(json!({"$ref": "#/$defs/absent"})),
            with_def(object(json!({"$ref": "#/$defs/d"}))),
            with_def(json!({"$ref": "#/$defs/d"})),
        ] {
            assert_eq!(anthropic(&schema), None, "{schema}");
        }
        assert!(anthropic(&with_def(object(json!({"type": "null"})))).is_some());
    }

    #[test]
    fn a_schema_of_too_many_choices_has_no_copy() {
        let row = |fields: usize, kind: Value, required: bool| {
            let names: Vec<String> = (0..fields).map(|n| n.to_string()).collect();
            let properties = names.iter().map(|n| (n.clone(), json!({"type": kind})));
            let required = if required { &names[..] } else { &[] };
            json!({"type": "object", "properties": properties.collect::<Map<_, _>>(),
                "required": required})
        };
        let (plain, union) = (json!("string"), json!(["string", "null"]));
        assert!(anthropic(&row(100, plain.clone(), true)).is_some());
        assert!(anthropic(&row(24, plain.clone(), false)).is_some());
        assert!(anthropic(&row(25, plain, false)).is_none());
        assert!(anthropic(&row(16, union.clone(), true)).is_some());
        assert!(anthropic(&row(17, union, true)).is_none());
    }
}
