//! What listeners are told, and the numbers at a glance.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use batchwright::{Job, JobId, JobQueue, ProcessId};
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, lines, shout, until_finished};

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
    let deadline = std::time::Instant::now() + PATIENCE;
    let overview = loop {
        let overview = desk.read("/api/v1/overview");
        if overview["jobs"]["failed"] == 1 {
            break overview;
        }
        assert!(std::time::Instant::now() < deadline, "{overview}");
    };
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
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
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

/// Each takes a connection and its thread: `LISTENERS` sets another number of them.
#[test]
fn hundreds_of_listeners_hear_of_the_same_process() {
    let desk = Desk::new();
    let (process, _) = open_job(&desk);
    let many: i32 = std::env::var("LISTENERS").map_or(250, |many| many.parse().unwrap());
    let memory = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
        kib.unwrap_or_default()
    };
    let before = memory();
    let address = desk.server().address();
    let listeners: Vec<TcpStream> = (0..many)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let path = format!("/api/v1/events?process_id={process}");
            write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let mut listeners: Vec<_> = listeners.into_iter().map(BufReader::new).collect();
    let mut hear = |what: &str| {
        for listener in &mut listeners {
            let mut line = String::new();
            while !line.contains(what) {
                line.clear();
                assert!(listener.read_line(&mut line).unwrap() > 0, "{what}");
            }
        }
    };
    hear("retry: 1000");
    let each = (memory() - before) / i64::from(many);
    let began = Instant::now();
    let of_job = json!({"type": "shout", "payload": "x", "process_id": process});
    desk.post("/api/v1/jobs", &of_job).is(201);
    hear("event: job");
    eprintln!(
        "{many} listeners: {each} KiB each, told within {:?}",
        began.elapsed()
    );
}
