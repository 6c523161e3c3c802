//! A batch of `/v1` owns the results of its process in the queue.

use std::thread;
use std::time::{Duration, Instant};

use batchwright::config::ConfigStore;
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, PATIENCE};
use super::openai::{CHAT, content, create, lines, uploaded, wait_for};

/// A server that makes one call per minute.
fn slow() -> Desk {
    Desk::prepared(SimConfig::default(), |store| {
        store.set("llm.requests_per_minute", "1").unwrap();
        store.set("llm.burst_size", "1").unwrap();
    })
}

/// The path of the newest process.
fn newest(desk: &Desk) -> String {
    let all = desk.read("/api/v1/processes");
    let id = all["data"][0]["process_id"].as_str().unwrap();
    format!("/api/v1/processes/{id}")
}

#[test]
fn only_a_batch_takes_its_results_and_a_process_that_is_cancelled_cancels_it() {
    let desk = slow();
    let batch = create(&desk, &uploaded(&desk, &lines(3)), CHAT);
    wait_for(&desk, &batch, "in_progress");
    let process = newest(&desk);
    let until = Instant::now() + PATIENCE;
    let results = || desk.get(&format!("{process}/results")).is(200).text;
    while results().is_empty() {
        assert!(Instant::now() < until, "no result");
        thread::sleep(Duration::from_millis(20));
    }
    let line: Value = serde_json::from_str(results().lines().next().unwrap()).unwrap();
    let saved = json!({"receipts": [line["receipt"]]});
    for refused in [
        desk.post(&format!("{process}/results/ack"), &saved),
        desk.delete(&process),
        desk.delete(&format!("{process}?force=true")),
    ] {
        let refused = refused.is(409);
        assert!(refused.text.contains(batch["id"].as_str().unwrap()));
    }
    let id = process.rsplit('/').next().unwrap();
    let more = json!({"type": "shout", "payload": "x", "process_id": id});
    desk.post("/api/v1/jobs", &more).is(409);

    desk.post(&format!("{process}/cancel"), &json!({})).is(200);
    let done = wait_for(&desk, &batch, "cancelled");
    assert_eq!(content(&desk, &done["output_file_id"]).len(), 1);
    assert_eq!(content(&desk, &done["error_file_id"]).len(), 2);
    desk.get(&process).is(404);
}

#[test]
fn results_of_a_batch_that_was_lost_can_be_deleted() {
    let mut desk = slow();
    let batch = create(&desk, &uploaded(&desk, &lines(2)), CHAT);
    wait_for(&desk, &batch, "in_progress");
    let process = newest(&desk);
    desk.stop();
    std::fs::remove_file(desk.folder.path().join("server.db")).unwrap();
    desk.start(|server| server);
    assert_eq!(
        desk.delete(&format!("{process}?force=true")).is(200).json()["deleted"],
        2
    );
}
