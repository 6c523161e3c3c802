//! Gemini's files and operations.

use serde_json::{Value, json};

use super::BatchConfig;
use super::test_kit::{Kit, endless, file, kit, quick};
use crate::test_client::{Has, Reply};

const CREATE: &str = "/v1beta/models/gemini-x:batchGenerateContent";
const KEY: &str = "x-goog-api-key: k\r\n";

fn gemini(batches: BatchConfig) -> Kit {
    kit(None, batches).with(KEY)
}

fn lines(prompts: &[&str]) -> String {
    file(prompts, |nth, prompt| {
        let request = json!({"contents": [{"role": "user", "parts": [{"text": prompt}]}]});
        json!({"key": format!("i-{nth}"), "request": request})
    })
}

fn start(kit: &mut Kit, name: &str, size: usize) -> Reply {
    let headers = format!(
        "{KEY}X-Goog-Upload-Protocol: resumable\r\nX-Goog-Upload-Command: start\r\n\
         X-Goog-Upload-Header-Content-Length: {size}\r\n\
         X-Goog-Upload-Header-Content-Type: application/jsonl\r\n"
    );
    let body = json!({"file": {"displayName": "r1", "name": name}}).to_string();
    let line = "POST /upload/v1beta/files";
    kit.client.call(line, &headers, body.as_bytes())
}

fn send(kit: &mut Kit, url: &str, offset: usize, command: &str, bytes: &str) -> Reply {
    let headers =
        format!("{KEY}X-Goog-Upload-Offset: {offset}\r\nX-Goog-Upload-Command: {command}\r\n");
    let path = url.strip_prefix("http://sim").unwrap();
    let line = format!("POST {path}");
    kit.client.call(&line, &headers, bytes.as_bytes())
}

fn upload(kit: &mut Kit, name: &str, content: &str) {
    let reply = start(kit, name, content.len()).is(200);
    assert_eq!(reply.body, b"");
    let url = reply.header("x-goog-upload-url").unwrap().to_owned();
    let reply = send(kit, &url, 0, "upload, finalize", content);
    assert_eq!(reply.header("x-goog-upload-status"), Some("final"));
    let file = &reply.json()["file"];
    file.has(json!({"name": name, "state": "ACTIVE"}));
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

#[test]
fn a_file_comes_whole_under_its_own_name_once() {
    let mut kit = gemini(quick());
    let content = lines(&["a", "b"]);
    let reply = start(&mut kit, "files/r1", content.len());
    let url = reply.header("x-goog-upload-url").unwrap().to_owned();
    send(&mut kit, &url, 0, "upload", &content).is(400);
    kit.call("GET /v1beta/files/r1", b"").is(404);
    send(&mut kit, &url, 0, "upload, finalize", &content).is(200);
    assert_eq!(kit.get("/v1beta/files/r1")["displayName"], "r1");
    assert_eq!(start(&mut kit, "files/r1", 1).status, 409);
    assert_eq!(start(&mut kit, "files/R1", 1).status, 400);
    assert_eq!(kit.call("DELETE /v1beta/files/r1", b"").json(), json!({}));
    assert_eq!(kit.refused(CREATE, &body("files/r1")), 404);
    assert_eq!(start(&mut kit, "files/r1", 1).status, 200);
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
    page.has(json!({"/operations/0/name": first, "nextPageToken": null}));
    for bad in ["limit=2", "pageSize=0", "pageToken=x"] {
        kit.call(&format!("GET /v1beta/batches?{bad}"), b"").is(400);
    }
    assert_eq!(kit.malformed(), 3);
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
