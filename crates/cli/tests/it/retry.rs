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
