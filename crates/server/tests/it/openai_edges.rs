//! What clients of the Batch endpoint meet off the beaten path.

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, until, until_shown};
use super::openai::{
    CHAT, content, create, line, lines, question, rewrite, slow, unlimited, uploaded, wait_for,
};

#[test]
fn a_list_goes_on_behind_files_that_were_deleted_meanwhile() {
    let desk = Desk::new();
    let files: Vec<String> = (0..5).map(|_| uploaded(&desk, "x")).collect();
    let mut after = String::new();
    let mut seen = Vec::new();
    // As a client does who deletes what each page lists.
    loop {
        let page = desk.read(&format!("/v1/files?limit=2{after}"));
        for file in page["data"].as_array().unwrap() {
            let id = file["id"].as_str().unwrap();
            desk.delete(&format!("/v1/files/{id}")).is(200);
            desk.delete(&format!("/v1/files/{id}")).is(404);
            seen.push(id.to_owned());
        }
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    seen.reverse();
    assert_eq!(seen, files);
    let none = desk.read("/v1/files");
    none.has(json!({"data": [], "last_id": null}));
}

#[test]
fn a_batch_is_taken_as_azures_documentation_has_it() {
    let desk = unlimited(SimConfig::default());
    let file = uploaded(&desk, &lines(2).replace(CHAT, "/chat/completions"));
    let batch = create(&desk, &file, "/chat/completions");
    assert_eq!(batch["endpoint"], CHAT);
    let done = wait_for(&desk, &batch, "completed");
    assert_eq!(done["request_counts"]["completed"], 2);
}

#[test]
fn what_is_wrong_with_a_batch_is_said_of_its_field() {
    let desk = unlimited(SimConfig::default());
    let good = json!({
        "input_file_id": uploaded(&desk, &lines(1)), "endpoint": CHAT, "completion_window": "24h",
        // As much as there may be, and what is not known here.
        "metadata": (0..16).map(|n| (format!("{n:ü>64}"), "ü".repeat(512).into())).collect::<serde_json::Map<_, _>>(),
        "output_expires_after": null, "priority": "high",
    });
    let batch = desk.done("/v1/batches", &good);
    assert_eq!(batch["metadata"], good["metadata"]);
    wait_for(&desk, &batch, "completed");
    let cases = r#"
        input_file_id null missing_required_parameter
        input_file_id 7 invalid_type
        input_file_id "file-none" invalid_request
        endpoint null missing_required_parameter
        endpoint "/v1/images/generations" invalid_request
        completion_window null missing_required_parameter
        completion_window "soon" invalid_request
        completion_window "0h" invalid_request
        completion_window "337h" invalid_request
        metadata {"a":1} invalid_request
        metadata "a" invalid_request
        output_expires_after {"seconds":3600} invalid_request
        output_expires_after {"anchor":"created_at","seconds":1} invalid_request
        output_expires_after {"anchor":"created_at","seconds":"3600"} invalid_request
        output_expires_after {"anchor":"created_at","seconds":2592001} invalid_request
    "#;
    let cases = cases.trim().lines().map(|case| {
        let mut words = case.split_whitespace();
        let [field, value, code] = [(); 3].map(|()| words.next().unwrap());
        (field, serde_json::from_str(value).unwrap(), code)
    });
    let many: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), "x".into())).collect();
    let large = [
        json!({"k".repeat(65): "v"}),
        json!({"k": "v".repeat(513)}),
        many.into(),
    ];
    let large = large.map(|value| ("metadata", value, "invalid_request"));
    for (field, value, code) in cases.chain(large) {
        let mut asked = good.clone();
        asked[field] = value;
        let error = desk.post("/v1/batches", &asked).is(400).json();
        error.has(json!({"/error/param": field, "/error/code": code}));
    }
}

#[test]
fn the_input_of_a_batch_in_progress_is_needed_no_more() {
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    let file = uploaded(&desk, &lines(30));
    let batch = create(&desk, &file, CHAT);
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
    let done = wait_for(
        &desk,
        &create(&desk, &uploaded(&desk, &text), CHAT),
        "completed",
    );
    assert_eq!(
        content(&desk, &done["output_file_id"])[0]["custom_id"],
        "good"
    );
    let errors = content(&desk, &done["error_file_id"]);
    assert_eq!(
        (errors.len(), &errors[0]["custom_id"]),
        (1, &json!("other"))
    );
    let response = &errors[0]["response"];
    response.has(json!({"status_code": 404, "/body/error/code": "model_not_found"}));
}

#[test]
fn a_batch_whose_window_is_over_keeps_what_was_finished() {
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    let batch = create(&desk, &uploaded(&desk, &lines(300)), CHAT);
    wait_for(&desk, &batch, "in_progress");
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    rewrite(&desk, &batch, |record| {
        record["expires_at"] = record["created_at"].clone()
    });
    let queue = desk.queue();
    until(|| queue.open_processes().unwrap()[0].cancelled);
    desk.sim.release();
    let done = wait_for(&desk, &batch, "expired");
    let (output, errors) = (
        content(&desk, &done["output_file_id"]),
        content(&desk, &done["error_file_id"]),
    );
    assert!(!output.is_empty() && !errors.is_empty());
    assert_eq!(output.len() + errors.len(), 300);
    assert!(
        errors
            .iter()
            .all(|line| line["error"]["code"] == "batch_expired" && line["response"].is_null())
    );
    done.has(json!({"request_counts": {"total": 300, "completed": output.len(), "failed": 0}}));
    assert!(done["expired_at"].is_u64() && done["completed_at"].is_null());
    // It is over.
    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
    desk.post(&path, &json!({})).is(409);
}

#[test]
fn a_batch_whose_window_is_over_before_it_began_buys_nothing() {
    let mut desk = unlimited(SimConfig::default());
    let batch = create(&desk, &uploaded(&desk, &lines(3)), CHAT);
    wait_for(&desk, &batch, "completed");
    desk.stop();
    // As if the server had never come to it.
    rewrite(&desk, &batch, |record| {
        record["state"] = json!("validating");
        record["expires_at"] = record["created_at"].clone();
        for name in ["totals", "ended"] {
            record[name] = Value::Null;
        }
        record["times"] = json!({});
        record["total"] = json!(0);
        record["has_output"] = json!(false);
    });
    let before = desk.sim.stats().calls;
    desk.start(|server| server);
    let done = wait_for(&desk, &batch, "expired");
    assert!(done["expired_at"].is_u64() && done["output_file_id"].is_null());
    assert_eq!(desk.sim.stats().calls, before);
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
    let jobs = desk.read("/api/v1/overview")["jobs"].clone();
    jobs.has(json!({"pending": 0, "in_progress": 0}));
}

#[test]
fn an_endpoint_that_is_not_offered_says_what_is() {
    let desk = unlimited(SimConfig::default());
    for (path, what) in [
        ("/v1/completions", "use /v1/chat/completions"),
        ("/v1/responses/compact", "use /v1/chat/completions"),
        ("/v1/uploads", "use /v1/files"),
        ("/v1/assistants", "unknown request URL"),
        ("/v1/images/generations", "unknown request URL"),
    ] {
        // Not 501: clients would repeat the request.
        let refused = desk.post(path, &json!({})).is(404).json();
        refused["error"].has(json!({"type": "invalid_request_error", "code": "unknown_url"}));
        let why = refused["error"]["message"].as_str().unwrap();
        assert!(
            why.contains(what) && why.contains("chat/completions"),
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
    let batch = create(&desk, &uploaded(&desk, &lines(3)), CHAT);
    wait_for(&desk, &batch, "in_progress");
    let process = newest(&desk);
    let results = || desk.get(&format!("{process}/results")).is(200).text;
    until(|| !results().is_empty());
    let line: Value = serde_json::from_str(results().lines().next().unwrap()).unwrap();
    let saved = json!({"receipts": [line["receipt"]]});
    for refused in [
        desk.post(&format!("{process}/results/ack"), &saved),
        desk.delete(&process),
        desk.delete(&format!("{process}?force=true")),
    ] {
        let refused = refused.is(409);
        assert!(refused.text.contains(batch["id"].as_str().unwrap()));
    }
    let id = process.rsplit('/').next().unwrap();
    let more = json!({"type": "shout", "payload": "x", "process_id": id});
    desk.post("/api/v1/jobs", &more).is(409);

    desk.post(&format!("{process}/cancel"), &json!({})).is(200);
    let done = wait_for(&desk, &batch, "cancelled");
    assert_eq!(content(&desk, &done["output_file_id"]).len(), 1);
    assert_eq!(content(&desk, &done["error_file_id"]).len(), 2);
    desk.get(&process).is(404);
}

#[test]
fn results_of_a_batch_that_was_lost_can_be_deleted() {
    let mut desk = slow();
    let batch = create(&desk, &uploaded(&desk, &lines(2)), CHAT);
    wait_for(&desk, &batch, "in_progress");
    let process = newest(&desk);
    desk.stop();
    std::fs::remove_file(desk.folder.path().join("server.db")).unwrap();
    desk.start(|server| server);
    assert_eq!(
        desk.delete(&format!("{process}?force=true")).is(200).json()["deleted"],
        2
    );
}
