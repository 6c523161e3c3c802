//! Single jobs over HTTP.

use std::sync::mpsc;
use std::thread;

use batchwright::{Job, ProcessId};
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{
    Desk, Has, PATIENCE, acked, cases, ended, lines, process, shout, text, until_shown,
};

/// The path of a job.
fn place(job: &Value) -> String {
    format!("/api/v1/jobs/{}", text(job, "job_id"))
}

#[test]
fn a_job_is_made_carried_out_and_consumed() {
    let desk = Desk::new();
    let mut job = shout("hey");
    job["priority"] = json!(9);
    let answer = desk.post("/api/v1/jobs", &job).is(201);
    let made = answer.json();
    let place = place(&made);
    assert_eq!(answer.header("location"), Some(&*place));
    assert_eq!(made["status"], "pending");
    let state = ended(&desk, &text(&made, "job_id"));
    state.has(
        json!({"status": "completed", "result": "HEY", "error": null, "type": "shout",
        "priority": 9, "process_id": made["process_id"]}),
    );
    // A reply that is lost costs nothing: the result is there until it is deleted.
    assert_eq!(desk.read(&place)["result"], "HEY");
    assert_eq!(acked(&desk, &state).is(200).json()["consumed"], 1);
    desk.get(&place).is(404);
    acked(&desk, &state).is(404);
    desk.get(&process(&made)).is(404);
}

/// The payload of a single job is what a line is.
#[test]
fn a_single_job_accepts_what_a_line_accepts() {
    let desk = Desk::new();
    for (given, named) in cases(
        r#"
        completion {"id": "a", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]} => a
        completion {"id": "t", "prompt": "hi", "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]} => t
        completion {"id": 7, "prompt": "hi", "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}, "top_p": 0.5} => 7
        completion {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "sim-1", "messages": [{"role": "user", "content": "hi"}]}} => b
        embedding {"id": "c", "prompt": "hi"} => c
        shout "hi" =>
    "#,
    ) {
        let (kind, payload) = given.split_once(' ').unwrap();
        lines(&desk, &format!("?type={kind}"), payload).is(201);
        let payload: Value = serde_json::from_str(payload).unwrap();
        let job = json!({"type": kind, "payload": payload});
        let made = desk.made("/api/v1/jobs", &job);
        let state = ended(&desk, &text(&made, "job_id"));
        assert_eq!(state["item_id"].as_str().unwrap_or_default(), named);
    }
    let text = json!({"type": "embedding", "payload": {"text": "hi"}});
    desk.made("/api/v1/jobs", &text);
}

#[test]
fn what_is_no_job_is_refused_with_the_field() {
    let desk = Desk::new();
    // Clients cannot name files of the server's machine.
    for (body, param) in cases(
        r#"
        {"type": "shuot", "payload": 1} => type
        {"type": "extract_content", "payload": {"path": "/etc/hostname"}} => payload.path
        {"type": "generate_podcast.script", "payload": 1} => type
        {"type": "summarize", "payload": {"article_id": "a", "content": 7}} => payload.content
        {"type": "completion", "payload": {}} => payload
        {"type": "completion", "payload": {"prompt": "hi", "promt": 1}} => payload
        {"type": "completion", "payload": {"question": "hi"}} => payload
        {"type": "completion", "payload": {"messages": 1}} => payload
        {"type": "shout", "payload": "x", "priority": 11} => priority
        {"type": "shout", "payload": "x", "item_id": ""} => item_id
        {"type": "shout"} =>
        {"type": "shout", "payload": 1, "x": 1} =>
        [] =>
    "#,
    ) {
        let body: Value = serde_json::from_str(body).unwrap();
        let problem = desk.post("/api/v1/jobs", &body).is(400);
        let kind = problem.header("content-type");
        assert_eq!(kind, Some("application/problem+json"));
        assert!(!problem.text.contains(" --"), "{}", problem.text);
        if !param.is_empty() {
            assert_eq!(problem.json()["param"], param, "{problem:?}");
        }
    }
    assert_eq!(desk.read("/api/v1/processes")["data"], json!([]));
}

#[test]
fn a_waiting_job_is_cancelled_and_deleted() {
    let desk = Desk::new();
    let queue = desk.queue();
    let later = || Job::new("nobody's", &1).unwrap();
    let alone = queue.enqueue(ProcessId::new(), [later()]).unwrap();
    let shared = queue.enqueue(ProcessId::new(), [later(), later()]).unwrap();
    for job in [alone[0], shared[0]] {
        let place = format!("/api/v1/jobs/{job}");
        assert!(desk.read(&place)["receipt"].is_null());
        let cancel = || desk.post(&format!("{place}/cancel"), &json!({})).is(200);
        assert_eq!(cancel().json()["status"], "cancelled");
        acked(&desk, &cancel().json()).is(200);
        desk.get(&place).is(404);
        desk.post(&format!("{place}/cancel"), &json!({})).is(404);
    }
    assert!(!queue.job(shared[1]).unwrap().unwrap().status.is_final());
}

/// The call of a running job is billed: its result is kept. A job that would be tried again is cancelled.
#[test]
fn a_running_job_is_cancelled_when_its_call_has_ended() {
    let sim = SimConfig::default().trouble(Trouble::Error500, 1.0);
    let desk = Desk::at(sim.trouble_times(Trouble::Error500, Some(2)));
    desk.sim.hold();
    let prompt = |process: Option<&Value>| {
        let job = json!({"type": "completion", "payload": {"prompt": "hi"}, "process_id": process});
        desk.made("/api/v1/jobs", &job)
    };
    let jobs = [(); 3].map(|()| prompt(None));
    assert!(desk.sim.wait_until(|sim| sim.in_flight == 3, PATIENCE));
    let cancel = |job: &Value| desk.post(&format!("{}/cancel", place(job)), &json!({}));
    for job in &jobs {
        assert_eq!(cancel(job).is(202).json()["status"], "in_progress");
    }
    desk.sim.release();
    let ends = jobs.map(|job| {
        let ended = ended(&desk, &text(&job, "job_id"));
        text(&ended, "status")
    });
    let of = |status| ends.iter().filter(|end| **end == status).count();
    assert_eq!((of("completed"), of("cancelled")), (1, 2), "{ends:?}");
    assert_eq!(desk.sim.stats().calls, 3, "no job was tried again");
    // One of several that runs goes on.
    desk.sim.hold();
    let first = prompt(None);
    let second = prompt(Some(&first["process_id"]));
    assert!(desk.sim.wait_until(|sim| sim.in_flight == 2, PATIENCE));
    assert!(cancel(&second).is(409).text.contains("cancel the process"));
    desk.sim.release();
}

#[test]
fn those_who_wait_leave_half_of_the_connections_to_others() {
    let desk = Desk::with(Default::default(), |server| server.max_connections(6));
    let queue = desk.queue();
    let later = Job::new("nobody's", &1).unwrap();
    let job = queue.enqueue(ProcessId::new(), [later]).unwrap()[0];
    let place = format!("/api/v1/jobs/{job}");
    let (told, answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (desk, told) = (&desk, told.clone());
            let place = format!("{place}?wait=30");
            scope.spawn(move || told.send(desk.read(&place)).unwrap());
        }
        assert_eq!(answers.recv().unwrap()["status"], "pending");
        desk.post(&format!("{place}/cancel"), &json!({})).is(200);
        for _ in 0..3 {
            assert_eq!(answers.recv().unwrap()["status"], "cancelled");
        }
    });
}

#[test]
fn a_job_of_many_tells_how_many_of_them_have_ended() {
    let desk = Desk::new();
    desk.sim.hold();
    let page = json!({"type": "extract_content", "payload": {"html": "<p>A short text.</p>"}});
    let prompt = json!({"type": "completion", "payload": {"prompt": "hi"}});
    let many = json!({"type": "batch_process", "payload": {"jobs": [page, prompt]}});
    let made = desk.made("/api/v1/jobs", &many);
    let place = place(&made);
    until_shown(&desk, &place, |job| job["progress"] == 50);
    desk.sim.release();
    let ended = desk.read(&format!("{place}?wait=30"));
    ended.has(json!({"progress": 100, "/result/total": 2}));
}
