//! The strategy `flex`: which calls use the flex tier, and what happens while the provider has no capacity for it.

use batchwright_simulate::{SimConfig, Simulator, Trouble};

use super::common::{Desk, Ended, RunToEnd, good, simulator};

/// Runs three prompts for OpenAI, model `m`, with these words.
fn three(desk: &Desk, server: &Simulator, words: &str) -> Ended {
    desk.prompts("in.jsonl", 3);
    let words = format!("run in.jsonl -o out.jsonl --provider openai --model m {words}");
    let mut command = desk.command(words.split_whitespace());
    command
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", server.base_url());
    command.ended()
}

/// A provider that rejects every call at the flex tier.
fn without_capacity() -> Simulator {
    let config = SimConfig::default().trouble(Trouble::NoCapacity, 1.0);
    simulator(config.trouble_times(Trouble::NoCapacity, None))
}

#[test]
fn calls_use_the_flex_tier_and_wait_for_capacity() {
    let busy_once = SimConfig::default().trouble(Trouble::NoCapacity, 1.0);
    let (desk, server) = (Desk::new(), simulator(busy_once));
    three(&desk, &server, "--strategy flex --max-retries 0").ends(0, "strategy   flex");
    for line in desk.results("out.jsonl") {
        assert_eq!(line["service_tier"], "flex", "{line}");
        // The first call was rejected because of missing capacity. It was not an attempt, because there are no retries.
        assert_eq!(line["attempts"], 2, "{line}");
    }
    let stats = server.stats();
    assert_eq!((stats.answered, stats.paid_twice), (3, 0));
    assert_eq!(stats.by_trouble["no_capacity"], 3);
    // The strategy is not part of a request, so answers of another one count.
    three(&desk, &server, "--strategy sync").expect(0);
    assert_eq!(server.stats().calls, stats.calls);
}

#[test]
fn with_a_time_limit_calls_return_to_the_full_price_and_report_it() {
    let (desk, server) = (Desk::new(), without_capacity());
    three(&desk, &server, "--strategy flex --flex-patience 1ms")
        .expect(0)
        .says(
            "no capacity for the flex tier; calls are made at the standard tier, at its full price",
        );
    for line in desk.results("out.jsonl") {
        assert_eq!(line["service_tier"], serde_json::Value::Null, "{line}");
    }
    assert_eq!(server.stats().answered, 3);
}

#[test]
fn a_provider_without_a_flex_tier_is_rejected_before_anything_is_sent() {
    let (desk, server) = (Desk::new(), good());
    desk.prompts("in.jsonl", 1);
    let mut command = desk.command(
        "run in.jsonl -o out.jsonl --provider xai --model m --strategy flex".split_whitespace(),
    );
    command
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", server.base_url());
    command.ended().expect(2).says(
        "--strategy flex: every prompt would cost the full price, because xai has no flex tier",
    );
    three(&desk, &server, "--strategy flex --service-tier priority")
        .ends(2, "--service-tier and --strategy flex exclude each other");
    assert_eq!(server.stats().calls, 0);
}
