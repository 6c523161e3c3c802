//! Showing a queue, and changing the state of its processes, through the real program.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright::testing::ScriptedClient;
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd, Running, eventually, simulator};
use super::queue::{
    adds_up, database, on_queue, plain, queue, status, submit_one, submitted, work, worker,
};

#[test]
fn a_pause_and_a_missing_worker_are_named() {
    let (desk, _) = submitted(2);
    let shown = plain(&desk, "status").expect(0);
    shown.tells("no worker is running; to go on: batchwright work");
    shown.hides("paused");
    queue(&desk).pause().unwrap();
    let line = plain(&desk, "status --json").expect(0).json();
    assert_eq!(line["paused"], true);
    plain(&desk, "status").says("the queue is paused");
    plain(&desk, "work --until-empty --provider extract")
        .ends(0, "2 jobs still wait")
        .says("the queue is paused");
    plain(&desk, "status --queue a --store mysql://b")
        .ends(2, "--queue and --store name two queues");
}

#[test]
fn status_names_what_limits_a_worker() {
    let (desk, _) = submitted(2000);
    let sim = simulator(SimConfig::default().latency(Duration::from_millis(50)));
    let limit = || status(&desk, "")[0]["limited_by"].clone();
    assert_eq!(limit(), Value::Null);
    let words = format!(
        "work -j 1 --provider local --base-url {} --model sim-1 -q",
        sim.base_url()
    );
    let worker = Running::start(&mut on_queue(&desk, &words));
    assert!(eventually(|| limit() == "concurrency"));
    plain(&desk, "status").says("1 worker is running, limited by concurrency (-j)");
    drop(worker);
    assert!(eventually(|| limit() == Value::Null));
}

#[test]
fn numbers_of_status_add_up() {
    let (desk, first) = submitted(4);
    work(&desk);
    let second = submit_one(&desk);
    let third = submit_one(&desk);
    queue(&desk).cancel(third).unwrap();
    let all = status(&desk, "");
    all.iter().for_each(adds_up);
    let ids: Vec<_> = all
        .iter()
        .map(|p| p["process_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, [first, second, third].map(|id| id.to_string()));
    let input = desk.path("in.jsonl").canonicalize().unwrap();
    let expected = json!({"process_id": first, "name": "in.jsonl", "input": input,
        "output": null, "command": null, "strategy": "sync", "fallback_reason": null,
        "total": 4, "pending": 0, "in_progress": 0, "at_provider": 0, "completed": 3, "failed": 1,
        "cancelled": 0, "eta_seconds": null, "batches": [], "sealed": true, "consumed": 0});
    let known = |process: &Value| {
        let mut process = process.clone();
        let fields = process.as_object_mut().unwrap();
        fields.retain(|name, _| expected.get(name).is_some());
        process
    };
    assert_eq!(known(&all[0]), expected);
    let single = status(&desk, &first.to_string());
    assert_eq!(
        single.iter().map(known).collect::<Vec<_>>(),
        std::slice::from_ref(&expected)
    );
    let people = plain(&desk, "status").expect(0);
    let rows: Vec<&str> = people.stdout.lines().collect();
    assert_eq!(rows.len(), 4);
    assert!(rows[1].ends_with(" finished"), "{}", rows[1]);
    assert!(rows[2].ends_with(" waiting"), "{}", rows[2]);
    assert!(rows[3].ends_with("cancelled, finished"), "{}", rows[3]);
}

#[test]
fn a_process_is_found_by_the_beginning_of_its_id() {
    let (desk, id) = submitted(1);
    let id = id.to_string();
    assert_eq!(status(&desk, &id[..20]).len(), 1);
    submit_one(&desk);
    plain(&desk, &format!("status {}", &id[..4]))
        .ends(2, "2 processes have an id that begins or ends with")
        .says(&id)
        .says("one.jsonl, 1 jobs, ");
    plain(&desk, &format!("status {}", &id[..3]))
        .ends(2, "at least its first or last 4 characters");
    // The beginning of an id is its creation time, which processes of the same minute share.
    let end = &id[id.len() - 8..];
    assert_eq!(status(&desk, &format!("…{end}")).len(), 1);
    assert_eq!(status(&desk, end)[0]["process_id"], id);
    plain(&desk, &format!("retry {end}")).expect(0);
    plain(&desk, &format!("results {end} --keep")).expect(0);
    plain(
        &desk,
        &format!("work --provider extract --processes {end} --until-empty"),
    )
    .expect(0);
    assert_eq!(status(&desk, end)[0]["pending"], 0);
    plain(&desk, &format!("cancel {end} --delete")).expect(0);
    assert_eq!(status(&desk, "").len(), 1);
    plain(&desk, "status ffff-ffff").ends(2, "no process ");
    plain(&desk, &format!("retry {}", ProcessId::new())).ends(2, "no process ");
}

#[test]
fn a_watch_ends_when_all_is_finished() {
    let (desk, id) = submitted(3);
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let running = worker(&desk, &client).start().unwrap();
    assert!(client.wait_for_in_flight(2));
    let mut json = Running::start(&mut on_queue(&desk, &format!("status {id} --watch --json")));
    let mut lines = BufReader::new(json.child.stdout.take().unwrap()).lines();
    let people = Running::start(&mut on_queue(&desk, "status --watch"));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["processes"][0]["completed"], 0);
    client.release();
    running.join().unwrap();
    let seen: Vec<Value> = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    seen.iter().for_each(|line| adds_up(&line["processes"][0]));
    assert_eq!(seen.last().unwrap()["processes"][0]["completed"], 3);
    json.wait().expect(0);
    let people = people.wait().expect(0);
    let last = people.stdout.lines().last().unwrap();
    assert!(last.starts_with(&format!("{id} 3/3 100.0%")), "{last}");
    assert!(last.ends_with("finished"), "{last}");
}

#[test]
fn cancel_and_retry_report_what_they_did() {
    let (desk, id) = submitted(3);
    work(&desk);
    let retried = plain(&desk, &format!("retry {id} --json")).ends(0, "1 jobs requeued");
    let facts = retried.json();
    assert_eq!(facts, json!({"process_id": id, "retried": 1}));
    let cancelled = plain(&desk, &format!("cancel {id} --json")).ends(0, "1 jobs cancelled");
    let facts = cancelled.json();
    assert_eq!(
        facts,
        json!({
            "process_id": id, "cancelled": 1, "in_progress": 0, "at_provider": 0, "batches": 0,
        })
    );
    let [now] = &status(&desk, "")[..] else {
        panic!()
    };
    now.has(json!({"completed": 2, "cancelled": 1}));
    plain(&desk, &format!("retry {id}")).ends(0, "1 jobs requeued");
    let client = Arc::new(ScriptedClient::new());
    worker(&desk, &client).run().unwrap();
    assert_eq!(client.calls(), ["prompt 1"]);
    plain(&desk, &format!("retry {id}")).ends(0, "nothing to requeue");
    plain(&desk, &format!("cancel {id} --delete")).ends(0, "deleted with 3 jobs");
    assert!(queue(&desk).open_processes().unwrap().is_empty());
}

#[test]
fn showing_a_queue_creates_no_database() {
    let desk = Desk::new();
    assert_eq!(status(&desk, ""), [] as [Value; 0]);
    plain(&desk, "status --watch").ends(0, "nothing is queued");
    plain(&desk, &format!("status {}", ProcessId::new())).ends(2, "not found: the queue");
    let doctor = plain(&desk, "doctor").expect(0);
    doctor.shows("note     database");
    assert!(!desk.exists("data"));
}

#[test]
fn doctor_reports_no_problem_for_a_healthy_queue() {
    let (desk, _) = submitted(3);
    work(&desk);
    let mut command = on_queue(&desk, "doctor");
    command.env("GROQ_API_KEY", "gsk-very-secret");
    let ended = command.ended().expect(0);
    for seen in ["ok       integrity", "writable", "GROQ_API_KEY (groq)"] {
        ended.shows(seen);
    }
    assert!(!ended.stdout.contains("very-secret"));
    let facts = plain(&desk, "doctor --json").expect(0).json();
    assert_eq!(facts["healthy"], true);
    let findings = facts["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .any(|f| f["what"] == "schema" && f["verdict"] == "good")
    );
}

#[test]
fn doctor_names_a_file_that_is_no_queue() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("data")).unwrap();
    desk.write("data/llm_jobs.db", "dear diary".repeat(1000));
    let ended = plain(&desk, "doctor --json").expect(1);
    let facts = ended.json();
    assert_eq!(facts["healthy"], false);
    ended.shows("not an SQLite database");
    assert!(desk.read("data/llm_jobs.db").starts_with("dear diary"));
    plain(&desk, "status").ends(1, "not an SQLite database");
}

#[test]
fn concurrent_results_commands_take_each_result_once_and_kills_lose_none() {
    let (desk, id) = submitted(1000);
    work(&desk);
    // More than a pipe holds, and it is not read.
    let mut first = on_queue(&desk, &format!("results {id} --take"));
    let mut first = first.stdout(Stdio::piped()).spawn().unwrap();
    let lock = database(&desk).with_extension("db.workers");
    let lock = lock.join(format!("{id}.results"));
    assert!(eventually(
        || std::fs::read(&lock).is_ok_and(|text| !text.is_empty())
    ));
    let other = || plain(&desk, &format!("results {id} -o out.jsonl"));
    let refused = other().expect(1);
    let by = format!("process {}", first.id());
    refused
        .says(&by)
        .says("(to standard output) is fetching the results");
    assert!(!desk.path("out.jsonl").exists() || desk.results("out.jsonl").is_empty());
    // A command that only reads does not disturb others.
    plain(&desk, &format!("results {id} --keep")).expect(3);
    let taken = queue(&desk).process(id).unwrap().unwrap().counts.consumed;
    first.kill().unwrap();
    first.wait().unwrap();
    other().expect(3);
    let got = desk.results("out.jsonl").len() as u64;
    assert_eq!(got, 1000 - taken);
    assert!(queue(&desk).process(id).unwrap().is_none());
    assert!(!lock.exists(), "its lock is left behind");
}
