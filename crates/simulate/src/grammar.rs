//! Anthropic's rules for the schemas of structured output, according to its documentation and its error messages.

use serde_json::{Map, Value};

const ANYWHERE: [&str; 8] = [
    "type",
    "title",
    "description",
    "default",
    "enum",
    "const",
    "$defs",
    "definitions",
];

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

/// Returns the first violation.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let mut seen = Seen {
        root: schema,
        within: Vec::new(),
        optional: 0,
        unions: 0,
    };
    seen.check(schema)?;
    for (count, most, what) in [
        (seen.optional, 24, "optional parameters"),
        (seen.unions, 16, "parameters with union types"),
    ] {
        if count > most {
            return Err(format!(
                "Schemas contains too many {what} ({count}, limit: {most})"
            ));
        }
    }
    Ok(())
}

struct Seen<'v> {
    root: &'v Value,
    /// Definitions that are being checked, each inside the one before.
    within: Vec<&'v str>,
    optional: usize,
    unions: usize,
}

impl<'v> Seen<'v> {
    fn check(&mut self, schema: &'v Value) -> Result<(), String> {
        let Value::Object(fields) = schema else {
            return Err(format!("Schema must be an object, found {schema}"));
        };
        if let Some(target) = fields.get("$ref") {
            return self.follow(target);
        }
        if let Some(choices) = fields.get("anyOf") {
            self.unions += 1;
            let choices = choices.as_array().into_iter().flatten();
            choices
                .into_iter()
                .try_for_each(|choice| self.check(choice))?;
            return only(fields, "anyOf", &["anyOf"]);
        }
        let complex = |value: &Value| value.is_object() || value.is_array();
        let values = fields.get("enum").and_then(Value::as_array);
        if values.is_some_and(|values| values.iter().any(complex)) {
            return Err("Enum values must be of simple types".to_owned());
        }
        match fields.get("type") {
            Some(Value::String(kind)) => self.typed(kind, fields),
            Some(Value::Array(kinds)) => {
                self.unions += 1;
                let mut kinds = kinds.iter().filter_map(Value::as_str);
                kinds.try_for_each(|kind| self.typed(kind, fields))
            }
            _ if fields.contains_key("enum") || fields.contains_key("const") => {
                only(fields, "enum", &[])
            }
            _ => Err("Schema must have a 'type', 'enum', 'anyOf' or '$ref'".to_owned()),
        }
    }

    fn typed(&mut self, kind: &str, fields: &'v Map<String, Value>) -> Result<(), String> {
        match kind {
            "object" => {
                only(
                    fields,
                    kind,
                    &["properties", "required", "additionalProperties"],
                )?;
                if fields.get("additionalProperties") != Some(&Value::Bool(false)) {
                    return Err(format!(
                        "For '{kind}' type, 'additionalProperties' must be explicitly set to false"
                    ));
                }
                let properties = fields.get("properties").and_then(Value::as_object);
                let required = fields.get("required").and_then(Value::as_array);
                for (name, inner) in properties.into_iter().flatten() {
                    let named = required.is_some_and(|names| names.iter().any(|n| n == name));
                    self.optional += usize::from(!named);
                    self.check(inner)?;
                }
                Ok(())
            }
            "array" => {
                only(fields, kind, &["items", "minItems"])?;
                let least = fields.get("minItems").and_then(Value::as_u64);
                if least.is_some_and(|least| least > 1) {
                    return Err(format!(
                        "For '{kind}' type, 'minItems' values other than 0 or 1 are not supported"
                    ));
                }
                fields
                    .get("items")
                    .map_or(Ok(()), |items| self.check(items))
            }
            "string" => {
                only(fields, kind, &["format", "pattern"])?;
                match fields.get("format").and_then(Value::as_str) {
                    Some(format) if !FORMATS.contains(&format) => {
                        Err(format!("String format '{format}' is not supported"))
                    }
                    _ => Ok(()),
                }
            }
            _ => only(fields, kind, &[]),
        }
    }

    fn follow(&mut self, target: &'v Value) -> Result<(), String> {
        let target = target.as_str().unwrap_or_default();
        let local = target.starts_with("#/$defs/") || target.starts_with("#/definitions/");
        let found = target.get(1..).and_then(|path| self.root.pointer(path));
        let Some(definition) = found.filter(|_| local) else {
            return Err(format!("Reference '{target}' cannot be resolved"));
        };
        if self.within.contains(&target) {
            return Err(format!("Circular reference detected: {target}"));
        }
        self.within.push(target);
        self.check(definition)?;
        self.within.pop();
        Ok(())
    }
}

fn only(fields: &Map<String, Value>, kind: &str, known: &[&str]) -> Result<(), String> {
    let is_known = |name: &&String| ANYWHERE.iter().chain(known).any(|known| known == name);
    match fields.keys().find(|name| !is_known(name)) {
        Some(name) => Err(format!(
            "For '{kind}' type, property '{name}' is not supported"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn closed(inner: Value) -> Value {
        json!({"type": "object", "properties": {"a": inner}, "required": ["a"],
            "additionalProperties": false, "$defs": {"d": {"type": "null"}}})
    }

    #[test]
    fn what_the_api_takes_is_taken() {
        for inner in [
            json!({"type": "string", "format": "date", "description": "x"}),
            json!({"type": ["string", "null"]}),
            json!({"type": "array", "minItems": 1, "items": {"enum": ["x", 1]}}),
            json!({"anyOf": [{"$ref": "#/$defs/d"}, {"const": 1}]}),
            closed(json!({"type": "number"})),
        ] {
            assert_eq!(check(&closed(inner.clone())), Ok(()), "{inner}");
        }
    }

    /// The schema of a property, and the error for it.
    const REFUSED: &str = r#"
{"type": "integer", "minimum": 1} => For 'integer' type, property 'minimum' is not supported
{"type": "string", "minLength": 1} => For 'string' type, property 'minLength' is not supported
{"type": "string", "format": "phone"} => String format 'phone' is not
{"type": "array", "minItems": 2} => For 'array' type, 'minItems' values
{"enum": [{}]} => Enum values must be of simple types
{"oneOf": []} => Schema must have a 'type'
{"$ref": "x.json"} => Reference 'x.json' cannot be resolved
true => Schema must be an object, found true
"#;

    #[test]
    fn what_the_api_refuses_is_refused_with_a_reason() {
        let mut circle = closed(json!({"$ref": "#/$defs/d"}));
        circle["$defs"]["d"] = closed(json!({"$ref": "#/$defs/d"}));
        let mut open = closed(json!({"type": "null"}));
        open["additionalProperties"] = true.into();
        let mut loose = closed(json!({"type": "null"}));
        for n in 0..25 {
            loose["properties"][n.to_string()] = json!({"type": "null"});
        }
        let within = REFUSED.trim().lines().map(|row| {
            let (inner, wanted) = row.split_once(" => ").unwrap();
            (closed(serde_json::from_str(inner).unwrap()), wanted)
        });
        let whole = [
            (
                open,
                "For 'object' type, 'additionalProperties' must be explicitly set to false",
            ),
            (circle, "Circular reference detected: #/$defs/d"),
            (
                loose,
                "Schemas contains too many optional parameters (25, limit: 24)",
            ),
        ];
        for (schema, wanted) in within.chain(whole) {
            let said = check(&schema).unwrap_err();
            assert!(said.starts_with(wanted), "{said}");
        }
    }
}
