//! The Batch endpoint: files, batches, and requests whose caller waits.

use std::io::{Cursor, Read, Write};
use std::net::TcpStream;

use batchwright::config::ConfigStore;
use batchwright::queue::ProcessInfo;
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};
use ureq::SendBody;

use super::common::{Answer, Desk, Has, PATIENCE, ids, read_lines, until_shown};
use super::openai_direct::ask;
use super::openai_parts::{EMBEDDINGS, several};

pub const CHAT: &str = "/v1/chat/completions";

/// A server with this rate of calls per minute, and this burst.
fn limited(sim: SimConfig, rate: &str, burst: &str) -> Desk {
    Desk::prepared(sim, |store| {
        store.set("llm.requests_per_minute", rate).unwrap();
        store.set("llm.burst_size", burst).unwrap();
    })
}

/// A server whose provider may be called as often as it can.
pub fn unlimited(sim: SimConfig) -> Desk {
    limited(sim, "1000000", "1000")
}

/// A server that makes one call per minute.
pub fn slow() -> Desk {
    limited(SimConfig::default(), "1", "1")
}

pub fn line(id: &str, prompt: &str) -> Value {
    json!({"custom_id": id, "method": "POST", "url": CHAT, "body": question(prompt)})
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

/// A batch of this file.
pub fn create(desk: &Desk, file: &str, endpoint: &str) -> Value {
    let asked = json!({"input_file_id": file, "endpoint": endpoint, "completion_window": "24h", "metadata": {"a": "b"}});
    desk.done("/v1/batches", &asked)
}

/// A batch of these lines.
pub fn begun(desk: &Desk, lines: &str) -> Value {
    create(desk, &uploaded(desk, lines), CHAT)
}

pub fn place(batch: &Value) -> String {
    format!("/v1/batches/{}", batch["id"].as_str().unwrap())
}

/// A batch once it stands so.
#[track_caller]
pub fn wait_for(desk: &Desk, batch: &Value, status: &str) -> Value {
    until_shown(desk, &place(batch), |batch| batch["status"] == status)
}

/// A batch of these lines when it is completed.
#[track_caller]
pub fn completed(desk: &Desk, lines: &str) -> Value {
    wait_for(desk, &begun(desk, lines), "completed")
}

/// The lines of a file of results.
pub fn content(desk: &Desk, file: &Value) -> Vec<Value> {
    let Some(id) = file.as_str() else {
        return Vec::new();
    };
    let text = desk.get(&format!("/v1/files/{id}/content")).is(200).text;
    read_lines(&text)
}

/// The output and the errors of a batch.
pub fn contents(desk: &Desk, batch: &Value) -> [Vec<Value>; 2] {
    ["output_file_id", "error_file_id"].map(|file| content(desk, &batch[file]))
}

/// How many lines have an id of their own.
fn distinct(files: &[Vec<Value>; 2]) -> usize {
    let mut ids = ids(&files.concat(), "custom_id");
    ids.sort();
    ids.dedup();
    ids.len()
}

#[test]
fn a_batch_goes_from_a_file_to_its_results() {
    let config = SimConfig::default()
        .trouble(Trouble::BadRequest, 0.2)
        .reasoning_tokens(3);
    let fails = |n: &usize| config.plan(&format!("Prompt {n}.")).is_some();
    let bad = (0..40).filter(fails).count();
    assert!(bad > 0);
    let desk = unlimited(config);
    let batch = begun(&desk, &lines(40));
    batch.has(json!({"status": "validating", "output_file_id": null}));
    let done = wait_for(&desk, &batch, "completed");
    done.has(
        json!({"model": "sim-1", "errors": null, "metadata": {"a": "b"},
        "request_counts": {"total": 40, "completed": 40 - bad, "failed": bad}}),
    );
    for time in "created in_progress finalizing completed expires".split(' ') {
        assert!(done[format!("{time}_at")].is_u64(), "{time}: {done}");
    }
    let files = contents(&desk, &done);
    assert_eq!(distinct(&files), 40);
    let [output, errors] = files;
    assert_eq!((output.len(), errors.len()), (40 - bad, bad));
    output[0].has(json!({"/response/status_code": 200, "error": null}));
    output[0]["response"]["body"].has(json!({"object": "chat.completion", "model": "sim-1",
        "/choices/0/finish_reason": "stop", "/choices/0/message/role": "assistant",
        "/usage/completion_tokens_details/reasoning_tokens": 3}));
    let used = output
        .iter()
        .filter_map(|line| line["response"]["body"]["usage"]["total_tokens"].as_u64());
    assert_eq!(done["usage"]["total_tokens"], used.sum::<u64>());
    errors[0].has(json!({"/response/status_code": 400, "error": null,
        "/response/body/error/type": "invalid_request_error"}));
    let file = done["output_file_id"].as_str().unwrap();
    desk.read(&format!("/v1/files/{file}"))
        .has(json!({"purpose": "batch_output"}));
}

#[test]
fn an_input_with_faults_fails_with_their_lines_and_costs_nothing() {
    let desk = unlimited(SimConfig::default());
    let text = format!("{}\n{{\n{}\n", line("a", "x"), line("a", "y"));
    let failed = wait_for(&desk, &begun(&desk, &text), "failed");
    failed.has(json!({"output_file_id": null, "/errors/data/2": null,
        "/errors/data/0/code": "invalid_json_line", "/errors/data/0/line": 2,
        "/errors/data/1/code": "duplicate_custom_id", "/errors/data/1/line": 3}));
    assert!(failed["failed_at"].is_u64());
    assert_eq!(desk.sim.stats().calls, 0);
}

#[test]
fn a_batch_is_cancelled_and_what_ran_keeps_its_result() {
    let several: String = (0..200)
        .map(|n| format!("{}\n", several(&format!("r-{n}"), 3)))
        .collect();
    for (endpoint, text) in [(CHAT, lines(200)), (EMBEDDINGS, several)] {
        let desk = unlimited(SimConfig::default());
        desk.sim.hold();
        let batch = create(&desk, &uploaded(&desk, &text), endpoint);
        assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
        wait_for(&desk, &batch, "in_progress");
        let path = format!("{}/cancel", place(&batch));
        assert_eq!(desk.done(&path, &json!({}))["status"], "cancelling");
        if endpoint == CHAT {
            // What waits is cancelled by the time of the answer.
            assert!(desk.queue().open_processes().unwrap()[0].cancelled);
            desk.done(&path, &json!({}));
        }
        desk.sim.release();
        let done = wait_for(&desk, &batch, "cancelled");
        let files = contents(&desk, &done);
        assert_eq!(distinct(&files), 200);
        let [output, errors] = files;
        assert_eq!(output.len() + errors.len(), 200);
        let cancelled =
            |line: &Value| line["error"]["code"] == "batch_cancelled" && line["response"].is_null();
        assert!(!errors.is_empty() && errors.iter().all(cancelled));
        done.has(json!({"/request_counts/completed": output.len(), "/request_counts/total": 200}));
        let stats = desk.sim.stats();
        match endpoint {
            CHAT => assert_eq!(stats.calls, output.len() as u64),
            // Of 600 parts those that had begun.
            _ => assert!(stats.embedded < 300),
        }
        desk.post(&path, &json!({})).is(409);
    }
}

/// Changes what is known of a batch.
pub fn rewrite(desk: &Desk, batch: &Value, change: impl FnOnce(&mut Value)) {
    let database = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
    let id = batch["id"].as_str().unwrap();
    let sql = "SELECT record FROM batches WHERE id = ?";
    let text: String = database.query_row(sql, [id], |row| row.get(0)).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    change(&mut record);
    let sql = "UPDATE batches SET record = ? WHERE id = ?";
    let row = (record.to_string(), id);
    assert_eq!(database.execute(sql, row).unwrap(), 1);
}

/// Makes a batch one whose server died while it was enqueued, after it had noted so many requests.
fn set_back(record: &mut Value, total: u64) {
    record["state"] = json!("validating");
    record["times"] = json!({});
    record["total"] = json!(total);
}

#[test]
fn what_was_taken_or_cancelled_before_a_batch_was_in_progress_is_not_bought_again() {
    let mut desk = slow();
    // It takes the one call of the minute.
    ask(&desk, &json!({})).is(200);
    let [taken, cancelled, expired] = [(); 3].map(|()| {
        let batch = begun(&desk, &lines(3));
        wait_for(&desk, &batch, "in_progress");
        batch
    });
    desk.stop();
    let queue = desk.queue();
    let processes = queue.open_processes().unwrap();
    for (batch, at) in [(&taken, 0), (&expired, 2)] {
        let info = ProcessInfo::new().collector(batch["id"].as_str().unwrap());
        let its = queue.described(info);
        assert_eq!(its.delete(processes[at].process_id).unwrap(), 3);
    }
    assert_eq!(queue.cancel(processes[1].process_id).unwrap(), 3);
    rewrite(&desk, &taken, |record| set_back(record, 3));
    rewrite(&desk, &cancelled, |record| set_back(record, 0));
    // Its window is over, and the server had never come to it.
    rewrite(&desk, &expired, |record| {
        set_back(record, 0);
        record["expires_at"] = record["created_at"].clone();
    });
    let before = desk.sim.stats().calls;
    desk.start(|server| server);
    let failed = wait_for(&desk, &taken, "failed");
    failed.has(json!({"/errors/data/0/code": "results_missing"}));
    let done = wait_for(&desk, &cancelled, "cancelled");
    assert_eq!(content(&desk, &done["error_file_id"]).len(), 3);
    assert_eq!(done["request_counts"]["total"], 3);
    let over = wait_for(&desk, &expired, "expired");
    assert!(over["expired_at"].is_u64() && over["output_file_id"].is_null());
    assert!(queue.open_processes().unwrap().is_empty());
    assert_eq!(desk.sim.stats().calls, before);
}

#[test]
fn files_and_batches_are_listed_in_pages() {
    let desk = unlimited(SimConfig::default());
    let files = [(); 5].map(|()| uploaded(&desk, &lines(1)));
    let list = |path: &str, wanted: &[&String], more: bool| {
        let page = desk.read(path);
        assert_eq!(
            ids(page["data"].as_array().unwrap(), "id"),
            wanted.iter().map(|id| (*id).clone()).collect::<Vec<_>>()
        );
        page.has(json!({"has_more": more, "first_id": wanted.first(), "last_id": wanted.last()}));
    };
    let [a, b, c, d, e] = &files;
    list("/v1/files?limit=2&purpose=batch", &[e, d], true);
    list(
        &format!("/v1/files?purpose=batch&after={d}"),
        &[c, b, a],
        false,
    );
    list("/v1/files?purpose=batch&order=asc&limit=1", &[a], true);
    let deleted = desk.delete(&format!("/v1/files/{d}")).is(200).json();
    assert_eq!(deleted, json!({"id": d, "object": "file", "deleted": true}));
    desk.delete(&format!("/v1/files/{d}")).is(404);
    desk.get(&format!("/v1/files/{d}/content")).is(404);
    desk.get(&format!("/v1/files?after={d}")).is(404);
    list("/v1/files?purpose=vision", &[], false);
    let batches = [(); 5].map(|()| create(&desk, a, CHAT));
    let batches = ids(&batches, "id");
    let [a, b, c, d, e] = &batches[..] else {
        panic!("{batches:?}")
    };
    list("/v1/batches?limit=3", &[e, d, c], true);
    list(&format!("/v1/batches?limit=3&after={c}"), &[b, a], false);
    for path in ["files?limit=0", "batches?limit=101", "files?order=up"] {
        let error = desk.get(&format!("/v1/{path}")).is(400).json();
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
    for path in [
        "files/file-none",
        "batches/batch_none",
        "files?after=x",
        "models/x",
        "nothing",
    ] {
        let error = desk.get(&format!("/v1/{path}")).is(404).json();
        assert!(error["error"]["message"].is_string());
    }
}

/// Results that find no room wait in the queue until there is some.
#[test]
fn what_is_put_back_while_a_batch_is_finished_comes_with_the_rest() {
    let desk = Desk::with(
        SimConfig::default().trouble(Trouble::BadRequest, 1.0),
        |server| server.max_upload_bytes(5000),
    );
    let spare = uploaded(&desk, &"x".repeat(3500));
    let batch = begun(&desk, &lines(3));
    let fence = uploaded(&desk, &line("f", "Fence.").to_string());
    let waiting = wait_for(&desk, &batch, "finalizing");
    waiting.has(json!({"output_file_id": null, "error_file_id": null}));
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
