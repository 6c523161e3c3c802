//! Webhooks: told once taken, again when not, and never to places that are not public.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::{Job, JobQueue, ProcessId};
use batchwright_simulate::SimConfig;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::common::{Answer, Desk, Has, PATIENCE, shout};
use super::openai::{self, CHAT, uploaded};

/// What a receiver was sent.
struct Message {
    head: String,
    text: String,
    body: Value,
}

impl Message {
    fn header(&self, name: &str) -> &str {
        let start = format!("{name}: ");
        let line = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix(start.as_str()));
        line.unwrap_or_else(|| panic!("no {name}: {}", self.head))
    }
}

/// The next connection; an accept that blocks would hang where none comes.
fn accept(receiver: &TcpListener) -> TcpStream {
    receiver.set_nonblocking(true).unwrap();
    let until = Instant::now() + PATIENCE;
    let stream = loop {
        match receiver.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < until, "nobody came");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Takes one message and answers it.
fn take(receiver: &TcpListener, answer: &str) -> Message {
    let mut stream = accept(receiver);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    // Values keep their case.
    let lower = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
        None => format!("{line}\n"),
    };
    let head: String = head.lines().map(lower).collect();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).unwrap();
    Message {
        head,
        body: serde_json::from_slice(&body).unwrap(),
        text: String::from_utf8(body).unwrap(),
    }
}

/// A job of a process of its own, which is told.
fn process(desk: &Desk) -> String {
    let job = json!({"type": "shout", "payload": "hi"});
    let created = desk.made("/api/v1/jobs", &job);
    created["process_id"].as_str().unwrap().to_owned()
}

fn path(process: &str) -> String {
    format!("/api/v1/processes/{process}/webhook")
}

#[track_caller]
fn wait_for(desk: &Desk, process: &str, done: impl Fn(&Value) -> bool) -> Value {
    wait_at(desk, &path(process), done)
}

#[track_caller]
fn wait_at(desk: &Desk, place: &str, done: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let webhook = desk.read(place);
        if done(&webhook) {
            return webhook;
        }
        assert!(Instant::now() < until, "{webhook}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_end_of_a_process_is_told_until_it_is_taken_also_over_a_restart() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", receiver.local_addr().unwrap());
    let mut desk = Desk::with(SimConfig::default(), |server| {
        server.allow_private_webhooks(true)
    });
    let process = process(&desk);
    let made = desk
        .put(&path(&process), &json!({"url": url}))
        .is(201)
        .json();
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    // A redirect is no success, and not followed.
    let first = take(
        &receiver,
        "302 Found\r\nlocation: /elsewhere\r\nretry-after: 1",
    );
    assert_eq!(
        (&first.body["type"], &first.body["data"]["process_id"]),
        (&json!("process.finished"), &json!(process))
    );
    first.body["data"].has(json!({"state": "finished", "completed": 1}));
    assert!(first.header("webhook-signature").starts_with("v1,"));
    let told = wait_for(&desk, &process, |webhook| webhook["attempts"] == 1);
    assert_eq!((&told["state"], &told["url"]), (&json!("due"), &json!(url)));
    assert!(told["error"].as_str().unwrap().contains("302") && told.get("secret").is_none());

    desk.stop();
    desk.start(|server| server.allow_private_webhooks(true));
    let second = take(&receiver, "204 No Content");
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    assert_eq!(second.body, first.body);
    assert_ne!(
        second.header("webhook-timestamp"),
        first.header("webhook-timestamp")
    );
    wait_for(&desk, &process, |webhook| webhook["state"] == "delivered");
    desk.delete(&path(&process)).is(204);
    desk.get(&path(&process)).is(404);
}

#[test]
fn nothing_is_sent_to_places_that_are_not_public() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    let desk = Desk::new();
    let process = process(&desk);
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        "https://169.254.169.254/".to_owned(),
        "https://[::1]/".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let refused = desk.put(&path(&process), &json!({"url": url})).is(400);
        assert_eq!(refused.json()["param"], "url");
    }
    // A name may stand for anything.
    let url = format!("https://localhost:{port}/");
    desk.put(&path(&process), &json!({"url": url})).is(201);
    let webhook = wait_for(&desk, &process, |webhook| webhook["attempts"] == 1);
    assert!(
        webhook["error"]
            .as_str()
            .unwrap()
            .contains("no public address"),
        "{webhook}"
    );
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.accept().is_err(), "nobody may have come");
    let unknown = path("019aa0f4-5b7c-7d1e-8f00-0123456789ab");
    desk.put(&unknown, &json!({"url": "https://example.com/"}))
        .is(404);
    desk.delete(&unknown).is(404);
}

/// A server that sends to this machine, a receiver, and its address.
fn desk_and_receiver() -> (Desk, TcpListener, String) {
    let desk = Desk::with(SimConfig::default(), |server| {
        server.allow_private_webhooks(true)
    });
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", receiver.local_addr().unwrap());
    (desk, receiver, url)
}

/// Posts with headers that name a webhook.
fn post_with(desk: &Desk, path: &str, body: &str, url: &str, secret: &str) -> Answer {
    let request = desk.agent().post(desk.url(path));
    let request = request.header("content-type", "application/json");
    let request = request.header("x-batchwright-webhook", url);
    let request = request.header("x-batchwright-webhook-secret", secret);
    Answer::of(request.send(body).unwrap())
}

/// The receiver accepts only what its own secret has signed.
fn signed_with(message: &Message, key: &[u8]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    let (id, time) = (
        message.header("webhook-id"),
        message.header("webhook-timestamp"),
    );
    mac.update(format!("{id}.{time}.{}", message.text).as_bytes());
    let expected = STANDARD.encode(mac.finalize().into_bytes());
    message.header("webhook-signature") == format!("v1,{expected}")
}

#[test]
fn a_webhook_is_named_at_creation_with_the_secret_of_its_receiver() {
    let (desk, receiver, url) = desk_and_receiver();
    let key = [7; 32];
    let secret = format!("whsec_{}", STANDARD.encode(key));
    let next = || {
        let message = take(&receiver, "204 No Content");
        assert!(signed_with(&message, &key));
        message.body
    };
    let post = |path: &str, body: &str| post_with(&desk, path, body, &url, &secret);

    let job = post("/api/v1/jobs", &shout("hi").to_string())
        .is(201)
        .json();
    let told = next();
    assert_eq!(told["type"], "job.finished");
    told["data"].has(json!({"job_id": job["job_id"], "status": "completed"}));
    assert!(told["data"].get("result").is_none(), "{told}");

    let process = post("/api/v1/processes?type=shout", "\"a\"\n\"b\"\n")
        .is(201)
        .json();
    let told = next();
    assert_eq!(told["type"], "process.finished");
    told["data"].has(json!({"process_id": process["process_id"], "completed": 2}));

    let file = uploaded(&desk, &openai::lines(1));
    let asked = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"});
    let batch = post("/v1/batches", &asked.to_string()).is(200).json();
    let told = next();
    told.has(json!({"object": "event", "type": "batch.completed", "data": {"id": batch["id"]}}));
    assert!(told["id"].as_str().unwrap().starts_with("evt_") && told["created_at"].is_u64());
    let place = format!("/v1/batches/{}/webhook", batch["id"].as_str().unwrap());
    assert_eq!(desk.read(&place)["url"], json!(url));

    for (url, secret, param) in [
        ("ftp://x", &*secret, "x-batchwright-webhook"),
        (&url, "hunter2", "x-batchwright-webhook-secret"),
        (&url, "whsec_c2hvcnQ=", "x-batchwright-webhook-secret"),
    ] {
        let refused = post_with(&desk, "/api/v1/jobs", &shout("x").to_string(), url, secret);
        let refused = refused.is(400);
        assert_eq!(refused.json()["param"], param);
        assert!(!refused.text.contains("hunter2"));
    }
}

#[test]
fn a_repeated_request_sets_its_webhook_once() {
    let (desk, receiver, url) = desk_and_receiver();
    let secret = format!("whsec_{}", STANDARD.encode([7; 32]));
    let post = || {
        let request = desk.agent().post(desk.url("/api/v1/jobs"));
        let request = request.header("idempotency-key", "k");
        let request = request.header("x-batchwright-webhook", &url);
        let request = request.header("x-batchwright-webhook-secret", &secret);
        Answer::of(request.send(shout("hi").to_string()).unwrap()).is(201)
    };
    let job = post().json()["job_id"].as_str().unwrap().to_owned();
    let place = format!("/api/v1/jobs/{job}/webhook");
    take(&receiver, "204 No Content");
    post();
    wait_at(&desk, &place, |webhook| webhook["state"] == "delivered");
    // As if the server had died before it recorded the webhook.
    desk.delete(&place).is(204);
    post();
    take(&receiver, "204 No Content");
}

#[test]
fn a_slow_receiver_delays_only_its_own_messages() {
    let (desk, quick, url) = desk_and_receiver();
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let secret = format!("whsec_{}", STANDARD.encode([7; 32]));
    let slow_url = format!("http://{}/", slow.local_addr().unwrap());
    let post = |url: &str| {
        let body = shout("hi").to_string();
        post_with(&desk, "/api/v1/jobs", &body, url, &secret).is(201)
    };
    post(&slow_url);
    let waits = accept(&slow);
    post(&slow_url);
    post(&url);
    take(&quick, "204 No Content");
    post(&url);
    take(&quick, "204 No Content");
    slow.set_nonblocking(true).unwrap();
    assert!(slow.accept().is_err(), "one message at a time");
    drop(waits);
    accept(&slow);
}

#[test]
fn a_message_is_sent_again_on_request() {
    let (desk, receiver, url) = desk_and_receiver();
    let job = desk.made("/api/v1/jobs", &shout("hi"));
    let place = format!("/api/v1/jobs/{}/webhook", job["job_id"].as_str().unwrap());
    let secret = format!("whsec_{}", STANDARD.encode([7; 24]));
    let made = desk.put(&place, &json!({"url": url, "secret": secret}));
    assert!(!made.is(201).text.contains("whsec_"), "it is known");
    let first = take(&receiver, "204 No Content");
    wait_at(&desk, &place, |webhook| webhook["state"] == "delivered");
    let again = desk.post(&format!("{place}/resend"), &json!({}));
    again.is(202).json().has(json!({"url": url}));
    let second = take(&receiver, "204 No Content");
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    assert_eq!(second.text, first.text);
    assert!(signed_with(&second, &[7; 24]));

    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let later = Job::new("nobody's", &1).unwrap();
    let open = queue.enqueue(ProcessId::new(), [later]).unwrap()[0];
    let place = format!("/api/v1/jobs/{open}/webhook");
    let resend = || desk.post(&format!("{place}/resend"), &json!({}));
    resend().is(404);
    desk.put(&place, &json!({"url": url})).is(201);
    resend().is(409);
}

/// The next server sends the messages about what ended while no server ran.
#[test]
fn an_end_between_two_servers_is_told_by_the_next_one() {
    let (mut desk, receiver, url) = desk_and_receiver();
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let [ended, deleted] = [ProcessId::new(), ProcessId::new()];
    for process in [ended, deleted] {
        let job = Job::new("nobody's", &1).unwrap();
        queue.enqueue(process, [job]).unwrap();
        let place = path(&process.to_string());
        desk.put(&place, &json!({"url": url})).is(201);
    }
    desk.stop();
    queue.cancel(ended).unwrap();
    queue.delete(deleted).unwrap();
    desk.start(|server| server.allow_private_webhooks(true));
    let told = [(); 2].map(|()| take(&receiver, "204 No Content").body["data"].clone());
    let state = |process: ProcessId| {
        let id = json!(process.to_string());
        let found = told.iter().find(|data| data["process_id"] == id);
        found.unwrap()["state"].clone()
    };
    assert_eq!(state(ended), "cancelled");
    assert_eq!(state(deleted), "consumed");
}

/// A new process with the id of a deleted one does not get its webhook.
#[test]
fn a_webhook_ends_with_its_process() {
    let (desk, receiver, url) = desk_and_receiver();
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let create = |process: &str| {
        let mut job = shout("hi");
        job["process_id"] = json!(process);
        desk.post("/api/v1/jobs", &job).is(201);
    };
    let process = ProcessId::new();
    let place = path(&process.to_string());
    // One that was delivered, and one that waits when its process is deleted.
    create(&process.to_string());
    desk.put(&place, &json!({"url": url})).is(201);
    let first = take(&receiver, "204 No Content");
    assert_eq!(first.body["data"]["state"], "finished");
    wait_at(&desk, &place, |webhook| webhook["state"] == "delivered");
    queue.delete(process).unwrap();
    desk.get(&place).is(200);
    create(&process.to_string());
    desk.get(&place).is(404);
    desk.put(&place, &json!({"url": url})).is(201);
    let second = take(&receiver, "503 Service Unavailable");
    wait_at(&desk, &place, |webhook| webhook["attempts"] == 1);
    queue.delete(process).unwrap();
    create(&process.to_string());
    desk.get(&place).is(404);
    let again = take(&receiver, "204 No Content");
    assert_eq!(again.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(again.text, second.text);
    assert_ne!(second.header("webhook-id"), first.header("webhook-id"));
}

#[test]
fn messages_contain_the_public_url_of_what_has_ended() {
    let desk = Desk::with(SimConfig::default(), |server| {
        let url = "http://localhost:8080/queue".parse().unwrap();
        server.allow_private_webhooks(true).public_url(url)
    });
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", receiver.local_addr().unwrap());
    let process = process(&desk);
    desk.put(&path(&process), &json!({"url": url})).is(201);
    let message = take(&receiver, "204 No Content");
    let url = format!("http://localhost:8080/queue/api/v1/processes/{process}");
    assert_eq!(message.body["url"], url);
}
