//! Processes over HTTP: lines in, outcomes out.

use batchwright::config::ConfigStore as _;
use batchwright::{ErrorKind, Job, ProcessId};
use serde_json::{Value, json};

use super::common::{
    Answer, Desk, Has, ended, ids, lines, process, read_lines, shout, text, until, until_finished,
    until_shown,
};
use super::openai::question;

/// The results of a process.
fn results(desk: &Desk, place: &str) -> Vec<Value> {
    read_lines(&desk.get(&format!("{place}/results")).is(200).text)
}

/// Deletes these results.
fn ack(desk: &Desk, place: &str, lines: &[Value]) -> Answer {
    let receipts: Vec<&Value> = lines.iter().map(|line| &line["receipt"]).collect();
    let body = json!({"receipts": receipts});
    desk.post(&format!("{place}/results/ack"), &body)
}

#[test]
fn lines_go_in_and_come_out_and_reading_goes_on_where_it_was() {
    let desk = Desk::new();
    let body = r#"{"id": "a", "prompt": "one"}

        {"custom_id": "b", "body": {"messages": [{"role": "user", "content": "two"}]}}
        {"id": "c", "messages": [{"role": "user", "content": "three"}]}
        {"prompt": "four"}
        {"prompt": "four"}"#;
    let made = lines(&desk, "?name=five", body).is(201).json();
    assert_eq!(made["total"], 5);
    let place = process(&made);
    let state = until_finished(&desk, &text(&made, "process_id"));
    state.has(json!({"name": "five", "completed": 5, "percent": 100.0}));
    let read = desk.get(&format!("{place}/results")).is(200);
    assert_eq!(read.header("content-type"), Some("application/jsonl"));
    let all = read_lines(&read.text);
    let names = ids(&all, "id");
    assert_eq!(names[..3], ["a", "b", "c"]);
    assert_eq!(names[4], format!("{}-2", names[3]));
    assert!(all.iter().all(|line| line["success"] == true));
    let second = text(&all[1], "job_id");
    let rest = desk.get(&format!("{place}/results?after={second}&limit=2"));
    assert_eq!(read_lines(&rest.is(200).text), all[2..4]);
    let consumed = |lines| ack(&desk, &place, lines).is(200).json()["consumed"].clone();
    assert_eq!(consumed(&all[..2]), 2);
    assert_eq!(consumed(&all[1..3]), 1);
    assert_eq!(results(&desk, &place), all[3..]);
    let other = desk.made("/api/v1/jobs", &shout("other"));
    let other = ended(&desk, &text(&other, "job_id"));
    for (odd, status, param) in [
        (json!({"receipt": "x"}), 400, None),
        (other, 409, Some("receipts")),
    ] {
        let problem = ack(&desk, &place, &[odd]).is(status).json();
        assert_eq!(problem["param"].as_str(), param, "{problem}");
    }
    assert_eq!(consumed(&all[3..]), 2);
    desk.get(&format!("{place}/results")).is(404);
}

#[test]
fn results_end_before_the_first_open_job() {
    let desk = Desk::new();
    let queue = desk.queue();
    let process = ProcessId::new();
    let slow = Job::new("nobody's", &1).unwrap();
    let quick = |n: usize| Job::new("shout", &n.to_string()).unwrap();
    let ids = queue.enqueue(process, [quick(0), slow, quick(2)]).unwrap();
    let [first, _] = [ids[0], ids[2]].map(|id| ended(&desk, &id.to_string()));
    let read = results(&desk, &format!("/api/v1/processes/{process}"));
    assert_eq!(read.len(), 1);
    read[0].has(json!({"job_id": first["job_id"], "receipt": first["receipt"]}));
}

#[test]
fn a_bad_line_is_named_and_nothing_is_kept() {
    let desk = Desk::with(Default::default(), |server| {
        server.max_upload_bytes(100_000)
    });
    let good = "{\"prompt\": \"x\"}\n".repeat(3_000);
    let image = r#"[{"type": "image", "path": "/etc/passwd"}]"#;
    let image = format!(r#"{{"messages": [{{"role": "user", "content": {image}}}]}}"#);
    let twice = r#"{"id": "a", "prompt": "x"}"#;
    let two = r#"{"content": "x", "article_id": "a"}"#;
    for (query, body, line) in [
        ("", format!("{good}{{\"promt\": \"x\"}}\n"), 3_001),
        ("", format!("{twice}\n{twice}"), 2),
        ("", "\n\nno JSON".to_owned(), 3),
        ("", image, 1),
        ("?type=summarize", format!("{two}\n{{}}"), 2),
    ] {
        let problem = lines(&desk, query, &body).is(400).json();
        assert_eq!(problem["line"], line, "{problem}");
    }
    lines(&desk, "", "\n").is(400);
    lines(&desk, "?type=nothing", "1").is(400);
    // Beyond what may be uploaded.
    let problem = lines(&desk, "?type=shout", &"\"x\"\n".repeat(30_000)).is(413);
    assert!(problem.text.contains("100000 bytes"), "{problem:?}");
    assert_eq!(desk.read("/api/v1/processes")["data"], json!([]));
    lines(&desk, "?type=shout", "\"x\"\n").is(201);
}

#[test]
fn processes_are_cancelled_retried_and_deleted() {
    let desk = Desk::new();
    let made = lines(&desk, "?type=shout", "1\n\"b\"\n1\n").is(201).json();
    let (id, place) = (text(&made, "process_id"), process(&made));
    until_finished(&desk, &id).has(json!({"completed": 1, "failed": 2}));
    let failed = desk.read(&format!("/api/v1/jobs?process_id={id}&status=failed"));
    failed.has(json!({"/data/1/error/kind": ErrorKind::Invalid.as_str(), "/data/2": null}));
    desk.get(&format!("{place}/failures")).is(404);
    let post = |what: &str| desk.post(&format!("{place}/{what}"), &json!({}));
    post("retry").is(200).json().has(json!({"retried": 2}));
    until_finished(&desk, &id);
    post("cancel").is(200).json().has(json!({"cancelled": 0}));
    desk.delete(&place).is(409);
    let deleted = desk.delete(&format!("{place}?force=true")).is(200);
    assert_eq!(deleted.json()["deleted"], 3);
    desk.get(&place).is(404);
    post("retry").is(404);
}

#[test]
fn processes_come_newest_first_a_page_at_a_time() {
    let desk = Desk::new();
    let made = [(); 5].map(|()| desk.made("/api/v1/jobs", &shout("x")));
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = desk.read(&format!("/api/v1/processes?limit=2{after}"));
        seen.extend(ids(page["data"].as_array().unwrap(), "process_id"));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    seen.reverse();
    assert_eq!(seen, ids(&made, "process_id"));
    for bad in ["limit=0", "limit=501", "state=odd", "after=x", "name=x"] {
        desk.get(&format!("/api/v1/processes?{bad}")).is(400);
    }
}

#[test]
fn a_failure_that_ended_anew_is_not_deleted_for_the_one_that_was_read() {
    let desk = Desk::new();
    let made = lines(&desk, "?type=shout", "\"a\"\n1\n\"c\"\n");
    let made = made.is(201).json();
    let (id, place) = (text(&made, "process_id"), process(&made));
    until_finished(&desk, &id);
    let first = results(&desk, &place);
    let retried = desk.done(&format!("{place}/retry"), &json!({}));
    assert_eq!(retried["retried"], 1);
    until_finished(&desk, &id);
    let consumed = |lines| ack(&desk, &place, lines).is(200).json()["consumed"].clone();
    assert_eq!(consumed(&first), 2);
    let anew = results(&desk, &place);
    assert!(anew.len() == 1 && anew[0]["receipt"] != first[1]["receipt"]);
    assert_eq!(consumed(&anew), 1);
    desk.get(&format!("{place}/results")).is(404);
}

/// A server with a price of its model, 1 dollar per million tokens.
fn priced() -> Desk {
    let mut desk = Desk::new();
    desk.stop();
    let prices = json!({"providers": {"*": {"models": [
        {"models": ["sim-1"], "prices": [{"input": 1, "output": 1}]}]}}});
    let file = desk.folder.path().join("prices.json");
    std::fs::write(&file, prices.to_string()).unwrap();
    let file = file.to_str().unwrap();
    desk.store.set("llm.prices", file).unwrap();
    desk.start(|server| server);
    desk
}

/// A process is paused before it could use more than its budget, and says how it continues.
#[test]
fn a_process_with_a_budget_is_paused_until_it_gets_a_higher_one() {
    let desk = priced();
    let line = |n| format!("{{\"prompt\": \"prompt {n:02}\", \"max_tokens\": 20}}\n");
    let body: String = (0..60).map(line).collect();
    for wrong in ["budget_usd=0", "budget_usd=x", "budget_tokens=9"] {
        lines(&desk, &format!("?{wrong}"), &body).is(400);
    }
    let made = lines(&desk, "?budget_usd=0.0006", &body).is(201).json();
    let path = process(&made);
    let is_paused = |now: &Value| now["budget"]["paused"].is_string() && now["in_progress"] == 0;
    let paused = until_shown(&desk, &path, is_paused);
    paused["budget"].has(json!({"limit": 0.0006}));
    let used = paused["budget"]["used"].as_f64().unwrap();
    let spent = paused["cost_usd"].as_f64().unwrap();
    assert!(spent <= used && used <= 0.0006, "{paused}");
    assert!(paused["completed"].as_u64().unwrap() >= 5, "{paused}");

    desk.post(&format!("{path}/budget"), &json!({})).is(400);
    let more = desk.done(&format!("{path}/budget?usd=1"), &json!({}));
    more["budget"].has(json!({"limit": 1.0, "paused": null}));
    let ended = until_finished(&desk, &text(&made, "process_id"));
    assert_eq!(ended["completed"], 60);
}

/// Every way to enqueue work counts in what was spent, and it stays when the results are gone.
#[test]
fn what_was_spent_is_shown_by_model_and_outlives_the_results() {
    let desk = priced();
    desk.done("/v1/chat/completions", &question("hi"));
    let job = json!({"type": "completion", "payload": {"prompt": "hi"}});
    desk.made("/api/v1/jobs", &job);
    let body = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n";
    let made = lines(&desk, "?type=completion", body).is(201).json();
    until_finished(&desk, &text(&made, "process_id"));

    let spent = || desk.read("/api/v1/spent")["data"].clone();
    until(|| spent()[0]["calls"] == 4);
    let rows = spent();
    rows.has(json!({"/0/model": "sim-1", "/0/calls": 4, "/1": null}));
    assert!(rows[0]["tokens"].as_u64().unwrap() > 0);
    assert!(rows[0]["cost_usd"].as_f64().unwrap() > 0.0);

    let all = format!("{}?force=true", process(&made));
    desk.delete(&all).is(200);
    assert_eq!(spent(), rows);
    let metrics = desk.get("/metrics").is(200).text;
    let series = "batchwright_month_cost_usd{gen_ai_request_model=\"sim-1\"} ";
    assert!(metrics.contains(series), "{metrics}");
    for wrong in ["?since=yesterday", "?x=1"] {
        desk.get(&format!("/api/v1/spent{wrong}")).is(400);
    }
}

fn found(desk: &Desk, query: &str) -> Vec<Value> {
    let page = desk.read(&format!("/api/v1/jobs?{query}"));
    assert_eq!(page["next"], Value::Null);
    page["data"].as_array().unwrap().clone()
}

#[test]
fn jobs_are_found_in_all_processes_and_requeued_one_by_one() {
    let desk = Desk::new();
    let [old, new] = ["\"a\"\n1\n", "2\n"].map(|body| {
        let made = lines(&desk, "?type=shout", body).is(201).json();
        let id = text(&made, "process_id");
        until_finished(&desk, &id);
        id
    });
    let named = json!({"type": "shout", "payload": "b", "item_id": "Ann 7"});
    let made = desk.made("/api/v1/jobs", &named);
    ended(&desk, &text(&made, "job_id"));

    let failed = found(&desk, "status=failed");
    let newest_first = [new.clone(), old.clone()];
    assert_eq!(ids(&failed, "process_id"), newest_first);
    failed[0].has(json!({"type": "shout", "model": null, "attempts": 1,
        "/error/class": "non_retryable"}));
    assert!(failed[0]["error"]["kind"].is_string());
    let first = desk.read("/api/v1/jobs?status=failed&limit=1");
    let next = text(&first, "next");
    for (query, wanted) in [
        ("type=shout", &failed[..]),
        ("type=completion", &[]),
        (&format!("process_id={old}"), &failed[1..]),
        (&format!("after={next}"), &failed[1..]),
    ] {
        assert_eq!(found(&desk, &format!("status=failed&{query}")), wanted);
    }
    let done = found(&desk, "status=completed&type=shout");
    assert_eq!(done[0]["job_id"], made["job_id"], "the newest first");
    for query in ["status=odd", "limit=0", "nme=x"] {
        desk.get(&format!("/api/v1/jobs?{query}")).is(400);
    }

    let job = format!("/api/v1/jobs/{}", text(&failed[0], "job_id"));
    desk.read(&format!("{job}/payload"))
        .has(json!({"payload": 2, "type": "shout"}));
    let post = |path: &str| desk.post(path, &json!({}));
    post(&format!("{job}/retry")).is(200);
    until_finished(&desk, &new);
    assert_eq!(found(&desk, "status=failed").len(), 2, "it failed again");
    let done = format!("/api/v1/jobs/{}/retry", text(&made, "job_id"));
    let problem = post(&done).is(409).json();
    assert!(text(&problem, "detail").contains("completed"));
    post(&format!("/api/v1/processes/{new}/cancel")).is(200);
    post(&format!("{job}/retry")).is(409);
}

#[test]
fn a_paused_queue_waits_until_it_is_resumed() {
    let mut desk = Desk::new();
    let change = |desk: &Desk, path: &str| desk.done(&format!("/api/v1/{path}"), &json!({}));
    assert_eq!(change(&desk, "pause"), json!({"paused": true}));
    let job = text(&desk.made("/api/v1/jobs", &shout("b")), "job_id");
    // It is stored in the queue, so the next server knows of it.
    desk.stop();
    desk.start(|server| server);
    assert_eq!(desk.read("/api/v1/overview")["paused"], true);
    let state = desk.read(&format!("/api/v1/jobs/{job}"));
    assert_eq!(state["status"], "pending");
    assert_eq!(change(&desk, "resume"), json!({"paused": false}));
    assert_eq!(ended(&desk, &job)["status"], "completed");
    desk.post("/api/v1/pause?model=m", &json!({})).is(400);
}

#[test]
fn what_is_misspelt_is_no_way_to_ask_for_everything() {
    let desk = Desk::new();
    assert_eq!(desk.read("/api/v1/openapi.json")["openapi"], "3.1.0");
    for path in [
        "jobs?proces_id",
        "processes?sate",
        "config?limit",
        "events?last-event-id",
    ] {
        let problem = desk.get(&format!("/api/v1/{path}=1")).is(400).json();
        assert_eq!(problem["param"], path.split_once('?').unwrap().1);
    }
}

#[test]
#[should_panic(expected = "/paths/~1api~1v1~1jobs/get/responses/200/content")]
fn an_answer_without_its_documented_shape_is_noticed() {
    let mut answer = Desk::new().get("/api/v1/jobs");
    answer.text = "{}".to_owned();
    super::document::compare("GET", "/api/v1/jobs?limit=1", &answer);
}
