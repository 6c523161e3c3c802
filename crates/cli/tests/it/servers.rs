//! Two servers of one queue on a database server, as behind a load balancer: each continues what the other one has
//! begun. `scripts/with-servers` starts the database; without one these tests print that they were skipped.

#![cfg(all(unix, feature = "mysql"))]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Barrier, Mutex};
use std::thread;

use batchwright_simulate::Simulator;
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, Random, Running, eventually, good};
use super::queue_server::Server;
use super::serve::{listening, post, sent};

/// A server of the queue with a separate data folder, as on a separate machine, and its address.
fn serve(on: &Server, desk: &Desk, sim: &Simulator, folder: &str, port: &str) -> (Running, String) {
    let url = sim.base_url();
    let words = format!(
        "serve --base-url {url} --provider local --model sim-1 --port {port} --data-dir {folder} -j 8 --allow-private-webhooks"
    );
    listening(&mut on.on(desk.command(words.split_whitespace())))
}

/// Requests a job until the answer is 201, from each server in turn.
fn job(addresses: &[&String], key: &str, prompt: &str) -> String {
    let header = format!("idempotency-key: {key}\r\n");
    let body = json!({"type": "completion", "payload": {"prompt": prompt}}).to_string();
    let mut answer = None;
    let mut turn = addresses.iter().cycle();
    assert!(eventually(|| {
        answer = post(turn.next().unwrap(), "/api/v1/jobs", &header, &body);
        answer.as_ref().is_some_and(|(status, _)| *status == 201)
    }));
    answer.unwrap().1
}

fn jobs_in_the_queue(on: &Server, desk: &Desk) -> u64 {
    let status = on.run(desk, "status --json").expect(0).json();
    let processes = status["processes"].as_array().unwrap();
    processes.iter().map(|p| p["total"].as_u64().unwrap()).sum()
}

/// The JSON answer of a server.
pub fn got(address: &str, method: &str, path: &str, body: &str) -> Value {
    let answer = sent(address, method, path, body);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{method} {path}: {answer}"))
}

/// A hundred keys at once, each first at one server and then at the other one, some at both at the same time.
#[test]
fn a_key_creates_one_job_on_two_servers_of_one_database() {
    let Some(on) = Server::new() else { return };
    const JOBS: usize = 100;
    let (desk, sim) = (Desk::new(), good());
    let servers = ["one", "two"].map(|folder| serve(&on, &desk, &sim, folder, "0"));
    let addresses = [&servers[0].1, &servers[1].1];
    let begin = Barrier::new(JOBS + 20);
    let made = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for n in 0..JOBS {
            let (begin, made) = (&begin, &made);
            let (first, other) = (addresses[n % 2], addresses[1 - n % 2]);
            let (key, prompt) = (format!("key-{n}"), format!("prompt {n}"));
            if n < 20 {
                let (key, prompt) = (key.clone(), prompt.clone());
                scope.spawn(move || {
                    begin.wait();
                    made.lock().unwrap().push((n, job(&[other], &key, &prompt)));
                });
            }
            scope.spawn(move || {
                begin.wait();
                let answer = job(&[first], &key, &prompt);
                assert_eq!(job(&[other], &key, &prompt), answer, "{key}");
                made.lock().unwrap().push((n, answer));
            });
        }
    });
    let made = made.into_inner().unwrap();
    let distinct: BTreeSet<&(usize, String)> = made.iter().collect();
    assert_eq!(distinct.len(), JOBS, "one answer of each key");
    let answers: BTreeSet<&String> = made.iter().map(|(_, answer)| answer).collect();
    assert_eq!(answers.len(), JOBS, "and a job of its own");
    assert_eq!(jobs_in_the_queue(&on, &desk), JOBS as u64);
    for (_, answer) in &made {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let path = format!(
            "/api/v1/jobs/{}?wait=30",
            answer["job_id"].as_str().unwrap()
        );
        let known = got(addresses[0], "GET", &path, "");
        assert_eq!(known["status"], "completed", "{known}");
    }
    assert_eq!(sim.stats().calls, JOBS as u64, "each was paid for once");
    assert!(!desk.exists("one/server.db"), "all is in the database");
    // If one server rejects the key for another request, the other one does too.
    let header = "idempotency-key: key-0\r\n";
    let body = json!({"type": "completion", "payload": {"prompt": "another"}}).to_string();
    let refused = post(addresses[1], "/api/v1/jobs", header, &body).unwrap();
    assert_eq!(refused.0, 422, "{}", refused.1);
}

/// A server is killed while it processes requests: the other one takes them over when its lease has ended, and each
/// key has one job.
#[test]
fn keys_of_a_killed_server_pass_to_the_other_one() {
    let Some(on) = Server::new() else { return };
    let (desk, sim) = (Desk::new(), good());
    let (mut dies, first) = serve(&on, &desk, &sim, "one", "0");
    let (lives, other) = serve(&on, &desk, &sim, "two", "0");
    // It has read the key of a process, and waits for the rest of its lines.
    let lines: String = (0..5)
        .map(|n| format!("{{\"prompt\":\"line {n}\"}}\n"))
        .collect();
    let mut half = TcpStream::connect(&first).unwrap();
    let head = format!(
        "POST /api/v1/processes HTTP/1.1\r\nhost: {first}\r\nidempotency-key: lines\r\ncontent-length: {}\r\n\r\n{}",
        lines.len(),
        &lines[..30]
    );
    half.write_all(head.as_bytes()).unwrap();
    // When a later request is answered, it has begun with this one.
    job(&[&first], "early", "early");
    // Many clients request jobs while it is killed.
    let made = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 0..8 {
            let (made, first, other) = (&made, &first, &other);
            scope.spawn(move || {
                for n in 0..20 {
                    let key = format!("{client}-{n}");
                    let answer = job(&[first, other], &key, &key);
                    made.lock().unwrap().push((key, answer));
                }
            });
        }
        assert!(eventually(|| made.lock().unwrap().len() >= 40));
        dies.child.kill().unwrap();
        dies.child.wait().unwrap();
    });
    let made = made.into_inner().unwrap();
    for (key, answer) in &made {
        assert_eq!(&job(&[&other], key, key), answer, "and still the same one");
    }
    let ids: BTreeSet<&String> = made.iter().map(|(_, answer)| answer).collect();
    assert_eq!(ids.len(), 160, "each key has a job of its own");
    let mut answer = None;
    assert!(eventually(|| {
        answer = post(
            &other,
            "/api/v1/processes",
            "idempotency-key: lines\r\n",
            &lines,
        );
        answer.as_ref().is_some_and(|(status, _)| *status == 201)
    }));
    let process: Value = serde_json::from_str(&answer.unwrap().1).unwrap();
    assert_eq!(process["total"], 5);
    assert_eq!(
        jobs_in_the_queue(&on, &desk),
        160 + 5 + 1,
        "and none is without a key"
    );
    lives.signal("TERM");
    lives.wait().expect(0);
}

/// A server is suspended during requests until the other one considers it dead and processes them. When it resumes,
/// it creates no second job.
#[test]
fn a_suspended_server_creates_no_second_job() {
    let Some(on) = Server::new() else { return };
    const KEYS: usize = 64;
    let (desk, sim) = (Desk::new(), good());
    let (sleeps, first) = serve(&on, &desk, &sim, "one", "0");
    let (_lives, other) = serve(&on, &desk, &sim, "two", "0");
    let answered = Mutex::new(Vec::new());
    let body = |n: usize| {
        json!({"type": "completion", "payload": {"prompt": format!("prompt {n}")}}).to_string()
    };
    thread::scope(|scope| {
        for n in 0..KEYS {
            let (first, answered) = (&first, &answered);
            scope.spawn(move || {
                let header = format!("idempotency-key: key-{n}\r\n");
                let answer = post(first, "/api/v1/jobs", &header, &body(n));
                answered.lock().unwrap().push((n, answer));
            });
        }
        assert!(eventually(|| answered.lock().unwrap().len() >= 4));
        sleeps.signal("STOP");
        let before = answered.lock().unwrap().len();
        assert!(before < KEYS, "it was too quick");
        let taken: Vec<String> = thread::scope(|scope| {
            let ask = |n: usize| {
                let other = &other;
                scope.spawn(move || job(&[other], &format!("key-{n}"), &format!("prompt {n}")))
            };
            let asked: Vec<_> = (0..KEYS).map(ask).collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        sleeps.signal("CONT");
        assert!(eventually(|| answered.lock().unwrap().len() == KEYS));
        for (n, answer) in answered.lock().unwrap().iter() {
            if let Some((201, answer)) = answer {
                assert_eq!(answer, &taken[*n], "key-{n}");
            }
        }
        let ids: BTreeSet<&String> = taken.iter().collect();
        assert_eq!(ids.len(), KEYS);
    });
    assert_eq!(jobs_in_the_queue(&on, &desk), KEYS as u64);
}

/// Uploads a file of this number of lines, each with up to `filler` characters of filler.
pub fn upload(address: &str, lines: usize, filler: u64) -> Value {
    let mut text = String::new();
    let mut random = Random(7);
    for n in 0..lines {
        let filler = "x".repeat(usize::try_from(random.below(filler)).unwrap());
        let line = json!({
            "custom_id": format!("r-{n}"),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "sim-1", "messages": [{"role": "user", "content": format!("{n} {filler}")}]},
        });
        text.push_str(&format!("{line}\n"));
    }
    let part = |name: &str, more: &str, value: &str| {
        format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n{value}\r\n")
    };
    let body = format!(
        "{}{}--b--\r\n",
        part("purpose", "", "batch"),
        part("file", "; filename=\"in.jsonl\"", &text)
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: multipart/form-data; boundary=b\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).expect(&answer)
}

/// A file is uploaded to one server and its batch is created at the other one. The server that processes the batch
/// is killed, and the results are fetched from the first server again.
#[test]
fn a_batch_continues_on_the_other_server_after_a_kill() {
    let Some(on) = Server::new() else { return };
    const LINES: usize = 120;
    let (desk, sim) = (Desk::new(), good());
    // The first server to start processes batches.
    let (mut dies, first) = serve(&on, &desk, &sim, "one", "0");
    let (_lives, other) = serve(&on, &desk, &sim, "two", "0");
    let file = upload(&first, LINES, 60_000);
    let id = file["id"].as_str().unwrap();
    assert!(file["bytes"].as_u64().unwrap() > 2 << 20, "{file}");
    let listed = got(&other, "GET", "/v1/files", "");
    assert_eq!(listed["data"][0]["id"], id, "{listed}");
    sim.hold();
    let asked = json!({
        "input_file_id": id, "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    let batch = got(&other, "POST", "/v1/batches", &asked.to_string());
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let state = |address: &str| {
        got(address, "GET", &path, "")["status"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(eventually(|| state(&other) == "in_progress"));
    dies.child.kill().unwrap();
    dies.child.wait().unwrap();
    sim.release();
    assert!(eventually(|| state(&other) == "completed"));
    let done = got(&other, "GET", &path, "");
    assert_eq!(done["request_counts"]["completed"], LINES, "{done}");
    let (_back, again) = serve(&on, &desk, &sim, "three", "0");
    let output = done["output_file_id"].as_str().unwrap();
    let text = sent(&again, "GET", &format!("/v1/files/{output}/content"), "");
    let lines = text.split_once("\r\n\r\n").unwrap().1;
    let ids: BTreeSet<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["custom_id"].to_string())
        .collect();
    assert_eq!((lines.lines().count(), ids.len()), (LINES, LINES));
    let gone = got(&again, "DELETE", &format!("/v1/files/{output}"), "");
    assert_eq!(gone["deleted"], true);
    let missing = sent(&other, "GET", &format!("/v1/files/{output}"), "");
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
}

/// The server that processes batches is suspended while it enqueues one, until the other one has done so. When it
/// resumes, it adds no line.
#[test]
fn a_batch_is_enqueued_once_although_its_server_was_suspended() {
    let Some(on) = Server::new() else { return };
    const LINES: usize = 3_000;
    let (desk, sim) = (Desk::new(), good());
    let (sleeps, _) = serve(&on, &desk, &sim, "one", "0");
    let (_lives, other) = serve(&on, &desk, &sim, "two", "0");
    let file = upload(&other, LINES, 10);
    sim.hold();
    let asked = json!({
        "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    let batch = got(&other, "POST", "/v1/batches", &asked.to_string());
    // Some of its lines are enqueued, but not all.
    assert!(eventually(|| {
        let processes = got(&other, "GET", "/api/v1/processes", "");
        !processes["data"].as_array().unwrap().is_empty()
    }));
    sleeps.signal("STOP");
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let state = || {
        let batch = got(&other, "GET", &path, "");
        batch["status"].as_str().unwrap().to_owned()
    };
    assert!(eventually(|| state() == "in_progress"));
    sleeps.signal("CONT");
    sim.release();
    assert!(eventually(|| state() == "completed"));
    let done = got(&other, "GET", &path, "");
    done.has(json!({"/request_counts/total": LINES, "/request_counts/completed": LINES}));
    let output = done["output_file_id"].as_str().unwrap();
    let text = sent(&other, "GET", &format!("/v1/files/{output}/content"), "");
    let lines = text.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(lines.lines().count(), LINES);
}

/// Two servers send a webhook once.
#[test]
fn two_servers_send_a_webhook_once() {
    let Some(on) = Server::new() else { return };
    let (desk, sim) = (Desk::new(), good());
    let (_first, _) = serve(&on, &desk, &sim, "one", "0");
    let (_second, other) = serve(&on, &desk, &sim, "two", "0");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!("http://{}/", listener.local_addr().unwrap());
    sim.hold();
    let answer: Value = serde_json::from_str(&job(&[&other], "k", "p")).unwrap();
    let path = format!(
        "/api/v1/processes/{}/webhook",
        answer["process_id"].as_str().unwrap()
    );
    let asked = got(&other, "PUT", &path, &json!({"url": hook}).to_string());
    assert_eq!(asked["url"], hook.as_str(), "{asked}");
    sim.release();
    let (mut message, _) = listener.accept().unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        message.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap();
    let mut body = vec![0; length.lines().next().unwrap().trim().parse().unwrap()];
    message.read_exact(&mut body).unwrap();
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("process.finished")
    );
    message
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    assert!(eventually(
        || got(&other, "GET", &path, "")["state"] == "delivered"
    ));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody tells it again");
}
