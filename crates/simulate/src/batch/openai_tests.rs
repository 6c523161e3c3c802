//! OpenAI's files and batches, and Groq's.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::test_kit::{Kit, endless, kit, openai_file, quick};
use crate::test_client::{Client, Has, PATIENCE};
use crate::{BatchPoint, BatchStats, Vendor};

fn order(file: &str) -> Value {
    json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"})
}

fn create(kit: &mut Kit, base: &str, file: &str) -> Value {
    let mut body = order(file);
    body["metadata"] = json!({"label": "r1-p1"});
    kit.post(&format!("{base}/batches"), &body)
}

fn run(kit: &mut Kit, base: &str, prompts: &[&str]) -> Value {
    let file = kit.upload(base, "r1-p1.jsonl", &openai_file(prompts));
    let batch = create(kit, base, &file);
    kit.wait_for_end();
    kit.get(&format!("{base}/batches/{}", batch["id"].as_str().unwrap()))
}

/// The path of its output.
fn output(batch: &Value) -> String {
    let file = batch["output_file_id"].as_str().unwrap();
    format!("/v1/files/{file}/content")
}

/// The path of a batch.
fn path(batch: &Value) -> String {
    format!("/v1/batches/{}", batch["id"].as_str().unwrap())
}

fn results(kit: &mut Kit, base: &str, id: &Value) -> Vec<Value> {
    kit.lines(&format!("{base}/files/{}/content", id.as_str().unwrap()))
}

#[test]
fn calls_and_batches_count_what_is_bought_twice_together() {
    let mut kit = kit(None, quick());
    kit.client.chat("a").is(200);
    run(&mut kit, "/v1", &["a", "b"]);
    run(&mut kit, "/v1", &["b"]);
    let stats = kit.sim.stats();
    assert_eq!((stats.paid, stats.paid_twice), (4, 2));
    assert_eq!(kit.sim.batch_stats().bought_twice, 2);
}

#[test]
fn lists_are_paged_the_newest_first() {
    let mut kit = kit(None, endless());
    let file = kit.upload("/v1", "a.jsonl", &openai_file(&["a"]));
    let ids: Vec<_> = (0..5)
        .map(|_| create(&mut kit, "/v1", &file)["id"].clone())
        .collect();
    let first = kit.get("/v1/batches?limit=3");
    first.has(json!({"has_more": true, "/data/0/id": ids[4]}));
    let after = first["last_id"].as_str().unwrap();
    let second = kit.get(&format!("/v1/batches?limit=3&after={after}"));
    assert_eq!(second["has_more"], false);
    assert_eq!(second["data"].as_array().unwrap().len(), 2);
    assert_eq!(second["last_id"], ids[0]);
    for bad in ["limit=101", "limit=0", "cursor=x", "status=completed"] {
        kit.call(&format!("GET /v1/batches?{bad}"), b"").is(400);
    }
    assert_eq!(kit.malformed(), 4);
}

#[test]
fn what_openai_refuses_is_refused() {
    let mut kit = kit(None, quick());
    let good = order("file-x");
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for bad in [
        with("completion_window", "48h".into()),
        with("endpoint", "/v1/images".into()),
        with("extra", 1.into()),
        with("input_file_id", Value::Null),
    ] {
        assert_eq!(kit.refused("/v1/batches", &bad), 400, "{bad}");
    }
    assert_eq!(kit.malformed(), 4);
    assert_eq!(kit.try_upload("/v1", "a.txt", "x").status, 400);
    kit.call("GET /v1/batches/batch_x", b"").is(404);
    kit.call("GET /v1/files/file-x/content", b"").is(404);
    // A file that is not there is found out only later.
    let batch = kit.post("/v1/batches", &good);
    let batch = kit.get(&path(&batch));
    assert_eq!(batch["status"], "failed");
    assert_eq!(kit.sim.batch_stats().started, 0);
}

#[test]
fn bad_lines_fail_the_whole_batch_and_are_named() {
    let good = openai_file(&["a", "b"]);
    let other = good.replacen("\"m\"", "\"n\"", 1);
    let cases = [
        (format!("{good}nonsense\n"), 3, "invalid_json_line"),
        (good.replace("i-1", "i-0"), 2, "duplicate_custom_id"),
        (good.replacen("messages", "words", 1), 1, "invalid_request"),
        (good.replace("i-1", "i 1"), 2, "invalid_custom_id"),
        (other, 2, "mismatched_model"),
    ];
    for (content, line, code) in cases {
        let mut kit = kit(Some(Vendor::OpenAi), quick());
        let file = kit.upload("/v1", "a.jsonl", &content);
        let batch = create(&mut kit, "/v1", &file);
        batch.has(json!({"status": "failed", "/errors/data/0/line": line,
            "/errors/data/0/code": code}));
        assert_eq!(kit.malformed(), 1);
        assert_eq!(kit.sim.stats().paid, 0);
    }
}

#[test]
fn a_late_create_needs_its_file() {
    for delete in [true, false] {
        let late = Duration::from_millis(300);
        let mut kit = kit(None, quick().lost_creates(1).late_creates(late));
        let file = kit.upload("/v1", "a.jsonl", &openai_file(&["a"]));
        let body = order(&file);
        let lost = kit.try_call("POST /v1/batches", body.to_string().as_bytes());
        assert!(lost.is_err());
        assert_eq!(kit.sim.batch_stats().created, 0);
        kit.reconnect();
        if delete {
            kit.call(&format!("DELETE /v1/files/{file}"), b"");
        }
        let created = |stats: &BatchStats| stats.created == 1;
        assert_eq!(kit.sim.wait_for_batches(created, 2 * late), !delete);
    }
}

#[test]
fn downloads_break_off_or_end_short() {
    let mut kit = kit(None, quick().cut_downloads(1).short_downloads(1));
    let batch = run(&mut kit, "/v1", &["a", "b", "c"]);
    let path = output(&batch);
    let cut = kit.try_call(&format!("GET {path}"), b"");
    assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    kit.reconnect();
    assert_eq!(kit.lines(&path).len(), 2);
    assert_eq!(kit.lines(&path).len(), 3);
    assert_eq!(kit.sim.batch_stats().downloads, 3);
}

#[test]
fn result_files_can_have_too_much_and_too_little() {
    let mut kit = kit(None, quick().duplicates(2).strangers(1));
    let batch = run(&mut kit, "/v1", &["a", "b", "c"]);
    let lines = results(&mut kit, "/v1", &batch["output_file_id"]);
    let ids: HashSet<_> = lines
        .iter()
        .map(|line| line["custom_id"].as_str())
        .collect();
    assert_eq!((lines.len(), ids.len()), (6, 4));
    let mut kit = self::kit(None, quick().missing(1.0));
    let batch = run(&mut kit, "/v1", &["a", "b"]);
    batch.has(json!({"status": "completed",
        "request_counts": {"total": 2, "completed": 0, "failed": 0}, "output_file_id": null}));
    let batch = run(&mut kit, "/v1", &["a", "b"]);
    assert_eq!(batch["request_counts"]["completed"], 2);
    assert_eq!(kit.sim.stats().paid, 2);
}

#[test]
fn every_point_holds_its_request_before_or_after_the_effect() {
    use BatchPoint::*;
    for (point, effect) in [
        (CreateArrived, false),
        (CreateDone, true),
        (CancelArrived, false),
        (CancelDone, true),
        (DeleteArrived, false),
        (DeleteDone, true),
        (StatusArrived, false),
    ] {
        let mut kit = kit(None, endless());
        let file = kit.upload("/v1", "a.jsonl", &openai_file(&["a"]));
        let batch = create(&mut kit, "/v1", &file);
        let batch = path(&batch);
        let body = order(&file);
        let (line, body) = match point {
            CreateArrived | CreateDone => ("POST /v1/batches".to_owned(), body.to_string()),
            CancelArrived | CancelDone => (format!("POST {batch}/cancel"), String::new()),
            DeleteArrived | DeleteDone => (format!("DELETE /v1/files/{file}"), String::new()),
            _ => (format!("GET {batch}"), String::new()),
        };
        let seen = |stats: &BatchStats| {
            stats.created - 1 + stats.cancels + stats.files_deleted + stats.statuses
        };
        let pause = kit.sim.pause_at(point, 1);
        let mut other = Client::connect(&kit.sim);
        other.send(&line, "", body.as_bytes());
        assert!(pause.wait(PATIENCE), "{point:?}");
        assert_eq!(seen(&kit.sim.batch_stats()), u64::from(effect), "{point:?}");
        other.hang_up();
        pause.release();
        kit.wait_for(|stats| seen(stats) == 1);
    }
}
