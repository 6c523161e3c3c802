//! Batches of xAI against scripted replies.

use serde_json::json;

use crate::base::Context;
use crate::llm::batch::BatchClient;
use crate::llm::providers::batch::scripted::{line, says, scripted};

#[test]
fn results_are_paged_into_lines() {
    let result = |key: &str| json!({"batch_request_id": key, "batch_result": {"response": {}}});
    let pages = [
        says(
            200,
            json!({"results": [result("a"), result("b")], "pagination_token": "t"}),
        ),
        says(
            200,
            json!({"results": [result("c")], "pagination_token": ""}),
        ),
    ];
    let (api, script) = scripted("xai", pages);
    let mut sink = Vec::new();
    api.download("b-1", "results", &mut sink, &Context::new())
        .unwrap();
    let lines = String::from_utf8(sink).unwrap();
    let keys: Vec<String> = lines.lines().map(|text| line("xai", text).key).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert!(lines.ends_with('\n'));
    let path = "GET /batches/b-1/results?limit=100";
    assert_eq!(
        script.calls(),
        [path.to_owned(), format!("{path}&pagination_token=t")]
    );
}
