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

/// A schema with more parts or levels, if each reference is replaced by its definition, counts as recursive.
const MOST_PARTS: usize = 2_000;
const MOST_LEVELS: usize = 60;

/// The copy of a schema, without references. `None` if no copy would allow the answers that the schema allows, for example
/// for objects with arbitrary keys, lists of any items or recursion, or if the copy is too large.
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

impl Copier<'_> {
    fn copy(&mut self, schema: &Value, level: usize) -> Option<Value> {
        self.parts += 1;
        if self.parts > MOST_PARTS || level > MOST_LEVELS {
            return None;
        }
        let fields = schema.as_object()?;
        if let Some(target) = fields.get("$ref") {
            let place = target.as_str()?.strip_prefix('#')?;
            return self.copy(self.root.pointer(place)?, level + 1);
        }
        let mut out = Map::new();
        for (keyword, value) in fields {
            let (keyword, value) = match (keyword.as_str(), value) {
                // No closed copy can express them.
                ("allOf" | "patternProperties" | "prefixItems", _) => return None,
                ("additionalProperties", Value::Object(map)) if !map.is_empty() => return None,
                ("properties", Value::Object(map)) => {
                    let copies = map
                        .iter()
                        .map(|(name, one)| Some((name.clone(), self.copy(one, level + 1)?)));
                    ("properties", copies.collect::<Option<Value>>()?)
                }
                ("anyOf" | "oneOf", Value::Array(choices)) => {
                    self.unions += 1;
                    let copies = choices.iter().map(|one| self.copy(one, level + 1));
                    ("anyOf", copies.collect::<Option<Value>>()?)
                }
                ("items", one) => ("items", self.copy(one, level + 1)?),
                ("enum", Value::Array(values))
                    if values.iter().any(|v| v.is_object() || v.is_array()) =>
                {
                    return None;
                }
                ("format", Value::String(name)) if !KEYWORDS.anthropic_formats.contains(name) => {
                    continue;
                }
                ("minItems", least) if !matches!(least.as_u64(), Some(0 | 1)) => continue,
                (key, _) if KEYWORDS.anthropic.contains(key) => (key, value.clone()),
                _ => continue,
            };
            out.insert(keyword.to_owned(), value);
        }
        self.unions += usize::from(fields.get("type").is_some_and(Value::is_array));
        let is = |kind: &str| fields.get("type").is_some_and(|own| own == kind);
        if out.is_empty() || is("array") && !out.contains_key("items") {
            return None;
        }
        if is("object") || out.contains_key("properties") {
            let properties = out.get("properties")?.as_object()?.len();
            let required = fields.get("required").and_then(Value::as_array);
            self.optional += properties.saturating_sub(required.map_or(0, Vec::len));
            // Closed objects that each name a part of the properties exclude each other.
            if properties == 0 || out.contains_key("anyOf") {
                return None;
            }
            out.entry("type").or_insert_with(|| "object".into());
            out.insert("additionalProperties".to_owned(), false.into());
        }
        Some(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schemas, and their copies; none if it would exclude allowed answers.
    #[test]
    fn objects_are_closed_and_what_is_not_supported_is_dropped_or_leaves_no_copy() {
        let cases = include_str!("anthropic_schema_cases.json");
        let cases: Vec<(Value, Option<Value>)> = serde_json::from_str(cases).unwrap();
        for (schema, expected) in cases {
            assert_eq!(anthropic(&schema), expected, "{schema}");
        }
    }
}
