//! Limits, keys and models over the wire.

use std::time::Duration;

use super::test_client::{Client, start};
use super::{SimConfig, Simulator};

#[test]
fn a_limit_refuses_and_tells_when_to_come_back() {
    // One request a minute: no second one fits while the test runs.
    let (sim, mut client) = start(SimConfig::default().rpm(1).tpm(1_000));
    let fine = client.chat("12345678").is(200);
    assert_eq!(fine.header("x-ratelimit-limit-requests"), Some("1"));
    assert_eq!(fine.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(fine.header("x-ratelimit-reset-requests"), Some("60s"));
    assert_eq!(fine.header("x-ratelimit-limit-tokens"), Some("1000"));
    assert_eq!(fine.header("x-ratelimit-remaining-tokens"), Some("982"));
    assert_eq!(fine.header("x-ratelimit-reset-tokens"), Some("1.08s"));

    let refused = client.chat("12345678").is(429);
    assert_eq!(refused.code(), "rate_limit_exceeded");
    assert_eq!(refused.json()["error"]["type"], "requests");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    let millis: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((30..=60).contains(&seconds), "{seconds}");
    assert_eq!(millis.div_ceil(1_000), seconds);

    let stats = sim.stats();
    assert_eq!((stats.calls, stats.accepted, stats.refused), (2, 1, 1));
}

#[test]
fn the_token_limit_counts_prompt_and_output() {
    let (_sim, mut client) = start(SimConfig::default().tpm(40).output_tokens(10));
    client.chat(&"x".repeat(80)).is(200);
    let refused = client.chat(&"x".repeat(80)).is(429);
    assert_eq!(refused.json()["error"]["type"], "tokens");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.header("x-ratelimit-limit-requests"), None);

    let too_large = client.chat(&"x".repeat(800)).is(429);
    assert_eq!(too_large.header("retry-after"), None);
}

#[test]
fn no_more_calls_than_the_cap_are_answered_at_once() {
    // The first call is being answered for as long as the test takes.
    let slow = Duration::from_secs(3_600);
    let sim = Simulator::start(SimConfig::default().max_parallel(1).latency(slow)).unwrap();
    let (mut first, mut second) = (Client::connect(&sim), Client::connect(&sim));
    std::thread::scope(|scope| {
        first.ask("x");
        scope.spawn(move || first.try_read());
        assert!(sim.wait_until(|stats| stats.accepted == 1, Duration::from_secs(20)));
        let refused = second.chat("y").is(429);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!((sim.stats().accepted, sim.stats().refused), (1, 1));
        drop(sim);
    });
}
