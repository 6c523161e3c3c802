//! Finding jobs, requeueing single ones, and pausing work.

use serde_json::{Value, json};

use crate::common::{Desk, Has, ended, lines, shout, until_finished};

fn found(desk: &Desk, query: &str) -> Vec<Value> {
    let page = desk.read(&format!("/api/v1/jobs?{query}"));
    assert_eq!(page["next"], Value::Null);
    page["data"].as_array().unwrap().clone()
}

#[test]
fn jobs_are_found_in_all_processes_and_requeued_one_by_one() {
    let desk = Desk::new();
    let old = lines(&desk, "?type=shout&name=Old", "\"a\"\n1\n")
        .is(201)
        .json();
    let new = lines(&desk, "?type=shout&name=new", "2\n").is(201).json();
    let id = |made: &Value| made["process_id"].as_str().unwrap().to_owned();
    let (old, new) = (id(&old), id(&new));
    until_finished(&desk, &old);
    until_finished(&desk, &new);
    let named = json!({"type": "shout", "payload": "b", "item_id": "Ann 7"});
    let made = desk.made("/api/v1/jobs", &named);
    ended(&desk, made["job_id"].as_str().unwrap());

    let failed = found(&desk, "status=failed");
    let processes: Vec<&Value> = failed.iter().map(|job| &job["process_id"]).collect();
    assert_eq!(processes, [&new, &old], "the newest first");
    failed[0].has(json!({"type": "shout", "model": null, "attempts": 1}));
    assert!(failed[0]["error"]["kind"].is_string());
    assert_eq!(found(&desk, "status=failed&type=shout"), failed);
    assert!(found(&desk, "status=failed&type=completion").is_empty());
    let done = found(&desk, "status=completed&type=shout");
    assert_eq!(done[0]["job_id"], made["job_id"], "the newest first");
    assert_eq!(
        found(&desk, &format!("process_id={old}&status=failed")).len(),
        1
    );
    let first = desk.read("/api/v1/jobs?status=failed&limit=1");
    let next = first["next"].as_str().unwrap();
    let rest = found(&desk, &format!("status=failed&after={next}"));
    assert_eq!(rest, failed[1..]);
    for query in ["status=odd", "limit=0", "nme=x"] {
        desk.get(&format!("/api/v1/jobs?{query}")).is(400);
    }

    let job = format!("/api/v1/jobs/{}", failed[0]["job_id"].as_str().unwrap());
    let payload = desk.read(&format!("{job}/payload"));
    assert_eq!(
        (&payload["payload"], &payload["type"]),
        (&json!(2), &json!("shout"))
    );
    desk.post(&format!("{job}/retry"), &json!({})).is(200);
    until_finished(&desk, &new);
    assert_eq!(found(&desk, "status=failed").len(), 2, "it failed again");
    let done = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
    let problem = desk
        .post(&format!("{done}/retry"), &json!({}))
        .is(409)
        .json();
    assert!(problem["detail"].as_str().unwrap().contains("completed"));
    desk.post(&format!("/api/v1/processes/{new}/cancel"), &json!({}))
        .is(200);
    desk.post(&format!("{job}/retry"), &json!({})).is(409);
}

#[test]
fn a_paused_queue_waits_until_it_is_resumed() {
    let mut desk = Desk::new();
    let change = |desk: &Desk, path: &str| desk.done(&format!("/api/v1/{path}"), &json!({}));
    assert_eq!(change(&desk, "pause"), json!({"paused": true}));
    let job = desk.made("/api/v1/jobs", &shout("b"));
    let job = job["job_id"].as_str().unwrap();
    // It is stored in the queue, so the next server knows of it.
    desk.stop();
    desk.start(|server| server);
    assert_eq!(desk.read("/api/v1/overview")["paused"], true);
    let state = desk.read(&format!("/api/v1/jobs/{job}"))["status"].clone();
    assert_eq!(state, "pending");
    assert_eq!(change(&desk, "resume"), json!({"paused": false}));
    assert_eq!(ended(&desk, job)["status"], "completed");
    desk.post("/api/v1/pause?model=m", &json!({})).is(400);
}
