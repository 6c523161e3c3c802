//! Each kind of trouble, end to end.

use std::time::Duration;

use super::test_client::{Client, Reply, start};
use super::{SimConfig, Simulator, Trouble};

fn troubled(kind: Trouble) -> Simulator {
    Simulator::start(SimConfig::default().trouble(kind, 1.0)).unwrap()
}

fn ask(sim: &Simulator) -> Reply {
    Client::connect(sim).chat("hello")
}

fn assert_fine(sim: &Simulator) {
    assert_eq!(ask(sim).is(200).text(), "echo: hello");
}

#[test]
fn bad_request_never_ends() {
    let sim = troubled(Trouble::BadRequest);
    for _ in 0..3 {
        let reply = ask(&sim).is(400);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    let stats = sim.stats();
    assert_eq!((stats.accepted, stats.paid), (3, 0));
}

#[test]
fn filtered_content_is_paid_and_certain() {
    let sim = troubled(Trouble::ContentFilter);
    for _ in 0..2 {
        let reply = ask(&sim);
        assert_eq!((reply.status, reply.text()), (200, String::new()));
        let choice = &reply.json()["choices"][0];
        assert_eq!(choice["finish_reason"], "content_filter");
    }
    let stats = sim.stats();
    assert_eq!((stats.paid, stats.paid_twice, stats.answered), (2, 1, 0));
    assert_eq!(stats.maybe_paid_resent, 0);
}

#[test]
fn a_stall_hangs_and_then_closes() {
    let stall = Duration::from_millis(30);
    let config = SimConfig::default().stall(stall);
    let (sim, mut client) = start(config.trouble(Trouble::Stall, 1.0));
    let started = std::time::Instant::now();
    client.ask("hello");
    assert!(client.is_closed());
    assert!(started.elapsed() >= stall);
    assert_fine(&sim);
    assert_eq!(sim.stats().maybe_paid_resent, 1);
}

#[test]
fn error_503_asks_for_the_configured_wait() {
    let sim = troubled(Trouble::Error503);
    let reply = ask(&sim).is(503);
    assert_eq!(reply.header("retry-after"), Some("2"));
    assert_fine(&sim);

    let config = SimConfig::default()
        .trouble(Trouble::Error503, 1.0)
        .trouble_times(Trouble::Error503, None)
        .retry_after(Duration::from_secs(45));
    let sim = Simulator::start(config).unwrap();
    for _ in 0..3 {
        let reply = ask(&sim).is(503);
        assert_eq!(reply.header("retry-after"), Some("45"));
    }
}

#[test]
fn an_empty_answer_is_paid_and_uncertain() {
    let sim = troubled(Trouble::Empty);
    let reply = ask(&sim);
    assert_eq!((reply.status, reply.text()), (200, String::new()));
    assert_eq!(reply.json()["choices"][0]["finish_reason"], "stop");
    assert_fine(&sim);
    let stats = sim.stats();
    assert_eq!((stats.paid, stats.maybe_paid_resent), (2, 1));
}

#[test]
fn an_empty_account_a_bad_key_and_an_unknown_model_never_end() {
    let cases = [
        (Trouble::Quota, 429, "insufficient_quota"),
        (Trouble::Unauthorized, 401, "invalid_api_key"),
        (Trouble::UnknownModel, 404, "model_not_found"),
    ];
    for (kind, status, code) in cases {
        let sim = troubled(kind);
        for _ in 0..2 {
            let reply = ask(&sim);
            assert_eq!((reply.status, reply.code()), (status, code.into()));
            assert_eq!(reply.header("retry-after"), None);
        }
        assert_eq!((sim.stats().accepted, sim.stats().paid), (0, 0));
    }
}
