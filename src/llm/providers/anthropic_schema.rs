//! Reduces a JSON Schema to what Anthropic supports, because it rejects every request whose schema has more.
//!
//! The copy is closed: each object forbids properties that it does not name. Bounds, patterns and other keywords are
//! dropped. Afterwards the answer is validated against the complete schema. Source: "JSON Schema limitations" in the
//! documentation of structured outputs.

use serde_json::{Map, Value, json};

/// Formats of strings.
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "uri",
    "ipv4",
    "ipv6",
    "uuid",
];
/// The maximum numbers of optional properties and of unions in one request. Anthropic rejects more.
const MOST_OPTIONAL: usize = 24;
const MOST_UNIONS: usize = 16;

/// The keywords that contain definitions.
const GROUPS: [&str; 2] = ["$defs", "definitions"];
/// A schema with more parts or levels, if each reference counts as its definition, counts as recursive.
const MOST_PARTS: usize = 2_000;
const MOST_LEVELS: usize = 60;

/// The copy of a schema. `None` if no copy would allow the answers that the schema allows, for example for objects with
/// arbitrary keys, lists of any items or recursion, or if the copy is too large.
pub(super) fn anthropic(schema: &Value) -> Option<Value> {
    let mut copier = Copier {
        root: schema,
        parts: 0,
        levels: 0,
    };
    let mut out = copier.copy(schema)?;
    for group in GROUPS {
        if let Some(inner) = schema.get(group) {
            out[group] = copier.copies(inner)?;
        }
    }
    let (mut optional, mut unions) = (0, 0);
    measure(&out, &mut optional, &mut unions);
    (optional <= MOST_OPTIONAL && unions <= MOST_UNIONS).then_some(out)
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

struct Copier<'s> {
    root: &'s Value,
    parts: usize,
    levels: usize,
}

impl Copier<'_> {
    fn copies(&mut self, schemas: &Value) -> Option<Value> {
        let named = schemas.as_object()?.iter();
        let copies = named.map(|(name, schema)| Some((name.clone(), self.copy(schema)?)));
        copies.collect::<Option<Map<_, _>>>().map(Value::Object)
    }

    fn copy(&mut self, schema: &Value) -> Option<Value> {
        if self.parts == MOST_PARTS || self.levels == MOST_LEVELS {
            return None;
        }
        (self.parts, self.levels) = (self.parts + 1, self.levels + 1);
        let copy = self.copy_part(schema.as_object()?);
        self.levels -= 1;
        copy
    }

    fn copy_part(&mut self, fields: &Map<String, Value>) -> Option<Value> {
        if let Some(target) = fields.get("$ref") {
            let place = target.as_str()?.strip_prefix('#')?;
            let (group, name) = place.strip_prefix('/')?.split_once('/')?;
            let is_definition = GROUPS.contains(&group) && !name.contains('/');
            let definition = self.root.pointer(place).filter(|_| is_definition)?;
            self.copy(definition)?;
            return Some(json!({"$ref": target}));
        }
        let mut out = self.form(fields)?;
        for note in ["title", "description"] {
            if let Some(text) = fields.get(note) {
                out[note] = text.clone();
            }
        }
        Some(out)
    }

    /// The constraints of a schema, without its descriptions.
    fn form(&mut self, fields: &Map<String, Value>) -> Option<Value> {
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
            let copies = first.as_array()?.iter().map(|choice| self.copy(choice));
            return Some(json!({"anyOf": copies.collect::<Option<Vec<_>>>()?}));
        }
        match fields.get("type") {
            Some(Value::String(name)) => self.typed(name, fields),
            Some(Value::Array(names)) => {
                let forms = names.iter().map(|name| self.typed(name.as_str()?, fields));
                Some(json!({"anyOf": forms.collect::<Option<Vec<_>>>()?}))
            }
            None if fields.contains_key("properties") => self.typed("object", fields),
            None if fields.contains_key("items") => self.typed("array", fields),
            _ => None,
        }
    }

    fn typed(&mut self, name: &str, fields: &Map<String, Value>) -> Option<Value> {
        let mut out = json!({"type": name});
        match name {
            "object" => {
                let properties = fields.get("properties").and_then(Value::as_object)?;
                let open = match fields.get("additionalProperties") {
                    Some(Value::Object(others)) => !others.is_empty(),
                    _ => fields.contains_key("patternProperties"),
                };
                let required = fields.get("required").and_then(Value::as_array);
                let is_named =
                    |name: &Value| name.as_str().is_some_and(|n| properties.contains_key(n));
                if open || properties.is_empty() || !required.is_none_or(|r| r.iter().all(is_named))
                {
                    return None;
                }
                out["properties"] = self.copies(&fields["properties"])?;
                out["additionalProperties"] = false.into();
                if let Some(required) = required {
                    out["required"] = json!(required);
                }
            }
            "array" => {
                if fields.contains_key("prefixItems") {
                    return None;
                }
                out["items"] = self.copy(fields.get("items")?)?;
                if let Some(least) = fields
                    .get("minItems")
                    .filter(|least| matches!(least.as_u64(), Some(0 | 1)))
                {
                    out["minItems"] = least.clone();
                }
            }
            "string" => {
                if let Some(format) = fields
                    .get("format")
                    .filter(|name| name.as_str().is_some_and(|name| FORMATS.contains(&name)))
                {
                    out["format"] = format.clone();
                }
            }
            _ => {}
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
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
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
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
