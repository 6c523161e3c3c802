//! What listeners and the receiver of the webhook are told, and the numbers at a glance.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::{Job, JobId, ProcessId, Secret};
use batchwright_server::Server;
use batchwright_simulate::SimConfig;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::common::{Desk, Has, PATIENCE, keyed, lines, shout, until, until_finished, until_shown};
use super::openai::{self, CHAT, question, uploaded};

/// A stream of events, as a browser reads it.
pub struct Stream(BufReader<ureq::BodyReader<'static>>);

/// One event: its id, its name and its data.
pub type Told = (String, String, Value);

impl Stream {
    pub fn open(desk: &Desk, last: Option<&str>) -> Self {
        Self::at(desk, "/api/v1/events", last)
    }

    fn at(desk: &Desk, path: &str, last: Option<&str>) -> Self {
        Self::with(desk, path, last.map(|last| ("last-event-id", last)))
    }

    pub fn with(desk: &Desk, path: &str, header: Option<(&str, &str)>) -> Self {
        let mut request = desk.agent().get(desk.url(path));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = request.call().unwrap();
        assert_eq!(response.status(), 200);
        Self(BufReader::new(response.into_body().into_reader()))
    }

    /// The next event of one of these names.
    pub fn next(&mut self, names: &[&str]) -> Option<Told> {
        let (mut id, mut name) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", text)) => id = text.to_owned(),
                Some(("event", text)) => name = text.to_owned(),
                Some(("data", text)) if names.contains(&name.as_str()) => {
                    return Some((id, name, serde_json::from_str(text).unwrap()));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn each_event_comes_once_and_a_lost_connection_goes_on_where_it_was() {
    let mut desk = Desk::new();
    let mut stream = Stream::open(&desk, None);
    let make = |n: usize| desk.made("/api/v1/jobs", &shout(&n.to_string()))["job_id"].clone();
    let mut made: Vec<Value> = (0..20).map(make).collect();
    let mut told = Vec::new();
    let mut last = String::new();
    for _ in 0..12 {
        let (id, _, job) = stream.next(&["job"]).unwrap();
        assert_eq!(job["status"], "completed");
        told.push(job["job_id"].clone());
        last = id;
    }
    drop(stream);
    made.extend((20..30).map(make));
    let mut stream = Stream::open(&desk, Some(&last));
    while told.len() < 30 {
        told.push(stream.next(&["job"]).unwrap().2["job_id"].clone());
    }
    let sorted = |ids: Vec<Value>| -> Vec<String> {
        let mut ids: Vec<String> = ids.iter().map(Value::to_string).collect();
        ids.sort();
        ids
    };
    assert_eq!(sorted(told), sorted(made));
    // One of another start of the server is no place to go on from, and whoever listens is told so.
    let mut strange = Stream::open(&desk, Some("0123-5"));
    assert_eq!(
        strange.next(&["job", "process", "reset"]).unwrap().1,
        "reset"
    );
    let server = thread::spawn(move || {
        desk.stop();
        desk
    });
    while stream.next(&["job"]).is_some() {}
    drop(server.join().unwrap());
}

#[test]
fn the_end_of_a_process_is_told_with_its_counts() {
    let desk = Desk::new();
    let mut stream = Stream::open(&desk, None);
    let made = lines(&desk, "?type=shout", "\"a\"\n\"b\"\n3\n")
        .is(201)
        .json();
    loop {
        let (_, _, process) = stream.next(&["process"]).unwrap();
        assert_eq!(process["process_id"], made["process_id"]);
        if process["state"] == "finished" {
            process.has(json!({"completed": 2, "failed": 1}));
            break;
        }
    }
    let (_, _, overview) = stream.next(&["overview"]).unwrap();
    assert!(overview["jobs"]["completed"].is_u64());
    let place = format!(
        "/api/v1/processes/{}?force=true",
        made["process_id"].as_str().unwrap()
    );
    desk.delete(&place).is(200);
    let (_, _, gone) = stream.next(&["process"]).unwrap();
    assert_eq!(
        gone,
        json!({"process_id": made["process_id"], "state": "deleted"})
    );
}

#[test]
fn the_overview_adds_up() {
    let desk = Desk::new();
    let made = lines(&desk, "?type=shout", "\"a\"\n2\n").is(201).json();
    until_finished(&desk, made["process_id"].as_str().unwrap());
    let overview = until_shown(&desk, "/api/v1/overview", |all| all["jobs"]["failed"] == 1);
    assert_eq!(overview["jobs"]["completed"], 1);
    overview.has(json!({"processes": 1, "processes_open": 0}));
    overview.has(
        json!({"/provider/model": "sim-1", "/strategy/effective": "sync",
        "skipped_providers": []}),
    );
    assert_eq!(desk.read("/api/v1/batches"), json!({"data": []}));
}

/// A job of a process that no worker carries out, until it is cancelled.
fn open_job(desk: &Desk) -> (ProcessId, JobId) {
    let queue = desk.queue();
    let process = ProcessId::new();
    let job = Job::new("nobody's", &1).unwrap();
    (process, queue.enqueue(process, [job]).unwrap()[0])
}

#[test]
fn a_listener_hears_only_of_its_process() {
    let desk = Desk::new();
    let (process, _) = open_job(&desk);
    let mut mine = Stream::at(&desk, &format!("/api/v1/events?process_id={process}"), None);
    let of_job = json!({"type": "shout", "payload": "x", "process_id": process});
    desk.post("/api/v1/jobs", &shout("another's")).is(201);
    let made = desk.made("/api/v1/jobs", &of_job);
    let all = ["process", "job", "overview", "config", "reset"];
    loop {
        let (_, name, told) = mine.next(&all).unwrap();
        assert_eq!(told["process_id"], json!(process), "{name} {told}");
        if name == "job" {
            assert_eq!(told["job_id"], made["job_id"]);
            break;
        }
    }
    for (path, status) in [
        (format!("?process_id={}", ProcessId::new()), 404),
        ("?job_id=x".to_owned(), 400),
    ] {
        desk.get(&format!("/api/v1/events{path}")).is(status);
    }
}

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
    until(|| left(desk) == 0);
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
    let send = || keyed(&desk, "/api/v1/processes?type=shout", "k", "\"a\"\n\"b\"\n").is(201);
    let made = send().json();
    let told = take(&receiver, "200 OK").body;
    assert_eq!(told["data"]["process_id"], made["process_id"]);
    // A repeated request makes nothing that could end.
    send();
    // Direct calls are answered at their connection.
    desk.post(CHAT, &question("hi")).is(200);
    let batch = openai::create(&desk, &uploaded(&desk, &openai::lines(2)), CHAT);
    let told = take(&receiver, "200 OK").body;
    told.has(json!({"object": "event", "type": "batch.completed"}));
    assert_eq!(told["data"]["id"], batch["id"]);
    until_all_are_delivered(&desk);
}
