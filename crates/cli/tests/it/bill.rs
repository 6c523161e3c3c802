//! The provider's own bill against the ledger and the result lines, in seeded runs with all that can happen.

use std::process::Command;

use batchwright::Usd;
use batchwright_simulate::{BatchConfig, SimConfig, SimPrice, SimTier, Simulator, Trouble};
use serde_json::{Value, json};

use super::batch_runs::SHORT;
use super::common::{Desk, PATIENCE, Random, Running, all_ids, prompt_lines, simulator};

const CONCURRENCY: u64 = 4;
/// In picodollars per token: at the standard, flex and batch tier.
const PRICES: [(SimTier, &str, SimPrice); 3] = [
    (SimTier::Standard, "", price(1)),
    (SimTier::Flex, "flex", price(2)),
    (SimTier::Batch, "batch", price(4)),
];

/// The prices divided by `share`.
const fn price(share: u64) -> SimPrice {
    let mut price = SimPrice::new(1_250_000 / share, 7_300_004 / share);
    price.cached_input = 130_004 / share;
    price.cache_write = 1_560_000 / share;
    price.cache_write_1h = 2_500_000 / share;
    price
}

/// The same prices as a file for `--prices`.
fn price_file() -> String {
    let dollars = |picos: u64| picos as f64 / 1e6;
    let entries = PRICES.map(|(_, tier, price)| {
        json!({
            "tier": tier, "input": dollars(price.input), "output": dollars(price.output),
            "cached_input": dollars(price.cached_input), "cache_write": dollars(price.cache_write),
            "cache_write_1h": dollars(price.cache_write_1h),
        })
    });
    json!({"providers": {"*": {"models": [{"models": ["m"], "prices": entries}]}}}).to_string()
}

/// One seeded case.
#[derive(Debug)]
struct World {
    provider: &'static str,
    strategy: &'static str,
    has_fallback: bool,
    items: usize,
    kills: u64,
    /// The share of prompts with a problem, for each of those that can occur.
    trouble: f64,
    sim: SimConfig,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let mut pick = |n: u64| random.below(n);
        let strategy = ["sync", "flex", "batch"][pick(3) as usize];
        let providers: &[&str] = match strategy {
            "flex" => &["openai", "gemini"],
            _ => &["openai", "gemini", "anthropic"],
        };
        let trouble = pick(8) as f64 / 100.0;
        let kinds = [
            Trouble::Error500,
            Trouble::RateLimit,
            Trouble::Error503,
            Trouble::Empty,
            Trouble::Refusal,
            Trouble::ContentFilter,
            Trouble::Length,
            Trouble::Drop,
            Trouble::BrokenJson,
            Trouble::Truncated,
            Trouble::NoCapacity,
        ];
        let short = std::time::Duration::from_millis(1);
        let sim = SimConfig::default()
            .seed(seed)
            .jitter(std::time::Duration::from_millis(pick(6)))
            .retry_after(short)
            .cached_tokens(pick(3) * 2)
            .reasoning_tokens(pick(2) * 5)
            .batches(BatchConfig::default().duration(SHORT));
        let sim = kinds
            .into_iter()
            .fold(sim, |sim, kind| sim.trouble(kind, trouble));
        World {
            provider: providers[pick(providers.len() as u64) as usize],
            strategy,
            has_fallback: strategy != "batch" && pick(2) == 0,
            items: 20 + pick(60) as usize,
            kills: pick(3),
            trouble,
            sim,
        }
    }

    fn command(&self, desk: &Desk, sims: &[Simulator; 2]) -> Command {
        let mut words = format!(
            "run in.jsonl -o out.jsonl -q -j {CONCURRENCY} --max-retries 9 --provider {} --model m \
             --strategy {} --prices prices.json",
            self.provider, self.strategy
        );
        if self.has_fallback {
            words += " --fallback mistral:m --fallback-blocked";
        }
        let mut command = desk.command(words.split_whitespace());
        let [first, second] = sims;
        let at = |path: &str| format!("http://{}{path}", first.addr());
        for name in ["OPENAI", "ANTHROPIC", "GEMINI", "MISTRAL"] {
            command.env(format!("{name}_API_KEY"), "k");
        }
        command
            .env("OPENAI_BASE_URL", first.base_url())
            .env("ANTHROPIC_BASE_URL", at(""))
            .env("GOOGLE_GEMINI_BASE_URL", at("/v1beta"))
            .env("MISTRAL_BASE_URL", second.base_url())
            .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms");
        command
    }
}

fn cost(value: &Value) -> Usd {
    serde_json::from_value(value.clone()).unwrap()
}

fn check(seed: u64) {
    let world = World::new(seed);
    let desk = Desk::new();
    let sims = [(); 2].map(|()| {
        let start = world.sim.clone();
        let priced = PRICES
            .into_iter()
            .fold(start, |sim, (tier, _, price)| sim.price("m", tier, price));
        simulator(priced)
    });
    desk.write("in.jsonl", prompt_lines(world.items));
    desk.write("prices.json", price_file());
    let mut random = Random(!seed);
    let mut kills = 0;
    for _ in 0..world.kills {
        let until = sims[0].stats().paid + random.below(world.items as u64);
        let mut running = Running::start(&mut world.command(&desk, &sims));
        let exit = &mut running.child;
        sims[0].wait_until(
            |stats| stats.paid > until || exit.try_wait().unwrap().is_some(),
            PATIENCE,
        );
        running.child.kill().unwrap();
        kills += u64::from(running.wait().status.code().is_none());
    }
    let ended = Running::start(&mut world.command(&desk, &sims)).wait();
    let code = ended.status.code();
    assert!(matches!(code, Some(0 | 3)), "seed {seed}: {}", ended.stderr);
    let shown = desk.plain("ledger --json").expect(0).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let booked = cost(&shown["total"]["cost_usd"]);
    let stats = sims.each_ref().map(Simulator::stats);
    let billed: u64 = stats.iter().map(|stats| stats.billed_picos).sum();
    let billed = Usd::from_picos(billed);
    let lines = desk.results("out.jsonl");
    let of_lines: Usd = lines.iter().map(|line| cost(&line["cost_usd"])).sum();
    let case = format!("seed {seed}, {world:?}: {shown}");
    if world.trouble == 0.0 {
        assert_eq!(desk.ids("out.jsonl"), all_ids(world.items), "{case}");
    }
    if kills == 0 || world.strategy == "batch" {
        assert_eq!(booked, billed, "{case}");
        assert!(of_lines <= booked, "{case}");
        if kills == 0 {
            assert_eq!(of_lines, booked, "{case}");
        }
    } else {
        // The calls in flight at a kill are lost to the program.
        let most = Usd::from_picos(kills * CONCURRENCY * 400 * 7_300_004);
        assert!(
            booked <= billed && billed.saturating_sub(booked) <= most,
            "{case}"
        );
        assert!(of_lines <= booked, "{case}");
    }
    assert!(booked > Usd::ZERO, "{case}");
}

/// Many runs at a time, because they spend most of their time in waits before retries.
fn check_all(seeds: u64, threads: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..seeds).step_by(threads as usize).for_each(check));
        }
    });
}

#[test]
fn the_bill_equals_the_ledger_and_the_lines() {
    check_all(4, 4);
}

/// `SIMULATION_SEEDS` sets the number of runs.
#[test]
#[ignore = "half a minute"]
fn the_bill_equals_the_ledger_and_the_lines_in_many_runs() {
    let seeds = std::env::var("SIMULATION_SEEDS").map_or(60, |seeds| seeds.parse().unwrap());
    check_all(seeds, 16);
}
