//! Requests of `/v1` that are sent again: with an idempotency key, or as the retry of a client.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::thread;

use batchwright::Worker;
use batchwright_server::Server;
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{
    Answer, Desk, Has, PATIENCE, acked, ended, ids, keyed, process, read_lines, shout, text, until,
    until_finished,
};
use super::openai::{self, CHAT, lines, question, sent, unlimited};
use super::openai_parts::EMBEDDINGS;

const JOBS: &str = "/api/v1/jobs";

/// Posts as OpenAI's clients do, after this number of attempts.
fn attempt(desk: &Desk, retries: u32, body: &Value) -> Answer {
    let retries = retries.to_string();
    let headers = [("x-stainless-retry-count", &*retries)];
    desk.send("POST", CHAT, &headers, body.to_string())
}

fn wait_for_connections(desk: &Desk, count: usize) {
    until(|| desk.server().connections() <= count);
}

#[test]
fn a_key_gets_one_answer_also_after_a_disconnect() {
    let mut desk = unlimited(SimConfig::default());
    let body = question("Hello.");
    let ask = |desk: &Desk, key: &str, body: &Value| keyed(desk, CHAT, key, &body.to_string());
    desk.sim.hold();
    let left = sent(&desk, "idempotency-key: k\r\n", &body);
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    let another = ask(&desk, "k", &question("Bye.")).is(422);
    assert_eq!(another.json()["error"]["code"], "idempotency_key_reused");
    let first = std::thread::scope(|scope| {
        let joins = [(); 3].map(|()| scope.spawn(|| ask(&desk, "k", &body).is(200)));
        left.shutdown(Shutdown::Both).unwrap();
        drop(left);
        wait_for_connections(&desk, 3);
        desk.sim.release();
        let answers = joins.map(|join| join.join().unwrap());
        assert!(answers.iter().all(|one| one.json() == answers[0].json()));
        answers[0].json()
    });
    // After a new start, too; as a stream, whose chunk is made of it.
    desk.stop();
    desk.start(|server| server);
    let again = ask(&desk, "k", &body).is(200);
    assert_eq!(again.json(), first);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let streamed = ask(&desk, "k", &streamed).is(200);
    assert!(streamed.text.contains(first["id"].as_str().unwrap()));
    ask(&desk, "k", &question("Bye.")).is(422);
    assert_eq!(desk.sim.stats().calls, 1);
    assert_ne!(ask(&desk, "k-2", &body).is(200).json(), first);
    assert_eq!(desk.sim.stats().calls, 2);
}

#[test]
fn the_job_of_a_key_survives_the_server() {
    let mut desk = unlimited(SimConfig::default());
    let body = question("Hello.");
    desk.sim.hold();
    let left = sent(&desk, "idempotency-key: k\r\n", &body);
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    drop(left);
    wait_for_connections(&desk, 0);
    desk.sim.release();
    desk.stop();
    desk.start(|server| server);
    keyed(&desk, CHAT, "k", &body.to_string()).is(200);
    assert_eq!(desk.sim.stats().calls, 1);
    // After a day it is deleted.
    desk.stop();
    let database = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
    let expired = "UPDATE direct_calls SET kept_until = 1";
    assert_eq!(database.execute(expired, []).unwrap(), 1);
    desk.start(|server| server);
    let queue = desk.queue();
    assert!(queue.open_processes().unwrap().is_empty());
}

#[test]
fn a_failure_is_not_kept_with_its_key() {
    let desk = unlimited(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    for calls in 1..=2 {
        let failed = keyed(&desk, CHAT, "k", &question("Hello.").to_string()).is(400);
        assert_eq!(failed.header("x-should-retry"), Some("false"));
        assert_eq!(desk.sim.stats().calls, calls);
    }
}

#[test]
fn a_retry_joins_the_call_that_its_client_left_and_no_other() {
    let desk = unlimited(SimConfig::default());
    let body = question("Hello.");
    desk.sim.hold();
    let first = "x-stainless-retry-count: 0\r\n";
    let (left, stays) = (sent(&desk, first, &body), sent(&desk, first, &body));
    assert!(desk.sim.wait_until(|stats| stats.in_flight == 2, PATIENCE));
    std::thread::scope(|scope| {
        // The server has not noticed yet that the client is gone.
        drop(left);
        let retry = scope.spawn(|| attempt(&desk, 1, &body).is(200));
        wait_for_connections(&desk, 2);
        desk.sim.release();
        let answer = retry.join().unwrap().json();
        assert!(answer["choices"][0]["message"]["content"].is_string());
    });
    let mut answer = [0; 12];
    (&stays).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(desk.sim.stats().calls, 2);
    // No client has left one of these.
    attempt(&desk, 1, &body).is(200);
    attempt(&desk, 0, &body).is(200);
    assert_eq!(desk.sim.stats().calls, 4);
}

/// Fifty requests at once with one key, of two kinds: the answers to those of the kind that came first, which tell the same
/// of this field. The others are refused.
#[track_caller]
fn raced(desk: &Desk, path: &str, field: &str, bodies: [&str; 2]) -> Vec<Answer> {
    let send = |body: &str| match path {
        "/v1/files" => {
            let content = Cursor::new(body.to_owned());
            openai::upload(desk, &[("idempotency-key", "race")], "in.jsonl", content)
        }
        _ => keyed(desk, path, "race", body),
    };
    let all = Barrier::new(50);
    let ask = |n: usize| {
        all.wait();
        (n % 2, send(bodies[n % 2]))
    };
    let ask = &ask;
    let answers: Vec<(usize, Answer)> = thread::scope(|scope| {
        let asked: Vec<_> = (0..50).map(|n| scope.spawn(move || ask(n))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let is_good = |answer: &Answer| matches!(answer.status, 200 | 201);
    let first = answers
        .iter()
        .find(|(_, answer)| is_good(answer))
        .unwrap()
        .0;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|one| one.0 == first);
    for (_, answer) in lost {
        assert!(answer.is(422).text.contains("idempotency_key_reused"));
    }
    let won: Vec<Answer> = won.into_iter().map(|(_, answer)| answer).collect();
    let one = won[0].json()[field].clone();
    assert!(
        won.iter()
            .all(|answer| is_good(answer) && answer.json()[field] == one)
    );
    let is_new = |answer: &&Answer| answer.header("idempotency-replayed").is_none();
    assert!(path != "/v1/files" || won.iter().filter(is_new).count() == 1);
    won
}

#[test]
fn a_key_counts_once_at_every_endpoint_however_many_come_at_once() {
    let mut desk = unlimited(SimConfig::default());
    desk.stop();
    let size = lines(9).len() as u64;
    desk.start(|server| server.max_upload_bytes(60 * (size + 400)));
    // What was cut off leaves no key, and no file.
    let address = desk.server().address();
    let mut cut = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: {address}\r\nidempotency-key: race\r\ncontent-length: 999\r\ncontent-type: \
         multipart/form-data; boundary=b\r\n\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; \
         filename=\"f\"\r\n\r\nno"
    );
    cut.write_all(head.as_bytes()).unwrap();
    let folder = desk.folder.path().join("files");
    let stored = || fs::read_dir(&folder).unwrap().count();
    until(|| stored() == 1);
    drop(cut);
    until(|| stored() == 0);

    let other = lines(9).replace("Prompt", "Queries");
    let file = raced(&desk, "/v1/files", "id", [&lines(9), &other])[0].json();
    let content = desk.get(&format!("/v1/files/{}/content", text(&file, "id")));
    let content = content.is(200).text;
    assert!(content == lines(9) || content == other);
    assert_eq!((&file["bytes"], stored()), (&json!(content.len()), 1));
    // All that the others took up is free again.
    let rest = " ".repeat((58 * (size + 400)) as usize);
    let rest = openai::upload(&desk, &[], "rest", Cursor::new(rest))
        .is(200)
        .json();
    desk.delete(&format!("/v1/files/{}", text(&rest, "id")))
        .is(200);

    let file = text(&file, "id");
    let batch = |window: &str| {
        let asked = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": window});
        asked.to_string()
    };
    let made = raced(&desk, "/v1/batches", "id", [&batch("24h"), &batch("23h")])[0].json();
    openai::wait_for(&desk, &made, "completed");
    let count = |path: &str| desk.read(path)["data"].as_array().unwrap().len();
    assert_eq!((count("/v1/batches"), desk.sim.stats().calls), (1, 9));
    let [one, two] = ["Hello.", "Bye."].map(|said| question(said).to_string());
    raced(&desk, CHAT, "id", [&one, &two]);
    let [one, two] = ["a", "b"].map(|said| json!({"model": "sim-1", "input": said}).to_string());
    raced(&desk, EMBEDDINGS, "data", [&one, &two]);
    assert_eq!(desk.sim.stats().calls, 11);
    let [one, two] = ["a", "b"].map(|said| shout(said).to_string());
    raced(&desk, JOBS, "job_id", [&one, &two]);
    let path = "/api/v1/processes?type=shout";
    let made = raced(
        &desk,
        path,
        "process_id",
        ["\"a\"\n\"b\"\n", "\"c\"\n\"d\"\n"],
    );
    until_finished(&desk, &text(&made[0].json(), "process_id")).has(json!({"total": 2}));
}

#[test]
fn every_response_names_its_request() {
    let desk = unlimited(SimConfig::default());
    let ask = |path: &str, id: &str| {
        let answer = desk.send("GET", path, &[("x-request-id", id)], ());
        answer.header("x-request-id").unwrap().to_owned()
    };
    for path in [
        "/v1/models",
        "/v1/nothing",
        "/api/v1/jobs/x",
        "/",
        "/healthz",
    ] {
        assert_eq!(ask(path, "mine-1"), "mine-1", "{path}");
    }
    for odd in ["two words", "", &"x".repeat(129)] {
        assert!(ask("/v1/models", odd).starts_with("req_"), "{odd}");
    }
}

#[test]
fn a_key_makes_one_job_however_often_it_is_sent() {
    let mut desk = Desk::new();
    let (once, twice) = (shout("once").to_string(), shout("twice").to_string());
    let first = keyed(&desk, JOBS, "k-1", &once).is(201);
    let id = text(&first.json(), "job_id");
    let another = keyed(&desk, JOBS, "k-1", &twice).is(422);
    assert!(
        another.text.contains("idempotency_key_reused"),
        "{another:?}"
    );
    let second = keyed(&desk, JOBS, "k-2", &once).is(201).json();
    assert_ne!(second["job_id"], id);
    let job = ended(&desk, &id);
    // Another server, and one after a restart.
    desk.stop();
    desk.start(|server| server);
    let again = keyed(&desk, JOBS, "k-1", &once).is(201);
    again
        .json()
        .has(json!({"job_id": id, "status": "completed"}));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.header("location"), first.header("location"));
    // What was fetched is not made again.
    acked(&desk, &job).is(200);
    let joined = json!({"type": "shout", "payload": "x", "process_id": job["process_id"]});
    for (key, body, status) in [
        ("k-1", &once, 409),
        ("k-1", &twice, 422),
        ("k-3", &joined.to_string(), 400),
        ("", &once, 400),
        (&"x".repeat(256), &once, 400),
        ("two words", &once, 400),
    ] {
        keyed(&desk, JOBS, key, body).is(status);
    }
}

#[test]
fn a_death_in_the_middle_of_the_lines_is_continued() {
    let desk = Desk::new();
    let lines = "\"a\"\n\"b\"\n\"c\"\n";
    let send = |lines: &str| keyed(&desk, "/api/v1/processes?type=shout", "k", lines);
    send("\"a\"\n}\n").is(400);
    let made = send(lines).is(201).json();
    let id = text(&made, "process_id");
    until_finished(&desk, &id);
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
    until_finished(&desk, &id).has(json!({"total": 3, "completed": 3}));
    assert_eq!(send(lines).is(201).json(), made);
    let results = desk.get(&format!("{}/results", process(&made))).text;
    assert_eq!(ids(&read_lines(&results), "result"), ["A", "B", "C"]);
}

#[test]
fn one_server_at_a_time_uses_a_folder() {
    let desk = Desk::new();
    let queue = desk.queue();
    let worker = Worker::new(&queue);
    let second = Server::new(queue, worker).address(([127, 0, 0, 1], 0).into());
    let refused = second.start().unwrap_err();
    let folder = desk.folder.path().display().to_string();
    for part in ["another server uses", &folder, "--data-dir"] {
        assert!(refused.message().contains(part), "{refused}");
    }
}
