//! Webhooks: told once taken, again when not, and never to places that are not public.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, PATIENCE, has};

/// What a receiver was sent.
struct Message {
    head: String,
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
    let head = head.to_ascii_lowercase().replace("\r\n", "\n");
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
    }
}

/// A job of a process of its own, which is told.
fn process(desk: &Desk) -> String {
    let job = json!({"type": "shout", "payload": "hi"});
    let created = desk.post("/api/v1/jobs", &job).is(201).json();
    created["process_id"].as_str().unwrap().to_owned()
}

fn path(process: &str) -> String {
    format!("/api/v1/processes/{process}/webhook")
}

#[track_caller]
fn wait_for(desk: &Desk, process: &str, done: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let webhook = desk.get(&path(process)).is(200).json();
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
    has(
        &first.body["data"],
        json!({"state": "finished", "completed": 1}),
    );
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
