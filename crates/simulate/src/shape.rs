//! JSON on request: an instance that fits a schema, and one that does not. Covers the parts that structured outputs
//! use; patterns and other rare parts are ignored.

use serde_json::{Map, Value, json};

/// The JSON that an answer is to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// Any object.
    Object,
    Schema(Value),
}

impl Shape {
    /// An instance, with `text` in the first string without constraints.
    pub(super) fn instance(&self, text: &str) -> Value {
        match self {
            Shape::Object => json!({"echo": text}),
            Shape::Schema(schema) => {
                let mut maker = Maker {
                    root: schema,
                    text: Some(text),
                    left: 10_000,
                };
                maker.make(schema, 0)
            }
        }
    }

    /// A text that does not fit: JSON if possible, otherwise plain words.
    pub(super) fn misfit(&self) -> String {
        let fits = |value: &Value| match self {
            Shape::Object => value.is_object(),
            Shape::Schema(schema) => fits(schema, schema, value, 0),
        };
        [json!({}), json!([]), json!(null), json!(0)]
            .into_iter()
            .find(|value| !fits(value))
            .map_or_else(|| "This is not JSON.".to_owned(), |value| value.to_string())
    }
}

/// Below this depth only required members are generated, because schemas may contain themselves.
const DEEP: usize = 5;
const DEEPEST: usize = 40;

struct Maker<'a> {
    root: &'a Value,
    text: Option<&'a str>,
    /// Values that may still be made; a schema that branches at every level would never end.
    left: u32,
}

impl Maker<'_> {
    fn make(&mut self, schema: &Value, depth: usize) -> Value {
        if self.left == 0 || depth > DEEPEST {
            return Value::Null;
        }
        self.left -= 1;
        let deep = depth > DEEP;
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some([first, ..]) = schema
            .get("enum")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
        {
            return first.clone();
        }
        if let Some(target) = resolve(self.root, schema) {
            return self.make(target, depth + 1);
        }
        if let Some(choices) = choices(schema) {
            // Where a schema contains itself, the way out is usually the last choice.
            let choice = if deep {
                choices.last()
            } else {
                choices.first()
            };
            return choice.map_or(Value::Null, |choice| self.make(choice, depth + 1));
        }
        if let Some(parts) = parts(schema) {
            return self.all(schema, parts, depth);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => {
                let least = bound(schema, "minItems").unwrap_or(0);
                let most = bound(schema, "maxItems").unwrap_or(u64::MAX);
                let count = if deep { least } else { least.max(1).min(most) };
                let any = json!({"type": "null"});
                let items = schema.get("items").unwrap_or(&any);
                (0..count)
                    .map_while(|_| (self.left > 0).then(|| self.make(items, depth + 1)))
                    .collect()
            }
            "string" => self.string(schema).into(),
            "integer" => {
                let number = number(schema, 1.0).ceil();
                json!(number as i64)
            }
            "number" => json!(number(schema, 0.5)),
            "boolean" => json!(true),
            _ => Value::Null,
        }
    }

    /// The union of its parts if they are objects; otherwise an instance of the first part.
    fn all(&mut self, schema: &Value, parts: &[Value], depth: usize) -> Value {
        let mut out = self.object(schema, depth);
        for part in parts {
            match (&mut out, self.make(part, depth + 1)) {
                (Value::Object(fields), Value::Object(more)) => fields.extend(more),
                (_, other) => return other,
            }
        }
        out
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut out = Map::new();
        let required = required(schema);
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, inner) in properties {
                if depth <= DEEP || required.contains(&name.as_str()) {
                    out.insert(name.clone(), self.make(inner, depth + 1));
                }
            }
        }
        for name in required {
            out.entry(name).or_insert(Value::Null);
        }
        Value::Object(out)
    }

    fn string(&mut self, schema: &Value) -> String {
        let formatted = match schema.get("format").and_then(Value::as_str) {
            Some("date-time") => Some("2026-01-02T03:04:05Z"),
            Some("date") => Some("2026-01-02"),
            Some("time") => Some("03:04:05Z"),
            Some("email") => Some("sim@example.com"),
            Some("uri") => Some("https://example.com/"),
            Some("uuid") => Some("00000000-0000-4000-8000-000000000000"),
            Some("ipv4") => Some("127.0.0.1"),
            _ => None,
        };
        if let Some(text) = formatted {
            return text.to_owned();
        }
        let mut text: Vec<char> = self.text.take().unwrap_or("text").chars().collect();
        let length = |name| bound(schema, name).and_then(|length| usize::try_from(length).ok());
        if let Some(least) = length("minLength") {
            text.resize(text.len().max(least.min(1 << 20)), '.');
        }
        if let Some(most) = length("maxLength") {
            text.truncate(most);
        }
        text.into_iter().collect()
    }
}

fn resolve<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    let target = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
    root.pointer(target)
}

fn choices(schema: &Value) -> Option<&Vec<Value>> {
    ["anyOf", "oneOf"]
        .into_iter()
        .find_map(|name| schema.get(name)?.as_array())
}

fn parts(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("allOf")?.as_array()
}

/// The type, the first of a list of types, or the one that other keywords imply.
fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn required(schema: &Value) -> Vec<&str> {
    let names = schema.get("required").and_then(Value::as_array);
    names
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn bound(schema: &Value, name: &str) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64)
}

/// `wanted`, or the bound that it breaks.
fn number(schema: &Value, wanted: f64) -> f64 {
    let get = |name: &str| schema.get(name).and_then(Value::as_f64);
    let least = get("minimum").or(get("exclusiveMinimum").map(|least| least + 1.0));
    let most = get("maximum").or(get("exclusiveMaximum").map(|most| most - 1.0));
    let number = least.map_or(wanted, |least| wanted.max(least));
    most.map_or(number, |most| number.min(most))
}

/// Whether `value` is an instance of `schema`, for the supported parts of schemas.
fn fits(root: &Value, schema: &Value, value: &Value, depth: usize) -> bool {
    let inner = |schema: &Value, value: &Value| fits(root, schema, value, depth + 1);
    if depth > DEEPEST || schema == &Value::Bool(true) {
        return true;
    }
    if let Some(target) = resolve(root, schema) {
        return inner(target, value);
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return false;
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array)
        && !options.contains(value)
    {
        return false;
    }
    if let Some(choices) = choices(schema)
        && !choices.iter().any(|choice| inner(choice, value))
    {
        return false;
    }
    if parts(schema).is_some_and(|parts| !parts.iter().all(|part| inner(part, value))) {
        return false;
    }
    let typed = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => true,
    };
    let right_type = match schema.get("type") {
        Some(Value::String(kind)) => typed(kind),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).any(typed),
        _ => true,
    };
    let at_least =
        |name, count: usize| bound(schema, name).is_none_or(|least| count as u64 >= least);
    let at_most = |name, count: usize| bound(schema, name).is_none_or(|most| count as u64 <= most);
    right_type
        && match value {
            Value::Object(map) => {
                let properties = schema.get("properties");
                let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
                required(schema)
                    .into_iter()
                    .all(|name| map.contains_key(name))
                    && map.iter().all(|(name, value)| {
                        match properties.and_then(|properties| properties.get(name)) {
                            Some(schema) => inner(schema, value),
                            None => !closed,
                        }
                    })
            }
            Value::Array(items) => {
                let schema = schema.get("items").unwrap_or(&Value::Bool(true));
                at_least("minItems", items.len())
                    && at_most("maxItems", items.len())
                    && items.iter().all(|item| inner(schema, item))
            }
            Value::String(text) => {
                let count = text.chars().count();
                at_least("minLength", count) && at_most("maxLength", count)
            }
            Value::Number(found) => {
                let found = found.as_f64().unwrap_or(f64::NAN);
                let get = |name: &str| schema.get(name).and_then(Value::as_f64);
                get("minimum").is_none_or(|least| found >= least)
                    && get("maximum").is_none_or(|most| found <= most)
                    && get("exclusiveMinimum").is_none_or(|least| found > least)
                    && get("exclusiveMaximum").is_none_or(|most| found < most)
            }
            Value::Null | Value::Bool(_) => true,
        }
}

/// The schema that a text contains.
pub(super) fn schema_told(text: &str) -> Option<Value> {
    let (_, rest) = text.split_once("fits this JSON Schema")?;
    let rest = &rest[rest.find('{')?..];
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    values.next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(schema: &Value) -> Value {
        Shape::Schema(schema.clone()).instance("hi")
    }

    #[test]
    fn instances_are_as_plain_as_their_schemas_allow() {
        let cases = [
            (json!({"type": "string"}), json!("hi")),
            (json!({"type": "string", "minLength": 4}), json!("hi..")),
            (json!({"type": "string", "maxLength": 1}), json!("h")),
            (json!({"enum": ["b", "a"]}), json!("b")),
            (json!({"const": 7}), json!(7)),
            (json!({"type": "integer", "minimum": 3}), json!(3)),
            (json!({"type": "integer", "maximum": -2}), json!(-2)),
            (json!({"type": "number", "exclusiveMinimum": 2}), json!(3.0)),
            (json!({"type": "boolean"}), json!(true)),
            (json!({"type": "null"}), json!(null)),
            (json!({"type": ["integer", "null"]}), json!(1)),
            (
                json!({"type": "array", "items": {"type": "string"}, "minItems": 2}),
                json!(["hi", "text"]),
            ),
            (
                json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
                json!(1),
            ),
            (
                json!({"oneOf": [{"type": "boolean"}, {"type": "string"}]}),
                json!(true),
            ),
            (
                json!({"type": "string", "format": "date"}),
                json!("2026-01-02"),
            ),
            (
                json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}),
                json!("hi"),
            ),
        ];
        for (schema, wanted) in cases {
            assert_eq!(made(&schema), wanted, "{schema}");
            assert!(fits(&schema, &schema, &wanted, 0), "{schema}");
        }
    }

    #[test]
    fn the_text_goes_into_the_first_free_string() {
        let schema = json!({"type": "object", "additionalProperties": false,
            "required": ["kind", "rows"],
            "properties": {
                "kind": {"enum": ["x"]},
                "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}}},
            "$defs": {"row": {"type": "object", "required": ["name", "note"], "properties": {
                "name": {"type": "string"}, "note": {"type": "string"}}}}});
        let wanted = json!({"kind": "x", "rows": [{"name": "hi", "note": "text"}]});
        assert_eq!(made(&schema), wanted);
        assert!(fits(&schema, &schema, &wanted, 0));
    }

    #[test]
    fn schemas_that_contain_themselves_come_to_an_end() {
        let list = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
            "required": ["next"], "additionalProperties": false, "properties": {
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}});
        assert!(fits(&list, &list, &made(&list), 0));
        let tree = json!({"type": "object", "properties": {
            "left": {"$ref": "#"}, "right": {"$ref": "#"}, "all": {"type": "array",
                "items": {"$ref": "#"}, "minItems": 9}}});
        made(&tree);
        let endless = json!({"$ref": "#"});
        assert_eq!(made(&endless), Value::Null);
    }

    #[test]
    fn a_misfit_does_not_fit() {
        let cases = [
            (json!({"type": "object", "required": ["a"]}), "{}"),
            (json!({"type": "object"}), "[]"),
            (json!({"type": "string"}), "{}"),
            (json!({"type": ["object", "array"]}), "null"),
            (json!({}), "This is not JSON."),
        ];
        for (schema, wanted) in cases {
            assert_eq!(Shape::Schema(schema.clone()).misfit(), wanted, "{schema}");
        }
        assert_eq!(Shape::Object.misfit(), "[]");
        assert_eq!(Shape::Object.instance("hi"), json!({"echo": "hi"}));
    }

    #[test]
    fn what_breaks_a_schema_does_not_fit_it() {
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {"a": {"type": "array", "minItems": 1, "items": {"type": "integer",
                "minimum": 2}}, "b": {"anyOf": [{"const": 1}, {"type": "string", "minLength": 2}]}}});
        let good = [
            json!({"a": [2]}),
            json!({"a": [3, 2], "b": 1}),
            json!({"a": [2], "b": "xy"}),
        ];
        let bad = [
            json!({}),
            json!({"a": []}),
            json!({"a": [1]}),
            json!({"a": [2.5]}),
            json!({"a": [2], "b": "x"}),
            json!({"a": [2], "c": 1}),
            json!([]),
        ];
        assert!(good.iter().all(|value| fits(&schema, &schema, value, 0)));
        for value in bad {
            assert!(!fits(&schema, &schema, &value, 0), "{value}");
        }
    }
}
