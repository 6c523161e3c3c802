//! `response_format`: which forms there are, and what OpenAI demands of a strict schema.

use serde_json::Value;

use crate::Vendor;
use crate::objects;
use crate::prompt::Fault;
use crate::shape::Shape;
use crate::tree::Object;

const AT: &str = "response_format";

/// Reads the requested format.
pub(super) fn read(root: &Object<'_>, vendor: Option<Vendor>) -> Result<Option<Shape>, Fault> {
    let Some(format) = root.object(AT)? else {
        return Ok(None);
    };
    let rule = match vendor {
        None => "format_any",
        Some(Vendor::Local) => "format_local",
        Some(Vendor::DeepSeek) => "format_deepseek",
        Some(_) => "format",
    };
    objects::check(&format, "openai", rule)?;
    match format.text("type")?.unwrap_or_default() {
        "text" => Ok(None),
        "json_object" => {
            let schema = format.get("schema").cloned().or_else(|| told(root));
            Ok(Some(schema.map_or(Shape::Object, Shape::Schema)))
        }
        _ => schema(&format, vendor).map(Some),
    }
}

fn schema(format: &Object<'_>, vendor: Option<Vendor>) -> Result<Shape, Fault> {
    let wanted = format.object("json_schema")?;
    let wanted = wanted.ok_or_else(|| format.missing("json_schema"))?;
    let schema = wanted.get("schema").unwrap_or(&Value::Null);
    if wanted.flag("strict")? == Some(true)
        && matches!(vendor, Some(Vendor::OpenAi | Vendor::Azure))
    {
        let invalid = |problem: String| Fault::invalid(AT, format!("Invalid schema: {problem}"));
        if schema.get("type").and_then(Value::as_str) != Some("object") {
            return Err(invalid("the root must be of type 'object'.".to_owned()));
        }
        strict(schema).map_err(invalid)?;
    }
    Ok(Shape::Schema(schema.clone()))
}

/// Every object must require all of its properties and allow no others.
pub(super) fn strict(schema: &Value) -> Result<(), String> {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let required = schema.get("required").and_then(Value::as_array);
        let is_required = |name: &String| {
            required.is_some_and(|names| names.iter().any(|other| other.as_str() == Some(name)))
        };
        if let Some(name) = properties.keys().find(|name| !is_required(name)) {
            return Err(format!(
                "'required' must be an array of every key in properties. Missing '{name}'."
            ));
        }
    }
    let object = schema.get("type").is_some_and(|kind| match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| kind == "object"),
        kind => kind == "object",
    });
    if object && schema.get("additionalProperties") != Some(&Value::Bool(false)) {
        return Err("'additionalProperties' must be false in every object.".to_owned());
    }
    for name in ["properties", "$defs", "definitions"] {
        let inner = schema.get(name).and_then(Value::as_object);
        inner
            .into_iter()
            .flat_map(|map| map.values())
            .try_for_each(strict)?;
    }
    let choices = schema.get("anyOf").and_then(Value::as_array);
    let inner = choices.into_iter().flatten().chain(schema.get("items"));
    inner.into_iter().try_for_each(strict)
}

/// A schema that a message contains as text, which the simulated model follows too.
fn told(root: &Object<'_>) -> Option<Value> {
    let mut messages = root.get("messages")?.as_array()?.iter();
    messages.find_map(|message| crate::shape::schema_told(message["content"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Spelling;
    use serde_json::json;

    fn ask(format: &Value, text: &str, vendor: Option<Vendor>) -> Result<Option<Shape>, Fault> {
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"messages": messages, "response_format": format});
        read(&Object::new(&body, "", Spelling::Exact).unwrap(), vendor)
    }

    fn named(name: &str, strict: bool, schema: &Value) -> Value {
        json!({"type": "json_schema",
            "json_schema": {"name": name, "strict": strict, "schema": schema}})
    }

    #[test]
    fn formats_become_shapes() {
        let schema = json!({"type": "array"});
        let cases = [
            (json!({"type": "text"}), None),
            (json!({"type": "json_object"}), Some(Shape::Object)),
            (
                named("row", false, &schema),
                Some(Shape::Schema(schema.clone())),
            ),
            (
                json!({"type": "json_object", "schema": {"type": "array"}}),
                Some(Shape::Schema(schema.clone())),
            ),
        ];
        for (format, shape) in cases {
            assert_eq!(ask(&format, "x", None), Ok(shape), "{format}");
        }
    }

    #[test]
    fn bad_formats_are_refused_where_they_are_bad() {
        let cases = [
            (json!({"type": "xml"}), "response_format.type"),
            (json!({}), "response_format.type"),
            (json!({"type": "text", "x": 1}), "response_format.x"),
            (
                json!({"type": "json_schema"}),
                "response_format.json_schema",
            ),
            (
                json!({"type": "json_schema", "json_schema": {"schema": {}}}),
                "response_format.json_schema.name",
            ),
            (
                named("a", true, &json!(1)),
                "response_format.json_schema.schema",
            ),
        ];
        for (format, at) in cases {
            assert_eq!(ask(&format, "x", None).unwrap_err().at(), at, "{format}");
        }
    }

    #[test]
    fn openai_wants_strict_schemas_closed_at_every_level() {
        let closed = |inner: Value| {
            json!({"type": "object", "properties": {"a": inner}, "required": ["a"],
                "additionalProperties": false})
        };
        let good = [
            closed(json!({"type": "string"})),
            closed(json!({"type": "array", "items": closed(json!({"type": "null"}))})),
        ];
        let open = json!({"type": "object", "properties": {}});
        let bad = [
            json!({"type": "string"}),
            open.clone(),
            json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false}),
            closed(open.clone()),
            closed(json!({"anyOf": [open, {"type": "null"}]})),
        ];
        let openai = Some(Vendor::OpenAi);
        for schema in good {
            assert!(
                ask(&named("s", true, &schema), "x", openai).is_ok(),
                "{schema}"
            );
        }
        for schema in bad {
            let fault = ask(&named("s", true, &schema), "x", openai).unwrap_err();
            assert_eq!(fault.at(), "response_format", "{schema}");
            assert!(ask(&named("s", false, &schema), "x", openai).is_ok());
            assert!(ask(&named("s", true, &schema), "x", None).is_ok());
        }
    }
}
