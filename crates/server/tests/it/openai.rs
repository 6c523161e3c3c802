//! The Batch endpoint: files, batches, and requests whose caller waits.

use std::io::{Cursor, Read, Write};
use std::net::TcpStream;

use batchwright::config::ConfigStore;
use batchwright::queue::ProcessInfo;
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};
use ureq::SendBody;

use super::common::{Answer, Desk, Has, PATIENCE, until_shown};
use super::openai_direct::ask;

pub const CHAT: &str = "/v1/chat/completions";

/// A server whose provider may be called as often as it can.
pub fn unlimited(sim: SimConfig) -> Desk {
    Desk::prepared(sim, |store| {
        store.set("llm.requests_per_minute", "1000000").unwrap();
        store.set("llm.burst_size", "1000").unwrap();
    })
}

/// A server that makes one call per minute.
pub fn slow() -> Desk {
    Desk::prepared(SimConfig::default(), |store| {
        store.set("llm.requests_per_minute", "1").unwrap();
        store.set("llm.burst_size", "1").unwrap();
    })
}

pub fn line(id: &str, prompt: &str) -> Value {
    json!({
        "custom_id": id, "method": "POST", "url": CHAT, "body": question(prompt),
    })
}

pub fn lines(count: usize) -> String {
    let line = |n: usize| format!("{}\n", line(&format!("r-{n}"), &format!("Prompt {n}.")));
    (0..count).map(line).collect()
}

/// A call of one message.
pub fn question(text: &str) -> Value {
    json!({"model": "sim-1", "messages": [{"role": "user", "content": text}]})
}

/// A connection on which this call was sent. Its answer is not read.
pub fn sent(desk: &Desk, headers: &str, body: &Value) -> TcpStream {
    let (address, body) = (desk.server().address(), body.to_string());
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Uploads a file of this name as a form.
pub fn upload(
    desk: &Desk,
    headers: &[(&str, &str)],
    name: &str,
    content: impl Read + 'static,
) -> Answer {
    let head = format!(
        "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
    );
    let body = Cursor::new(head).chain(content);
    let body = SendBody::from_owned_reader(body.chain(&b"\r\n--b--\r\n"[..]));
    let form = ("content-type", "multipart/form-data; boundary=b");
    desk.send("POST", "/v1/files", &[&[form], headers].concat(), body)
}

pub fn uploaded(desk: &Desk, content: &str) -> String {
    let content = Cursor::new(content.to_owned());
    let file = upload(desk, &[], "in.jsonl", content).is(200).json();
    file["id"].as_str().unwrap().to_owned()
}

pub fn create(desk: &Desk, file: &str, endpoint: &str) -> Value {
    let asked = json!({"input_file_id": file, "endpoint": endpoint, "completion_window": "24h", "metadata": {"a": "b"}});
    desk.done("/v1/batches", &asked)
}

/// A batch once it stands so.
#[track_caller]
pub fn wait_for(desk: &Desk, batch: &Value, status: &str) -> Value {
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    until_shown(desk, &path, |batch| batch["status"] == status)
}

/// The lines of a file of results, by their ids.
pub fn content(desk: &Desk, file: &Value) -> Vec<Value> {
    let Some(id) = file.as_str() else {
        return Vec::new();
    };
    let text = desk.get(&format!("/v1/files/{id}/content")).is(200).text;
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_batch_goes_from_a_file_to_its_results() {
    let config = SimConfig::default()
        .trouble(Trouble::BadRequest, 0.2)
        .reasoning_tokens(3);
    let bad = (0..40)
        .filter(|n| config.plan(&format!("Prompt {n}.")).is_some())
        .count() as u64;
    assert!(bad > 0);
    let desk = unlimited(config);
    let file = uploaded(&desk, &lines(40));
    let batch = create(&desk, &file, CHAT);
    batch.has(json!({"status": "validating", "output_file_id": null}));
    let done = wait_for(&desk, &batch, "completed");
    done.has(
        json!({"request_counts": {"total": 40, "completed": 40 - bad, "failed": bad},
        "metadata": {"a": "b"}}),
    );
    done.has(json!({"model": "sim-1", "errors": null}));
    for time in [
        "created_at",
        "in_progress_at",
        "finalizing_at",
        "completed_at",
        "expires_at",
    ] {
        assert!(done[time].is_u64(), "{time}: {done}");
    }
    let (output, errors) = (
        content(&desk, &done["output_file_id"]),
        content(&desk, &done["error_file_id"]),
    );
    assert_eq!((output.len() as u64, errors.len() as u64), (40 - bad, bad));
    let mut ids: Vec<&str> = output
        .iter()
        .chain(&errors)
        .filter_map(|line| line["custom_id"].as_str())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 40);
    let first = &output[0];
    first.has(json!({"/response/status_code": 200, "error": null}));
    let body = &first["response"]["body"];
    body.has(json!({"object": "chat.completion", "model": "sim-1"}));
    let choice = &body["choices"][0];
    choice.has(json!({"finish_reason": "stop", "/message/role": "assistant"}));
    body.has(json!({"/usage/completion_tokens_details/reasoning_tokens": 3}));
    let sum: u64 = output
        .iter()
        .filter_map(|line| line["response"]["body"]["usage"]["total_tokens"].as_u64())
        .sum();
    assert_eq!(done["usage"]["total_tokens"], sum);
    let failed = &errors[0];
    failed.has(json!({"/response/status_code": 400, "error": null,
        "/response/body/error/type": "invalid_request_error"}));
    // The queue has handed it all over.
    let info = desk.get(&format!(
        "/v1/files/{}",
        done["output_file_id"].as_str().unwrap()
    ));
    assert_eq!(info.is(200).json()["purpose"], "batch_output");
}

#[test]
fn an_input_with_faults_fails_with_their_lines_and_costs_nothing() {
    let desk = unlimited(SimConfig::default());
    let text = format!("{}\n{{\n{}\n", line("a", "x"), line("a", "y"));
    let batch = create(&desk, &uploaded(&desk, &text), CHAT);
    let failed = wait_for(&desk, &batch, "failed");
    let errors = failed["errors"]["data"].as_array().unwrap();
    let seen: Vec<(&Value, &Value)> = errors
        .iter()
        .map(|error| (&error["code"], &error["line"]))
        .collect();
    assert_eq!(
        seen,
        [
            (&json!("invalid_json_line"), &json!(2)),
            (&json!("duplicate_custom_id"), &json!(3))
        ]
    );
    assert!(failed["failed_at"].is_u64() && failed["output_file_id"].is_null());
    assert_eq!(desk.sim.stats().calls, 0);
}

#[test]
fn a_batch_is_cancelled_and_what_ran_keeps_its_result() {
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    let batch = create(&desk, &uploaded(&desk, &lines(500)), CHAT);
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    wait_for(&desk, &batch, "in_progress");
    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
    assert_eq!(desk.done(&path, &json!({}))["status"], "cancelling");
    // What waits is cancelled by the time of the answer.
    let queue = desk.queue();
    assert!(queue.open_processes().unwrap()[0].cancelled);
    desk.post(&path, &json!({})).is(200);
    desk.sim.release();
    let done = wait_for(&desk, &batch, "cancelled");
    let (output, errors) = (
        content(&desk, &done["output_file_id"]),
        content(&desk, &done["error_file_id"]),
    );
    assert_eq!(output.len() + errors.len(), 500);
    assert!(!errors.is_empty());
    assert!(
        errors
            .iter()
            .all(|line| line["error"]["code"] == "batch_cancelled" && line["response"].is_null())
    );
    assert_eq!(done["request_counts"]["completed"], output.len());
    assert_eq!(desk.sim.stats().calls, output.len() as u64);
    desk.post(&path, &json!({})).is(409);
}

/// Changes what is known of a batch.
pub fn rewrite(desk: &Desk, batch: &Value, change: impl FnOnce(&mut Value)) {
    let database = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
    let id = batch["id"].as_str().unwrap();
    let sql = "SELECT record FROM batches WHERE id = ?";
    let text: String = database.query_row(sql, [id], |row| row.get(0)).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    change(&mut record);
    let sql = "UPDATE batches SET state = ?, record = ? WHERE id = ?";
    let row = (record["state"].as_str(), record.to_string(), id);
    assert_eq!(database.execute(sql, row).unwrap(), 1);
}

/// Makes a batch one whose server died while it was enqueued, after it had noted so many requests.
fn set_back(desk: &Desk, batch: &Value, total: u64) {
    rewrite(desk, batch, |record| {
        record["state"] = json!("validating");
        record["times"] = json!({});
        record["total"] = json!(total);
    });
}

#[test]
fn what_was_taken_or_cancelled_before_a_batch_was_in_progress_is_not_bought_again() {
    let mut desk = slow();
    // It takes the one call of the minute.
    ask(&desk, &json!({})).is(200);
    let taken = create(&desk, &uploaded(&desk, &lines(3)), CHAT);
    wait_for(&desk, &taken, "in_progress");
    let cancelled = create(&desk, &uploaded(&desk, &lines(3)), CHAT);
    wait_for(&desk, &cancelled, "in_progress");
    desk.stop();
    let queue = desk.queue();
    let processes = queue.open_processes().unwrap();
    let info = ProcessInfo::new().collector(taken["id"].as_str().unwrap());
    let its = queue.described(info);
    assert_eq!(its.delete(processes[0].process_id).unwrap(), 3);
    assert_eq!(queue.cancel(processes[1].process_id).unwrap(), 3);
    set_back(&desk, &taken, 3);
    set_back(&desk, &cancelled, 0);
    let before = desk.sim.stats().calls;
    desk.start(|server| server);
    let failed = wait_for(&desk, &taken, "failed");
    assert_eq!(failed["errors"]["data"][0]["code"], "results_missing");
    let done = wait_for(&desk, &cancelled, "cancelled");
    assert_eq!(content(&desk, &done["error_file_id"]).len(), 3);
    assert_eq!(done["request_counts"]["total"], 3);
    assert!(queue.open_processes().unwrap().is_empty());
    assert_eq!(desk.sim.stats().calls, before);
}

#[test]
fn files_and_batches_are_listed_in_pages() {
    let desk = unlimited(SimConfig::default());
    let files: Vec<String> = (0..5).map(|_| uploaded(&desk, &lines(1))).collect();
    let first = desk.read("/v1/files?limit=2&purpose=batch");
    let ids = |page: &Value| -> Vec<String> {
        let data = page["data"].as_array().unwrap().iter();
        data.map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&first), [files[4].clone(), files[3].clone()]);
    first.has(json!({"has_more": true, "last_id": files[3]}));
    let rest = desk.read(&format!("/v1/files?after={}", files[3]));
    assert_eq!((ids(&rest).len(), &rest["has_more"]), (3, &json!(false)));
    let oldest = desk.read("/v1/files?order=asc&limit=1");
    assert_eq!(ids(&oldest), [files[0].clone()]);
    assert_eq!(ids(&desk.read("/v1/files?purpose=vision")), [""; 0]);

    let batches: Vec<Value> = files.iter().map(|file| create(&desk, file, CHAT)).collect();
    let first = desk.read("/v1/batches?limit=3");
    assert_eq!((ids(&first).len(), &first["has_more"]), (3, &json!(true)));
    assert_eq!(first["first_id"], batches[4]["id"]);
    let after = first["last_id"].as_str().unwrap();
    let rest = desk.read(&format!("/v1/batches?limit=3&after={after}"));
    assert_eq!((ids(&rest).len(), &rest["has_more"]), (2, &json!(false)));
    for path in [
        "/v1/files?limit=0",
        "/v1/batches?limit=101",
        "/v1/files?order=up",
    ] {
        let error = desk.get(path).is(400).json();
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
    for path in [
        "/v1/files/file-none",
        "/v1/batches/batch_none",
        "/v1/files?after=x",
        "/v1/models/x",
        "/v1/nothing",
    ] {
        assert!(desk.get(path).is(404).json()["error"]["message"].is_string());
    }
}

#[test]
fn a_deleted_file_is_gone_and_its_room_is_free() {
    let desk = Desk::with(SimConfig::default(), |server| server.max_upload_bytes(1000));
    let id = uploaded(&desk, &"x".repeat(600));
    assert_eq!(
        desk.get(&format!("/v1/files/{id}/content"))
            .is(200)
            .text
            .len(),
        600
    );
    let refused = upload(&desk, &[], "in.jsonl", std::io::repeat(b'x').take(600));
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(
        refused.is(507).json()["error"]["code"],
        "insufficient_storage"
    );
    let names = std::fs::read_dir(desk.folder.path().join("files")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    assert_eq!(names, std::slice::from_ref(&id));
    let deleted = desk.delete(&format!("/v1/files/{id}")).is(200).json();
    assert_eq!(
        deleted,
        json!({"id": id, "object": "file", "deleted": true})
    );
    desk.get(&format!("/v1/files/{id}/content")).is(404);
    uploaded(&desk, &"x".repeat(600));
}

#[test]
fn results_that_find_no_room_wait_in_the_queue_until_there_is_some() {
    let desk = Desk::with(SimConfig::default(), |server| server.max_upload_bytes(5000));
    let spare = uploaded(&desk, &"x".repeat(4000));
    let batch = create(&desk, &uploaded(&desk, &lines(3)), CHAT);
    let waiting = wait_for(&desk, &batch, "finalizing");
    assert!(waiting["output_file_id"].is_null());
    desk.delete(&format!("/v1/files/{spare}")).is(200);
    let done = wait_for(&desk, &batch, "completed");
    assert_eq!(content(&desk, &done["output_file_id"]).len(), 3);
}

#[test]
fn what_is_put_back_while_a_batch_is_finished_comes_with_the_rest() {
    let desk = Desk::with(
        SimConfig::default().trouble(Trouble::BadRequest, 1.0),
        |server| server.max_upload_bytes(5000),
    );
    let spare = uploaded(&desk, &"x".repeat(3500));
    let batch = create(&desk, &uploaded(&desk, &lines(3)), CHAT);
    let fence = uploaded(&desk, &line("f", "Fence.").to_string());
    wait_for(&desk, &batch, "finalizing");
    let queue = desk.queue();
    let process = queue.open_processes().unwrap()[0].process_id;
    desk.sim.hold();
    assert_eq!(queue.retry_failed(process).unwrap(), 3);
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    desk.delete(&format!("/v1/files/{spare}")).is(200);
    // Batches are brought on in their order: the first one has been looked at before the second one begins.
    wait_for(&desk, &create(&desk, &fence, CHAT), "in_progress");
    desk.sim.release();
    let done = wait_for(&desk, &batch, "completed");
    assert_eq!(content(&desk, &done["error_file_id"]).len(), 3);
}

#[test]
fn what_cannot_be_a_file_is_refused_at_once() {
    let desk = unlimited(SimConfig::default());
    for (kind, body, status) in [
        ("multipart/form-data; boundary=b", "--b--", 400),
        ("multipart/form-data; boundary=b", "--b\r\n", 400),
        ("application/json", "{}", 415),
    ] {
        let answer = desk.send("POST", "/v1/files", &[("content-type", kind)], body);
        assert!(answer.is(status).json()["error"]["message"].is_string());
    }
}
