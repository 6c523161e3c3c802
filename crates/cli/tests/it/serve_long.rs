//! The Batch endpoint from upload to download with files as large as OpenAI allows: the memory of the server does
//! not depend on their size. Continuous integration runs this test as an optimized build.

#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Body, SendBody};

use super::common::{Desk, HOME, Has, Running, eventually, simulator};
use super::serve::{sent, serve};

const LINES: usize = 28_000;
/// Minimum size of the input, and of the output, in bytes.
const INPUT: u64 = 200_000_000;
const OUTPUT: u64 = 500_000_000;
/// Maximum memory of a server, for any size of files.
const MOST_KIB: u64 = 128 << 10;
/// After this time, a step counts as hanging.
const LONG: Duration = Duration::from_secs(900);

/// Its length differs from that of its neighbours, so that the tokens of a reply identify its prompt.
fn prompt(n: usize) -> String {
    let mut text = format!("Prompt {n}: say \"hello\".\n");
    let wanted = 6_700 + 4 * (n % 250);
    while text.len() < wanted {
        text.push_str("What the river takes at the bend it leaves at the next one. ");
    }
    text.truncate(wanted);
    text
}

fn reply() -> String {
    "Für alle, die \"fragen\":\n\tdie Antwort ist lang, und sie ist immer dieselbe.\n".repeat(225)
}

fn json(answer: Option<Response<Body>>) -> Value {
    let mut answer = answer.expect("the server answers");
    let body = answer.body_mut().read_to_string().unwrap();
    assert_eq!(answer.status(), 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

pub fn get(address: &str, path: &str) -> Value {
    json(sent(address, &format!("GET {path}"), "", ()))
}

/// Writes the input of the batch, line by line, and returns its length in bytes.
fn write_input(path: &Path) -> u64 {
    let mut file = BufWriter::new(File::create(path).unwrap());
    for n in 0..LINES {
        let body = json!({"model": "sim-1", "messages": [{"role": "user", "content": prompt(n)}]});
        let line = json!({"custom_id": format!("r-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body});
        writeln!(file, "{line}").unwrap();
    }
    file.into_inner().unwrap().metadata().unwrap().len()
}

pub fn upload(address: &str, path: &Path) -> Value {
    let head = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n";
    let tail = "\r\n--b--\r\n";
    let file = File::open(path).unwrap();
    let length = (head.len() + tail.len()) as u64 + file.metadata().unwrap().len();
    let body = head.as_bytes().chain(file).chain(tail.as_bytes());
    let headers =
        format!("content-type: multipart/form-data; boundary=b\ncontent-length: {length}");
    let body = SendBody::from_owned_reader(body);
    json(sent(address, "POST /v1/files", &headers, body))
}

pub fn create(address: &str, file: &Value) -> Value {
    let asked = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let headers = "content-type: application/json";
    json(sent(
        address,
        "POST /v1/batches",
        headers,
        asked.to_string(),
    ))
}

/// Polls until a batch has this status.
pub fn wait_for(address: &str, id: &str, status: &str) -> Value {
    let until = Instant::now() + LONG;
    loop {
        let batch = get(address, &format!("/v1/batches/{id}"));
        if batch["status"] == status {
            return batch;
        }
        assert!(
            batch["errors"].is_null() && Instant::now() < until,
            "{batch}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Downloads a file of results and passes each line on when it arrives. Returns the number of bytes.
fn download(address: &str, file: &Value, mut each: impl FnMut(usize, Value)) -> u64 {
    let id = file.as_str().unwrap();
    let answer = sent(address, &format!("GET /v1/files/{id}/content"), "", ()).unwrap();
    assert_eq!(answer.status(), 200);
    let length = answer.body().content_length();
    let body = BufReader::with_capacity(256 << 10, answer.into_body().into_reader());
    let mut bytes = 0;
    for line in body.split(b'\n') {
        let line = line.unwrap();
        bytes += line.len() as u64 + 1;
        let line: Value = serde_json::from_slice(&line).unwrap();
        let id = line["custom_id"].as_str().unwrap();
        let n = id.strip_prefix("r-").unwrap().parse().unwrap();
        each(n, line);
    }
    // A torn last line would lack its end.
    assert_eq!(Some(bytes), length);
    let described = get(address, &format!("/v1/files/{id}"));
    assert_eq!(described["bytes"], bytes);
    bytes
}

/// Bytes in a folder and its subfolders. Files may be deleted meanwhile.
fn on_disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => on_disk(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
#[ignore = "a minute"]
fn long_serve_200_mb_in_and_500_mb_out_in_flat_memory() {
    let config = SimConfig::default()
        .answer(reply())
        .trouble(Trouble::BadRequest, 0.01);
    let (desk, sim) = (Desk::new(), simulator(config.clone()));
    let (mut running, address) = serve(&desk, &sim, "-j 8");
    let (home, files) = (desk.path(HOME), desk.path(HOME).join("files"));
    let input = desk.path("in.jsonl");
    assert!(write_input(&input) >= INPUT);
    let ended = |what: &str, running: &Running| {
        let kib = running.peak_memory().unwrap();
        println!("{what}: {kib} KiB of memory at most");
        assert!(kib < MOST_KIB, "{what}: {kib} KiB");
    };
    let file = upload(&address, &input);
    assert_eq!(file["bytes"], std::fs::metadata(&input).unwrap().len());
    ended("uploaded", &running);
    let batch = create(&address, &file);
    let id = batch["id"].as_str().unwrap();
    wait_for(&address, id, "in_progress");
    ended("checked and enqueued", &running);
    wait_for(&address, id, "finalizing");
    ended("answered", &running);
    let so_far = || on_disk(&files) > INPUT + OUTPUT / 5;
    assert!(eventually(so_far), "{}", running.said());
    ended("half of the results written", &running);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    assert!(
        on_disk(&files) < INPUT + OUTPUT,
        "it was too quick to be killed"
    );
    let port = address.rsplit(':').next().unwrap();
    running = serve(&desk, &sim, &format!("-j 8 --port {port}")).0;
    let batch = wait_for(&address, id, "completed");
    ended("the rest written after a death", &running);

    let fails = |n: usize| config.plan(&prompt(n)).is_some();
    let failing = (0..LINES).filter(|n| fails(*n)).count();
    assert!(failing > 100);
    let counts = json!({"total": LINES, "completed": LINES - failing, "failed": failing});
    assert_eq!(batch["request_counts"], counts);
    let (reply, mut ids, mut tokens) = (reply(), HashSet::new(), 0);
    let bytes = download(&address, &batch["output_file_id"], |n, line| {
        assert!(ids.insert(n) && !fails(n), "r-{n}");
        line.has(json!({"/response/status_code": 200, "error": null}));
        let body = &line["response"]["body"];
        assert_eq!(body["choices"][0]["message"]["content"], reply, "r-{n}");
        assert_eq!(body["usage"]["prompt_tokens"], prompt(n).len() / 4);
        tokens += body["usage"]["total_tokens"].as_u64().unwrap();
    });
    ended("downloaded", &running);
    assert!(bytes >= OUTPUT, "{bytes}");
    download(&address, &batch["error_file_id"], |n, line| {
        assert!(ids.insert(n) && fails(n), "r-{n}");
        line.has(json!({"/response/status_code": 400, "error": null}));
        let error = &line["response"]["body"]["error"];
        assert_eq!(error["type"], "invalid_request_error");
    });
    assert_eq!(ids.len(), LINES);
    assert_eq!(batch["usage"]["total_tokens"], tokens);
    assert_eq!(sim.stats().paid_twice, 0);

    // The queue frees its space by itself; files must be deleted.
    for file in [
        &file["id"],
        &batch["output_file_id"],
        &batch["error_file_id"],
    ] {
        let to = format!("DELETE /v1/files/{}", file.as_str().unwrap());
        json(sent(&address, &to, "", ()));
    }
    let left = || on_disk(&home) < 32 << 20;
    let soon = (0..4).any(|_| eventually(left));
    assert!(soon, "{} bytes are left", on_disk(&home));
    ended("tidied", &running);
    running.signal("TERM");
    running.wait().expect(0);
}
