//! The webhook: told until it has taken each message.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::Secret;
use batchwright_server::Server;
use batchwright_simulate::SimConfig;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::common::{Desk, Has, PATIENCE, ended, keyed, shout};
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

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver, and a change of a server that tells it.
fn receiver() -> (TcpListener, impl Fn(Server) -> Server) {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", receiver.local_addr().unwrap());
    let adapt = move |server: Server| server.webhook(&url, &Secret::new(SECRET)).unwrap();
    (receiver, adapt)
}

/// How many messages are not delivered.
fn left(desk: &Desk) -> i64 {
    let records = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
    let count = "SELECT COUNT(*) FROM webhooks";
    records.query_row(count, [], |row| row.get(0)).unwrap()
}

#[track_caller]
fn until_all_are_delivered(desk: &Desk) {
    let until = Instant::now() + PATIENCE;
    while left(desk) > 0 {
        assert!(Instant::now() < until, "a message is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_end_of_a_process_is_told_until_it_is_taken_also_over_a_restart() {
    let (receiver, adapt) = receiver();
    let mut desk = Desk::with(SimConfig::default(), &adapt);
    let process = desk.made("/api/v1/jobs", &shout("hi"))["process_id"].clone();
    // A redirect is no success, and not followed.
    let first = take(&receiver, "302 Found\r\nlocation: /elsewhere");
    assert_eq!(
        (&first.body["type"], &first.body["data"]["process_id"]),
        (&json!("process.finished"), &process)
    );
    first.body["data"].has(json!({"state": "finished", "completed": 1}));
    let signed = |message: &Message| {
        let secret = STANDARD.decode(&SECRET["whsec_".len()..]).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        let [id, at] = ["webhook-id", "webhook-timestamp"].map(|name| message.header(name));
        mac.update(format!("{id}.{at}.{}", message.text).as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    assert_eq!(first.header("webhook-signature"), signed(&first));

    desk.stop();
    desk.start(&adapt);
    let second = take(&receiver, "204 No Content");
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("webhook-signature"), signed(&second));
    assert_ne!(
        second.header("webhook-timestamp"),
        first.header("webhook-timestamp")
    );
    until_all_are_delivered(&desk);
}

#[test]
fn each_process_and_each_batch_is_told() {
    let (receiver, adapt) = receiver();
    let desk = Desk::with(SimConfig::default(), adapt);
    let url = desk.url("/api/v1/processes?type=shout");
    let made = keyed(&desk, &url, "k", "\"a\"\n\"b\"\n").is(201).json();
    let told = take(&receiver, "200 OK").body;
    assert_eq!(told["data"]["process_id"], made["process_id"]);
    // A repeated request makes nothing that could end.
    keyed(&desk, &url, "k", "\"a\"\n\"b\"\n").is(201);
    // Direct calls are answered at their connection.
    let chat = json!({"model": "sim-1", "messages": [{"role": "user", "content": "hi"}]});
    desk.post(CHAT, &chat).is(200);
    let batch = openai::create(&desk, &uploaded(&desk, &openai::lines(2)), CHAT);
    let told = take(&receiver, "200 OK").body;
    told.has(json!({"object": "event", "type": "batch.completed"}));
    assert_eq!(told["data"]["id"], batch["id"]);
    until_all_are_delivered(&desk);
}

#[test]
fn without_a_webhook_nothing_is_recorded() {
    let desk = Desk::new();
    let job = desk.made("/api/v1/jobs", &shout("hi"));
    ended(&desk, job["job_id"].as_str().unwrap());
    assert_eq!(left(&desk), 0);
}
