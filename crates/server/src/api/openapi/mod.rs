//! The OpenAPI document: requests and replies of this API. A test compares it with the routes and with real replies.

mod operation;
mod paths;
mod payloads;
mod schemas;

use serde_json::{Value, json};

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use paths::paths;
use schemas::of;

/// `GET /api/v1/openapi.json`.
pub(super) fn openapi(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let kinds: Vec<&str> = super::jobs::offered(app).collect();
    Ok(Response::json(200, &document(&kinds)))
}

/// The document of a server that carries out these kinds of jobs.
fn document(kinds: &[&str]) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "batchwright",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Jobs, processes and settings of a durable queue",
            "description": "Errors are problem details (RFC 9457). Times are RFC 3339 in UTC, durations are seconds. If the \
                            server has a token, every path except /healthz requires it as a bearer token.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "tags": [
            {"name": "jobs", "description": "One job at a time"},
            {"name": "processes", "description": "Jobs that were submitted together"},
            {"name": "settings"},
            {"name": "server"},
        ],
        "paths": paths(kinds),
        "components": {
            "schemas": schemas::all(kinds),
            "responses": {
                "Problem": {
                    "description": "The reason for the error",
                    "content": {"application/problem+json": {"schema": of("Problem")}},
                },
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
            assert!(document.pointer(place).is_some(), "{place} is not there");
            named.insert(place.to_owned());
        }
        for name in document["components"]["schemas"]
            .as_object()
            .unwrap()
            .keys()
        {
            let place = format!("/components/schemas/{name}");
            assert!(named.contains(&place), "nobody asks for {place}");
        }
    }
}
