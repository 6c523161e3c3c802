//! A provider that fails every call is left for the fallback within seconds, and called again later.

use std::thread;
use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::Value;

use super::common::{Desk, RunToEnd, good, simulator};

/// Runs this number of prompts past this provider; returns the summary and standard error.
fn past(first: &Simulator, second: &Simulator, items: usize, words: &str) -> (Value, String) {
    let desk = Desk::with(items);
    let words = format!("run in.jsonl -o out.jsonl --provider custom --model m --json {words}");
    let mut command = desk.command(words.split_whitespace());
    command
        .env("CUSTOM_LLM_BASE_URL", first.base_url())
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", second.base_url());
    let ended = command.ended().expect(0);
    let mut value = ended.json();
    (value["summary"].take(), ended.stderr.clone())
}

/// It requests a wait of a minute from all clients.
fn closed() -> Simulator {
    let config = SimConfig::default()
        .trouble(Trouble::Error503, 1.0)
        .trouble_times(Trouble::Error503, None);
    simulator(config.retry_after(Duration::from_secs(60)))
}

fn always(trouble: Trouble) -> Simulator {
    let config = SimConfig::default()
        .trouble(trouble, 1.0)
        .trouble_times(trouble, None)
        .retry_after(Duration::from_secs(1))
        .stall(Duration::from_secs(60));
    simulator(config)
}

#[test]
fn twenty_items_reach_the_fallback_within_ten_seconds_for_every_kind_of_failure() {
    let nowhere = good();
    nowhere.stop_listening();
    let cases = [
        ("refuses connections", nowhere, "-j 5"),
        ("says 503", always(Trouble::Error503), "-j 5"),
        ("says 503 for a minute", closed(), "-j 5"),
        ("says 500", always(Trouble::Error500), "-j 5"),
        ("sends a web page", always(Trouble::Html502), "-j 5"),
        ("hangs up", always(Trouble::Drop), "-j 5"),
        ("hangs", always(Trouble::Stall), "-j 5 --timeout 2s"),
        (
            "hangs, one by one",
            always(Trouble::Stall),
            "-j 1 --timeout 2s",
        ),
    ];
    thread::scope(|scope| {
        for (name, sim, words) in &cases {
            scope.spawn(move || {
                let words = format!("{words} --fallback extract");
                let (summary, said) = past(sim, &good(), 20, &words);
                let seconds = summary["elapsed_ms"].as_f64().unwrap() / 1e3;
                let (stats, calls) = (sim.stats(), sim.stats().calls);
                println!("{name}: {seconds:.1} s, {calls} calls");
                assert_eq!(summary["answered_by"]["extract"], 20, "{name}: {summary}");
                assert!(seconds < 10.0, "{name}: {seconds} s");
                assert!(calls <= 12, "{name}: {calls} calls");
                assert!(
                    said.contains("switching to the next provider"),
                    "{name}: {said}"
                );
                // Possibly billed calls are reported, whether or not they were abandoned.
                let unsure = ["stall", "drop"].map(|name| stats.by_trouble.get(name).copied());
                let unsure: u64 = unsure.into_iter().flatten().sum();
                assert_eq!(summary["possibly_paid_twice"], unsure, "{name}: {summary}");
            });
        }
    });
}
