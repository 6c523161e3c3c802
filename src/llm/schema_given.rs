//! What people give as a JSON Schema: a schema, one in the wrapping that APIs want around it, or by
//! mistake an example of an answer, which as a schema lets everything pass.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::schema::KEYWORDS;

/// A schema out of its wrapping.
pub(crate) struct Given {
    pub name: Option<String>,
    pub strict: Option<bool>,
    pub schema: Map<String, Value>,
}

const UNRESTRICTED: &str = "it does not restrict an answer";

/// The schema in `given`, which may be wrapped as OpenAI's APIs and Anthropic's have it.
///
/// # Errors
/// When it is no object, is wrapped in a wrong way, or restricts nothing.
pub(crate) fn read(given: Value) -> Result<Given, String> {
    let Value::Object(fields) = given else {
        return Err("a JSON Schema is an object".to_owned());
    };
    let given = if is_wrapping(&fields) {
        unwrapped(fields)?
    } else {
        Given {
            name: None,
            strict: None,
            schema: fields,
        }
    };
    if is_example(&given.schema) {
        return Err(format!("{UNRESTRICTED}; is it an example of one?"));
    }
    if is_demanding(&given.schema) {
        Ok(given)
    } else {
        Err(UNRESTRICTED.to_owned())
    }
}

/// Whether it restricts nothing, and has fields that no schema has.
pub(crate) fn is_example(schema: &Map<String, Value>) -> bool {
    let of_schemas = |name: &String| name.starts_with('$') || KEYWORDS.notes.contains(name);
    !is_demanding(schema) && !schema.keys().all(of_schemas)
}

/// Whether the name is one that providers take.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=super::schema::NAME_LEN).contains(&name.len()) && name.bytes().all(allowed)
}

fn is_demanding(schema: &Map<String, Value>) -> bool {
    schema.keys().any(|name| KEYWORDS.demands.contains(name))
}

/// No schema has that type, and one that is but a name and a schema restricts nothing.
fn is_wrapping(fields: &Map<String, Value>) -> bool {
    let named = || fields.get("schema").is_some_and(Value::is_object) && !is_demanding(fields);
    fields.get("type").is_some_and(|kind| kind == "json_schema") || named()
}

/// A schema in the wrapping of an API.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Wrapping {
    name: Option<String>,
    strict: Option<bool>,
    description: Option<String>,
    schema: Map<String, Value>,
}

fn unwrapped(mut fields: Map<String, Value>) -> Result<Given, String> {
    fields.remove("type");
    let inner = fields.remove("json_schema").unwrap_or(fields.into());
    let wrapping: Result<Wrapping, _> = serde_json::from_value(inner);
    let Wrapping {
        name,
        strict,
        description,
        mut schema,
    } = wrapping.map_err(|error| format!("in its wrapping: {error}"))?;
    if name.as_ref().is_some_and(|name| !is_name(name)) {
        return Err("its \"name\" is not of at most 64 letters, digits, _ and -".to_owned());
    }
    // Not every dialect has a place beside the schema for what it describes; inside it all have.
    if let Some(text) = description {
        schema.entry("description").or_insert(text.into());
    }
    Ok(Given {
        name,
        strict,
        schema,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_unwrapped_and_keeps_its_name_and_strictness() {
        let schema = json!({"type": "object", "properties": {"schema": {"type": "string"}}});
        let inner = json!({"name": "row", "strict": true, "schema": schema});
        let mut flat = inner.clone();
        flat["type"] = "json_schema".into();
        let whole = json!({"type": "json_schema", "json_schema": inner});
        for given in [inner, flat, whole] {
            let read = read(given).ok().unwrap();
            assert_eq!(Value::from(read.schema), schema);
            assert_eq!(
                (read.name.as_deref(), read.strict),
                (Some("row"), Some(true))
            );
        }
        for given in [
            schema.clone(),
            json!({"type": "json_schema", "schema": schema}),
        ] {
            let read = read(given).ok().unwrap();
            assert_eq!(Value::from(read.schema), schema);
            assert_eq!((read.name, read.strict), (None, None));
        }
        let described = json!({"name": "row", "description": "a row", "schema": schema});
        let read = read(described).ok().unwrap();
        assert_eq!(read.schema["description"], "a row");
    }

    #[test]
    fn schemas_without_a_restriction_are_rejected() {
        let cases = include_str!("schema_given_cases.json");
        let cases: Vec<(Value, String)> = serde_json::from_str(cases).unwrap();
        for (given, expected) in cases {
            assert_eq!(read(given).err(), Some(expected));
        }
    }
}
