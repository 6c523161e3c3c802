//! The OpenAPI document is true: each answer of these tests has the shape that it tells.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::common::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let document = include_str!("../../src/api/openapi/document.json");
    serde_json::from_str(document).unwrap()
});

/// What the document says at a place of it.
fn schema(place: String) -> Option<Arc<Validator>> {
    static KNOWN: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    if let Some(known) = known.get(&place) {
        return Some(known.clone());
    }
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": DOCUMENT["components"],
        "allOf": [DOCUMENT.pointer(&place)?],
    });
    let options = jsonschema::options().should_validate_formats(true);
    let made = Arc::new(options.build(&whole).unwrap());
    known.insert(place, made.clone());
    Some(made)
}

#[track_caller]
fn has_shape(value: &Value, place: String) {
    let schema = schema(place.clone()).unwrap_or_else(|| panic!("nothing at {place}"));
    let fault = schema.validate(value).map_err(|fault| fault.to_string());
    assert_eq!(fault, Ok(()), "{place}: {value}");
}

/// Asserts that this description of a process has its shape.
#[track_caller]
pub fn is_process(told: &Value) {
    has_shape(told, "/components/schemas/Process".to_owned());
}

/// Compares an answer with what the document says of its operation and status.
#[track_caller]
pub fn compare(method: &str, target: &str, answer: &Answer) {
    let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let target = parts(target.split('?').next().unwrap());
    let mut paths = DOCUMENT["paths"].as_object().unwrap().keys();
    let path = paths.find(|path| {
        let path = parts(path);
        let fits = |(known, part): (&String, &String)| known.starts_with('{') || known == part;
        path.len() == target.len() && path.iter().zip(&target).all(fits)
    });
    let Some(path) = path.filter(|path| !DOCUMENT["paths"][path][method.to_lowercase()].is_null())
    else {
        return;
    };
    let path = path.replace('~', "~0").replace('/', "~1");
    let (method, status) = (method.to_lowercase(), answer.status);
    let mut place = format!("/paths/{path}/{method}/responses/{status}");
    if DOCUMENT.pointer(&place).is_none() {
        assert!(status >= 400, "{place} is not documented");
        place = "/components/responses/Problem".to_owned();
    }
    let kind = answer.header("content-type").unwrap();
    let kind = kind.split(';').next().unwrap().replace('/', "~1");
    let place = format!("{place}/content/{kind}/schema");
    if kind.ends_with("json") {
        has_shape(&answer.json(), place);
    } else {
        has_shape(&json!(answer.text), place);
    }
}
