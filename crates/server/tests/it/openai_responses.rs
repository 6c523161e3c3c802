//! `/v1/responses`: answers, stored conversations, the background, streams, and lines of batches.

use std::time::{Duration, Instant};

use batchwright::config::ConfigStore;
use batchwright_simulate::{BatchConfig, SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{Answer, Desk, Has, PATIENCE};
use super::openai::{content, create, unlimited, uploaded, wait_for};

const RESPONSES: &str = "/v1/responses";

fn ask(desk: &Desk, more: &Value) -> Answer {
    let mut body = json!({"model": "sim-1", "input": "Hello."});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    desk.post(RESPONSES, &body)
}

fn place(response: &Value) -> String {
    format!("{RESPONSES}/{}", response["id"].as_str().unwrap())
}

fn text(response: &Value) -> &str {
    let output = response["output"].as_array().unwrap();
    let message = output.iter().find(|item| item["type"] == "message");
    let content = &message.unwrap_or_else(|| panic!("{response}"))["content"][0];
    content["text"].as_str().unwrap()
}

fn until(desk: &Desk, response: &Value, status: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = desk.read(&place(response));
        if response["status"] == status {
            return response;
        }
        assert!(
            Instant::now() < deadline,
            "{status} was expected: {response}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_response_is_answered_and_stored_until_it_is_deleted() {
    let desk = unlimited(SimConfig::default().reasoning_tokens(3));
    let asked = json!({
        "instructions": "Be brief.", "temperature": 0.5, "metadata": {"a": "b"}, "max_output_tokens": 50,
        "reasoning": {"effort": "low", "summary": "auto"}, "text": {"format": {"type": "text"}},
    });
    let response = ask(&desk, &asked).is(200).json();
    response.has(json!({
        "object": "response", "status": "completed", "model": "sim-1", "error": null,
        "incomplete_details": null, "instructions": "Be brief.", "temperature": 0.5,
        "metadata": {"a": "b"}, "max_output_tokens": 50, "store": true, "background": false,
    }));
    response.has(json!({"/usage/output_tokens_details/reasoning_tokens": 3}));
    assert_eq!(desk.read(&place(&response)), response);
    let streamed = desk.get(&format!(
        "{}?stream=true&starting_after=1",
        place(&response)
    ));
    assert!(
        streamed
            .is(200)
            .text
            .starts_with("event: response.output_item.added\n")
    );
    desk.get(&format!("{}?include=x", place(&response))).is(400);
    let cancel = format!("{}/cancel", place(&response));
    desk.post(&cancel, &json!({})).is(400);
    let deleted = desk.delete(&place(&response)).is(200).json();
    assert_eq!(deleted["deleted"], true);
    desk.get(&place(&response)).is(404);
    let passing = ask(&desk, &json!({"store": false})).is(200).json();
    assert_eq!(passing["store"], false);
    desk.get(&place(&passing)).is(404);
}

#[test]
fn a_conversation_continues_with_all_its_items() {
    let desk = unlimited(SimConfig::default());
    let tool = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": false});
    let first = ask(&desk, &json!({"tools": [tool]})).is(200).json();
    let call = first["output"].as_array().unwrap().last().unwrap();
    assert_eq!(call["type"], "function_call");
    let result =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "7 degrees"});
    let more = json!({"input": [result], "tools": [tool], "previous_response_id": first["id"]});
    let second = ask(&desk, &more).is(200).json();
    assert_eq!(second["previous_response_id"], first["id"]);
    assert!(!text(&second).is_empty());
    let more = json!({"input": "And tomorrow?", "previous_response_id": second["id"]});
    let third = ask(&desk, &more).is(200).json();
    let items = format!("{}/input_items", place(&third));
    let kinds = |page: &Value| -> Vec<String> {
        let items = page["data"].as_array().unwrap().iter();
        items
            .map(|item| item["type"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = desk.read(&format!("{items}?order=asc"));
    let expected = [
        "message",
        "function_call",
        "function_call_output",
        "message",
        "message",
    ];
    assert_eq!(kinds(&all), expected);
    let page = desk.read(&format!("{items}?limit=2"));
    assert_eq!(
        (page["has_more"].as_bool(), kinds(&page).len()),
        (Some(true), 2)
    );
    let after = page["last_id"].as_str().unwrap();
    let rest = desk.read(&format!("{items}?after={after}"));
    assert_eq!(
        kinds(&rest),
        ["function_call_output", "function_call", "message"]
    );
    // Without the first answer, the later ones keep what they have of it.
    desk.delete(&place(&first)).is(200);
    let lost = json!({"previous_response_id": first["id"]});
    let refused = ask(&desk, &lost).is(400).json();
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    ask(&desk, &json!({"previous_response_id": third["id"]})).is(200);
    assert_eq!(desk.sim.stats().calls, 4);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_name() {
    let desk = unlimited(SimConfig::default());
    for (field, value) in [
        ("background", json!("yes")),
        ("background_options", json!({"completion_window": "8h"})),
        ("conversation", json!("conv_1")),
        ("include", json!(["file_search_call.results"])),
        ("input", json!([])),
        ("max_output_tokens", json!("many")),
        ("max_tool_calls", json!(3)),
        ("metadata", json!({"a": 1})),
        ("previous_response_id", json!("resp_unknown")),
        ("prompt", json!({"id": "pmpt_1"})),
        ("store", json!("no")),
        ("truncation", json!("auto")),
        ("unknown", json!(1)),
    ] {
        let refused = ask(&desk, &json!({field: value})).is(400).json();
        assert_eq!(refused["error"]["param"], field, "{refused}");
    }
    let tools = json!({"tools": [{"type": "web_search"}]});
    let refused = ask(&desk, &tools).is(400).json();
    assert_eq!(refused["error"]["param"], "tools[0].type");
    for both in [
        json!({"background": true, "store": false}),
        json!({"background": true, "stream": true}),
    ] {
        ask(&desk, &both).is(400);
    }
    assert_eq!(desk.sim.stats().calls, 0);
}

#[test]
fn a_stream_has_the_documented_events_and_ends_with_the_response() {
    let desk = unlimited(SimConfig::default().reasoning_tokens(3));
    let streamed = ask(&desk, &json!({"stream": true})).is(200);
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    let events = streamed.text.split_terminator("\n\n").map(|event| {
        let (kind, data) = event.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(format!("event: {}", data["type"].as_str().unwrap()), kind);
        data
    });
    let events: Vec<Value> = events.collect();
    let kinds = events.iter().map(|event| event["type"].as_str().unwrap());
    let mut kinds: Vec<&str> = kinds.collect();
    // The pieces of a text.
    kinds.dedup();
    let end = [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    assert_eq!(kinds[kinds.len() - end.len()..], end);
    let numbers: Vec<u64> = events
        .iter()
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let response = &events.last().unwrap()["response"];
    assert_eq!(desk.read(&place(response)), *response);
}

#[test]
fn billed_answers_and_refusals_are_responses() {
    for (trouble, status, why) in [
        (
            Trouble::Length,
            "incomplete",
            json!({"reason": "max_output_tokens"}),
        ),
        (
            Trouble::ContentFilter,
            "incomplete",
            json!({"reason": "content_filter"}),
        ),
        (Trouble::Refusal, "completed", Value::Null),
    ] {
        let desk = unlimited(SimConfig::default().trouble(trouble, 1.0));
        let response = ask(&desk, &json!({})).is(200).json();
        response.has(json!({"status": status, "incomplete_details": why}));
        let part = &response["output"].as_array().unwrap().last().unwrap()["content"][0];
        assert_eq!(
            part["type"] == "refusal",
            trouble == Trouble::Refusal,
            "{response}"
        );
    }
    let desk = unlimited(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    let refused = ask(&desk, &json!({})).is(400);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
}

#[test]
fn a_response_in_the_background_survives_its_server() {
    let mut desk = unlimited(SimConfig::default());
    desk.sim.hold();
    let background = json!({"background": true, "metadata": {"a": "b"}});
    let queued = ask(&desk, &background).is(200).json();
    queued.has(json!({"status": "queued", "output": [], "background": true}));
    until(&desk, &queued, "in_progress");
    let continued = json!({"previous_response_id": queued["id"]});
    ask(&desk, &continued).is(400);
    desk.sim.release();
    desk.stop();
    desk.start(|server| server);
    let done = until(&desk, &queued, "completed");
    done.has(json!({"metadata": {"a": "b"}, "created_at": queued["created_at"]}));
    assert!(!text(&done).is_empty());
    assert_eq!(desk.sim.stats().calls, 1);
    // The queue has nothing of it any more.
    let processes = desk.read("/api/v1/processes");
    assert_eq!(processes["data"], json!([]), "{processes}");
    ask(&desk, &continued).is(200);
}

#[test]
fn a_response_in_the_background_is_cancelled_or_fails() {
    let desk = Desk::prepared(
        SimConfig::default().trouble(Trouble::BadRequest, 0.5),
        |store| {
            store.set("llm.sync_concurrency", "1").unwrap();
        },
    );
    let is_bad = |n: &usize| desk.sim.config().plan(&format!("Hello {n}.")).is_some();
    let bad = (0..).find(is_bad).unwrap();
    let good: Vec<usize> = (0..).filter(|n| !is_bad(n)).take(2).collect();
    let background = |n: usize| {
        let input = format!("Hello {n}.");
        ask(&desk, &json!({"background": true, "input": input}))
            .is(200)
            .json()
    };
    desk.sim.hold();
    let (runs, waits) = (background(good[0]), background(good[1]));
    until(&desk, &runs, "in_progress");
    for response in [&runs, &waits] {
        desk.post(&format!("{}/cancel", place(response)), &json!({}))
            .is(200);
    }
    let cancelled = until(&desk, &waits, "cancelled");
    assert_eq!(cancelled["output"], json!([]));
    desk.sim.release();
    // A call that was billed is not discarded.
    until(&desk, &runs, "completed");
    let failed = until(&desk, &background(bad), "failed");
    assert_eq!(failed["error"]["code"], "invalid_prompt", "{failed}");
}

#[test]
fn the_oldest_responses_are_deleted_for_want_of_room() {
    // A tenth of it is for responses: two or three of these.
    let desk = Desk::with(SimConfig::default(), |server| {
        server.max_upload_bytes(40_000)
    });
    let made: Vec<Value> = (0..5)
        .map(|_| ask(&desk, &json!({})).is(200).json())
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while desk.get(&place(&made[0])).status == 200 {
        assert!(Instant::now() < deadline, "the first response stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    desk.get(&place(&made[4])).is(200);
}

#[test]
fn lines_of_a_batch_are_responses() {
    let desk = unlimited(SimConfig::default().trouble(Trouble::Length, 0.3));
    let line = |n: usize, more: &Value| {
        let mut body =
            json!({"model": "sim-1", "input": format!("Prompt {n}."), "metadata": {"n": "1"}});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        json!({"custom_id": format!("r-{n}"), "method": "POST", "url": RESPONSES, "body": body})
    };
    let lines: String = (0..10)
        .map(|n| format!("{}\n", line(n, &json!({}))))
        .collect();
    let batch = create(&desk, &uploaded(&desk, &lines), RESPONSES);
    let done = wait_for(&desk, &batch, "completed");
    done["request_counts"].has(json!({"completed": 10, "failed": 0}));
    assert!(done["usage"]["total_tokens"].as_u64().unwrap() > 0);
    for line in content(&desk, &done["output_file_id"]) {
        let body = &line["response"]["body"];
        body.has(json!({"object": "response", "metadata": {"n": "1"}, "store": false}));
        assert!(["completed", "incomplete"].contains(&body["status"].as_str().unwrap()));
    }
    for (field, value) in [
        ("background", json!(true)),
        ("previous_response_id", json!("resp_1")),
        ("store", json!(true)),
        ("stream", json!(true)),
    ] {
        let line = line(0, &json!({field: value}));
        let batch = create(&desk, &uploaded(&desk, &line.to_string()), RESPONSES);
        let failed = wait_for(&desk, &batch, "failed");
        let why = failed["errors"]["data"][0]["message"].as_str().unwrap();
        assert!(why.starts_with(field), "{why}");
    }
}

/// Only OpenAI gets these lines unchanged.
#[test]
fn lines_of_a_batch_are_responses_at_every_provider() {
    for (provider, strategy) in [
        ("openai", "batch"),
        ("anthropic", "sync"),
        ("anthropic", "batch"),
        ("gemini", "batch"),
    ] {
        let brief = BatchConfig::default().duration(Duration::ZERO);
        let desk = Desk::prepared(SimConfig::default().batches(brief), |store| {
            for (key, value) in [
                ("llm.provider", provider),
                ("llm.model", "sim-1"),
                ("llm.bulk_strategy", strategy),
                ("llm.requests_per_minute", "1000000"),
                ("batch.poll_interval", "1s"),
            ] {
                store.set(key, value).unwrap();
            }
        });
        let tool = json!({
            "type": "function", "name": "weather", "strict": true,
            "parameters": {
                "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                "additionalProperties": false,
            },
        });
        let bodies = [
            json!({"model": "sim-1", "input": "Hello.", "instructions": "Be brief."}),
            json!({"model": "sim-1", "input": "Weather?", "tools": [tool]}),
        ];
        let lines = bodies.iter().enumerate().map(|(n, body)| {
            let line = json!({"custom_id": format!("r-{n}"), "method": "POST", "url": RESPONSES, "body": body});
            format!("{line}\n")
        });
        let file = uploaded(&desk, &lines.collect::<String>());
        let done = wait_for(&desk, &create(&desk, &file, RESPONSES), "completed");
        assert_eq!(done["error_file_id"], Value::Null, "{provider} {strategy}");
        let mut output = content(&desk, &done["output_file_id"]);
        output.sort_by_key(|line| line["custom_id"].to_string());
        let bodies = output.iter().map(|line| &line["response"]["body"]);
        let last = bodies.map(|body| {
            assert_eq!(body["object"], "response", "{provider} {strategy}: {body}");
            let items = body["output"].as_array().unwrap();
            items.last().unwrap()["type"].as_str().unwrap()
        });
        let last: Vec<&str> = last.collect();
        assert_eq!(last, ["message", "function_call"], "{provider} {strategy}");
    }
}

#[test]
fn only_a_response_takes_the_result_of_its_job() {
    let desk = Desk::with(SimConfig::default(), |server| server);
    desk.sim.hold();
    let asked = json!({"model": "sim-1", "input": "Hello.", "background": true});
    let begun = desk.done("/v1/responses", &asked);
    let id = begun["id"].as_str().unwrap();
    let process = desk.get("/api/v1/processes").json()["data"][0]["process_id"].clone();
    let process = process.as_str().unwrap();
    let refused = desk.delete(&format!("/api/v1/processes/{process}?force=true"));
    assert!(refused.is(409).text.contains(id));
    desk.sim.release();
    let path = format!("/v1/responses/{id}");
    let until = Instant::now() + PATIENCE;
    while desk.read(&path)["status"] != "completed" {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
    desk.delete(&path).is(200);
    desk.get(&path).is(404);
}
