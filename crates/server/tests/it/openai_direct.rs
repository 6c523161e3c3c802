//! Requests to the OpenAI-shaped endpoint that somebody waits for: completions, vectors, models.

use std::time::{Duration, Instant};

use batchwright::config::ConfigStore;
use batchwright_simulate::{BatchConfig, SimConfig};
use serde_json::{Value, json};

use super::common::{Answer, Desk, Has, PATIENCE, until};
use super::openai::{CHAT, question, sent, slow, unlimited};

pub fn ask(desk: &Desk, more: &Value) -> Answer {
    let mut body = question("Hello.");
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    desk.post(CHAT, &body)
}

#[test]
fn a_completion_is_answered_also_while_batches_are_the_strategy() {
    let slow = BatchConfig::default().duration(Duration::from_secs(3600));
    let desk = unlimited(SimConfig::default().batches(slow));
    desk.store.set("llm.bulk_strategy", "batch").unwrap();
    let answer = ask(&desk, &json!({})).is(200).json();
    answer.has(json!({"object": "chat.completion", "model": "sim-1"}));
    let content = answer["choices"][0]["message"]["content"].as_str();
    assert!(content.is_some_and(|content| !content.is_empty()));
    ask(&desk, &json!({"n": 1})).is(200);
    assert_eq!(desk.sim.stats().calls, 2);
    let error = ask(&desk, &json!({"messages": []})).is(400).json();
    assert_eq!(error["error"]["type"], "invalid_request_error");
    ask(&desk, &json!({"model": ""})).is(400);
    let function = json!({"name": "f", "parameters": {"type": "object"}});
    for (field, value) in [
        ("n", json!(0)),
        ("n", json!(2)),
        ("functions", json!([function])),
        ("function_call", json!("auto")),
        ("stream", json!("yes")),
    ] {
        let refused = ask(&desk, &json!({field: value})).is(400).json();
        refused["error"].has(json!({"type": "invalid_request_error", "param": field}));
    }
    assert_eq!(desk.sim.stats().calls, 2);
}

#[test]
fn whoever_leaves_takes_along_what_was_not_begun() {
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    let stream = sent(&desk, "", &question("Hello."));
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    drop(stream);
    let queue = desk.queue();
    let open = || queue.open_processes().unwrap();
    until(|| open().iter().any(|process| process.cancelled));
    desk.sim.release();
    until(|| open().is_empty());
    assert_eq!(desk.sim.stats().calls, 1);
}

/// A completion that is asked for on a thread of its own.
fn asked_aside(desk: &Desk, body: Value) -> std::thread::JoinHandle<Answer> {
    let (agent, url) = (desk.agent().clone(), desk.url(CHAT));
    std::thread::spawn(move || {
        let request = agent.post(url).header("content-type", "application/json");
        Answer::of(request.send(body.to_string()).unwrap())
    })
}

/// Waits until this number of requests is in the queue.
fn wait_for_jobs(desk: &Desk, count: usize) {
    let queue = desk.queue();
    until(|| queue.open_processes().unwrap().len() >= count);
}

#[test]
fn a_server_that_stops_turns_away_who_waits_for_what_has_not_begun() {
    let mut desk = slow();
    ask(&desk, &json!({})).is(200);
    let waits = asked_aside(&desk, question("Hello."));
    wait_for_jobs(&desk, 1);
    let began = Instant::now();
    desk.stop();
    // Far less than the grace of those that were begun.
    assert!(began.elapsed() < PATIENCE / 2);
    let answer = waits.join().unwrap().is(503);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.json()["error"]["code"], "stopping");
    assert_eq!(desk.sim.stats().calls, 1);
}

#[test]
fn a_request_that_outlasts_the_grace_period_ends_with_an_error() {
    let mut desk = Desk::new();
    desk.stop();
    desk.grace = Duration::from_millis(500);
    desk.start(|server| server);
    desk.sim.hold();
    let mut body = question("Hello.");
    body["stream"] = json!(true);
    let stream = asked_aside(&desk, body);
    assert!(desk.sim.wait_until(|stats| stats.in_flight > 0, PATIENCE));
    desk.stop();
    let answer = stream.join().unwrap().is(503);
    assert!(answer.text.contains("\"code\":\"stopping\""), "{answer:?}");
}

#[test]
fn those_who_wait_leave_connections_to_the_others() {
    let desk = Desk::with(SimConfig::default(), |server| server.max_connections(4));
    desk.sim.hold();
    let waiting = [(); 2].map(|()| asked_aside(&desk, question("Hello.")));
    wait_for_jobs(&desk, 2);
    let refused = ask(&desk, &json!({})).is(503);
    assert!(refused.header("retry-after").is_some());
    desk.sim.release();
    for one in waiting {
        one.join().unwrap().is(200);
    }
}

#[test]
fn texts_become_vectors_of_which_many_share_a_call() {
    let desk = unlimited(SimConfig::default());
    let ask = |input: Value, format: &str| {
        let asked = json!({"model": "sim-1", "input": input, "encoding_format": format});
        desk.done("/v1/embeddings", &asked)
    };
    let plain = ask(json!(["one", "two", "three"]), "float");
    let data = plain["data"].as_array().unwrap();
    assert_eq!(data.len(), 3);
    for (n, text) in ["one", "two", "three"].iter().enumerate() {
        assert_eq!(data[n]["index"], n);
        let vector: Vec<f32> = serde_json::from_value(data[n]["embedding"].clone()).unwrap();
        assert_eq!(vector, batchwright_simulate::embedding(text, vector.len()));
    }
    assert!(plain["usage"]["total_tokens"].as_u64().unwrap() > 0);
    let packed = ask(json!("one"), "base64");
    assert!(packed["data"][0]["embedding"].is_string());
    ask(json!([1, 2]), "float").has(json!({"/data/1": null}));
    ask(json!([[1, 2], [3]]), "float").has(json!({"/data/1/index": 1}));
    let calls = desk.sim.stats().calls;
    for wrong in [
        json!({"model": "sim-1", "input": ["one", [1, 2]]}),
        // A small request that stands for too much.
        json!({"model": "sim-1", "input": vec!["a"; 2048], "user": "x".repeat(40_000)}),
    ] {
        let refused = desk.post("/v1/embeddings", &wrong).is(400).json();
        assert_eq!(refused["error"]["param"], "input");
    }
    assert_eq!(desk.sim.stats().calls, calls);
}

/// Anthropic has no embeddings. Another worker of the queue may have a provider for them, so they wait for a moment.
#[test]
fn embeddings_without_a_provider_for_them_are_refused() {
    let desk = Desk::prepared(SimConfig::default(), |store| {
        store.set("llm.provider", "anthropic").unwrap();
        store.set("llm.model", "sim-1").unwrap();
    });
    let asked = json!({"model": "sim-1", "input": "one"});
    let refused = desk.post("/v1/embeddings", &asked).is(400).json();
    let why = refused["error"]["message"].as_str().unwrap();
    assert!(why.contains("of the kind embedding"), "{why}");
    let jobs = desk.read("/api/v1/overview")["jobs"].clone();
    jobs.has(json!({"pending": 0, "in_progress": 0}));
}

#[test]
fn models_are_those_that_are_configured() {
    let desk = unlimited(SimConfig::default());
    let models = desk.read("/v1/models");
    assert_eq!(models["data"][0]["id"], "sim-1");
    assert_eq!(desk.read("/v1/models/sim-1")["object"], "model");
}

#[test]
fn calls_that_wait_hold_no_memory_of_their_bodies() {
    const CALLS: usize = 12;
    let desk = unlimited(SimConfig::default());
    desk.sim.hold();
    // Four bodies of this length are received at a time.
    let text = "x".repeat(1500 << 10);
    std::thread::scope(|scope| {
        let calls = [(); CALLS].map(|()| {
            scope.spawn(|| {
                let mut body = question(&text);
                body["stream"] = json!(true);
                desk.post(CHAT, &body).is(200)
            })
        });
        // All of them wait for the provider, which answers none.
        wait_for_jobs(&desk, CALLS);
        assert_eq!(desk.sim.stats().answered, 0);
        desk.sim.release();
        for call in calls {
            let answer = call.join().unwrap();
            assert_eq!(answer.header("content-type"), Some("text/event-stream"));
            assert!(answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
        }
    });
}
