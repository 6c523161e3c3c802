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
    let mut document = document(&types);
    if let Some(url) = &app.guard.public_url {
        document["servers"][0]["url"] = json!(url.to_string());
    }
    Ok(Response::json(200, &document))
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
    let new_job = &mut document["components"]["schemas"]["NewJob"]["oneOf"];
    let template = new_job[0].take();
    *new_job = types
        .iter()
        .map(|name| {
            let mut schema = template.clone();
            schema["title"] = json!(name);
            schema["properties"]["type"]["const"] = json!(name);
            schema["properties"]["payload"] = payloads.get(*name).unwrap_or(&payloads["*"]).clone();
            schema
        })
        .collect();
    document
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
        let routes = super::super::ROUTES.iter().chain(crate::webhooks::ROUTES);
        let routes: BTreeSet<String> = routes
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        assert_eq!(documented, routes);
    }

    #[test]
    fn every_name_in_the_document_leads_somewhere() {
        let document = document(&["completion"]);
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
        let name = "/components/schemas/NewJob/oneOf/0/properties/item_id/anyOf/0/maxLength";
        assert_eq!(document.pointer(name), Some(&json!(LONGEST_NAME)));
        let name = "/paths/~1api~1v1~1processes/post/parameters/1/schema/maxLength";
        assert_eq!(document.pointer(name), Some(&json!(LONGEST_NAME)));
        let lines =
            "/paths/~1api~1v1~1processes~1{process_id}~1results/get/parameters/3/schema/maximum";
        assert_eq!(document.pointer(lines), Some(&json!(MOST_LINES)));
    }
}
