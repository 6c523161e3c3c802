//! How many concurrent calls a run uses, and how several runs share a quota.

use std::time::Duration;

use batchwright_simulate::{SimConfig, SimStats, Simulator};

use super::common::{Desk, Running, all_ids, prompt_line, simulator};

/// A run of these lines with the provider `openai`; the lines of different runs must differ.
fn start(
    desk: &Desk,
    sim: &Simulator,
    name: &str,
    items: std::ops::Range<usize>,
    words: &str,
) -> Running {
    desk.write(
        &format!("{name}.jsonl"),
        items.map(prompt_line).collect::<String>(),
    );
    let words = format!("run {name}.jsonl -o {name}.out --model m --json {words}");
    let mut command = desk.command(words.split_whitespace());
    command
        .args(["--provider", "openai", "--base-url", &sim.base_url()])
        .env("OPENAI_API_KEY", "sk-pace-0123456789")
        .env("BATCHWRIGHT_HOME", desk.path("home"));
    Running::start(&mut command)
}

fn slow() -> SimConfig {
    SimConfig::default().latency(Duration::from_millis(30))
}

#[test]
fn a_run_finds_the_useful_concurrency_and_never_exceeds_a_given_one() {
    // Slow enough that a busy machine does not look like a busy server.
    let (desk, sim) = (
        Desk::new(),
        simulator(slow().latency(Duration::from_millis(150))),
    );
    let ended = start(&desk, &sim, "a", 0..400, "").wait().expect(0);
    let summary = ended.json();
    ended
        .says("5 in flight, up to 256 while that helps")
        .says("limited by concurrency (found: 5 to ");
    assert_eq!(desk.ids("a.out"), all_ids(400));
    let most = sim.stats().max_in_flight;
    assert!((11..=256).contains(&most), "{most} at once");
    assert!(summary["summary"]["most_in_flight"].as_u64().unwrap() >= most);

    // So few items that no more calls are started than at first.
    let ended = start(&desk, &sim, "b", 0..10, "").wait().expect(0);
    ended.hides("found: 5 to 5");

    for words in ["-j 5", "-j 1"] {
        let (desk, sim) = (Desk::new(), simulator(slow()));
        start(&desk, &sim, "a", 0..60, words).wait().expect(0);
        assert!(sim.stats().max_in_flight <= 5);
    }
    let (desk, sim) = (Desk::new(), simulator(slow()));
    let ended = start(&desk, &sim, "a", 0..10, "-j auto --rpm 60000").wait();
    ended.ends(0, "5 in flight, up to 256");
    desk.plain("run a.jsonl -o b.out -j many")
        .ends(2, "write a whole number from 1 to 10000, or auto");
}

#[test]
fn the_next_run_starts_with_the_concurrency_that_was_found() {
    let slow = slow().latency(Duration::from_millis(150));
    let (desk, sim) = (Desk::new(), simulator(slow));
    let begins_with = |name: &str, items, calls: u64| {
        sim.hold();
        let run = start(&desk, &sim, name, items, "");
        let begun = sim.wait_until(|stats| stats.in_flight >= calls, Duration::from_secs(30));
        let begun = begun && sim.stats().in_flight == calls;
        sim.release();
        run.wait().expect(0);
        begun
    };
    assert!(begins_with("a", 0..600, 5));
    let found = sim.stats().max_in_flight;
    assert!(found > 20, "{found} at once");
    // Until the first reply reports limits, at most a burst of calls starts.
    assert!(begins_with("b", 600..630, 10));
}

/// The used part of the calls that the limit allowed in these seconds.
fn used(stats: &SimStats, seconds: std::ops::Range<usize>, rate: f64) -> f64 {
    let counted = &stats.accepted_per_second[seconds.clone()];
    counted.iter().sum::<u64>() as f64 / (rate * seconds.len() as f64)
}

#[test]
#[ignore = "takes half a minute"]
fn eight_runs_use_their_whole_quota_also_after_a_kill() {
    const RATE: f64 = 80.0;
    let limited = || simulator(slow().rpm(60 * RATE as u64));
    let alone = limited();
    let desk = Desk::new();
    start(&desk, &alone, "alone", 0..400, "").wait().expect(0);

    let (desk, sim) = (Desk::new(), limited());
    let runs = (0..8).map(|run| {
        let items = run * 200..(run + 1) * 200;
        start(&desk, &sim, &format!("run-{run}"), items, "")
    });
    let mut runs: Vec<Running> = runs.collect();
    let begun = sim.wait_until(|stats| stats.answered >= 300, Duration::from_secs(60));
    assert!(begun, "nothing gets on");
    drop(runs.remove(3));
    for run in runs {
        run.wait().expect(0);
    }
    let stats = sim.stats();
    assert!(stats.refused <= alone.stats().refused, "{stats:?}");
    let first = stats.first_call_ms as usize / 1000;
    let last = stats.last_call_ms as usize / 1000;
    let used = used(&stats, first + 2..last - 1, RATE);
    println!(
        "eight runs: {:.1} % used, {} refused",
        used * 100.0,
        stats.refused
    );
    assert!(used >= 0.95, "{used:.3}: {stats:?}");
}
