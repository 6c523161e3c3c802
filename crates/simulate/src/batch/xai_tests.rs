//! xAI's containers.

use serde_json::{Value, json};

use super::BatchConfig;
use super::test_kit::{Kit, endless, kit, openai_file, quick};
use crate::Vendor;
use crate::test_client::Has;

fn xai(batches: BatchConfig) -> Kit {
    kit(Some(Vendor::Xai), batches)
}

fn create(kit: &mut Kit, prompts: &[&str]) -> String {
    let file = kit.upload("/v1", "a.jsonl", &openai_file(prompts));
    let body = json!({"name": "r1", "input_file_id": file});
    id(&kit.post("/v1/batches", &body))
}

fn id(batch: &Value) -> String {
    batch["batch_id"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_not_finished_counts_as_cancelled() {
    let mut kit = xai(quick().expire_first(1, 0.5));
    let batch = create(&mut kit, &["a", "b"]);
    kit.wait_for_end();
    let seen = kit.get(&format!("/v1/batches/{batch}"));
    seen.has(json!({"state": {"num_requests": 2, "num_success": 1, "num_cancelled": 1}}));
    let mut kit = xai(endless());
    let batch = create(&mut kit, &["a", "b"]);
    let seen = kit.get(&format!("/v1/batches/{batch}"));
    assert_eq!(seen["state"], json!({"num_requests": 2, "num_pending": 2}));
}

#[test]
fn lists_give_tokens() {
    let mut kit = xai(endless());
    let ids: Vec<_> = (0..3).map(|_| create(&mut kit, &["a"])).collect();
    let first = kit.get("/v1/batches?limit=2");
    let token = first["pagination_token"].as_str().unwrap();
    let second = kit.get(&format!("/v1/batches?limit=2&pagination_token={token}"));
    assert_eq!(id(&second["batches"][0]), ids[0]);
    assert_eq!(second["pagination_token"], Value::Null);
    kit.call("GET /v1/batches?after=x", b"").is(400);
    for (body, status) in [
        (json!({"name": "x", "metadata": {}}), 400),
        (json!({"name": "x", "input_file_id": "no"}), 404),
    ] {
        assert_eq!(kit.refused("/v1/batches", &body), status);
    }
    assert_eq!(kit.malformed(), 2);
}
