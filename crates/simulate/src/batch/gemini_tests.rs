//! Gemini's files and operations.

use std::time::Duration;

use serde_json::{Value, json};

use super::BatchConfig;
use super::test_kit::{Kit, column, endless, kit, quick, sorted, text};
use crate::test_client::{PATIENCE, Reply};

const CREATE: &str = "/v1beta/models/gemini-x:batchGenerateContent";
const KEY: &str = "x-goog-api-key: k\r\n";

fn gemini(batches: BatchConfig) -> Kit {
    kit(None, batches).with(KEY)
}

fn lines(prompts: &[&str]) -> String {
    let lines = prompts.iter().enumerate().map(|(nth, prompt)| {
        let request = json!({"contents": [{"role": "user", "parts": [{"text": prompt}]}]});
        format!(
            "{}\n",
            json!({"key": format!("i-{nth}"), "request": request})
        )
    });
    lines.collect()
}

fn start(kit: &mut Kit, name: &str, size: usize) -> Reply {
    let headers = format!(
        "{KEY}X-Goog-Upload-Protocol: resumable\r\nX-Goog-Upload-Command: start\r\n\
         X-Goog-Upload-Header-Content-Length: {size}\r\n\
         X-Goog-Upload-Header-Content-Type: application/jsonl\r\n"
    );
    let body = json!({"file": {"displayName": "r1", "name": name}}).to_string();
    kit.client
        .send("POST /upload/v1beta/files", &headers, body.as_bytes())
        .unwrap();
    kit.client.read().unwrap()
}

fn send(kit: &mut Kit, url: &str, offset: usize, command: &str, bytes: &str) -> Reply {
    let headers =
        format!("{KEY}X-Goog-Upload-Offset: {offset}\r\nX-Goog-Upload-Command: {command}\r\n");
    let path = url.strip_prefix("http://sim").unwrap();
    kit.client
        .send(&format!("POST {path}"), &headers, bytes.as_bytes())
        .unwrap();
    kit.client.read().unwrap()
}

fn upload(kit: &mut Kit, name: &str, content: &str) {
    let reply = start(kit, name, content.len());
    assert_eq!(
        (reply.status, reply.body.len()),
        (200, 0),
        "{}",
        text(&reply)
    );
    let url = reply.header("x-goog-upload-url").unwrap().to_owned();
    let reply = send(kit, &url, 0, "upload, finalize", content);
    assert_eq!(reply.header("x-goog-upload-status"), Some("final"));
    let file = &reply.json()["file"];
    assert_eq!(
        (&file["name"], &file["state"]),
        (&json!(name), &"ACTIVE".into())
    );
    assert_eq!(file["sizeBytes"], content.len().to_string());
}

fn body(file: &str) -> Value {
    json!({"batch": {"displayName": "r1-p1", "inputConfig": {"fileName": file}}})
}

fn create(kit: &mut Kit, prompts: &[&str]) -> String {
    upload(kit, "files/r1", &lines(prompts));
    let batch = kit.post(CREATE, &body("files/r1"));
    batch["name"].as_str().unwrap().to_owned()
}

fn run(kit: &mut Kit, prompts: &[&str]) -> Value {
    let name = create(kit, prompts);
    kit.wait_for_end();
    kit.get(&format!("/v1beta/{name}"))
}

#[test]
fn an_operation_runs_from_upload_to_results() {
    let mut kit = gemini(quick().item_failures(0.3));
    let prompts: Vec<_> = (0..20).map(|nth| nth.to_string()).collect();
    let prompts: Vec<_> = prompts.iter().map(String::as_str).collect();
    let operation = run(&mut kit, &prompts);
    assert_eq!(operation["done"], true);
    let metadata = &operation["metadata"];
    assert_eq!(metadata["state"], "BATCH_STATE_SUCCEEDED");
    assert_eq!(metadata["displayName"], "r1-p1");
    let file = operation["response"]["responsesFile"].as_str().unwrap();
    assert_eq!(metadata["output"]["responsesFile"], file);
    let results = kit.lines(&format!("/download/v1beta/{file}:download?alt=media"));
    let keys = sorted(column(&results, "key"));
    assert_eq!(keys.len(), 20);
    let failed: Vec<_> = results
        .iter()
        .filter(|line| !line["error"].is_null())
        .collect();
    assert_eq!(failed[0]["error"]["code"], 400);
    let stats = &metadata["batchStats"];
    assert_eq!(stats["failedRequestCount"], failed.len().to_string());
    assert_eq!(stats["pendingRequestCount"], Value::Null);
    let good = results.iter().find(|line| line["error"].is_null()).unwrap();
    assert!(good["response"]["candidates"][0]["content"]["parts"][0]["text"].is_string());
    let list = kit.get("/v1beta/batches");
    assert_eq!(list["operations"][0]["name"], operation["name"]);
    assert_eq!(list["operations"][0]["response"], Value::Null);
    assert_eq!(kit.malformed(), 0);
}

#[test]
fn a_file_comes_in_pieces_under_its_own_name_once() {
    let mut kit = gemini(quick());
    let content = lines(&["a", "b"]);
    let reply = start(&mut kit, "files/r1", content.len());
    let url = reply.header("x-goog-upload-url").unwrap().to_owned();
    let (one, two) = content.split_at(10);
    let reply = send(&mut kit, &url, 0, "upload", one);
    assert_eq!(reply.header("x-goog-upload-status"), Some("active"));
    assert_eq!(send(&mut kit, &url, 5, "upload, finalize", two).status, 400);
    assert_eq!(kit.call("GET /v1beta/files/r1", b"").status, 404);
    assert_eq!(
        send(&mut kit, &url, 10, "upload, finalize", two).status,
        200
    );
    assert_eq!(kit.get("/v1beta/files/r1")["displayName"], "r1");
    assert_eq!(start(&mut kit, "files/r1", 1).status, 409);
    assert_eq!(start(&mut kit, "files/R1", 1).status, 400);
    assert_eq!(
        kit.get("/v1beta/files?pageSize=10")["files"][0]["name"],
        "files/r1"
    );
    assert_eq!(kit.call("DELETE /v1beta/files/r1", b"").json(), json!({}));
    assert_eq!(kit.refused(CREATE, &body("files/r1")), 404);
    assert_eq!(start(&mut kit, "files/r1", 1).status, 200);
}

#[test]
fn poison_fails_the_operation() {
    let mut kit = gemini(quick().poison("bad"));
    let operation = run(&mut kit, &["a", "bad"]);
    assert_eq!(operation["error"]["code"], 3);
    assert_eq!(operation["metadata"]["state"], "BATCH_STATE_FAILED");
    assert_eq!(operation["response"], Value::Null);
    assert_eq!(kit.sim.stats().paid, 0);
}

#[test]
fn expired_and_cancelled_operations_have_no_results() {
    let mut kit = gemini(quick().expire_first(1, 0.5));
    let operation = run(&mut kit, &["a", "b"]);
    assert_eq!(operation["metadata"]["state"], "BATCH_STATE_EXPIRED");
    assert_eq!(
        (&operation["done"], &operation["response"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(kit.sim.stats().paid, 0);

    let mut kit = gemini(quick().duration(Duration::from_millis(1_000)));
    let name = create(&mut kit, &["a"; 20]);
    assert!(
        kit.sim
            .wait_for_batches(|stats| stats.items_finished > 0, PATIENCE)
    );
    assert_eq!(
        kit.post(&format!("/v1beta/{name}:cancel"), &Value::Null),
        json!({})
    );
    kit.wait_for_end();
    let operation = kit.get(&format!("/v1beta/{name}"));
    assert_eq!(operation["error"]["code"], 1);
    assert_eq!(operation["metadata"]["state"], "BATCH_STATE_CANCELLED");
    assert_eq!(kit.call(&format!("DELETE /v1beta/{name}"), b"").status, 200);
    assert_eq!(kit.call(&format!("GET /v1beta/{name}"), b"").status, 404);
}

#[test]
fn lists_are_paged_by_token() {
    let mut kit = gemini(endless());
    let first = create(&mut kit, &["a"]);
    for _ in 0..2 {
        kit.post(CREATE, &body("files/r1"));
    }
    let page = kit.get("/v1beta/batches?pageSize=2");
    let token = page["nextPageToken"].as_str().unwrap();
    let page = kit.get(&format!("/v1beta/batches?pageSize=2&pageToken={token}"));
    assert_eq!(page["operations"][0]["name"], first);
    assert_eq!(page["nextPageToken"], Value::Null);
    for bad in ["limit=2", "pageSize=0", "pageToken=x"] {
        assert_eq!(
            kit.call(&format!("GET /v1beta/batches?{bad}"), b"").status,
            400,
            "{bad}"
        );
    }
    assert_eq!(kit.malformed(), 3);
}

#[test]
fn a_lost_create_is_found_by_its_name() {
    let mut kit = gemini(quick().lost_creates(1));
    upload(&mut kit, "files/r1", &lines(&["a"]));
    let sent = body("files/r1").to_string();
    assert!(
        kit.try_call(&format!("POST {CREATE}"), sent.as_bytes())
            .is_err()
    );
    kit.reconnect();
    let list = kit.get("/v1beta/batches");
    assert_eq!(list["operations"][0]["metadata"]["displayName"], "r1-p1");
}

#[test]
fn a_full_queue_and_unknown_fields_are_refused() {
    let mut kit = gemini(endless().enqueued_tokens(3));
    create(&mut kit, &["12345678"]);
    assert_eq!(kit.refused(CREATE, &body("files/r1")), 429);
    let mut extra = body("files/r1");
    extra["batch"]["label"] = "x".into();
    assert_eq!(kit.refused(CREATE, &extra), 400);
    assert_eq!(kit.malformed(), 1);
}

#[test]
fn results_are_gone_after_their_retention() {
    let mut kit = gemini(quick().retention(Duration::ZERO));
    let operation = run(&mut kit, &["a"]);
    let file = operation["response"]["responsesFile"].as_str().unwrap();
    let path = format!("GET /download/v1beta/{file}:download?alt=media");
    assert_eq!(kit.call(&path, b"").status, 404);
}
