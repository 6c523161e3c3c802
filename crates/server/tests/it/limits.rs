//! What providers allow, as the worker's limiter sees it: in headers for OpenAI's clients, and in the overview.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use batchwright::config::ConfigStore;
use batchwright::{JobQueue, Limits, LlmConfig, Route, Secret, Worker};
use batchwright_server::{RunningServer, Server};
use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::{Value, json};

use super::common::{Answer, Desk, Has, PATIENCE};

const CHAT: &str = "/v1/chat/completions";

fn prompt(more: &Value) -> Value {
    let mut body = json!({"model": "sim-1", "messages": [{"role": "user", "content": "Hello."}]});
    let more = more.as_object().unwrap();
    body.as_object_mut().unwrap().extend(more.clone());
    body
}

fn served(queue: &JobQueue, worker: Worker) -> RunningServer {
    let server = Server::new(queue.clone(), worker).address(([127, 0, 0, 1], 0).into());
    server.start().unwrap()
}

fn ask(server: &RunningServer, body: &Value) -> Answer {
    let agent = ureq::Agent::config_builder().http_status_as_error(false);
    let agent = ureq::Agent::from(agent.build());
    let request = agent.post(format!("http://{}{CHAT}", server.address()));
    let request = request.header("content-type", "application/json");
    Answer::of(request.send(body.to_string()).unwrap())
}

fn number(answer: &Answer, name: &str) -> u64 {
    let value = answer.header(name);
    let value = value.unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    value.parse().unwrap()
}

/// Seconds of a time below a minute.
fn seconds(answer: &Answer, name: &str) -> f64 {
    let value = answer.header(name).unwrap();
    match value.strip_suffix("ms") {
        Some(millis) => millis.parse::<f64>().unwrap() / 1e3,
        None => value.strip_suffix('s').unwrap().parse().unwrap(),
    }
}

/// Six requests a minute, of which a few calls were made.
fn six_a_minute(desk: &Desk) {
    let began = Instant::now();
    let vector = json!({"model": "sim-1", "input": "one"});
    let calls = [
        (CHAT, prompt(&json!({}))),
        (CHAT, prompt(&json!({"stream": true}))),
        ("/v1/embeddings", vector),
        (CHAT, prompt(&json!({}))),
    ];
    for (used, (path, body)) in (1_u64..).zip(calls) {
        let answer = desk.post(path, &body).is(200);
        // A request comes back in ten seconds.
        let since = began.elapsed().as_secs_f64();
        let back = (since / 10.0).ceil() as u64;
        assert_eq!(number(&answer, "x-ratelimit-limit-requests"), 6);
        let left = number(&answer, "x-ratelimit-remaining-requests");
        assert!((6 - used..6 - used + back).contains(&left), "{answer:?}");
        let reset = seconds(&answer, "x-ratelimit-reset-requests");
        let whole = used as f64 * 10.0;
        assert!(
            (whole - since - 0.1..whole + 0.1).contains(&reset),
            "{reset} after {used}"
        );
    }
}

#[test]
fn limits_that_are_set_are_told_and_go_down_with_each_call() {
    let desk = Desk::prepared(SimConfig::default(), |store| {
        store.set("llm.requests_per_minute", "6").unwrap();
    });
    six_a_minute(&desk);
    let answer = desk.post(CHAT, &json!({"model": "sim-1", "messages": []}));
    assert_eq!(answer.is(400).header("x-ratelimit-limit-requests"), None);
}

#[test]
fn limits_that_the_provider_tells_are_told_on() {
    let desk = Desk::at(SimConfig::default().rpm(6).tpm(60_000));
    six_a_minute(&desk);
    let overview = desk.read("/api/v1/overview");
    let [limits] = &overview["worker"]["limits"].as_array().unwrap()[..] else {
        panic!("{overview}");
    };
    limits.has(json!({"provider": "custom", "model": "sim-1"}));
    let (requests, tokens) = (&limits["requests"], &limits["tokens"]);
    assert_eq!(
        (&requests["limit"], &tokens["limit"]),
        (&json!(6), &json!(60_000))
    );
    assert!(requests["remaining"].as_u64().unwrap() < 6, "{limits}");
    assert!(
        requests["reset_seconds"].as_f64().unwrap() > 0.0,
        "{limits}"
    );
    // Another model has a quota of its own.
    let other = prompt(&json!({"model": "sim-2"}));
    let answer = desk.post(CHAT, &other).is(200);
    assert_eq!(number(&answer, "x-ratelimit-limit-tokens"), 60_000);
    assert!(number(&answer, "x-ratelimit-remaining-tokens") <= 60_000);
    assert!(answer.header("x-ratelimit-reset-tokens").is_some());
}

#[test]
fn of_a_provider_without_limits_none_are_told() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    let local = LlmConfig::new("local")
        .base_url(sim.base_url())
        .model("sim-1");
    let route = Route::new(local.client().unwrap());
    let server = served(&queue, Worker::new(&queue).completions(route));
    let answer = ask(&server, &prompt(&json!({}))).is(200);
    let told = answer.headers.iter();
    let told: Vec<_> = told
        .filter(|(name, _)| name.contains("ratelimit"))
        .collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn the_limits_that_are_told_are_those_of_the_provider_that_answered() {
    let refuses = Simulator::start(SimConfig::default().trouble(Trouble::BadRequest, 0.5)).unwrap();
    let filters = SimConfig::default()
        .seed(1)
        .trouble(Trouble::BadRequest, 0.5);
    let answers = Simulator::start(filters).unwrap();
    let client = |name: &str, sim: &Simulator| {
        let config = LlmConfig::new(name).base_url(sim.base_url()).model("sim-1");
        config.api_key(Secret::new("sk-x")).client().unwrap()
    };
    let limits = |rpm| Limits::default().requests_per_minute(rpm);
    let route = Route::limited(client("openai", &refuses), limits(7_000.0))
        .then(client("custom", &answers), limits(9_000.0));
    let folder = tempfile::tempdir().unwrap();
    let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    let server = served(&queue, Worker::new(&queue).completions(route));
    let mut told = BTreeMap::new();
    for n in 0..16 {
        let text = format!("Prompt {n}.");
        let goes_on = refuses.config().plan(&text).is_some();
        let fails = goes_on && answers.config().plan(&text).is_some();
        let messages = json!([{"role": "user", "content": text}]);
        let answer = ask(&server, &prompt(&json!({"messages": messages})));
        assert_eq!(answer.status == 200, !fails, "{answer:?}");
        told.insert(
            (goes_on, fails),
            number(&answer, "x-ratelimit-limit-requests"),
        );
    }
    // Of a failure the one that is asked first.
    let expected = [
        ((false, false), 7_000),
        ((true, false), 9_000),
        ((true, true), 7_000),
    ];
    assert_eq!(told, BTreeMap::from(expected));
}

#[test]
fn the_overview_counts_calls_that_are_under_way() {
    let desk = Desk::new();
    let calls = || {
        let overview = desk.read("/api/v1/overview");
        let worker = &overview["worker"];
        let limits = worker["limits"].as_array().unwrap().iter();
        let of_limits = limits.map(|limits| limits["calls_in_flight"].as_u64().unwrap());
        (
            worker["calls_in_flight"].as_u64().unwrap(),
            of_limits.sum::<u64>(),
        )
    };
    let until = |expected: u64| {
        let deadline = Instant::now() + PATIENCE;
        while calls() != (expected, expected) {
            assert!(Instant::now() < deadline, "{:?}", calls());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    desk.sim.hold();
    let lines = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n";
    let request = desk.agent().post(desk.url("/api/v1/processes"));
    Answer::of(request.send(lines).unwrap()).is(201);
    until(2);
    desk.sim.release();
    until(0);
}
