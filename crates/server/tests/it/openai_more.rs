//! Endpoints in OpenAI's format that are not offered.

use batchwright_simulate::SimConfig;
use serde_json::json;

use super::common::Has;
use super::openai::unlimited;

#[test]
fn an_endpoint_that_is_not_offered_says_what_is() {
    let desk = unlimited(SimConfig::default());
    for (path, what) in [
        ("/v1/completions", "use /v1/chat/completions"),
        ("/v1/responses/compact", "use /v1/chat/completions"),
        ("/v1/uploads", "use /v1/files"),
        ("/v1/assistants", "unknown request URL"),
        ("/v1/images/generations", "unknown request URL"),
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
