//! What listeners and the receiver of the webhook are told, and the numbers at a glance.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::{Job, ProcessId, Secret};
use batchwright_server::Server;
use batchwright_simulate::SimConfig;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::common::{Desk, Has, PATIENCE, keyed, lines, process, shout, text, until, until_shown};
use super::document;
use super::openai::{self, CHAT, question};

/// A stream of events, as a browser reads it.
pub struct Stream(BufReader<ureq::BodyReader<'static>>);

/// One event: its id, its name and its data.
pub type Told = (String, String, Value);

impl Stream {
    pub fn open(desk: &Desk, last: Option<&str>) -> Self {
        Self::at(desk, "/api/v1/events", last)
    }

    fn at(desk: &Desk, path: &str, last: Option<&str>) -> Self {
        let mut request = desk.agent().get(desk.url(path));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
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
    let make = |n: usize| text(&desk.made("/api/v1/jobs", &shout(&n.to_string())), "job_id");
    let mut made: Vec<String> = (0..20).map(make).collect();
    let (mut told, mut last) = (Vec::new(), String::new());
    for _ in 0..12 {
        let (id, _, job) = stream.next(&["job"]).unwrap();
        assert_eq!(job["status"], "completed");
        told.push(text(&job, "job_id"));
        last = id;
    }
    drop(stream);
    made.extend((20..30).map(make));
    let mut stream = Stream::open(&desk, Some(&last));
    while told.len() < 30 {
        told.push(text(&stream.next(&["job"]).unwrap().2, "job_id"));
    }
    told.sort();
    made.sort();
    assert_eq!(told, made);
    // One of another start of the server is no place to go on from, and whoever listens is told so.
    let mut strange = Stream::open(&desk, Some("0123-5"));
    let (_, name, _) = strange.next(&["job", "process", "reset"]).unwrap();
    assert_eq!(name, "reset");
    let server = thread::spawn(move || {
        desk.stop();
        desk
    });
    while stream.next(&["job"]).is_some() {}
    drop(server.join().unwrap());
}

#[test]
fn the_end_of_a_process_is_told_with_its_counts_and_the_overview_adds_up() {
    let desk = Desk::new();
    let mut stream = Stream::open(&desk, None);
    let body = "\"a\"\n\"b\"\n3\n";
    let made = lines(&desk, "?type=shout", body).is(201).json();
    loop {
        let (_, _, process) = stream.next(&["process"]).unwrap();
        document::is_process(&process);
        assert_eq!(process["process_id"], made["process_id"]);
        if process["state"] == "finished" {
            process.has(json!({"completed": 2, "failed": 1}));
            break;
        }
    }
    let (_, _, overview) = stream.next(&["overview"]).unwrap();
    assert!(overview["jobs"]["completed"].is_u64());
    let overview = until_shown(&desk, "/api/v1/overview", |all| all["jobs"]["failed"] == 1);
    overview.has(
        json!({"/jobs/completed": 2, "processes": 1, "processes_open": 0,
        "/provider/model": "sim-1", "/strategy/effective": "sync", "skipped_providers": []}),
    );
    assert_eq!(desk.read("/api/v1/batches"), json!({"data": []}));
    let place = format!("{}?force=true", process(&made));
    desk.delete(&place).is(200);
    let (_, _, gone) = stream.next(&["process"]).unwrap();
    let deleted = json!({"process_id": made["process_id"], "state": "deleted"});
    assert_eq!(gone, deleted);
}

#[test]
fn a_listener_hears_only_of_its_process() {
    let desk = Desk::new();
    // A job that no worker carries out keeps the process open.
    let process = ProcessId::new();
    let job = Job::new("nobody's", &1).unwrap();
    desk.queue().enqueue(process, [job]).unwrap();
    let path = format!("/api/v1/events?process_id={process}");
    let mut mine = Stream::at(&desk, &path, None);
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
    let nobodys = format!("/api/v1/events?process_id={}", ProcessId::new());
    desk.get(&nobodys).is(404);
    desk.get("/api/v1/events?job_id=x").is(400);
}

/// What a receiver was sent.
struct Message {
    head: Vec<(String, String)>,
    text: String,
    body: Value,
}

impl Message {
    fn header(&self, name: &str) -> &str {
        let found = self.head.iter().find(|(known, _)| known == name);
        &found
            .unwrap_or_else(|| panic!("no {name}: {:?}", self.head))
            .1
    }
}

/// Takes one message and answers it.
fn take(receiver: &TcpListener, answer: &str) -> Message {
    // An accept that blocks would hang where none comes.
    receiver.set_nonblocking(true).unwrap();
    let mut accepted = None;
    until(|| {
        accepted = receiver.accept().ok();
        accepted.is_some()
    });
    let (mut stream, _) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let lines = reader.by_ref().lines().map(Result::unwrap);
    let head = lines.skip(1).take_while(|line| !line.is_empty());
    let head = head.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    });
    let mut message = Message {
        head: head.collect(),
        text: String::new(),
        body: Value::Null,
    };
    let length = message.header("content-length").parse().unwrap();
    reader
        .take(length)
        .read_to_string(&mut message.text)
        .unwrap();
    message.body = serde_json::from_str(&message.text).unwrap();
    let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).unwrap();
    message
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver, and a change of a server that tells it.
fn receiver() -> (TcpListener, impl Fn(Server) -> Server) {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", receiver.local_addr().unwrap());
    let adapt = move |server: Server| server.webhook(&url, &Secret::new(SECRET)).unwrap();
    (receiver, adapt)
}

#[track_caller]
fn until_all_are_delivered(desk: &Desk) {
    let records = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
    let count = "SELECT COUNT(*) FROM webhooks";
    until(|| records.query_row(count, [], |row| row.get(0)) == Ok(0));
}

#[test]
fn the_end_of_a_process_is_told_until_it_is_taken_also_over_a_restart() {
    let (receiver, adapt) = receiver();
    let mut desk = Desk::with(SimConfig::default(), &adapt);
    let made = desk.made("/api/v1/jobs", &shout("hi"));
    // A redirect is no success, and not followed.
    let first = take(&receiver, "302 Found\r\nlocation: /elsewhere");
    first.body.has(
        json!({"type": "process.finished", "/data/process_id": made["process_id"],
        "/data/state": "finished", "/data/completed": 1}),
    );
    desk.stop();
    desk.start(&adapt);
    let second = take(&receiver, "204 No Content");
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    assert_eq!(second.body, first.body);
    let [before, after] = [&first, &second].map(|message| message.header("webhook-timestamp"));
    assert_ne!(before, after);
    for message in [first, second] {
        let secret = STANDARD.decode(&SECRET["whsec_".len()..]).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        let [id, at] = ["webhook-id", "webhook-timestamp"].map(|name| message.header(name));
        mac.update(format!("{id}.{at}.{}", message.text).as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        assert_eq!(
            message.header("webhook-signature"),
            format!("v1,{signature}")
        );
    }
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
    let batch = openai::begun(&desk, &openai::lines(2));
    let told = take(&receiver, "200 OK").body;
    told.has(json!({"object": "event", "type": "batch.completed", "/data/id": batch["id"]}));
    until_all_are_delivered(&desk);
}
