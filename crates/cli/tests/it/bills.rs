//! Set-up of the seeded tests that compare the program with the providers' own bills.

use std::ops::Range;
use std::process::Command;
use std::time::Duration;

use batchwright_simulate::{SimConfig, SimPrice, SimStats, Simulator, Trouble};
use serde_json::json;

use super::common::{Desk, Random, Running, eventually};

/// The calls of a program at one time.
pub const CONCURRENCY: u64 = 4;

/// The first provider, which has the API of several vendors, and the one to which calls fail over.
pub type Sims = [Simulator; 2];

/// The prices of the model `m` as a file: half of them for batches and at the flex tier.
pub fn price_file(price: SimPrice) -> String {
    let entry = |(tier, share): (&str, u64)| {
        let dollars = |picos: u64| (picos / share) as f64 / 1e6;
        json!({
            "tier": tier, "input": dollars(price.input), "output": dollars(price.output),
            "cached_input": dollars(price.cached_input),
        })
    };
    let entries: Vec<_> = [("", 1), ("flex", 2), ("batch", 2)].map(entry).into();
    json!({"providers": {"*": {"models": [{"models": ["m"], "prices": entries}]}}}).to_string()
}

/// A provider whose calls take some random milliseconds, and meet each kind of trouble with the same random share, which is
/// also returned.
pub fn troubled(seed: u64, random: &mut Random, kinds: &[Trouble]) -> (SimConfig, f64) {
    let share = random.below(8) as f64 / 100.0;
    let start = SimConfig::default()
        .seed(seed)
        .jitter(Duration::from_millis(random.below(6)))
        .retry_after(Duration::from_millis(1));
    let add = |sim: SimConfig, kind: &Trouble| sim.trouble(*kind, share);
    (kinds.iter().fold(start, add), share)
}

/// The program with these words, and with keys and addresses of the providers.
pub fn command(desk: &Desk, [first, second]: &Sims, words: &str) -> Command {
    let mut command = desk.command(words.split_whitespace());
    let at = |path: &str| format!("http://{}{path}", first.addr());
    for name in ["OPENAI", "ANTHROPIC", "GEMINI", "MISTRAL"] {
        command.env(format!("{name}_API_KEY"), "k");
    }
    command
        .env("OPENAI_BASE_URL", first.base_url())
        .env("ANTHROPIC_BASE_URL", at(""))
        .env("GOOGLE_GEMINI_BASE_URL", at("/v1beta"))
        .env("MISTRAL_BASE_URL", second.base_url());
    command
}

/// Kills the program as soon as the provider's statistics say so. Returns false if it ended before.
pub fn kill_when(mut running: Running, sim: &Simulator, ready: impl Fn(&SimStats) -> bool) -> bool {
    // The statistics do not change any more when the program has ended.
    eventually(|| ready(&sim.stats()) || running.child.try_wait().unwrap().is_some());
    running.child.kill().unwrap();
    running.wait().status.code().is_none()
}

/// The seeds of a long test: `SIMULATION_SEEDS` is their number, or `FIRST..END`.
pub fn many(default: u64) -> Range<u64> {
    let Ok(seeds) = std::env::var("SIMULATION_SEEDS") else {
        return 0..default;
    };
    let (first, end) = seeds.split_once("..").unwrap_or(("0", &seeds));
    first.parse().unwrap()..end.parse().unwrap()
}

/// Checks these seeds, or only `SIMULATION_SEED`. Many at a time, because programs spend most of their time in waits.
pub fn check_all(seeds: Range<u64>, threads: u64, check: fn(u64)) {
    /// Names its seed if the check fails.
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("SIMULATION_SEED={} failed", self.0);
            }
        }
    }
    let named = move |seed| {
        let seed = Seed(seed);
        check(seed.0);
    };
    let only = std::env::var("SIMULATION_SEED").ok();
    let only = only.map(|seed| seed.parse().unwrap());
    let Range { start, end } = only.map_or(seeds, |seed: u64| seed..seed + 1);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                (start + thread..end)
                    .step_by(threads as usize)
                    .for_each(named)
            });
        }
    });
}
