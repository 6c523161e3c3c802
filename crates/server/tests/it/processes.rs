//! Processes over HTTP: lines in, outcomes out.

use batchwright::config::ConfigStore as _;
use batchwright::{ErrorKind, Job, ProcessId};
use serde_json::{Value, json};

use super::common::{Answer, Desk, Has, ended, lines, shout, until, until_finished, until_shown};
use super::openai::question;

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
    state.has(json!({"name": "five", "completed": 5, "percent": 100.0}));
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
    let ack = |lines: &[Value]| -> Answer {
        let receipts: Vec<&Value> = lines.iter().map(|line| &line["receipt"]).collect();
        desk.post(&format!("{place}/ack"), &json!({"receipts": receipts}))
    };
    assert_eq!(ack(&all[..2]).is(200).json()["consumed"], 2);
    assert_eq!(ack(&all[1..3]).is(200).json()["consumed"], 1);
    assert_eq!(read(&desk.get(&place).text), all[3..]);
    let other = desk.made("/api/v1/jobs", &shout("other"));
    let other = ended(&desk, other["job_id"].as_str().unwrap());
    for (odd, status, param) in [
        (json!("x"), 400, None),
        (other["receipt"].clone(), 409, Some("receipts")),
    ] {
        let problem = ack(&[json!({"receipt": odd})]).is(status).json();
        assert_eq!(problem["param"].as_str(), param, "{problem}");
    }
    assert_eq!(ack(&all[3..]).is(200).json()["consumed"], 2);
    desk.get(&place).is(404);
}

#[test]
fn open_jobs_are_left_out_of_the_results() {
    let desk = Desk::new();
    let queue = desk.queue();
    let process = ProcessId::new();
    let slow = Job::new("nobody's", &1).unwrap();
    let quick = |n: usize| Job::new("shout", &n.to_string()).unwrap();
    let ids = queue.enqueue(process, [quick(0), slow, quick(2)]).unwrap();
    let ended = [ids[0], ids[2]].map(|id| ended(&desk, &id.to_string()));
    let read = desk.get(&format!("/api/v1/processes/{process}/results"));
    for (line, job) in read.is(200).text.lines().zip(ended) {
        let line: Value = serde_json::from_str(line).unwrap();
        line.has(json!({"job_id": job["job_id"], "receipt": job["receipt"]}));
    }
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
    let all = desk.read("/api/v1/processes");
    assert_eq!(all["data"], json!([]));
}

#[test]
fn processes_are_cancelled_retried_explained_and_deleted() {
    let desk = Desk::with(Default::default(), |server| server);
    let made = lines(&desk, "?type=shout", "1\n\"b\"\n1\n").is(201).json();
    let process = made["process_id"].as_str().unwrap();
    let state = until_finished(&desk, process);
    state.has(json!({"completed": 1, "failed": 2}));
    let place = format!("/api/v1/processes/{process}");
    let failures = desk.read(&format!("{place}/failures"));
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
        desk.done(&format!("{place}/retry"), &json!({}))["retried"],
        2
    );
    until_finished(&desk, process);
    assert_eq!(
        desk.done(&format!("{place}/cancel"), &json!({}))["cancelled"],
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
fn processes_come_newest_first_a_page_at_a_time() {
    let desk = Desk::new();
    let made: Vec<Value> = (0..5)
        .map(|n| desk.made("/api/v1/jobs", &shout(&n.to_string())))
        .collect();
    let mut seen = Vec::new();
    let mut place = "/api/v1/processes?limit=2".to_owned();
    loop {
        let page = desk.read(&place);
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
    for bad in ["limit=0", "limit=501", "state=odd", "after=x", "name=x"] {
        desk.get(&format!("/api/v1/processes?{bad}")).is(400);
    }
}

#[test]
fn lines_beyond_what_may_be_uploaded_leave_nothing() {
    let desk = Desk::with(Default::default(), |server| server.max_upload_bytes(1_000));
    let body = "\"x\"\n".repeat(1_000);
    let problem = lines(&desk, "?type=shout", &body).is(413);
    assert!(problem.text.contains("1000 bytes"), "{problem:?}");
    let all = desk.read("/api/v1/processes");
    assert_eq!(all["data"], json!([]));
    lines(&desk, "?type=shout", "\"x\"\n").is(201);
}

#[test]
fn a_failure_that_ended_anew_is_not_deleted_for_the_one_that_was_read() {
    let desk = Desk::new();
    let made = lines(&desk, "?type=shout", "\"a\"\n1\n\"c\"\n")
        .is(201)
        .json();
    let process = made["process_id"].as_str().unwrap().to_owned();
    until_finished(&desk, &process);
    let place = format!("/api/v1/processes/{process}/results");
    let read = |desk: &Desk| -> Vec<Value> {
        let text = desk.get(&place).is(200).text;
        let line = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        text.lines()
            .map(|text| line(text)["receipt"].clone())
            .collect()
    };
    let ack = |desk: &Desk, receipts: &[Value]| {
        let done = desk.post(&format!("{place}/ack"), &json!({"receipts": receipts}));
        done.is(200).json()["consumed"].clone()
    };
    let first = read(&desk);
    let retried = desk.post(&format!("/api/v1/processes/{process}/retry"), &json!({}));
    assert_eq!(retried.is(200).json()["retried"], 1);
    until_finished(&desk, &process);
    assert_eq!(ack(&desk, &first), 2);
    let anew = read(&desk);
    assert!(anew.len() == 1 && anew[0] != first[1], "{anew:?}");
    assert_eq!(ack(&desk, &anew), 1);
    desk.get(&place).is(404);
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
    let body: String = (0..60)
        .map(|n| {
            format!("{{\"id\": \"{n}\", \"prompt\": \"prompt {n:02}\", \"max_tokens\": 20}}\n")
        })
        .collect();
    for wrong in ["budget_usd=0", "budget_usd=x", "budget_tokens=9"] {
        lines(&desk, &format!("?{wrong}"), &body).is(400);
    }
    let made = lines(&desk, "?budget_usd=0.0006", &body).is(201).json();
    let id = made["process_id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/processes/{id}");
    let is_paused = |now: &Value| now["budget"]["paused"].is_string() && now["in_progress"] == 0;
    let paused = until_shown(&desk, &path, is_paused);
    paused["budget"].has(json!({"limit": 0.0006}));
    let used = paused["budget"]["used"].as_f64().unwrap();
    let spent = paused["cost_usd"].as_f64().unwrap();
    assert!(spent <= used && used <= 0.0006, "{paused}");
    assert!(paused["completed"].as_u64().unwrap() >= 5, "{paused}");

    desk.post(&format!("{path}/budget"), &json!({})).is(400);
    let more = desk.post(&format!("{path}/budget?usd=1"), &json!({}));
    more.is(200).json()["budget"].has(json!({"limit": 1.0, "paused": null}));
    let ended = until_finished(&desk, &id);
    assert_eq!(ended["completed"], 60);
}

/// Every way to enqueue work counts in what was spent, and it stays when the results are gone.
#[test]
fn what_was_spent_is_shown_by_model_and_outlives_the_results() {
    let desk = priced();
    let chat = question("hi");
    desk.post("/v1/chat/completions", &chat).is(200);
    let job = json!({"type": "completion", "payload": {"prompt": "hi"}});
    desk.post("/api/v1/jobs", &job).is(201);
    let body = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n";
    let made = lines(&desk, "?type=completion", body).is(201).json();
    let id = made["process_id"].as_str().unwrap().to_owned();
    until_finished(&desk, &id);

    let spent = || desk.read("/api/v1/spent")["data"].clone();
    until(|| spent()[0]["calls"] == 4);
    let rows = spent();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    rows[0].has(json!({"model": "sim-1", "calls": 4}));
    assert!(rows[0]["tokens"].as_u64().unwrap() > 0);
    assert!(rows[0]["cost_usd"].as_f64().unwrap() > 0.0);

    desk.delete(&format!("/api/v1/processes/{id}?force=true"))
        .is(200);
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
    let old = lines(&desk, "?type=shout&name=Old", "\"a\"\n1\n")
        .is(201)
        .json();
    let new = lines(&desk, "?type=shout&name=new", "2\n").is(201).json();
    let id = |made: &Value| made["process_id"].as_str().unwrap().to_owned();
    let (old, new) = (id(&old), id(&new));
    until_finished(&desk, &old);
    until_finished(&desk, &new);
    let named = json!({"type": "shout", "payload": "b", "item_id": "Ann 7"});
    let made = desk.made("/api/v1/jobs", &named);
    ended(&desk, made["job_id"].as_str().unwrap());

    let failed = found(&desk, "status=failed");
    let processes: Vec<&Value> = failed.iter().map(|job| &job["process_id"]).collect();
    assert_eq!(processes, [&new, &old], "the newest first");
    failed[0].has(json!({"type": "shout", "model": null, "attempts": 1}));
    assert!(failed[0]["error"]["kind"].is_string());
    assert_eq!(found(&desk, "status=failed&type=shout"), failed);
    assert!(found(&desk, "status=failed&type=completion").is_empty());
    let done = found(&desk, "status=completed&type=shout");
    assert_eq!(done[0]["job_id"], made["job_id"], "the newest first");
    assert_eq!(
        found(&desk, &format!("process_id={old}&status=failed")).len(),
        1
    );
    let first = desk.read("/api/v1/jobs?status=failed&limit=1");
    let next = first["next"].as_str().unwrap();
    let rest = found(&desk, &format!("status=failed&after={next}"));
    assert_eq!(rest, failed[1..]);
    for query in ["status=odd", "limit=0", "nme=x"] {
        desk.get(&format!("/api/v1/jobs?{query}")).is(400);
    }

    let job = format!("/api/v1/jobs/{}", failed[0]["job_id"].as_str().unwrap());
    let payload = desk.read(&format!("{job}/payload"));
    assert_eq!(
        (&payload["payload"], &payload["type"]),
        (&json!(2), &json!("shout"))
    );
    desk.post(&format!("{job}/retry"), &json!({})).is(200);
    until_finished(&desk, &new);
    assert_eq!(found(&desk, "status=failed").len(), 2, "it failed again");
    let done = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
    let problem = desk
        .post(&format!("{done}/retry"), &json!({}))
        .is(409)
        .json();
    assert!(problem["detail"].as_str().unwrap().contains("completed"));
    desk.post(&format!("/api/v1/processes/{new}/cancel"), &json!({}))
        .is(200);
    desk.post(&format!("{job}/retry"), &json!({})).is(409);
}

#[test]
fn a_paused_queue_waits_until_it_is_resumed() {
    let mut desk = Desk::new();
    let change = |desk: &Desk, path: &str| desk.done(&format!("/api/v1/{path}"), &json!({}));
    assert_eq!(change(&desk, "pause"), json!({"paused": true}));
    let job = desk.made("/api/v1/jobs", &shout("b"));
    let job = job["job_id"].as_str().unwrap();
    // It is stored in the queue, so the next server knows of it.
    desk.stop();
    desk.start(|server| server);
    assert_eq!(desk.read("/api/v1/overview")["paused"], true);
    let state = desk.read(&format!("/api/v1/jobs/{job}"))["status"].clone();
    assert_eq!(state, "pending");
    assert_eq!(change(&desk, "resume"), json!({"paused": false}));
    assert_eq!(ended(&desk, job)["status"], "completed");
    desk.post("/api/v1/pause?model=m", &json!({})).is(400);
}
