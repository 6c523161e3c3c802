//! Reduces a JSON Schema to what Anthropic supports, because it rejects every request whose schema has more.
//!
//! The copy is closed: each object forbids properties that it does not name. Bounds, patterns and other keywords are
//! dropped. Afterwards the answer is validated against the complete schema. Source: "JSON Schema limitations" in the
//! documentation of structured outputs.

use serde_json::{Map, Value};

use crate::llm::schema::KEYWORDS;

/// The maximum numbers of optional properties and of unions in one request. Anthropic rejects more.
const MOST_OPTIONAL: usize = 24;
const MOST_UNIONS: usize = 16;

/// The keywords that contain definitions.
const GROUPS: [&str; 2] = ["$defs", "definitions"];
/// Keywords that no closed copy can express.
const INEXPRESSIBLE: [&str; 3] = ["allOf", "patternProperties", "prefixItems"];
/// A schema with more parts or levels, if each reference counts as its definition, counts as recursive.
const MOST_PARTS: usize = 2_000;
const MOST_LEVELS: usize = 60;

/// The copy of a schema. `None` if no copy would allow the answers that the schema allows, for example for objects with
/// arbitrary keys, lists of any items or recursion, or if the copy is too large.
pub(super) fn anthropic(schema: &Value) -> Option<Value> {
    let mut copier = Copier {
        root: schema,
        parts: 0,
        optional: 0,
        unions: 0,
    };
    let copy = copier.copy(schema, 0)?;
    (copier.optional <= MOST_OPTIONAL && copier.unions <= MOST_UNIONS).then_some(copy)
}

struct Copier<'s> {
    root: &'s Value,
    parts: usize,
    optional: usize,
    unions: usize,
}

impl<'s> Copier<'s> {
    fn copy(&mut self, schema: &Value, level: usize) -> Option<Value> {
        self.parts += 1;
        if self.parts > MOST_PARTS || level > MOST_LEVELS {
            return None;
        }
        let fields = schema.as_object()?;
        let is_reference = fields.contains_key("$ref");
        let is = |kind: &str| fields.get("type").is_some_and(|own| own == kind);
        let mut out = Map::new();
        for (keyword, value) in fields {
            let (keyword, value) = match (keyword.as_str(), value) {
                (key, _) if INEXPRESSIBLE.contains(&key) => return None,
                (key, _) if is_reference && key != "$ref" && !GROUPS.contains(&key) => continue,
                ("additionalProperties", Value::Object(map)) if !map.is_empty() => return None,
                ("properties" | "$defs" | "definitions", Value::Object(map)) => {
                    let copies = map
                        .iter()
                        .map(|(name, one)| Some((name.clone(), self.copy(one, level + 1)?)));
                    (keyword.as_str(), copies.collect::<Option<Value>>()?)
                }
                ("anyOf" | "oneOf", Value::Array(choices)) => {
                    self.unions += 1;
                    let copies = choices.iter().map(|one| self.copy(one, level + 1));
                    ("anyOf", copies.collect::<Option<Value>>()?)
                }
                ("items", one) => ("items", self.copy(one, level + 1)?),
                ("$ref", target) => {
                    let definition = self.definition(target.as_str()?)?;
                    let (optional, unions) = (self.optional, self.unions);
                    self.copy(definition, level + 1)?;
                    // It is counted where it stands.
                    (self.optional, self.unions) = (optional, unions);
                    ("$ref", target.clone())
                }
                ("enum", Value::Array(values))
                    if values.iter().any(|v| v.is_object() || v.is_array()) =>
                {
                    return None;
                }
                ("format", name)
                    if !name
                        .as_str()
                        .is_some_and(|name| KEYWORDS.anthropic_formats.contains(name)) =>
                {
                    continue;
                }
                ("minItems", least) if !matches!(least.as_u64(), Some(0 | 1)) => continue,
                (key, _) if KEYWORDS.anthropic.contains(key) => (key, value.clone()),
                _ => continue,
            };
            out.insert(keyword.to_owned(), value);
        }
        self.unions += usize::from(fields.get("type").is_some_and(Value::is_array));
        if out.is_empty() || is("array") && !out.contains_key("items") {
            return None;
        }
        if is("object") || out.contains_key("properties") {
            let properties = out
                .get("properties")?
                .as_object()
                .filter(|all| !all.is_empty())?;
            let required = fields.get("required").and_then(Value::as_array);
            self.optional += properties
                .len()
                .saturating_sub(required.map_or(0, Vec::len));
            if out.contains_key("anyOf") {
                // Closed objects that each name a part of the properties exclude each other.
                return None;
            }
            out.entry("type").or_insert_with(|| "object".into());
            out.insert("additionalProperties".to_owned(), false.into());
        }
        Some(out.into())
    }

    fn definition(&self, target: &str) -> Option<&'s Value> {
        let place = target.strip_prefix('#')?;
        let (group, name) = place.strip_prefix('/')?.split_once('/')?;
        let is_definition = GROUPS.contains(&group) && !name.contains('/');
        self.root.pointer(place).filter(|_| is_definition)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_closed_and_unsupported_keywords_are_dropped() {
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
            "properties": {
                "age": {"type": "integer", "description": "in years"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "days": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "date"}},
                "note": {"type": ["string", "null"]},
                "kind": {"const": "a"},
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
            object(json!({"allOf": [object(json!({"type": "null"}))]})),
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
