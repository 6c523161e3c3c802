//! Single jobs over HTTP.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use batchwright::{Job, JobQueue, ProcessId};
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::json;

use super::common::{Desk, PATIENCE, ended, has, shout};

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
    has(
        &state,
        json!({"status": "completed", "result": "HEY", "error": null, "type": "shout"}),
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
    has(&state, json!({"item_id": "a", "priority": 9}));
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
