//! Each kind of trouble, end to end.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::test_client::{Client, Reply};
use super::{SimConfig, Simulator, Trouble};

fn troubled(kind: Trouble) -> io::Result<Simulator> {
    Simulator::start(SimConfig::default().trouble(kind, 1.0))
}

fn ask(sim: &Simulator) -> io::Result<Reply> {
    Client::connect(sim).chat("hello")
}

fn assert_fine(sim: &Simulator) -> io::Result<()> {
    let reply = ask(sim)?;
    assert_eq!(
        (reply.status, reply.text()),
        (200, "echo: hello".to_owned())
    );
    Ok(())
}

#[test]
fn error_500_comes_twice() -> io::Result<()> {
    let sim = troubled(Trouble::Error500)?;
    for _ in 0..2 {
        let reply = ask(&sim)?;
        assert_eq!(reply.status, 500);
        assert_eq!(reply.json()["error"]["type"], "server_error");
    }
    assert_fine(&sim)?;
    let stats = sim.stats();
    assert_eq!((stats.calls, stats.accepted, stats.paid), (3, 3, 1));
    assert_eq!((stats.prompts, stats.answered), (1, 1));
    assert_eq!(stats.by_trouble["error_500"], 2);
    Ok(())
}

#[test]
fn rate_limit_asks_for_a_second_once() -> io::Result<()> {
    let sim = troubled(Trouble::RateLimit)?;
    let reply = ask(&sim)?;
    assert_eq!(
        (reply.status, reply.code()),
        (429, "rate_limit_exceeded".into())
    );
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("retry-after-ms"), Some("1000"));
    assert_fine(&sim)?;
    let stats = sim.stats();
    assert_eq!((stats.refused, stats.accepted, stats.paid), (1, 1, 1));
    Ok(())
}

#[test]
fn a_dropped_call_gets_no_reply_and_may_have_been_paid() -> io::Result<()> {
    let sim = troubled(Trouble::Drop)?;
    let mut client = Client::connect(&sim);
    client.ask("hello")?;
    assert!(client.is_closed());
    assert_eq!(sim.stats().maybe_paid_resent, 0);
    assert_fine(&sim)?;
    let stats = sim.stats();
    assert_eq!((stats.paid, stats.paid_twice), (2, 1));
    assert_eq!((stats.maybe_paid_resent, stats.answered), (1, 1));
    Ok(())
}

#[test]
fn broken_json_is_complete_but_does_not_parse() -> io::Result<()> {
    let sim = troubled(Trouble::BrokenJson)?;
    let mut client = Client::connect(&sim);
    let reply = client.chat("hello")?;
    assert_eq!(reply.status, 200);
    assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_err());
    assert_eq!(client.chat("hello")?.text(), "echo: hello");
    assert_eq!(sim.stats().maybe_paid_resent, 1);
    Ok(())
}

#[test]
fn a_truncated_reply_ends_before_its_length() -> io::Result<()> {
    let sim = troubled(Trouble::Truncated)?;
    assert_eq!(ask(&sim).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_fine(&sim)?;
    let stats = sim.stats();
    assert_eq!((stats.paid_twice, stats.maybe_paid_resent), (1, 1));
    Ok(())
}

#[test]
fn html_502_is_not_json() -> io::Result<()> {
    let sim = troubled(Trouble::Html502)?;
    let reply = ask(&sim)?;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.header("content-type"), Some("text/html"));
    assert!(reply.body.starts_with(b"<html>"));
    assert_fine(&sim)?;
    assert_eq!(sim.stats().paid, 1);
    Ok(())
}

#[test]
fn bad_request_never_ends() -> io::Result<()> {
    let sim = troubled(Trouble::BadRequest)?;
    for _ in 0..3 {
        let reply = ask(&sim)?;
        assert_eq!(reply.status, 400);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    let stats = sim.stats();
    assert_eq!((stats.accepted, stats.paid), (3, 0));
    Ok(())
}

#[test]
fn filtered_content_is_paid_and_certain() -> io::Result<()> {
    let sim = troubled(Trouble::ContentFilter)?;
    for _ in 0..2 {
        let reply = ask(&sim)?;
        assert_eq!((reply.status, reply.text()), (200, String::new()));
        assert_eq!(
            reply.json()["choices"][0]["finish_reason"],
            "content_filter"
        );
    }
    let stats = sim.stats();
    assert_eq!((stats.paid, stats.paid_twice, stats.answered), (2, 1, 0));
    assert_eq!(stats.maybe_paid_resent, 0);
    Ok(())
}

#[test]
fn a_stall_hangs_and_then_closes() -> io::Result<()> {
    let stall = Duration::from_millis(30);
    let sim = Simulator::start(
        SimConfig::default()
            .trouble(Trouble::Stall, 1.0)
            .stall(stall),
    )?;
    let started = std::time::Instant::now();
    let mut client = Client::connect(&sim);
    client.ask("hello")?;
    assert!(client.is_closed());
    assert!(started.elapsed() >= stall);
    assert_fine(&sim)?;
    assert_eq!(sim.stats().maybe_paid_resent, 1);
    Ok(())
}

#[test]
fn a_lasting_rate_limit_asks_for_no_wait() -> io::Result<()> {
    let sim = troubled(Trouble::RateLimitForever)?;
    for _ in 0..3 {
        let reply = ask(&sim)?;
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (429, Some("0"))
        );
    }
    assert_eq!((sim.stats().refused, sim.stats().accepted), (3, 0));
    Ok(())
}

#[test]
fn error_503_asks_for_the_configured_wait() -> io::Result<()> {
    let sim = troubled(Trouble::Error503)?;
    let reply = ask(&sim)?;
    assert_eq!(
        (reply.status, reply.header("retry-after")),
        (503, Some("2"))
    );
    assert_fine(&sim)?;

    let config = SimConfig::default()
        .trouble(Trouble::Error503, 1.0)
        .trouble_times(Trouble::Error503, None)
        .retry_after(Duration::from_secs(45));
    let sim = Simulator::start(config)?;
    for _ in 0..3 {
        let reply = ask(&sim)?;
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (503, Some("45"))
        );
    }
    Ok(())
}

#[test]
fn an_empty_answer_is_paid_and_uncertain() -> io::Result<()> {
    let sim = troubled(Trouble::Empty)?;
    let reply = ask(&sim)?;
    assert_eq!((reply.status, reply.text()), (200, String::new()));
    assert_eq!(reply.json()["choices"][0]["finish_reason"], "stop");
    assert_fine(&sim)?;
    let stats = sim.stats();
    assert_eq!((stats.paid, stats.maybe_paid_resent), (2, 1));
    Ok(())
}

#[test]
fn an_empty_account_a_bad_key_and_an_unknown_model_never_end() -> io::Result<()> {
    let cases = [
        (Trouble::Quota, 429, "insufficient_quota"),
        (Trouble::Unauthorized, 401, "invalid_api_key"),
        (Trouble::UnknownModel, 404, "model_not_found"),
    ];
    for (kind, status, code) in cases {
        let sim = troubled(kind)?;
        for _ in 0..2 {
            let reply = ask(&sim)?;
            assert_eq!((reply.status, reply.code()), (status, code.into()));
            assert_eq!(reply.header("retry-after"), None);
        }
        assert_eq!((sim.stats().accepted, sim.stats().paid), (0, 0));
    }
    Ok(())
}

#[test]
fn a_mixed_run_meets_exactly_what_was_planned() -> io::Result<()> {
    let config = SimConfig::default()
        .seed(42)
        .trouble(Trouble::BadRequest, 0.2)
        .trouble(Trouble::Error500, 0.2)
        .trouble(Trouble::Html502, 0.2);
    let sim = Simulator::start(config)?;
    let mut client = Client::connect(&sim);
    let mut kinds = [0; 4];
    for item in 0..200 {
        let text = format!("item {item}");
        let (place, wanted) = match sim.config().plan(&text) {
            None => (0, 200),
            Some(Trouble::BadRequest) => (1, 400),
            Some(Trouble::Error500) => (2, 500),
            Some(Trouble::Html502) => (3, 502),
            Some(other) => panic!("{other} was not asked for"),
        };
        kinds[place] += 1;
        assert_eq!(client.chat(&text)?.status, wanted, "{text}");
    }
    assert!(kinds.iter().all(|count| *count > 20), "{kinds:?}");
    assert_eq!(sim.stats().by_trouble["bad_request"], kinds[1]);
    Ok(())
}

#[test]
fn without_tracking_a_trouble_never_ends() -> io::Result<()> {
    let config = SimConfig::default()
        .trouble(Trouble::Html502, 1.0)
        .track(false);
    let sim = Simulator::start(config)?;
    for _ in 0..3 {
        assert_eq!(ask(&sim)?.status, 502);
    }
    assert_eq!(sim.stats().prompts, 0);
    Ok(())
}
