//! What clients of the Batch endpoint meet off the beaten path.

use std::fs::{self, File};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, cases, ids, read_lines, text, until, until_shown};
use super::openai::{
    CHAT, begun, completed, content, contents, create, line, lines, place, question, rewrite, slow,
    unlimited, uploaded, wait_for,
};

#[test]
fn what_is_wrong_with_a_batch_is_said_of_its_field() {
    let desk = unlimited(SimConfig::default());
    let metadata = |count, width| {
        let pair = |n: usize| (format!("{n:ü>width$}"), Value::from("ü".repeat(512)));
        Value::from((0..count).map(pair).collect::<serde_json::Map<_, _>>())
    };
    let good = json!({
        "input_file_id": uploaded(&desk, &lines(1)), "endpoint": CHAT, "completion_window": "24h",
        // As much as there may be, and what is not known here.
        "metadata": metadata(16, 64), "output_expires_after": null, "priority": "high",
    });
    let batch = desk.done("/v1/batches", &good);
    assert_eq!(batch["metadata"], good["metadata"]);
    wait_for(&desk, &batch, "completed");
    let small = cases(
        r#"
        input_file_id null => missing_required_parameter
        input_file_id 7 => invalid_type
        input_file_id "file-none" => invalid_request
        endpoint null => missing_required_parameter
        endpoint "/v1/images/generations" => invalid_request
        completion_window null => missing_required_parameter
        completion_window "soon" => invalid_request
        completion_window "0h" => invalid_request
        completion_window "337h" => invalid_request
        metadata {"a":1} => invalid_request
        metadata "a" => invalid_request
        output_expires_after {"seconds":3600} => invalid_request
        output_expires_after {"anchor":"created_at","seconds":1} => invalid_request
        output_expires_after {"anchor":"created_at","seconds":"3600"} => invalid_request
        output_expires_after {"anchor":"created_at","seconds":2592001} => invalid_request
    "#,
    );
    let small = small.map(|(given, code)| {
        let (field, value) = given.split_once(' ').unwrap();
        (field, serde_json::from_str(value).unwrap(), code)
    });
    let large = [
        metadata(17, 64),
        metadata(1, 65),
        json!({"k": "v".repeat(513)}),
    ];
    let large = large.map(|value| ("metadata", value, "invalid_request"));
    for (field, value, code) in small.chain(large) {
        let mut asked = good.clone();
        asked[field] = value;
        let error = desk.post("/v1/batches", &asked).is(400).json();
        error.has(json!({"/error/param": field, "/error/code": code}));
    }
}

/// Its lines and its endpoint are those of Azure's documentation.
#[test]
fn the_input_of_a_batch_in_progress_is_needed_no_more() {
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    let file = uploaded(&desk, &lines(30).replace(CHAT, "/chat/completions"));
    let batch = create(&desk, &file, "/chat/completions");
    assert_eq!(batch["endpoint"], CHAT);
    wait_for(&desk, &batch, "in_progress");
    desk.delete(&format!("/v1/files/{file}")).is(200);
    desk.sim.release();
    let done = wait_for(&desk, &batch, "completed");
    assert_eq!(content(&desk, &done["output_file_id"]).len(), 30);
    assert_eq!(done["input_file_id"], file);
}

#[test]
fn a_model_that_nobody_has_fails_its_lines_and_no_other() {
    let desk = unlimited(SimConfig::default().models(["sim-1"]));
    let mut other = line("other", "Hello.");
    other["body"]["model"] = json!("sim-9");
    // With the line ends of another system.
    let text = format!("{}\r\n\r\n{other}\r\n", line("good", "Hello."));
    let [output, errors] = contents(&desk, &completed(&desk, &text));
    assert_eq!(ids(&output, "custom_id"), ["good"]);
    assert_eq!(ids(&errors, "custom_id"), ["other"]);
    errors[0]["response"].has(json!({"status_code": 404, "/body/error/code": "model_not_found"}));
}

#[test]
fn a_batch_whose_window_is_over_keeps_what_was_finished() {
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    let batch = begun(&desk, &lines(300));
    wait_for(&desk, &batch, "in_progress");
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    rewrite(&desk, &batch, |record| {
        record["expires_at"] = record["created_at"].clone()
    });
    let queue = desk.queue();
    until(|| queue.open_processes().unwrap()[0].cancelled);
    desk.sim.release();
    let done = wait_for(&desk, &batch, "expired");
    let [output, errors] = contents(&desk, &done);
    assert!(!output.is_empty() && !errors.is_empty());
    assert_eq!(output.len() + errors.len(), 300);
    let expired =
        |line: &Value| line["error"]["code"] == "batch_expired" && line["response"].is_null();
    assert!(errors.iter().all(expired));
    let counts = json!({"total": 300, "completed": output.len(), "failed": 0});
    done.has(json!({"request_counts": counts, "completed_at": null}));
    assert!(done["expired_at"].is_u64());
    // It is over.
    desk.post(&format!("{}/cancel", place(&batch)), &json!({}))
        .is(409);
}

#[test]
fn who_waits_for_a_provider_that_refuses_the_key_is_told_so() {
    let desk = Desk::at(SimConfig::default().api_key("another"));
    let body = question("Hello.");
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| desk.post(CHAT, &body));
        // Meanwhile the overview shows why.
        let trouble = |all: &Value| all["worker"]["trouble"].to_string().contains("401");
        until_shown(&desk, "/api/v1/overview", trouble);
        asked.join().unwrap()
    });
    let answer = asked.is(503);
    assert_eq!(answer.header("retry-after"), Some("10"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let said = answer.json().to_string();
    assert!(said.contains("401") && said.contains("provider"), "{said}");
    desk.read("/api/v1/overview")
        .has(json!({"/jobs/pending": 0, "/jobs/in_progress": 0}));
}

#[test]
fn an_endpoint_that_is_not_offered_says_what_is() {
    let desk = unlimited(SimConfig::default());
    let offered = "chat/completions";
    for (path, hint) in [
        ("/v1/completions", offered),
        ("/v1/responses/compact", offered),
        ("/v1/images/generations", offered),
        ("/chat/completions", "Add /v1 to the base URL"),
        ("/embeddings", "Add /v1 to the base URL"),
    ] {
        // Not 501: clients would repeat the request.
        let refused = desk.post(path, &json!({})).is(404).json();
        refused["error"].has(json!({"type": "invalid_request_error", "code": "unknown_url"}));
        let why = refused["error"]["message"].as_str().unwrap();
        assert!(
            why.contains("unknown request URL") && why.contains(hint),
            "{why}"
        );
    }
}

/// The path of the newest process.
fn newest(desk: &Desk) -> String {
    let all = desk.read("/api/v1/processes");
    let id = all["data"][0]["process_id"].as_str().unwrap();
    format!("/api/v1/processes/{id}")
}

#[test]
fn only_a_batch_takes_its_results_and_a_process_that_is_cancelled_cancels_it() {
    let desk = slow();
    let batch = begun(&desk, &lines(3));
    wait_for(&desk, &batch, "in_progress");
    let process = newest(&desk);
    let results = || read_lines(&desk.get(&format!("{process}/results")).is(200).text);
    until(|| !results().is_empty());
    let saved = json!({"receipts": [results()[0]["receipt"]]});
    let id = process.rsplit('/').next().unwrap();
    let more = json!({"type": "shout", "payload": "x", "process_id": id});
    for refused in [
        desk.post(&format!("{process}/results/ack"), &saved),
        desk.delete(&process),
        desk.delete(&format!("{process}?force=true")),
        desk.post("/api/v1/jobs", &more),
    ] {
        assert!(refused.is(409).text.contains(batch["id"].as_str().unwrap()));
    }
    desk.post(&format!("{process}/cancel"), &json!({})).is(200);
    let [output, errors] = contents(&desk, &wait_for(&desk, &batch, "cancelled"));
    assert_eq!((output.len(), errors.len()), (1, 2));
    desk.get(&process).is(404);
}

#[test]
fn results_of_a_batch_that_was_lost_can_be_deleted() {
    let mut desk = slow();
    wait_for(&desk, &begun(&desk, &lines(2)), "in_progress");
    let process = newest(&desk);
    desk.stop();
    std::fs::remove_file(desk.folder.path().join("server.db")).unwrap();
    let said = batchwright_server::restore(&desk.queue(), desk.folder.path()).unwrap();
    assert!(said[0].contains("is lost"), "{said:?}");
    desk.start(|server| server);
    let deleted = desk.delete(&format!("{process}?force=true")).is(200);
    assert_eq!(deleted.json()["deleted"], 2);
}

#[test]
fn what_is_damaged_stops_one_batch_and_is_said() {
    let desk = unlimited(SimConfig::default());
    let database = rusqlite::Connection::open(desk.folder.path().join("server.db")).unwrap();
    let record = r#"{"id": "batch_x", "state": "validating", "input_file": 7}"#;
    let spoilt = "INSERT INTO batches (id, record) VALUES ('batch_x', ?)";
    database.execute(spoilt, [record]).unwrap();
    let done = completed(&desk, &lines(2));
    let error = desk.get("/v1/batches/batch_x").is(500);
    assert!(error.text.contains("damaged") && !error.text.contains("again"));
    let listed = desk.read("/v1/batches?limit=1");
    listed.has(json!({"/data/0/id": done["id"], "/data/1": null, "has_more": false}));
    desk.get("/readyz").is(200);

    let damage = |file: &Value, change: &dyn Fn(&Path)| {
        let file = file.as_str().unwrap();
        change(&desk.folder.path().join("files").join(file));
        let error = desk
            .get(&format!("/v1/files/{file}/content"))
            .is(500)
            .json();
        error["error"].has(json!({"code": "file_damaged"}));
        text(&error["error"], "message")
    };
    let cut = |path: &Path| {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(9)
            .unwrap()
    };
    let said = damage(&done["output_file_id"], &cut);
    assert!(said.contains("has 9 of its"), "{said}");
    let said = damage(&done["output_file_id"], &|path| {
        fs::remove_file(path).unwrap()
    });
    assert!(said.contains("is missing"), "{said}");
    let calls = desk.sim.stats().calls;
    let input = json!(uploaded(&desk, &lines(3)));
    damage(&input, &cut);
    let batch = create(&desk, input.as_str().unwrap(), CHAT);
    let delayed = until_shown(&desk, &place(&batch), |batch| batch["errors"].is_object());
    assert!(text(&delayed["errors"]["data"][0], "message").contains("has 9 of its"));
    assert_eq!(desk.sim.stats().calls, calls);
}

#[test]
fn a_wrong_clock_deletes_nothing_that_was_paid() {
    let mut desk = slow();
    let done = completed(&desk, &lines(1));
    let waits = begun(&desk, &lines(2));
    wait_for(&desk, &waits, "in_progress");
    let old = uploaded(&desk, "old");
    desk.stop();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let folder = desk.folder.path().to_owned();
    let set = |database: &str, sql: &str, by: &[&dyn rusqlite::ToSql]| {
        let database = rusqlite::Connection::open(folder.join(database)).unwrap();
        assert_eq!(database.execute(sql, by).unwrap(), 1);
    };
    let known = |text: &dyn Fn(u64) -> String| {
        let text = text(now - 60 * 24 * 3600);
        set(
            "llm_jobs.db",
            "UPDATE meta SET value = ? WHERE name = 'time'",
            &[&text],
        );
    };
    let expire = |table: &str, id: &Value, at: i64| {
        let sql =
            format!("UPDATE {table} SET record = json_set(record, '$.expires_at', ?) WHERE id = ?");
        set("server.db", &sql, &[&at, &id.as_str().unwrap()]);
    };
    // As if the clock were 60 days ahead from now on.
    known(&|then| format!("{then}000 -"));
    expire("files", &done["output_file_id"], now as i64 - 1);
    expire("batches", &waits["id"], now as i64 - 1);
    expire("files", &json!(old), 1);
    desk.start(|server| server);
    until(|| desk.get(&format!("/v1/files/{old}")).status == 404);
    assert_eq!(content(&desk, &done["output_file_id"]).len(), 1);
    let goes_on = desk.read(&place(&waits));
    goes_on.has(json!({"status": "in_progress", "expired_at": null}));
    // What is made then does not end before its time.
    let new = desk.read(&format!("/v1/files/{}", uploaded(&desk, "new")));
    assert!(new["created_at"].as_u64().unwrap() >= now);
    // It has gone on for a day.
    known(&|then| format!("{then}000 {}000", now - 25 * 3600));
    wait_for(&desk, &waits, "expired");
    let gone = format!("/v1/files/{}", text(&done, "output_file_id"));
    until(|| desk.get(&gone).status == 404);
}
