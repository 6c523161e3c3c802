//! What providers allow, as the worker's limiter sees it, in the overview.

use std::time::{Duration, Instant};

use batchwright_simulate::SimConfig;
use serde_json::json;

use super::common::{Answer, Desk, Has, PATIENCE};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn limits_that_the_provider_tells_are_in_the_overview() {
    let desk = Desk::at(SimConfig::default().rpm(6).tpm(60_000));
    let prompt = json!({"model": "sim-1", "messages": [{"role": "user", "content": "Hello."}]});
    for _ in 0..4 {
        desk.post(CHAT, &prompt).is(200);
    }
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
