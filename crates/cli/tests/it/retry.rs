//! Temporary failures: what is retried, and what is reported.

use batchwright_simulate::{SimConfig, SimStats, Trouble};
use serde_json::Value;

use super::common::{Desk, all_ids, simulator};

/// Twenty items, some with this fault; returns the summary, the result lines and the server's counts.
fn run(settings: SimConfig, flags: &str) -> (Value, Vec<Value>, SimStats) {
    let (desk, sim) = (Desk::with(20), simulator(settings));
    let words = format!("in.jsonl -o out.jsonl -j 8 --json {flags}");
    let ended = desk.run(&sim, &words).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
    let mut summary = ended.json();
    let stats = sim.stats();
    assert_eq!(summary["summary"]["calls"], stats.calls);
    assert_eq!(summary["summary"]["retries"], stats.calls - 20);
    let lines = desk.results("out.jsonl");
    (summary["summary"].take(), lines, stats)
}

#[test]
fn temporary_failures_lose_no_item_and_possibly_billed_calls_are_counted() {
    let settings = SimConfig::default()
        .trouble(Trouble::Drop, 0.2)
        .trouble(Trouble::Truncated, 0.2)
        .trouble(Trouble::Html502, 0.2)
        .seed(2);
    let (summary, lines, stats) = run(settings, "");
    let met = |name: &str| stats.by_trouble[name];
    let doubtful = met("drop") + met("truncated");
    assert_eq!(stats.maybe_paid_resent, doubtful);
    assert_eq!(summary["possibly_paid_twice"], doubtful);
    let twice = lines.iter().filter(|line| line["attempts"] == 2).count();
    assert_eq!(twice as u64, doubtful + met("html_502"));
}

#[test]
fn a_rate_limit_causes_the_wait_that_the_server_requests() {
    let settings = SimConfig::default()
        .trouble(Trouble::RateLimit, 0.3)
        .retry_after(std::time::Duration::from_millis(300));
    let (summary, _, stats) = run(settings, "");
    assert_eq!(summary["rate_limited"], stats.refused);
    assert_eq!(summary["possibly_paid_twice"], 0);
    assert_eq!(stats.paid_twice, 0);
}

#[test]
fn a_missing_reply_times_out_and_is_retried() {
    let settings = SimConfig::default().trouble(Trouble::Stall, 0.2);
    let (summary, lines, stats) = run(settings, "--timeout 300ms");
    assert!(stats.by_trouble["stall"] > 0);
    assert_eq!(summary["possibly_paid_twice"], stats.by_trouble["stall"]);
    assert!(lines.iter().any(|line| line["attempts"] == 2));
}

#[test]
fn calls_are_counted_by_their_reason() {
    let sim = simulator(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    let desk = Desk::with(4);
    desk.run(&sim, "in.jsonl -o out.jsonl --fallback extract")
        .ends(0, "calls      8 (4 failed over, 4 to extract)");
}
