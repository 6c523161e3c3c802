//! Jobs and processes over HTTP.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use batchwright::{ErrorKind, Handler, Job, JobId, JobQueue, ProcessId, Worker};
use batchwright_server::{RunningServer, Server};
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{Answer, Desk, PATIENCE};

fn shout(text: &str) -> Value {
    json!({"type": "shout", "payload": text})
}

fn keyed(desk: &Desk, url: &str, key: &str, body: &str) -> Answer {
    let request = desk.agent().post(url).header("idempotency-key", key);
    let request = request.header("content-type", "application/json");
    Answer::of(request.send(body).unwrap())
}

fn ended(desk: &Desk, job: &str) -> Value {
    let job = desk
        .get(&format!("/api/v1/jobs/{job}?wait=30"))
        .is(200)
        .json();
    assert!(job["progress"] == 100, "{job}");
    job
}

fn lines(desk: &Desk, query: &str, body: &str) -> Answer {
    let request = desk
        .agent()
        .post(desk.url(&format!("/api/v1/processes{query}")));
    Answer::of(
        request
            .header("content-type", "application/jsonl")
            .send(body)
            .unwrap(),
    )
}

fn until_finished(desk: &Desk, process: &str) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let state = desk
            .get(&format!("/api/v1/processes/{process}"))
            .is(200)
            .json();
        if state["state"] == "finished" || state["state"] == "cancelled" {
            return state;
        }
        assert!(std::time::Instant::now() < deadline, "{state}");
        thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_job_is_made_carried_out_and_consumed() {
    let desk = Desk::new();
    let made = desk.post("/api/v1/jobs", &shout("hey")).is(201);
    let place = made.header("location").unwrap().to_owned();
    let answer = made.json();
    let (job, process) = (answer["job_id"].as_str().unwrap(), &answer["process_id"]);
    assert_eq!(place, format!("/api/v1/jobs/{job}"));
    assert_eq!(answer["status"], "pending");
    let state = ended(&desk, job);
    assert_eq!(
        (
            &state["status"],
            &state["result"],
            &state["error"],
            &state["type"]
        ),
        (
            &json!("completed"),
            &json!("HEY"),
            &Value::Null,
            &json!("shout")
        )
    );
    assert_eq!(&state["process_id"], process);
    let consumed = desk.delete(&place).is(200).json();
    assert_eq!(consumed["result"], "HEY");
    desk.get(&place).is(404);
    desk.delete(&place).is(404);
    let gone = format!("/api/v1/processes/{}", process.as_str().unwrap());
    desk.get(&gone).is(404);
}

#[test]
fn a_prompt_is_answered_by_the_provider() {
    let desk = Desk::new();
    let prompt =
        json!({"type": "completion", "payload": {"prompt": "hi"}, "item_id": "a", "priority": 9});
    let job = desk.post("/api/v1/jobs", &prompt).is(201).json();
    let state = ended(&desk, job["job_id"].as_str().unwrap());
    assert_eq!(state["result"]["success"], true, "{state}");
    assert_eq!(
        (&state["item_id"], &state["priority"]),
        (&json!("a"), &json!(9))
    );
}

#[test]
fn what_is_no_job_is_refused_with_the_field() {
    let desk = Desk::new();
    for (body, param) in [
        (json!({"type": "shuot", "payload": 1}), "type"),
        // Files of this machine are for those who may read them anyway.
        (
            json!({"type": "extract_content", "payload": {"path": "/etc/hostname"}}),
            "payload.path",
        ),
        (
            json!({"type": "generate_podcast.script", "payload": 1}),
            "type",
        ),
        (
            json!({"type": "summarize", "payload": {"article_id": "a", "content": 7}}),
            "payload.content",
        ),
        (
            json!({"type": "shout", "payload": "x", "priority": 11}),
            "priority",
        ),
        (
            json!({"type": "shout", "payload": "x", "item_id": ""}),
            "item_id",
        ),
    ] {
        let problem = desk.post("/api/v1/jobs", &body).is(400);
        assert_eq!(
            problem.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(problem.json()["param"], param, "{problem:?}");
    }
    for body in [
        json!([]),
        json!({"type": "shout"}),
        json!({"type": "shout", "payload": 1, "x": 1}),
    ] {
        desk.post("/api/v1/jobs", &body).is(400);
    }
    let all = desk.get("/api/v1/processes").is(200).json();
    assert_eq!(all["data"], json!([]));
}

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
    desk.delete(&place).is(200);
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
    let dead = "UPDATE keys SET owner = 'nobody', answer = NULL";
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
    let overview = desk.get("/api/v1/overview").is(200).json();
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
    let process = desk.post("/api/v1/jobs", &shout("first")).is(201).json()["process_id"].clone();
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
    let process = desk.post("/api/v1/jobs", &shout("first")).is(201).json()["process_id"].clone();
    let prompt = json!({"type": "completion", "payload": {"prompt": "hi"}, "process_id": process});
    let word = json!({"type": "shout", "payload": "same", "process_id": process});
    for (body, key) in [(word, "k-word"), (prompt, "k-prompt")] {
        let made = keyed(&desk, &desk.url("/api/v1/jobs"), key, &body.to_string()).is(201);
        let others: Vec<Value> = (0..2)
            .map(|_| desk.post("/api/v1/jobs", &body).is(201).json())
            .collect();
        // Its server dies before the job is there.
        let made = made.json();
        let place = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
        ended(&desk, made["job_id"].as_str().unwrap());
        desk.delete(&place).is(200);
        desk.stop();
        let database = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
        let dead = "UPDATE keys SET owner = 'nobody', answer = NULL WHERE answer = ?1";
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
fn a_killed_server_leaves_no_lock_behind_once_another_has_started() {
    let mut desk = Desk::new();
    let locks = |desk: &Desk| {
        let entries = std::fs::read_dir(desk.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("server.") && !name.starts_with("server.db"))
            .count()
    };
    assert_eq!(locks(&desk), 1);
    std::fs::write(desk.folder.path().join("server.dead.lock"), "").unwrap();
    desk.stop();
    assert_eq!(locks(&desk), 1);
    desk.start(|server| server);
    assert_eq!(locks(&desk), 1, "its own");
}

#[test]
fn two_servers_of_one_folder_make_one_job_of_a_key() {
    let desk = Desk::new();
    let other = another(&desk, "shout");
    let urls = [
        desk.url("/api/v1/jobs"),
        format!("http://{}/api/v1/jobs", other.address()),
    ];
    let (told, answers) = mpsc::channel();
    thread::scope(|scope| {
        for n in 0..16 {
            let (desk, url, told) = (&desk, &urls[n % 2], told.clone());
            scope.spawn(move || {
                for round in 0..5 {
                    let body = shout(&format!("{round}")).to_string();
                    let answer = keyed(desk, url, &format!("k-{round}"), &body).is(201);
                    told.send(answer.json()["job_id"].to_string()).unwrap();
                }
            });
        }
    });
    drop(told);
    let ids: HashSet<String> = answers.into_iter().collect();
    assert_eq!(ids.len(), 5);
    other.stop().unwrap();
}

#[test]
fn lines_go_in_and_come_out_and_reading_goes_on_where_it_was() {
    let desk = Desk::new();
    let body = "{\"id\": \"a\", \"prompt\": \"one\"}\n\n{\"custom_id\": \"b\", \"body\": {\"messages\": [{\"role\": \"user\", \
                \"content\": \"two\"}]}}\n{\"id\": \"c\", \"messages\": [{\"role\": \"user\", \"content\": \"three\"}]}\n\
                {\"prompt\": \"four\"}\n{\"prompt\": \"four\"}";
    let made = lines(&desk, "?name=five", body).is(201).json();
    assert_eq!(made["total"], 5);
    let process = made["process_id"].as_str().unwrap();
    let state = until_finished(&desk, process);
    assert_eq!(
        (&state["name"], &state["completed"], &state["percent"]),
        (&json!("five"), &json!(5), &json!(100.0))
    );
    let place = format!("/api/v1/processes/{process}/results");
    let all = desk.get(&place).is(200);
    assert_eq!(all.header("content-type"), Some("application/jsonl"));
    let read = |text: &str| -> Vec<Value> {
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let all = read(&all.text);
    let names: Vec<&str> = all
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    assert_eq!(names[..3], ["a", "b", "c"]);
    assert_eq!(names[4], format!("{}-2", names[3]));
    assert!(all.iter().all(|line| line["success"] == true));
    let second = all[1]["job_id"].as_str().unwrap();
    let rest = read(
        &desk
            .get(&format!("{place}?after={second}&limit=2"))
            .is(200)
            .text,
    );
    assert_eq!(rest, all[2..4]);
    let part = desk
        .delete(&format!("{place}?through={second}"))
        .is(200)
        .json();
    assert_eq!(part["consumed"], 2);
    desk.delete(&format!("{place}?through={second}")).is(404);
    assert_eq!(read(&desk.get(&place).text), all[2..]);
    let problem = desk.delete(&place).is(400).json();
    assert_eq!(problem["param"], "through");
    let last = all[4]["job_id"].as_str().unwrap();
    let rest = desk
        .delete(&format!("{place}?through={last}"))
        .is(200)
        .json();
    assert_eq!(rest["consumed"], 3);
    desk.get(&place).is(404);
}

#[test]
fn what_nobody_has_read_is_neither_passed_over_nor_deleted() {
    let desk = Desk::new();
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let process = ProcessId::new();
    let slow = Job::new("nobody's", &1).unwrap();
    let quick = |n: usize| Job::new("shout", &n.to_string()).unwrap();
    let ids = queue
        .enqueue(process, [quick(0), slow, quick(2), quick(3)])
        .unwrap();
    for id in [ids[0], ids[2], ids[3]] {
        ended(&desk, &id.to_string());
    }
    let place = format!("/api/v1/processes/{process}/results");
    let read = |query: &str| -> Vec<String> {
        let text = desk.get(&format!("{place}{query}")).is(200).text;
        let line = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        text.lines()
            .map(|text| line(text)["job_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let named = |ids: &[JobId]| -> Vec<String> { ids.iter().map(JobId::to_string).collect() };
    assert_eq!(read(""), named(&ids[..1]), "up to the open one");
    assert_eq!(read("?open=skip"), named(&[ids[0], ids[2], ids[3]]));
    desk.get(&format!("{place}?open=odd")).is(400);
    for through in [ids[1], ids[3]] {
        let problem = desk.delete(&format!("{place}?through={through}")).is(409);
        assert!(problem.text.contains(&ids[1].to_string()), "{problem:?}");
    }
    desk.delete(&format!("/api/v1/jobs/{}", ids[1])).is(200);
    assert_eq!(
        read(&format!("?after={}", ids[0])),
        named(&ids[1..]),
        "all that had not been read"
    );
    let first = desk.delete(&format!("{place}?through={}", ids[0])).is(200);
    assert_eq!(first.json()["consumed"], 1);
    assert_eq!(read(""), named(&ids[1..]));
    let rest = desk.delete(&format!("{place}?through={}", ids[3])).is(200);
    assert_eq!(rest.json()["consumed"], 3);
}

#[test]
fn a_bad_line_is_named_and_nothing_is_kept() {
    let desk = Desk::new();
    let good = "{\"prompt\": \"x\"}\n".repeat(3_000);
    for (query, body, line) in [
        ("", format!("{good}{{\"promt\": \"x\"}}\n"), 3_001),
        ("", "{\"id\": \"a\", \"prompt\": \"x\"}\n{\"id\": \"a\", \"prompt\": \"y\"}".to_owned(), 2),
        ("", "\n\nno JSON".to_owned(), 3),
        ("", "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"path\": \"/etc/passwd\"}]}]}".to_owned(), 1),
        ("?type=summarize", "{\"content\": \"x\", \"article_id\": \"a\"}\n{}".to_owned(), 2),
    ] {
        let problem = lines(&desk, query, &body).is(400).json();
        assert_eq!(problem["line"], line, "{problem}");
    }
    lines(&desk, "", "\n").is(400);
    lines(&desk, "?type=nothing", "1").is(400);
    let all = desk.get("/api/v1/processes?parents=all").is(200).json();
    assert_eq!(all["data"], json!([]));
}

#[test]
fn processes_are_cancelled_retried_explained_and_deleted() {
    let desk = Desk::with(Default::default(), |server| server);
    let made = lines(&desk, "?type=shout", "1\n\"b\"\n1\n").is(201).json();
    let process = made["process_id"].as_str().unwrap();
    let state = until_finished(&desk, process);
    assert_eq!(
        (&state["completed"], &state["failed"]),
        (&json!(1), &json!(2))
    );
    let place = format!("/api/v1/processes/{process}");
    let failures = desk.get(&format!("{place}/failures")).is(200).json();
    let [group] = &failures["data"].as_array().unwrap()[..] else {
        panic!("{failures}");
    };
    assert_eq!(
        (&group["count"], &failures["truncated"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(group["kind"], ErrorKind::Invalid.as_str());
    let failed = desk.get(&format!(
        "/api/v1/jobs?process_id={process}&status=failed&limit=1"
    ));
    let failed = failed.is(200).json();
    assert_eq!(failed["data"][0]["job_id"], group["job_ids"][0]);
    let next = failed["next"].as_str().unwrap();
    let rest = desk.get(&format!(
        "/api/v1/jobs?process_id={process}&status=failed&after={next}"
    ));
    let rest = rest.is(200).json();
    assert_eq!(
        (&rest["data"][0]["job_id"], &rest["next"]),
        (&group["job_ids"][1], &Value::Null)
    );
    assert_eq!(
        desk.post(&format!("{place}/retry"), &json!({}))
            .is(200)
            .json()["retried"],
        2
    );
    until_finished(&desk, process);
    assert_eq!(
        desk.post(&format!("{place}/cancel"), &json!({}))
            .is(200)
            .json()["cancelled"],
        0
    );
    desk.delete(&place).is(409);
    assert_eq!(
        desk.delete(&format!("{place}?force=true")).is(200).json()["deleted"],
        3
    );
    desk.get(&place).is(404);
    desk.post(&format!("{place}/retry"), &json!({})).is(404);
}

#[test]
fn a_waiting_job_is_cancelled_before_it_is_consumed() {
    let desk = Desk::new();
    // Nothing runs: the provider's answers take longer than the test.
    let body = json!({"type": "shout", "payload": "x"});
    let made = desk.post("/api/v1/jobs", &body).is(201).json();
    ended(&desk, made["job_id"].as_str().unwrap());
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let process = batchwright::ProcessId::new();
    let later = batchwright::Job::new("nobody's", &1).unwrap();
    let job = queue.enqueue(process, [later]).unwrap()[0];
    let place = format!("/api/v1/jobs/{job}");
    assert_eq!(desk.delete(&place).is(200).json()["status"], "cancelled");
    assert_eq!(desk.delete(&place).is(200).json()["status"], "cancelled");
    desk.get(&place).is(404);
}

#[test]
fn those_who_wait_leave_half_of_the_connections_to_others() {
    let desk = Desk::with(Default::default(), |server| server.max_connections(6));
    let queue = JobQueue::open(&desk.folder.path().join("llm_jobs.db")).unwrap();
    let later = Job::new("nobody's", &1).unwrap();
    let job = queue.enqueue(ProcessId::new(), [later]).unwrap()[0];
    let place = format!("/api/v1/jobs/{job}");
    let (told, answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (desk, told) = (&desk, told.clone());
            let place = format!("{place}?wait=30");
            scope.spawn(move || told.send(desk.get(&place).is(200).json()).unwrap());
        }
        assert_eq!(answers.recv().unwrap()["status"], "pending");
        desk.delete(&place).is(200);
        for _ in 0..3 {
            assert_eq!(answers.recv().unwrap()["status"], "cancelled");
        }
    });
}

#[test]
fn processes_come_newest_first_a_page_at_a_time() {
    let desk = Desk::new();
    let made: Vec<Value> = (0..5)
        .map(|n| {
            desk.post("/api/v1/jobs", &shout(&n.to_string()))
                .is(201)
                .json()
        })
        .collect();
    let mut seen = Vec::new();
    let mut place = "/api/v1/processes?limit=2".to_owned();
    loop {
        let page = desk.get(&place).is(200).json();
        seen.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["process_id"].clone()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        place = format!("/api/v1/processes?limit=2&after={next}");
    }
    let expected: Vec<Value> = made
        .iter()
        .rev()
        .map(|one| one["process_id"].clone())
        .collect();
    assert_eq!(seen, expected);
    for bad in [
        "limit=0",
        "limit=501",
        "state=odd",
        "after=x",
        "parents=some",
    ] {
        desk.get(&format!("/api/v1/processes?{bad}")).is(400);
    }
}

/// A stream of events, as a browser reads it.
pub struct Stream(BufReader<ureq::BodyReader<'static>>);

/// One event: its id, its name and its data.
pub type Told = (String, String, Value);

impl Stream {
    pub fn open(desk: &Desk, last: Option<&str>) -> Self {
        let mut request = desk.agent().get(desk.url("/api/v1/events"));
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
    let make = |n: usize| {
        desk.post("/api/v1/jobs", &shout(&n.to_string()))
            .is(201)
            .json()["job_id"]
            .clone()
    };
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
            assert_eq!(
                (&process["completed"], &process["failed"]),
                (&json!(2), &json!(1))
            );
            break;
        }
    }
    let (_, _, overview) = stream.next(&["overview"]).unwrap();
    assert!(overview["jobs"]["completed"].is_u64() && overview.get("history").is_none());
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
fn a_job_that_was_tried_again_tells_where_its_time_went() {
    let desk = Desk::at(
        SimConfig::default()
            .trouble(Trouble::Error500, 1.0)
            .trouble_times(Trouble::Error500, Some(1)),
    );
    let prompt = json!({"type": "completion", "payload": {"prompt": "hi"}});
    let made = desk.post("/api/v1/jobs", &prompt).is(201).json();
    let job = ended(&desk, made["job_id"].as_str().unwrap());
    let time = &job["time"];
    assert!(time["backoff_seconds"].as_f64().unwrap() >= 1.0, "{job}");
    assert!(time["provider_seconds"].is_number(), "{job}");
    let once = desk.post("/api/v1/jobs", &shout("a")).is(201).json();
    assert!(ended(&desk, once["job_id"].as_str().unwrap())["time"].is_null());
}

#[test]
fn a_job_of_many_tells_how_many_of_them_have_ended() {
    let desk = Desk::new();
    desk.sim.hold();
    let text = "A short text.";
    let page = json!({"type": "extract_content", "payload": {"html": format!("<p>{text}</p>")}});
    let prompt = json!({"type": "completion", "payload": {"prompt": "hi"}});
    let many = json!({"type": "batch_process", "payload": {"jobs": [page, prompt]}});
    let made = desk.post("/api/v1/jobs", &many).is(201).json();
    let place = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
    let until = std::time::Instant::now() + PATIENCE;
    while desk.get(&place).is(200).json()["progress"] != 50 {
        assert!(
            std::time::Instant::now() < until,
            "{}",
            desk.get(&place).text
        );
        thread::sleep(Duration::from_millis(20));
    }
    desk.sim.release();
    let ended = desk.get(&format!("{place}?wait=30")).is(200).json();
    assert_eq!(
        (&ended["progress"], &ended["result"]["total"]),
        (&json!(100), &json!(2))
    );
}

#[test]
fn the_overview_adds_up() {
    let desk = Desk::new();
    let made = lines(&desk, "?type=shout", "\"a\"\n2\n").is(201).json();
    until_finished(&desk, made["process_id"].as_str().unwrap());
    let deadline = std::time::Instant::now() + PATIENCE;
    let overview = loop {
        let overview = desk.get("/api/v1/overview").is(200).json();
        if overview["jobs"]["failed"] == 1 {
            break overview;
        }
        assert!(std::time::Instant::now() < deadline, "{overview}");
    };
    assert_eq!(overview["jobs"]["completed"], 1);
    assert_eq!(
        (&overview["processes"], &overview["processes_open"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(overview["provider"]["model"], "sim-1");
    assert_eq!(overview["strategy"]["effective"], "sync");
    assert_eq!(overview["failures"][0]["count"], 1, "{overview}");
    assert_eq!(
        desk.get("/api/v1/batches").is(200).json(),
        json!({"data": []})
    );
}

#[test]
fn lines_beyond_what_may_be_uploaded_leave_nothing() {
    let desk = Desk::with(Default::default(), |server| server.max_upload_bytes(1_000));
    let body = "\"x\"\n".repeat(1_000);
    let problem = lines(&desk, "?type=shout", &body).is(413);
    assert!(problem.text.contains("1000 bytes"), "{problem:?}");
    let all = desk.get("/api/v1/processes").is(200).json();
    assert_eq!(all["data"], json!([]));
    lines(&desk, "?type=shout", "\"x\"\n").is(201);
}
