//! The OpenAPI document: requests and replies of this API. A test compares it with the routes and with real replies.

use std::sync::LazyLock;

use serde_json::Value;

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// The document of a server with the built-in types of jobs; `$VERSION` stands for the version.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("document.json").replace("$VERSION", env!("CARGO_PKG_VERSION"));
    serde_json::from_str(&text).expect("the document is valid JSON")
});

/// `GET /api/v1/openapi.json`.
pub(super) fn openapi(_: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    Ok(Response::json(200, &*DOCUMENT))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use batchwright::config::SettingKey;
    use batchwright_jobs::JobTypes;
    use serde_json::json;

    use super::*;
    use crate::api::lines::LONGEST_NAME;
    use crate::api::results::MOST_LINES;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = &*DOCUMENT;
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

    #[test]
    fn the_document_has_every_setting_and_type_of_jobs() {
        let names_of = |schema: &str| &DOCUMENT["components"]["schemas"][schema]["enum"];
        let settings: Vec<&str> = SettingKey::all().iter().map(SettingKey::name).collect();
        assert_eq!(names_of("SettingKey"), &json!(settings));
        let built_in = JobTypes::new().all();
        let types: Vec<&str> = built_in.iter().map(|one| one.name()).collect();
        assert_eq!(names_of("JobType"), &json!(types));
    }

    #[test]
    fn every_name_leads_somewhere_and_examples_are_valid() {
        let document = &*DOCUMENT;
        for part in document.to_string().split("\"$ref\":\"#").skip(1) {
            let place = part.split('"').next().unwrap();
            assert!(document.pointer(place).is_some(), "{place} is missing");
        }
        let mut examples = 0;
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            let whole = json!({"components": document["components"], "allOf": [schema]});
            let options = jsonschema::options().should_validate_formats(true);
            let validator = options.build(&whole).unwrap();
            for example in schema["examples"].as_array().into_iter().flatten() {
                let fault = validator
                    .validate(example)
                    .map_err(|fault| fault.to_string());
                assert_eq!(fault, Ok(()), "{name}: {example}");
                examples += 1;
            }
        }
        assert!(examples >= 5, "{examples}");
    }

    #[test]
    fn the_document_names_the_limits_that_handlers_check() {
        let document = &*DOCUMENT;
        let name = "/components/schemas/NewCompletionJob/properties/item_id/anyOf/0/maxLength";
        assert_eq!(document.pointer(name), Some(&json!(LONGEST_NAME)));
        let name = "/paths/~1api~1v1~1processes/post/parameters/1/schema/maxLength";
        assert_eq!(document.pointer(name), Some(&json!(LONGEST_NAME)));
        let lines =
            "/paths/~1api~1v1~1processes~1{process_id}~1results/get/parameters/2/schema/maximum";
        assert_eq!(document.pointer(lines), Some(&json!(MOST_LINES)));
    }
}
