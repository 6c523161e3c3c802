//! Connections, waiting, stopping, and the endpoints' manners.

use std::time::{Duration, Instant};

use serde_json::json;

use super::test_client::{Client, Has, PATIENCE, start};
use super::{SimConfig, Simulator, Trouble};

#[test]
fn an_answer_has_the_form_openai_gives_it() {
    let (_sim, mut client) = start(SimConfig::default());
    let long = "ä".repeat(61);
    let value = client.chat(&long).json();
    value.has(json!({"object": "chat.completion", "model": "sim-1",
        "/choices/0/message/content": format!("echo: {}", "ä".repeat(60)),
        "/choices/0/finish_reason": "stop", "/usage/prompt_tokens": 31,
        "/usage/completion_tokens": 16, "/usage/total_tokens": 47}));

    let capped = br#"{"model":"m","max_completion_tokens":3,
        "messages":[{"role":"user","content":"x"}]}"#;
    let value = client.call("POST /v1/chat/completions", "", capped).json();
    value.has(json!({"/choices/0/finish_reason": "length", "/usage/completion_tokens": 3}));
}

#[test]
fn wrong_paths_methods_and_bodies_are_refused() {
    let (sim, mut client) = start(SimConfig::default());
    client.get("/v1/nothing").is(404);
    client.get("/v1/chat/completions").is(404);
    for bad in ["", "{", r#"{"model":"m","messages":[]}"#] {
        let reply = client
            .call("POST /v1/chat/completions", "", bad.as_bytes())
            .is(400);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    client.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(client.read().status, 411);
    assert!(client.is_closed());
    assert_eq!((sim.stats().calls, sim.stats().accepted), (3, 0));
}

#[test]
fn held_calls_are_in_flight_until_they_are_released() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    sim.hold();
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&sim)).collect();
    for (item, client) in clients.iter_mut().enumerate() {
        client.ask(&item.to_string());
    }
    assert!(sim.wait_until(|stats| stats.in_flight == 5, PATIENCE));
    assert_eq!((sim.stats().paid, sim.stats().answered), (5, 0));
    sim.release();
    for client in &mut clients {
        assert_eq!(client.read().status, 200);
    }
    let stats = sim.stats();
    assert_eq!((stats.in_flight, stats.max_in_flight), (0, 5));
    assert_eq!(stats.answered, 5);
}

#[test]
fn a_client_that_hangs_up_may_pay_again() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    sim.hold();
    let mut client = Client::connect(&sim);
    client.ask("x");
    assert!(sim.wait_until(|stats| stats.in_flight == 1, PATIENCE));
    client.hang_up();
    sim.release();
    assert!(sim.wait_until(|stats| stats.in_flight == 0, PATIENCE));
    let stats = sim.stats();
    assert_eq!(stats.answered, 0);
    assert_eq!(Client::connect(&sim).chat("x").status, 200);
    let stats = sim.stats();
    assert_eq!(stats.paid_twice, 1);
}

#[test]
fn a_stall_is_over_when_the_client_hangs_up() {
    let config = SimConfig::default()
        .trouble(Trouble::Stall, 1.0)
        .stall(Duration::from_secs(3_600));
    let (sim, mut client) = start(config);
    client.ask("x");
    assert!(sim.wait_until(|stats| stats.in_flight == 1, PATIENCE));
    client.hang_up();
    assert!(sim.wait_until(|stats| stats.in_flight == 0, PATIENCE));
}

#[test]
fn dropping_it_ends_idle_late_held_and_stalled_connections() {
    let hour = Duration::from_secs(3_600);
    for stalled in [true, false] {
        let config = SimConfig::default()
            .stall(hour)
            .latency(hour)
            .trouble(Trouble::Stall, if stalled { 1.0 } else { 0.0 });
        let sim = Simulator::start(config).unwrap();
        sim.hold();
        let idle = Client::connect(&sim);
        let mut busy = Client::connect(&sim);
        busy.ask("x");
        let mut held = Client::connect(&sim);
        held.send("POST /v1/chat/completions", "", b"{");
        assert!(sim.wait_until(|stats| stats.in_flight == 2, PATIENCE));
        let started = Instant::now();
        drop(sim);
        assert!(started.elapsed() < PATIENCE);
        for mut client in [idle, busy, held] {
            assert!(client.is_closed());
        }
    }
}
