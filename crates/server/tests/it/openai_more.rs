//! Endpoints in OpenAI's format that are not offered.

use batchwright_simulate::SimConfig;
use serde_json::json;

use super::common::Has;
use super::openai::unlimited;

#[test]
fn an_endpoint_that_is_not_offered_says_what_is() {
    let desk = unlimited(SimConfig::default());
    for (path, what) in [
        ("/v1/assistants", "the Assistants API"),
        ("/v1/completions", "older completions"),
        ("/v1/fine_tuning/jobs", "fine-tuning"),
        ("/v1/images/generations", "images"),
        ("/v1/moderations", "moderations"),
        ("/v1/responses", "the Responses API"),
        ("/v1/responses/compact", "the Responses API"),
        ("/v1/uploads", "uploads in parts; use /v1/files"),
        ("/v1/unknown", "unknown request URL"),
    ] {
        // Not 501: clients would repeat the request.
        let refused = desk.post(path, &json!({})).is(404).json();
        refused["error"].has(json!({"type": "invalid_request_error", "code": "unknown_url"}));
        let why = refused["error"]["message"].as_str().unwrap();
        assert!(
            why.contains(what) && why.contains("chat/completions"),
            "{why}"
        );
    }
}
