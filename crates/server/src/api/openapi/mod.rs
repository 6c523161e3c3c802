//! The OpenAPI document: requests and replies of this API. A test compares it with the routes and with real replies.

use batchwright::config::SettingKey;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// The document, with placeholders for the version (`$VERSION`), the names of the settings (`$SETTINGS`) and the types of
/// jobs (`$JOB_TYPES`). The only schema in `NewJob` is the template for each type of jobs.
const DOCUMENT: &str = include_str!("document.json");
/// The schemas of payloads by type of jobs; `*` is for types whose payloads only their handler validates.
const PAYLOADS: &str = include_str!("payloads.json");

/// `GET /api/v1/openapi.json`.
pub(super) fn openapi(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let types: Vec<&str> = super::types::offered(app).collect();
    Ok(Response::json(200, &document(&types)))
}

/// The document of a server with these types of jobs.
fn document(types: &[&str]) -> Value {
    let settings: Vec<&str> = SettingKey::all().iter().map(SettingKey::name).collect();
    let text = DOCUMENT
        .replace("$VERSION", env!("CARGO_PKG_VERSION"))
        .replace("\"$SETTINGS\"", &json!(settings).to_string())
        .replace("\"$JOB_TYPES\"", &json!(types).to_string());
    let mut document: Value = serde_json::from_str(&text).expect("the document is valid JSON");
    let payloads: Map<String, Value> =
        serde_json::from_str(PAYLOADS).expect("the schemas of payloads are valid JSON");
    let schemas = &mut document["components"]["schemas"];
    let template = schemas["NewJob"]["oneOf"][0].take();
    let mut new_jobs = Vec::new();
    for kind in types {
        let name = name_of(kind, schemas);
        let payload = payloads.get(*kind).unwrap_or(&payloads["*"]).clone();
        let example = payload["examples"][0].clone();
        let mut schema = template.clone();
        schema["properties"]["type"]["const"] = json!(kind);
        schema["properties"]["payload"] = reference(&format!("{name}Payload"));
        if !example.is_null() {
            schema["examples"] = json!([{"type": kind, "payload": example}]);
        }
        schemas[format!("{name}Payload")] = payload;
        schemas[format!("New{name}Job")] = schema;
        new_jobs.push(reference(&format!("New{name}Job")));
    }
    schemas["NewJob"]["oneOf"] = Value::Array(new_jobs);
    document
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// The name of a type of jobs in names of schemas, which generated clients use for their types: `ExtractContent` for
/// `extract_content`. A host's own types may need a number to differ.
fn name_of(kind: &str, schemas: &Value) -> String {
    let words = kind.split(|c: char| !c.is_ascii_alphanumeric());
    let name: String = words
        .filter_map(|word| word.get(..1).zip(word.get(1..)))
        .map(|(first, rest)| first.to_ascii_uppercase() + rest)
        .collect();
    let is_taken = |name: &String| {
        let names = [format!("New{name}Job"), format!("{name}Payload")];
        names.iter().any(|name| schemas.get(name).is_some())
    };
    let numbered = (2..).map(|number| format!("{name}{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !is_taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::results::MOST_LINES;
    use crate::api::types::LONGEST_NAME;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document(&["completion"]);
        let documented: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        let routes: BTreeSet<String> = super::super::ROUTES
            .iter()
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        assert_eq!(documented, routes);
    }

    const TYPES: [&str; 4] = ["completion", "embedding", "summarize", "extract_content"];

    #[test]
    fn types_of_jobs_have_names_of_their_own() {
        let document = document(&["extract_content", "a-b", "a_b", "\u{e9}", "job"]);
        let schemas = &document["components"]["schemas"];
        let kind = |name: &str| schemas[name]["properties"]["type"]["const"].clone();
        assert_eq!(kind("NewExtractContentJob"), "extract_content");
        assert_eq!(
            (kind("NewABJob"), kind("NewAB2Job")),
            (json!("a-b"), json!("a_b"))
        );
        // `NewJob` is the schema of all.
        assert_eq!(kind("New2Job"), "\u{e9}");
        // `JobPayload` is that of any job.
        assert_eq!(kind("NewJob2Job"), "job");
        let all = schemas["NewJob"]["oneOf"].as_array().unwrap();
        assert_eq!(all.len(), 5);
    }

    /// Generators name an object without a name after its place, which changes.
    #[test]
    fn every_object_with_fields_has_a_name() {
        fn look(value: &Value, place: &str) {
            let is_named = place.matches('/').count() == 3 && place.starts_with("/components/");
            let has_fields = value["properties"].is_object() && value["type"] == "object";
            assert!(is_named || !has_fields, "{place}");
            let is_enum = value["enum"].as_array().is_some_and(|all| all.len() > 1);
            assert!(is_named || !is_enum, "{place}");
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields.iter().filter(|(name, _)| *name != "examples") {
                        look(value, &format!("{place}/{}", name.replace('/', "~1")));
                    }
                }
                Value::Array(values) => {
                    for (at, value) in values.iter().enumerate() {
                        look(value, &format!("{place}/{at}"));
                    }
                }
                _ => {}
            }
        }
        look(&document(&TYPES), "");
    }

    #[test]
    fn examples_are_valid() {
        let document = document(&TYPES);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for (name, schema) in schemas.iter() {
            let whole = json!({"components": document["components"], "allOf": [schema]});
            let validator = jsonschema::options()
                .should_validate_formats(true)
                .build(&whole)
                .unwrap();
            for example in schema["examples"].as_array().into_iter().flatten() {
                let faults: Vec<String> = validator
                    .iter_errors(example)
                    .map(|fault| format!("{}: {fault}", fault.instance_path()))
                    .collect();
                assert!(faults.is_empty(), "{name}: {faults:?}");
            }
        }
        for name in [
            "Job",
            "Process",
            "ResultLine",
            "Problem",
            "NewCompletionJob",
        ] {
            assert!(schemas[name]["examples"][0].is_object(), "{name}");
        }
    }

    #[test]
    fn every_name_in_the_document_leads_somewhere() {
        let document = document(&TYPES);
        let text = document.to_string();
        let mut named = BTreeSet::new();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let place = part.split('"').next().unwrap();
            assert!(document.pointer(place).is_some(), "{place} is missing");
            named.insert(place.to_owned());
        }
        for name in document["components"]["schemas"]
            .as_object()
            .unwrap()
            .keys()
        {
            let place = format!("/components/schemas/{name}");
            assert!(named.contains(&place), "nothing refers to {place}");
        }
    }

    #[test]
    fn the_document_names_the_limits_that_handlers_check() {
        let document = document(&["completion"]);
        let name = "/components/schemas/NewCompletionJob/properties/item_id/anyOf/0/maxLength";
        assert_eq!(document.pointer(name), Some(&json!(LONGEST_NAME)));
        let name = "/paths/~1api~1v1~1processes/post/parameters/1/schema/maxLength";
        assert_eq!(document.pointer(name), Some(&json!(LONGEST_NAME)));
        let lines =
            "/paths/~1api~1v1~1processes~1{process_id}~1results/get/parameters/2/schema/maximum";
        assert_eq!(document.pointer(lines), Some(&json!(MOST_LINES)));
    }
}
