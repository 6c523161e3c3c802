//! Requests that happen once, however often they are sent and whatever dies.

use std::collections::HashSet;
use std::thread;

use batchwright::{JobQueue, Worker};
use batchwright_server::Server;
use serde_json::{Value, json};

use super::common::{Answer, Desk, Has, acked, ended, keyed, shout, until_finished};

#[test]
fn a_key_makes_one_job_however_often_it_is_sent() {
    let mut desk = Desk::new();
    let body = shout("once").to_string();
    let url = desk.url("/api/v1/jobs");
    let first: Vec<Answer> = thread::scope(|scope| {
        let (desk, url, body) = (&desk, &url, &body);
        let sent: Vec<_> = (0..16)
            .map(|_| scope.spawn(move || keyed(desk, url, "k-1", body).is(201)))
            .collect();
        sent.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let ids: HashSet<String> = first
        .iter()
        .map(|one| one.json()["job_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1);
    let another = keyed(&desk, &url, "k-1", &shout("twice").to_string()).is(422);
    assert!(
        another.text.contains("idempotency_key_reused"),
        "{another:?}"
    );
    assert_ne!(
        keyed(&desk, &url, "k-2", &body).is(201).json()["job_id"],
        first[0].json()["job_id"]
    );
    let job = ended(&desk, first[0].json()["job_id"].as_str().unwrap());
    // Another server, and one after a restart.
    desk.stop();
    desk.start(|server| server);
    let url = desk.url("/api/v1/jobs");
    let again = keyed(&desk, &url, "k-1", &body).is(201);
    assert_eq!(again.json()["job_id"], job["job_id"]);
    assert_eq!(again.json()["status"], "completed");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let place = first[0].header("location").unwrap();
    assert_eq!(again.header("location"), Some(place));
    // What was fetched is not made again.
    acked(&desk, &job).is(200);
    keyed(&desk, &url, "k-1", &body).is(409);
    keyed(&desk, &url, "k-1", &shout("twice").to_string()).is(422);
    let joined = json!({"type": "shout", "payload": "x", "process_id": job["process_id"]});
    keyed(&desk, &url, "k-3", &joined.to_string()).is(400);
    keyed(&desk, &url, "", &body).is(400);
    keyed(&desk, &url, &"x".repeat(256), &body).is(400);
    keyed(&desk, &url, "two words", &body).is(400);
}

#[test]
fn a_death_in_the_middle_of_the_lines_is_continued() {
    let desk = Desk::new();
    let lines = "\"a\"\n\"b\"\n\"c\"\n";
    let send = |lines: &str| {
        let url = desk.url("/api/v1/processes?type=shout");
        keyed(&desk, &url, "k", lines)
    };
    send("\"a\"\n}\n").is(400);
    let made = send(lines).is(201).json();
    let process = made["process_id"].as_str().unwrap();
    until_finished(&desk, process);
    // As `kill -9` leaves it: the last line is missing.
    let queue = rusqlite::Connection::open(desk.folder.path().join("llm_jobs.db")).unwrap();
    for table in ["jobs WHERE id", "payloads WHERE job", "results WHERE job"] {
        let last = format!("DELETE FROM {table} = (SELECT no * 4294967296 + 2 FROM processes)");
        assert_eq!(queue.execute(&last, []).unwrap(), 1);
    }
    let fewer = "UPDATE processes SET total = 2, sealed = 0, completed = 2";
    queue.execute(fewer, []).unwrap();
    send("\"c\"\n").is(422);
    let again = send(lines).is(201);
    assert_eq!(again.json(), made);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    until_finished(&desk, process).has(json!({"total": 3, "completed": 3}));
    assert_eq!(send(lines).is(201).json(), made);
    let results = desk
        .get(&format!("/api/v1/processes/{process}/results"))
        .text;
    let results: Vec<Value> = results
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["result"].clone())
        .collect();
    assert_eq!(results, ["A", "B", "C"]);
}

#[test]
fn one_server_at_a_time_uses_a_folder() {
    let mut desk = Desk::new();
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let worker = Worker::new(&queue);
    let second = Server::new(queue, worker).address(([127, 0, 0, 1], 0).into());
    let refused = second.start().unwrap_err();
    let folder = desk.folder.path().display().to_string();
    for part in ["another server uses", &folder, "--data-dir"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    desk.stop();
    desk.start(|server| server);
}
