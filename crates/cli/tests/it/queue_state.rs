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
use super::job_types::working;
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
        .ends(0, "left in the queue:")
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
    let worker = working(&desk, &sim, "-j 1 -q");
    assert!(eventually(|| limit() == "concurrency"));
    plain(&desk, "status").tells("1 worker is running, limited by concurrency (-j)");
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
    let ids: Vec<&Value> = all.iter().map(|process| &process["process_id"]).collect();
    assert_eq!(ids, [&json!(first), &json!(second), &json!(third)]);
    let input = desk.path("in.jsonl").canonicalize().unwrap();
    let expected = json!({"process_id": first, "name": "in.jsonl", "input": input,
        "output": null, "command": null, "strategy": "sync", "fallback_reason": null,
        "total": 4, "pending": 0, "in_progress": 0, "at_provider": 0, "completed": 3, "failed": 1,
        "cancelled": 0, "eta_seconds": null, "batches": [], "sealed": true, "consumed": 0});
    all[0].has(expected.clone());
    status(&desk, &first.to_string())[0].has(expected);
    let people = plain(&desk, "status").expect(0);
    let rows: Vec<&str> = people.stdout.lines().collect();
    assert_eq!(rows.len(), 4);
    for (row, end) in rows[1..]
        .iter()
        .zip([" finished", " waiting", "cancelled, finished"])
    {
        assert!(row.ends_with(end), "{row}");
    }
}

#[test]
fn a_process_is_found_by_the_beginning_of_its_id() {
    let (desk, id) = submitted(1);
    let id = id.to_string();
    assert_eq!(status(&desk, &id[..20]).len(), 1);
    submit_one(&desk);
    plain(&desk, &format!("status {}", &id[..4]))
        .ends(2, "2 processes have an id that begins or ends with")
        .says(&id);
    plain(&desk, &format!("status {}", &id[..3]))
        .ends(2, "at least its first or last 4 characters");
    // The beginning of an id is its creation time, which processes of the same minute share.
    let end = &id[id.len() - 8..];
    assert_eq!(status(&desk, &format!("…{end}")).len(), 1);
    let work = format!("work --provider extract --processes {end} --until-empty");
    for words in [
        &format!("retry {end}"),
        &format!("results {end} --keep"),
        &work,
    ] {
        plain(&desk, words).expect(0);
    }
    assert_eq!(status(&desk, end)[0]["pending"], 0);
    plain(&desk, &format!("cancel {end} --delete")).expect(0);
    assert_eq!(status(&desk, "").len(), 1);
    let list = "to list the processes: batchwright status --data-dir data";
    for words in [
        "status ffff-ffff",
        "cancel x",
        "results ab --keep",
        "work --provider extract --processes x",
    ] {
        plain(&desk, words).ends(2, list);
    }
    plain(&desk, &format!("retry {}", ProcessId::new())).ends(2, "no process ");
    // The only one of a queue is not cancelled unless it is named.
    for words in ["cancel", "retry", "results"] {
        plain(&desk, words).ends(2, "no process is named; to list the processes: ");
    }
    status(&desk, "")[0].has(json!({"cancelled": 0}));
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
    let mut next = || -> Option<Value> {
        let line = lines.next()?.unwrap();
        let shown: Value = serde_json::from_str(&line).unwrap();
        adds_up(&shown["processes"][0]);
        Some(shown["processes"][0]["completed"].clone())
    };
    let people = Running::start(&mut on_queue(&desk, "status --watch"));
    assert_eq!(next(), Some(json!(0)));
    client.release();
    running.join().unwrap();
    assert_eq!(std::iter::from_fn(next).last(), Some(json!(3)));
    json.wait().expect(0);
    let people = people.wait().expect(0);
    let last = people.stdout.lines().last().unwrap();
    assert!(last.starts_with(&id.to_string()), "{last}");
    assert!(last.ends_with("finished"), "{last}");
}

#[test]
fn cancel_and_retry_report_what_they_did() {
    let (desk, id) = submitted(3);
    work(&desk);
    let retry = format!("retry {id}");
    let retried = plain(&desk, &format!("{retry} --json")).ends(0, "1 job requeued");
    assert_eq!(retried.json(), json!({"process_id": id, "retried": 1}));
    let cancelled = plain(&desk, &format!("cancel {id} --json")).ends(0, "1 job cancelled");
    let facts = json!({"process_id": id, "cancelled": 1, "in_progress": 0, "at_provider": 0,
        "batches": 0});
    assert_eq!(cancelled.json(), facts);
    status(&desk, "")[0].has(json!({"completed": 2, "cancelled": 1}));
    plain(&desk, &retry).ends(0, "1 job requeued");
    let client = Arc::new(ScriptedClient::new());
    worker(&desk, &client).run().unwrap();
    assert_eq!(client.calls(), ["prompt 1"]);
    plain(&desk, &retry).ends(0, "nothing to requeue");
    plain(&desk, &format!("cancel {id} --delete")).ends(0, "deleted with 3 jobs");
    assert!(queue(&desk).open_processes().unwrap().is_empty());
}

#[test]
fn showing_a_queue_creates_no_database() {
    let desk = Desk::new();
    assert_eq!(status(&desk, ""), [] as [Value; 0]);
    plain(&desk, "status --watch").ends(0, "nothing is queued");
    plain(&desk, &format!("status {}", ProcessId::new())).ends(2, "no process ");
    let doctor = plain(&desk, "doctor").expect(0);
    doctor.shows("note     database");
    assert!(!desk.exists("data"));
}

#[test]
fn doctor_tells_a_healthy_queue_from_a_file_that_is_none() {
    let (desk, _) = submitted(3);
    work(&desk);
    let mut command = on_queue(&desk, "doctor");
    let ended = command.env("GROQ_API_KEY", "gsk-very-secret").ended();
    let ended = ended.expect(0);
    for seen in ["ok       integrity", "writable", "set: GROQ_API_KEY"] {
        ended.shows(seen);
    }
    assert!(!ended.stdout.contains("very-secret"));
    let facts = plain(&desk, "doctor --json").expect(0).json();
    assert_eq!(facts["healthy"], true);
    let mut findings = facts["findings"].as_array().unwrap().iter();
    assert!(findings.any(|found| found["what"] == "schema" && found["verdict"] == "good"));

    let desk = Desk::new();
    std::fs::create_dir(desk.path("data")).unwrap();
    desk.write("data/llm_jobs.db", "dear diary".repeat(1000));
    let ended = plain(&desk, "doctor --json").expect(1);
    assert_eq!(ended.json()["healthy"], false);
    ended.shows("not an SQLite database");
    assert!(desk.read("data/llm_jobs.db").starts_with("dear diary"));
    plain(&desk, "status").ends(1, "not an SQLite database");

    // What every command refuses.
    let desk = Desk::new();
    std::fs::create_dir(desk.path("data")).unwrap();
    for (settings, why) in [
        ("{", "the settings file"),
        (
            r#"{"version":1,"settings":{"llm.prices":"/nowhere.json"}}"#,
            "cannot read /nowhere.json",
        ),
        (
            r#"{"version":1,"settings":{"queue.max_retries":"many"}}"#,
            "queue.max_retries",
        ),
    ] {
        desk.write("data/settings.json", settings);
        let ended = plain(&desk, "doctor").expect(1);
        ended.shows("bad      settings");
        ended.shows(why);
    }
}

#[test]
fn each_result_is_taken_once_and_closed_readers_and_kills_lose_none() {
    let (desk, id) = submitted(1000);
    work(&desk);
    // More than a pipe holds.
    let mut take = on_queue(&desk, &format!("results {id} --take"));
    let mut running = Running::start(&mut take);
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    running
        .wait()
        .ends(4, "the reader of the results went away");
    let consumed = || queue(&desk).process(id).unwrap().unwrap().counts.consumed;
    assert_eq!(consumed(), 0);

    // It is not read.
    let mut first = take.stdout(Stdio::piped()).spawn().unwrap();
    let lock = database(&desk).with_extension("db.workers");
    let lock = lock.join(format!("{id}.results"));
    assert!(eventually(|| lock.exists()));
    let other = || plain(&desk, &format!("results {id} -o out.jsonl"));
    other().ends(1, "another program is fetching the results");
    assert!(!desk.exists("out.jsonl") || desk.results("out.jsonl").is_empty());
    // A command that only reads does not disturb others.
    plain(&desk, &format!("results {id} --keep")).expect(3);
    let taken = consumed();
    first.kill().unwrap();
    first.wait().unwrap();
    other().expect(3);
    assert_eq!(desk.results("out.jsonl").len() as u64, 1000 - taken);
    assert!(queue(&desk).process(id).unwrap().is_none());
    assert!(!lock.exists(), "its lock is left behind");
}
