//! Connections, waiting, stopping, and the endpoints' manners.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::test_client::{Client, PATIENCE, body};
use super::{SimConfig, Simulator, Trouble};

#[test]
fn an_answer_has_the_form_openai_gives_it() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    let mut client = Client::connect(&sim);
    let long = "ä".repeat(61);
    let value = client.chat(&long)?.json();
    assert_eq!(value["object"], "chat.completion");
    assert_eq!(value["model"], "sim-1");
    assert_eq!(
        value["choices"][0]["message"]["content"],
        format!("echo: {}", "ä".repeat(60))
    );
    assert_eq!(value["choices"][0]["finish_reason"], "stop");
    assert_eq!(value["usage"]["prompt_tokens"], 31);
    assert_eq!(value["usage"]["completion_tokens"], 16);
    assert_eq!(value["usage"]["total_tokens"], 47);

    let capped = br#"{"model":"m","max_completion_tokens":3,
        "messages":[{"role":"user","content":"x"}]}"#;
    client.send("POST /v1/chat/completions", "", capped)?;
    let value = client.read()?.json();
    assert_eq!(value["choices"][0]["finish_reason"], "length");
    assert_eq!(value["usage"]["completion_tokens"], 3);
    Ok(())
}

#[test]
fn a_canned_answer_replaces_the_echo() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default().answer("{\"a\":1}"))?;
    assert_eq!(Client::connect(&sim).chat("x")?.text(), "{\"a\":1}");
    Ok(())
}

#[test]
fn the_other_endpoints_answer() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    let mut client = Client::connect(&sim);
    client.chat("x")?;
    assert_eq!(client.get("/v1/models")?.json()["data"][0]["id"], "sim-1");
    assert_eq!(client.get("/health")?.json()["status"], "ok");
    let stats = client.get("/_sim/stats")?.json();
    assert_eq!(stats, serde_json::to_value(sim.stats())?);
    assert_eq!(
        (&stats["answered"], &stats["connections"]),
        (&1.into(), &1.into())
    );
    Ok(())
}

#[test]
fn wrong_paths_methods_and_bodies_are_refused() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    let mut client = Client::connect(&sim);
    assert_eq!(client.get("/v1/nothing")?.status, 404);
    let wrong = client.get("/v1/chat/completions")?;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    for bad in ["", "{", r#"{"model":"m","messages":[]}"#] {
        client.send("POST /v1/chat/completions", "", bad.as_bytes())?;
        let reply = client.read()?;
        assert_eq!(reply.status, 400);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    client.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    assert_eq!(client.read()?.status, 411);
    assert!(client.is_closed());
    assert_eq!((sim.stats().calls, sim.stats().accepted), (3, 0));
    Ok(())
}

#[test]
fn a_worn_out_connection_is_closed_without_a_word() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default().max_requests_per_connection(3))?;
    let mut client = Client::connect(&sim);
    for _ in 0..3 {
        let reply = client.chat("x")?;
        assert_eq!((reply.status, reply.header("connection")), (200, None));
    }
    assert!(client.is_closed());
    Ok(())
}

#[test]
fn a_close_that_is_asked_for_is_announced() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    let mut client = Client::connect(&sim);
    client.send(
        "POST /v1/chat/completions",
        "Connection: close\r\n",
        &body("x"),
    )?;
    assert_eq!(client.read()?.header("connection"), Some("close"));
    assert!(client.is_closed());
    Ok(())
}

#[test]
fn an_idle_connection_is_closed() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default().idle_timeout(Duration::from_millis(20)))?;
    let mut client = Client::connect(&sim);
    assert_eq!(client.chat("x")?.status, 200);
    assert!(client.is_closed());
    Ok(())
}

#[test]
fn requests_sent_ahead_are_answered_in_order() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    let mut client = Client::connect(&sim);
    client.ask("one")?;
    client.ask("two")?;
    assert_eq!(client.read()?.text(), "echo: one");
    assert_eq!(client.read()?.text(), "echo: two");
    Ok(())
}

#[test]
fn latency_is_waited_out_side_by_side() -> io::Result<()> {
    let latency = Duration::from_millis(60);
    let config = SimConfig::default()
        .latency(latency)
        .jitter(Duration::from_millis(5));
    let sim = Simulator::start(config)?;
    let started = Instant::now();
    thread::scope(|scope| {
        for item in 0..20 {
            let sim = &sim;
            scope.spawn(move || Client::connect(sim).chat(&item.to_string()).unwrap());
        }
    });
    assert!(started.elapsed() >= latency);
    assert!(started.elapsed() < latency * 20);
    assert!(sim.stats().max_in_flight > 1);
    Ok(())
}

#[test]
fn loading_is_over_after_its_time() -> io::Result<()> {
    let loading = Duration::from_millis(200);
    let sim = Simulator::start(SimConfig::default().loading(loading))?;
    let mut client = Client::connect(&sim);
    let reply = client.chat("x")?;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["error"]["message"], "Loading model");
    assert_eq!(client.get("/health")?.status, 503);
    while client.get("/health")?.status == 503 {}
    assert_eq!(client.chat("x")?.status, 200);
    Ok(())
}

#[test]
fn held_calls_are_in_flight_until_they_are_released() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    sim.hold();
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&sim)).collect();
    for (item, client) in clients.iter_mut().enumerate() {
        client.ask(&item.to_string())?;
    }
    assert!(sim.wait_until(|stats| stats.in_flight == 5, PATIENCE));
    assert_eq!((sim.stats().paid, sim.stats().answered), (5, 0));
    sim.release();
    for client in &mut clients {
        assert_eq!(client.read()?.status, 200);
    }
    let stats = sim.stats();
    assert_eq!((stats.in_flight, stats.max_in_flight), (0, 5));
    assert_eq!(stats.answered, 5);
    Ok(())
}

#[test]
fn a_client_that_hangs_up_may_pay_again() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    sim.hold();
    let mut client = Client::connect(&sim);
    client.ask("x")?;
    assert!(sim.wait_until(|stats| stats.in_flight == 1, PATIENCE));
    client.hang_up();
    sim.release();
    assert!(sim.wait_until(|stats| stats.in_flight == 0, PATIENCE));
    let stats = sim.stats();
    assert_eq!((stats.answered, stats.maybe_paid_resent), (0, 0));
    assert_eq!(Client::connect(&sim).chat("x")?.status, 200);
    let stats = sim.stats();
    assert_eq!((stats.paid_twice, stats.maybe_paid_resent), (1, 1));
    Ok(())
}

#[test]
fn a_stall_is_over_when_the_client_hangs_up() -> io::Result<()> {
    let config = SimConfig::default()
        .trouble(Trouble::Stall, 1.0)
        .stall(Duration::from_secs(3_600));
    let sim = Simulator::start(config)?;
    let mut client = Client::connect(&sim);
    client.ask("x")?;
    assert!(sim.wait_until(|stats| stats.in_flight == 1, PATIENCE));
    client.hang_up();
    assert!(sim.wait_until(|stats| stats.in_flight == 0, PATIENCE));
    Ok(())
}

#[test]
fn dropping_it_ends_idle_late_held_and_stalled_connections() -> io::Result<()> {
    let hour = Duration::from_secs(3_600);
    for stalled in [true, false] {
        let config = SimConfig::default()
            .stall(hour)
            .idle_timeout(hour)
            .latency(hour)
            .trouble(Trouble::Stall, if stalled { 1.0 } else { 0.0 });
        let sim = Simulator::start(config)?;
        sim.hold();
        let idle = Client::connect(&sim);
        let mut busy = Client::connect(&sim);
        busy.ask("x")?;
        let mut held = Client::connect(&sim);
        held.send("POST /v1/chat/completions", "", b"{")?;
        assert!(sim.wait_until(|stats| stats.in_flight == 2, PATIENCE));
        let started = Instant::now();
        drop(sim);
        assert!(started.elapsed() < Duration::from_secs(5));
        for mut client in [idle, busy, held] {
            assert!(client.is_closed());
        }
    }
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> io::Result<()> {
    let sim = Simulator::start(SimConfig::default())?;
    let port = sim.addr().port();
    let error = Simulator::start(SimConfig::default().port(port)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&port.to_string()));
    Ok(())
}
