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
