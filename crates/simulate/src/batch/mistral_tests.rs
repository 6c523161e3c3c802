//! Mistral's batch jobs.

use std::time::Duration;

use serde_json::{Value, json};

use super::BatchConfig;
use super::test_kit::{Kit, endless, file, kit, quick};
use crate::Vendor;
use crate::test_client::Has;

fn lines(prompts: &[&str]) -> String {
    file(prompts, |nth, prompt| {
        let body = json!({"messages": [{"role": "user", "content": prompt}]});
        json!({"custom_id": format!("i-{nth}"), "body": body})
    })
}

fn mistral(batches: BatchConfig) -> Kit {
    kit(Some(Vendor::Mistral), batches)
}

fn job(file: &str) -> Value {
    json!({"endpoint": "/v1/chat/completions", "model": "m", "input_files": [file],
        "metadata": {"label": "r1"}, "timeout_hours": 24})
}

fn create(kit: &mut Kit, content: &str) -> Value {
    let file = kit.upload("/v1", "a.jsonl", content);
    kit.post("/v1/batch/jobs", &job(&file))
}

fn get(kit: &mut Kit, job: &Value) -> Value {
    kit.get(&format!("/v1/batch/jobs/{}", job["id"].as_str().unwrap()))
}

#[test]
fn jobs_are_listed_by_page_and_filter() {
    let mut kit = mistral(endless());
    let jobs: Vec<_> = (0..3).map(|_| create(&mut kit, &lines(&["a"]))).collect();
    let first = kit.get("/v1/batch/jobs?page=0&page_size=2&created_after=2020-01-01T00:00:00Z");
    first.has(json!({"total": 3, "/data/0/id": jobs[2]["id"]}));
    let second = kit.get("/v1/batch/jobs?page=1&page_size=2&order_by=-created");
    assert_eq!(second["data"][0]["id"], jobs[0]["id"]);
    let none = kit.get("/v1/batch/jobs?status=SUCCESS&status=FAILED");
    assert_eq!(none["total"], 0);
    let later = kit.get("/v1/batch/jobs?created_after=2999-01-01T00%3A00%3A00Z");
    assert_eq!(later["data"], json!([]));
    kit.call("GET /v1/batch/jobs?after=x", b"").is(422);
}

#[test]
fn jobs_are_cancelled_and_time_out() {
    let mut kit = mistral(quick().duration(Duration::from_millis(2_000)));
    let prompts = ["a"; 50];
    let job = create(&mut kit, &lines(&prompts));
    kit.wait_for(|stats| stats.items_finished > 0);
    let path = format!("/v1/batch/jobs/{}/cancel", job["id"].as_str().unwrap());
    let cancelled = kit.post(&path, &Value::Null);
    assert_eq!(cancelled["status"], "CANCELLATION_REQUESTED");
    kit.wait_for_end();
    let job = get(&mut kit, &job);
    assert_eq!(job["status"], "CANCELLED");
    assert!(job["output_file"].is_string());

    let mut kit = mistral(quick().expire_first(1, 0.5));
    let job = create(&mut kit, &lines(&["a", "b"]));
    kit.wait_for_end();
    let job = get(&mut kit, &job);
    job.has(json!({"status": "TIMEOUT_EXCEEDED", "succeeded_requests": 1}));
}

#[test]
fn what_mistral_refuses_is_refused() {
    let mut kit = mistral(quick());
    let file = kit.upload("/v1", "a.jsonl", &lines(&["a"]));
    for (name, value) in [
        ("timeout_hours", json!(168)),
        ("completion_window", json!("24h")),
        ("metadata", json!({"x".repeat(33): "a"})),
        ("model", Value::Null),
    ] {
        let mut body = job(&file);
        body[name] = value;
        assert_eq!(kit.refused("/v1/batch/jobs", &body), 422, "{name}");
    }
    assert_eq!(kit.malformed(), 4);
    assert_eq!(kit.refused("/v1/batch/jobs", &job("nowhere")), 404);
    // OpenAI's lines are not Mistral's.
    let openai = super::test_kit::openai_file(&["a"]);
    let job = create(&mut kit, &openai);
    assert_eq!(job["status"], "FAILED");
}
