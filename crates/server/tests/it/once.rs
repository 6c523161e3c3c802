//! Requests that happen once, however often they are sent and whatever dies.

use std::collections::HashSet;
use std::path::Path;
use std::thread;

use batchwright::{Handler, JobQueue, Worker};
use batchwright_server::{RunningServer, Server};
use serde_json::{Value, json};

use super::common::{Answer, Desk, ended, keyed, shout, until_finished};

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
    let replayed = |one: &&Answer| one.header("idempotency-replayed") == Some("true");
    assert_eq!(first.iter().filter(replayed).count(), 15);
    let another = keyed(&desk, &url, "k-1", &shout("twice").to_string()).is(422);
    assert!(
        another.text.contains("idempotency_key_reused"),
        "{another:?}"
    );
    assert_ne!(
        keyed(&desk, &url, "k-2", &body).is(201).json()["job_id"],
        first[0].json()["job_id"]
    );
    // After its result was consumed and the server started anew, too.
    let place = first[0].header("location").unwrap().to_owned();
    ended(&desk, first[0].json()["job_id"].as_str().unwrap());
    desk.delete(&place).is(204);
    desk.stop();
    desk.start(|server| server);
    let url = desk.url("/api/v1/jobs");
    let again = keyed(&desk, &url, "k-1", &body).is(201);
    assert_eq!(again.json(), first[0].json());
    assert_eq!(again.header("location"), Some(place.as_str()));
    desk.get(&place).is(404);
    keyed(&desk, &url, "", &body).is(400);
    keyed(&desk, &url, &"x".repeat(256), &body).is(400);
    keyed(&desk, &url, "two words", &body).is(400);
}

/// As `kill -9` leaves it: what was begun is written down, what came of it is not.
fn forget_answers(folder: &Path, sealed: bool) {
    let database = rusqlite::Connection::open(folder.join("server.db")).unwrap();
    let dead = "UPDATE keys SET answer = NULL";
    database.execute(dead, []).unwrap();
    if !sealed {
        let queue = rusqlite::Connection::open(folder.join("llm_jobs.db")).unwrap();
        queue
            .execute("UPDATE processes SET sealed = 0", [])
            .unwrap();
    }
}

#[test]
fn a_death_between_the_job_and_the_answer_makes_no_second_job() {
    let mut desk = Desk::new();
    let body = shout("once").to_string();
    let made = keyed(&desk, &desk.url("/api/v1/jobs"), "k", &body)
        .is(201)
        .json();
    let process = made["process_id"].clone();
    let joined = json!({"type": "shout", "payload": "more", "process_id": process}).to_string();
    let more = keyed(&desk, &desk.url("/api/v1/jobs"), "k-more", &joined)
        .is(201)
        .json();
    let many = |desk: &Desk| {
        keyed(
            desk,
            &desk.url("/api/v1/processes?type=shout"),
            "k-many",
            "\"a\"\n\"b\"\n",
        )
    };
    let both = many(&desk).is(201).json();
    desk.stop();
    forget_answers(desk.folder.path(), true);
    desk.start(|server| server);
    let again = keyed(&desk, &desk.url("/api/v1/jobs"), "k-more", &joined)
        .is(201)
        .json();
    assert_eq!(again, more);
    let again = keyed(&desk, &desk.url("/api/v1/jobs"), "k", &body)
        .is(201)
        .json();
    assert_eq!(again, made);
    assert_eq!(many(&desk).is(201).json(), both);
    let other = keyed(
        &desk,
        &desk.url("/api/v1/processes?type=shout"),
        "k-many",
        "\"c\"\n",
    );
    other.is(422);
    let overview = desk.read("/api/v1/overview");
    let jobs = overview["jobs"].as_object().unwrap().values();
    assert_eq!(jobs.map(|count| count.as_u64().unwrap()).sum::<u64>(), 4);
}

/// Another server over the same folder, whose worker carries out jobs of this kind alone.
fn another(desk: &Desk, kind: &str) -> RunningServer {
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let worker = Worker::new(&queue).handle(kind, Handler::new(|job, _| job.parse::<String>()));
    let server = Server::new(queue, worker).address(([127, 0, 0, 1], 0).into());
    server.start().unwrap()
}

#[test]
fn a_retry_that_is_refused_leaves_the_job_of_the_first_try_to_its_key() {
    let mut desk = Desk::new();
    let process = desk.made("/api/v1/jobs", &shout("first"))["process_id"].clone();
    let body = json!({"type": "shout", "payload": "once", "process_id": process}).to_string();
    let made = keyed(&desk, &desk.url("/api/v1/jobs"), "k", &body).is(201);
    desk.stop();
    forget_answers(desk.folder.path(), true);
    let other = another(&desk, "whisper");
    let url = format!("http://{}/api/v1/jobs", other.address());
    keyed(&desk, &url, "k", &body).is(400);
    other.stop().unwrap();
    desk.start(|server| server);
    let again = keyed(&desk, &desk.url("/api/v1/jobs"), "k", &body).is(201);
    assert_eq!(again.json(), made.json());
}

#[test]
fn a_retry_takes_nobody_elses_job_for_its_own() {
    let mut desk = Desk::new();
    let process = desk.made("/api/v1/jobs", &shout("first"))["process_id"].clone();
    let prompt = json!({"type": "completion", "payload": {"prompt": "hi"}, "process_id": process});
    let word = json!({"type": "shout", "payload": "same", "process_id": process});
    for (body, key) in [(word, "k-word"), (prompt, "k-prompt")] {
        let made = keyed(&desk, &desk.url("/api/v1/jobs"), key, &body.to_string()).is(201);
        let others: Vec<Value> = (0..2).map(|_| desk.made("/api/v1/jobs", &body)).collect();
        // Its server dies before the job is there.
        let made = made.json();
        let place = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
        ended(&desk, made["job_id"].as_str().unwrap());
        desk.delete(&place).is(204);
        desk.stop();
        let database = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
        let dead = "UPDATE keys SET answer = NULL WHERE answer = ?1";
        assert_eq!(database.execute(dead, [made.to_string()]).unwrap(), 1);
        drop(database);
        desk.start(|server| server);
        let again = keyed(&desk, &desk.url("/api/v1/jobs"), key, &body.to_string()).is(201);
        let again = again.json()["job_id"].clone();
        assert!(
            others.iter().all(|other| other["job_id"] != again),
            "{again}"
        );
    }
}

#[test]
fn a_death_in_the_middle_of_the_lines_leaves_nothing_of_them() {
    let mut desk = Desk::new();
    let send = |desk: &Desk| {
        keyed(
            desk,
            &desk.url("/api/v1/processes?type=shout"),
            "k",
            "\"a\"\n\"b\"\n",
        )
    };
    let half = send(&desk).is(201).json();
    until_finished(&desk, half["process_id"].as_str().unwrap());
    desk.stop();
    forget_answers(desk.folder.path(), false);
    desk.start(|server| server);
    desk.get(&format!(
        "/api/v1/processes/{}",
        half["process_id"].as_str().unwrap()
    ))
    .is(404);
    let whole = send(&desk).is(201).json();
    assert_ne!(whole["process_id"], half["process_id"]);
    assert_eq!(whole["total"], 2);
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
