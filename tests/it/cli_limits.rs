//! Servers that take few calls at once, that cannot be reached, or that answer nothing of use.

use std::time::Duration;

use batchwright::simulate::{SimConfig, Trouble};
use serde_json::Value;

use super::common::{Desk, NOBODY, Running, all_ids, simulator};

/// A run of `in.jsonl` by `custom` at this address, with `extract` behind it; its summary.
fn before_extract(desk: &Desk, url: &str, words: &str) -> Value {
    let words = format!(
        "run in.jsonl -o out.jsonl --provider custom --model m --fallback extract --json {words}"
    );
    let mut command = desk.command(words.split_whitespace());
    let ended = Running::start(command.env("CUSTOM_LLM_BASE_URL", url)).wait();
    let ended = ended.expect(0);
    let mut value: Value = serde_json::from_str(&ended.stdout).unwrap();
    ended.says("items go on to the next provider");
    value["summary"].take()
}

#[test]
fn a_limit_on_calls_at_once_loses_no_item_and_refuses_few_calls() {
    for calls in [8, 32] {
        let few = SimConfig::default()
            .max_parallel(2)
            .latency(Duration::from_millis(10));
        let (desk, sim) = (Desk::new(), simulator(few));
        desk.prompts("in.jsonl", 100);
        let ended = desk.run(&sim, &format!("in.jsonl -o out.jsonl -j {calls} --json"));
        let ended = ended.expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(100));
        let stats = sim.stats();
        assert_eq!((stats.answered, stats.paid_twice), (100, 0));
        assert!(
            (1..=25).contains(&stats.refused),
            "{} refused",
            stats.refused
        );
        let value: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(value["summary"]["rate_limited"], stats.refused);
        assert_eq!(value["summary"]["retries"], stats.refused);
    }
}

#[test]
fn a_provider_that_cannot_be_reached_is_not_waited_for_where_another_can_be_asked() {
    for words in ["-j 1", "-j 5"] {
        let desk = Desk::new();
        desk.prompts("in.jsonl", 20);
        let summary = before_extract(&desk, NOBODY, words);
        assert_eq!(desk.ids("out.jsonl"), all_ids(20));
        assert_eq!(summary["extracted"], 20);
        let tried = summary["calls"].as_u64().unwrap() - 20;
        assert!((5..=10).contains(&tried), "{tried} calls to nobody");
    }
}

#[test]
fn a_provider_that_hangs_is_not_waited_for_item_by_item() {
    let hangs = SimConfig::default()
        .trouble(Trouble::Stall, 1.0)
        .trouble_times(Trouble::Stall, None);
    let (desk, sim) = (Desk::new(), simulator(hangs));
    desk.prompts("in.jsonl", 40);
    before_extract(&desk, &sim.base_url(), "-j 2 --timeout 300ms");
    assert_eq!(desk.ids("out.jsonl"), all_ids(40));
    assert!(sim.stats().calls <= 5, "{} calls", sim.stats().calls);
}
