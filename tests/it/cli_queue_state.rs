//! Looking at a queue, and changing what becomes of its processes, through the real program.

use std::io::{BufRead, BufReader};
use std::sync::Arc;

use batchwright::ProcessId;
use batchwright::testing::ScriptedClient;
use serde_json::{Value, json};

use super::cli_queue::{
    adds_up, database, on_queue, plain, queue, status, submit_one, submitted, work, worker,
};
use super::common::{Desk, Running};

#[test]
fn status_tells_numbers_that_add_up() {
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
    assert_eq!(all[0], expected);
    assert_eq!(status(&desk, &first.to_string()), [expected]);
    let people = plain(&desk, "status").expect(0);
    let rows: Vec<&str> = people.stdout.lines().collect();
    assert_eq!(rows.len(), 4);
    assert!(rows[1].ends_with("100.0 %  finished"), "{}", rows[1]);
    assert!(rows[2].ends_with("0.0 %"), "{}", rows[2]);
    assert!(rows[3].ends_with("cancelled, finished"), "{}", rows[3]);
    people
        .says("batchwright work")
        .says("results PROCESS")
        .says("retry PROCESS");
}

#[test]
fn a_process_is_found_by_the_beginning_of_its_id() {
    let (desk, id) = submitted(1);
    let id = id.to_string();
    assert_eq!(status(&desk, &id[..20]).len(), 1);
    submit_one(&desk);
    plain(&desk, &format!("status {}", &id[..4]))
        .expect(2)
        .says("2 processes begin with");
    plain(&desk, &format!("status {}", &id[..3]))
        .expect(2)
        .says("at least 4 characters");
    plain(&desk, "status ffff-ffff")
        .expect(2)
        .says("there is no process");
    plain(&desk, &format!("retry {}", ProcessId::new()))
        .expect(2)
        .says("there is no process");
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
    assert!(last.starts_with(&format!("{id} 3/3 100%")), "{last}");
    assert!(last.ends_with("finished"), "{last}");
    people.says("results");
}

#[test]
fn cancel_and_retry_say_what_happened() {
    let (desk, id) = submitted(3);
    work(&desk);
    let retried = plain(&desk, &format!("retry {id} --json"))
        .expect(0)
        .says("1 jobs put back");
    let facts: Value = serde_json::from_str(&retried.stdout).unwrap();
    assert_eq!(facts, json!({"process_id": id, "retried": 1}));
    let cancelled = plain(&desk, &format!("cancel {id} --json"))
        .expect(0)
        .says("1 jobs cancelled");
    let facts: Value = serde_json::from_str(&cancelled.stdout).unwrap();
    assert_eq!(
        facts,
        json!({
            "process_id": id, "cancelled": 1, "in_progress": 0, "at_provider": 0, "batches": 0,
        })
    );
    let [now] = &status(&desk, "")[..] else {
        panic!()
    };
    assert_eq!(
        (&now["completed"], &now["cancelled"]),
        (&json!(2), &json!(1))
    );
    plain(&desk, &format!("retry {id}"))
        .expect(0)
        .says("1 jobs put back");
    let client = Arc::new(ScriptedClient::new());
    worker(&desk, &client).run().unwrap();
    assert_eq!(client.calls(), ["prompt 1"]);
    plain(&desk, &format!("retry {id}"))
        .expect(0)
        .says("nothing to put back");
    plain(&desk, &format!("cancel {id} --delete"))
        .expect(0)
        .says("deleted with 3 jobs");
    assert!(queue(&desk).open_processes().unwrap().is_empty());
}

#[test]
fn looking_makes_no_database() {
    let desk = Desk::new();
    assert_eq!(status(&desk, ""), [] as [Value; 0]);
    plain(&desk, "status --watch")
        .expect(0)
        .says("nothing is queued");
    plain(&desk, &format!("status {}", ProcessId::new()))
        .expect(2)
        .says("there is no process");
    let doctor = plain(&desk, "doctor").expect(0);
    assert!(
        doctor.stdout.contains("note     database"),
        "{}",
        doctor.stdout
    );
    assert!(!desk.exists("data"));
}

#[test]
fn the_doctor_finds_a_healthy_queue_healthy() {
    let (desk, _) = submitted(3);
    work(&desk);
    let mut command = on_queue(&desk, "doctor");
    command.env("GROQ_API_KEY", "gsk-very-secret");
    let ended = Running::start(&mut command).wait().expect(0);
    for seen in [
        "ok       integrity",
        "ok       clock",
        "writable",
        "GROQ_API_KEY (groq)",
    ] {
        assert!(ended.stdout.contains(seen), "no {seen}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains("very-secret"));
    let json = plain(&desk, "doctor --json").expect(0);
    let facts: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(facts["healthy"], true);
    let findings = facts["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .any(|f| f["what"] == "schema" && f["verdict"] == "good")
    );
    let left: Vec<_> = std::fs::read_dir(desk.path("data")).unwrap().collect();
    let probe = |file: &std::io::Result<std::fs::DirEntry>| {
        file.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("doctor")
    };
    assert!(!left.iter().any(probe));
}

#[test]
fn the_doctor_says_what_to_do_about_a_damaged_file() {
    let (desk, _) = submitted(500);
    // Out of the log, which would hide the damage.
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let conn = rusqlite::Connection::open(database(&desk)).unwrap();
    conn.query_row(checkpoint, [], |_| Ok(())).unwrap();
    drop(conn);
    let mut bytes = std::fs::read(database(&desk)).unwrap();
    let (start, end) = (bytes.len() / 3, bytes.len() * 2 / 3);
    bytes[start..end].fill(0x5a);
    std::fs::write(database(&desk), &bytes).unwrap();
    let ended = plain(&desk, "doctor").expect(1);
    assert!(ended.stdout.contains("\nbad "), "{}", ended.stdout);
    assert!(ended.stdout.contains(".recover"), "{}", ended.stdout);
    desk.write("data/llm_jobs.db", "dear diary".repeat(1000));
    let ended = plain(&desk, "doctor --json").expect(1);
    let facts: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(facts["healthy"], false);
    assert!(
        ended.stdout.contains("no SQLite database"),
        "{}",
        ended.stdout
    );
    assert!(desk.read("data/llm_jobs.db").starts_with("dear diary"));
    plain(&desk, "status").expect(1).says("no SQLite database");
}
