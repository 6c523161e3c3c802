//! The providers' own bills against the result lines, what a queue says was spent, and budgets, in seeded runs with all that
//! can happen: retries, fallback, batches, two OS processes and kills.

use std::process::Command;
use std::time::Duration;

use batchwright::Usd;
use batchwright_simulate::{BatchConfig, SimConfig, SimPrice, SimStats, Simulator, Trouble};
use serde_json::json;

use super::batch_runs::SHORT;
use super::common::{Desk, Random, RunToEnd, Running, all_ids, each, eventually, simulator, usd};

/// The calls of a program at one time.
const CONCURRENCY: u64 = 4;
/// In picodollars per token, all even, because batches and the flex tier cost half.
const PRICE: SimPrice = SimPrice {
    input: 1_250_000,
    cached_input: 130_004,
    output: 7_300_004,
};

/// The most picodollars that calls with these tokens cost.
const fn cost(input: u64, output: u64) -> u64 {
    input * PRICE.input + output * PRICE.output
}

/// One seeded case.
#[derive(Debug)]
struct World {
    /// Calls under a budget, instead of any strategy.
    has_budget: bool,
    /// The prompts are sent by workers of the queue, and not by `run`.
    is_queue: bool,
    provider: &'static str,
    strategy: &'static str,
    has_fallback: bool,
    items: u64,
    kills: u64,
    /// The share of prompts with a problem, for each of those that can occur.
    trouble: f64,
    sim: SimConfig,
}

/// A provider whose calls take some random milliseconds, and meet each kind of trouble with the same random share, which is
/// also returned.
fn troubled(seed: u64, random: &mut Random, kinds: &[Trouble]) -> (SimConfig, f64) {
    let share = random.below(8) as f64 / 100.0;
    let start = SimConfig::default()
        .seed(seed)
        .jitter(Duration::from_millis(random.below(6)))
        .retry_after(Duration::from_millis(1));
    let add = |sim: SimConfig, kind: &Trouble| sim.trouble(*kind, share);
    (kinds.iter().fold(start, add).price("m", PRICE), share)
}

/// What happens to batches and to their results.
fn batches(random: &mut Random) -> BatchConfig {
    let config = BatchConfig::default()
        .duration(SHORT)
        .in_order(random.below(2) == 0)
        .duplicates(random.below(3))
        .cut_downloads(random.below(2));
    match random.below(4) {
        0 => config.item_failures(0.1),
        1 => config.expire_first(1, 0.5),
        2 => config.strangers(2),
        _ => config,
    }
}

impl World {
    /// With any strategy, provider and trouble.
    fn any(seed: u64) -> World {
        let mut random = Random(seed);
        let kinds = [
            Trouble::Error500,
            Trouble::RateLimit,
            Trouble::Error503,
            Trouble::Overloaded,
            Trouble::Html502,
            Trouble::Empty,
            Trouble::Refusal,
            Trouble::ContentFilter,
            Trouble::Length,
            Trouble::Drop,
            Trouble::BrokenJson,
            Trouble::Truncated,
        ];
        let (sim, trouble) = troubled(seed, &mut random, &kinds);
        let batches = batches(&mut random);
        let mut pick = |n: u64| random.below(n);
        let strategy = ["sync", "flex", "batch"][pick(3) as usize];
        let providers = ["openai", "gemini", "anthropic"];
        let provider = pick(if strategy == "flex" { 2 } else { 3 });
        let sim = sim.cached_tokens(pick(3) * 2).reasoning_tokens(pick(2) * 5);
        World {
            has_budget: false,
            is_queue: pick(2) == 1,
            provider: providers[provider as usize],
            strategy,
            has_fallback: pick(2) == 0,
            items: 20 + pick(60),
            kills: pick(3),
            trouble,
            sim: sim.batches(batches),
        }
    }

    /// Of calls under a budget.
    fn of_calls(seed: u64) -> World {
        let mut random = Random(seed);
        let kinds = [
            Trouble::RateLimit,
            Trouble::Error503,
            Trouble::ContentFilter,
            Trouble::Drop,
            Trouble::Truncated,
        ];
        let (sim, trouble) = troubled(seed, &mut random, &kinds);
        World {
            has_budget: true,
            // Six seeds have both with each number of kills.
            is_queue: seed.is_multiple_of(2),
            kills: seed / 2 % 3,
            provider: "openai",
            strategy: "sync",
            has_fallback: random.below(2) == 0,
            items: 60 + random.below(60),
            trouble,
            sim,
        }
    }

    /// The command that sends the prompts. `flags` are those of the prompts.
    fn sending(&self, flags: &str) -> String {
        let mut words = format!(
            "-q -j {CONCURRENCY} --max-retries 9 --provider {} --model m",
            self.provider
        );
        if self.strategy == "batch" {
            words += " --strategy batch";
        }
        if self.has_fallback {
            words += " --fallback mistral:m";
        }
        if self.is_queue {
            format!("work --until-empty {words} --rpm 600000 --tpm 99999999")
        } else {
            format!("run in.jsonl -o out.jsonl {words} {flags}")
        }
    }
}

/// The prices of the model `m` as a file: half of them for batches and at the flex tier.
fn price_file() -> String {
    let entry = |(tier, share): (&str, u64)| {
        let dollars = |picos: u64| (picos / share) as f64 / 1e6;
        json!({
            "tier": tier, "input": dollars(PRICE.input), "output": dollars(PRICE.output),
            "cached_input": dollars(PRICE.cached_input),
        })
    };
    let entries: Vec<_> = [("", 1), ("flex", 2), ("batch", 2)].map(entry).into();
    json!({"providers": {"*": {"models": [{"models": ["m"], "prices": entries}]}}}).to_string()
}

/// A case that runs: the first provider has the API of several vendors, and calls fail over to the second one.
struct Site {
    world: World,
    desk: Desk,
    sims: [Simulator; 2],
}

impl Site {
    fn new(world: World) -> Self {
        let sims = [(); 2].map(|()| simulator(world.sim.clone()));
        let desk = Desk::new();
        // Without a budget, some prompts are equal.
        let equal = if world.has_budget { 0 } else { world.items / 8 };
        let line = |i: u64| {
            let prompt = i % (world.items - equal);
            format!("{{\"id\":\"i-{i}\",\"prompt\":\"prompt {prompt}\"}}\n")
        };
        desk.write("in.jsonl", (0..world.items).map(line).collect::<String>());
        desk.write("prices.json", price_file());
        desk.plain("config set llm.prices prices.json").expect(0);
        Self { world, desk, sims }
    }

    /// The program with keys and addresses of the providers.
    fn command(&self, words: &str) -> Command {
        let [first, second] = &self.sims;
        let mut command = self.desk.command(words.split_whitespace());
        let at = |path: &str| format!("http://{}{path}", first.addr());
        for name in ["OPENAI", "ANTHROPIC", "GEMINI", "MISTRAL"] {
            command.env(format!("{name}_API_KEY"), "k");
        }
        command
            .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms")
            .env("OPENAI_BASE_URL", first.base_url())
            .env("ANTHROPIC_BASE_URL", at(""))
            .env("GOOGLE_GEMINI_BASE_URL", at("/v1beta"))
            .env("MISTRAL_BASE_URL", second.base_url());
        command
    }

    /// Runs this command to the end after the kills, with a budget also twice. Returns how many were killed.
    fn send(&self, seed: u64, words: &str, between: u64) -> u64 {
        let World { has_budget, .. } = self.world;
        // Two workers of one process share its budget.
        let at_once = 1 + usize::from(has_budget && self.world.is_queue);
        let mut random = Random(!seed);
        let start = || -> Vec<Running> {
            let commands = (0..at_once).map(|_| self.command(words));
            commands.map(|mut one| Running::start(&mut one)).collect()
        };
        let mut killed = 0;
        for _ in 0..self.world.kills {
            let calls = || self.sims[0].stats().calls;
            let until = calls() + random.below(between);
            for mut running in start() {
                // The statistics do not change any more when the program has ended.
                let child = &mut running.child;
                eventually(|| calls() > until || child.try_wait().unwrap().is_some());
                child.kill().unwrap();
                killed += u64::from(running.wait().status.code().is_none());
            }
        }
        // Twice, because a program may end while another one still holds what it needs.
        for _ in 0..1 + usize::from(has_budget) {
            for mut last in start() {
                // Some waits before retries are long on a busy machine.
                let mut has_ended = || eventually(|| last.child.try_wait().unwrap().is_some());
                let _ = (0..4).any(|_| has_ended());
                let ended = last.wait();
                let code = ended.status.code();
                let is_end = matches!(code, Some(0 | 3)) || has_budget && code == Some(4);
                assert!(is_end, "seed {seed}: {}", ended.stderr);
            }
        }
        killed
    }

    fn stats(&self) -> [SimStats; 2] {
        self.sims.each_ref().map(Simulator::stats)
    }
}

fn check_bill(seed: u64) {
    let site = Site::new(World::any(seed));
    let (world, desk) = (&site.world, &site.desk);
    let tier = match world.strategy {
        "flex" => "--service-tier flex",
        _ => "",
    };
    let submit = format!("submit in.jsonl --model m {tier}");
    let process = (world.is_queue).then(|| site.command(&submit).ended().expect(0).process());
    let kills = site.send(seed, &world.sending(tier), world.items);
    if let Some(process) = process {
        desk.plain(&format!("results {process} -o out.jsonl"));
    }
    let billed: u64 = site.stats().iter().map(|stats| stats.billed_picos).sum();
    let billed = Usd::from_picos(billed);
    let lines = desk.results("out.jsonl");
    // Nothing was billed for items without usage.
    let used = lines.iter().filter(|line| !line["usage"].is_null());
    let of_lines: Usd = used.map(|line| usd(&line["cost_usd"])).sum();
    // What a queue spent stays when the results are fetched.
    let spent = if world.is_queue {
        let shown = desk.plain("status --json").expect(0).json();
        let days = shown["spent"].as_array().unwrap().iter();
        days.map(|row| usd(&row["cost_usd"])).sum()
    } else {
        of_lines
    };
    let case = format!("seed {seed}, {kills} kills, {world:?}: {of_lines} of lines, {spent}");
    let is_batch = world.strategy == "batch";
    if world.is_queue && (kills == 0 || is_batch) {
        assert_eq!(spent, billed, "{case}");
    } else if world.is_queue {
        // The calls in flight at a kill are lost to the program, each of a prompt and an answer with what providers may add.
        let most = Usd::from_picos(kills * CONCURRENCY * cost(200, 400));
        let lost = billed.saturating_sub(spent);
        assert!(spent <= billed && lost <= most, "{case}");
    }
    assert!(spent > Usd::ZERO && of_lines <= billed, "{case}");
    // A further run sends failed items again, and their lines replace the earlier ones.
    if world.kills == 0 {
        assert_eq!(of_lines, billed, "{case}");
    }
    if world.trouble == 0.0 && !is_batch {
        assert_eq!(
            desk.ids("out.jsonl"),
            all_ids(world.items as usize),
            "{case}"
        );
    }
}

/// The items that are done, in the output and in the queue.
fn done(desk: &Desk) -> u64 {
    let lines = desk.exists("out.jsonl").then(|| desk.results("out.jsonl"));
    let lines = lines.into_iter().flatten();
    let of_runs = lines.filter(|line| line["success"] == true).count() as u64;
    let processes = super::batch_runs::home_queue(desk).open_processes();
    let of_processes = processes.unwrap();
    let of_processes = of_processes.iter().map(|process| process.counts.completed);
    of_runs + of_processes.sum::<u64>()
}

fn check_budget(seed: u64) {
    let site = Site::new(World::of_calls(seed));
    let world = &site.world;
    // An answer has 16 tokens and the prompt has about 3. At most, the prompt has what a provider may add.
    let (one, most) = (cost(3, 16), cost(240, 20));
    let affordable = world.items * (30 + Random(!seed).below(60)) / 100;
    let budget = affordable * one;
    let dollars = format!("{:.12}", budget as f64 / 1e12);
    let flags = format!("--max-tokens 20 --budget {dollars}");
    if world.is_queue {
        let submit = format!("submit in.jsonl --model m {flags}");
        site.command(&submit).ended().expect(0);
    }
    let killed = site.send(seed, &world.sending(&flags), affordable / 2);
    let stats = site.stats();
    let of = |stats: &SimStats| stats.billed_picos + stats.billed_unseen_picos;
    let (billed, done) = (stats.iter().map(of).sum::<u64>(), done(&site.desk));
    let case = format!("seed {seed}, {world:?}: {done} done, {billed} billed of {budget}");
    // A worker does not count the calls in flight of the other one, nor what the jobs of one that was killed have cost beyond
    // the mean of the jobs before. What counts for killed programs: the record of a run is ahead by a part of the budget, and
    // each job that a worker had counts as the mean.
    let (beside, ahead) = if world.is_queue {
        ((1 + killed) * CONCURRENCY * most, 4 * CONCURRENCY * one)
    } else {
        (0, budget / 64)
    };
    assert!(billed <= budget + beside, "{case}");
    // Billed answers that are no items, calls of unknown outcome at their most, and what counts for killed programs.
    let lost = |stats: &SimStats| {
        let of = |kind| stats.by_trouble.get(kind).copied().unwrap_or_default();
        of("drop") + of("truncated")
    };
    let unknown = stats.iter().map(lost).sum::<u64>() + killed * CONCURRENCY;
    let lost = billed.saturating_sub(done * one) + unknown * most + killed * ahead + most;
    let possible = budget.saturating_sub(lost) / one;
    let least = possible.min(world.items) * 9 / 10;
    assert!(done >= least, "{possible} possible: {case}");
}

/// Checks these seeds, or only `SIMULATION_SEED`, or those of `SIMULATION_SEEDS` for a long test: their number, or
/// `FIRST..END`. Many at a time, because programs spend most of their time in waits.
fn check_all(most: u64, is_long: bool, check: fn(u64)) {
    let var = |name: &str| std::env::var(name).ok();
    let seeds = match (var("SIMULATION_SEED"), var("SIMULATION_SEEDS")) {
        (Some(seed), _) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        (None, Some(seeds)) if is_long => {
            let (first, end) = seeds.split_once("..").unwrap_or(("0", &seeds));
            first.parse().unwrap()..end.parse().unwrap()
        }
        _ => 0..most,
    };
    let seeds: Vec<u64> = seeds.collect();
    for some in seeds.chunks(if is_long { 16 } else { 9 }) {
        each(some, |seed| check(*seed));
    }
}

#[test]
fn the_bill_equals_the_lines_and_what_a_queue_says() {
    check_all(9, false, check_bill);
}

#[test]
#[ignore = "half a minute"]
fn the_bill_equals_the_lines_and_what_a_queue_says_in_many_runs() {
    check_all(60, true, check_bill);
}

#[test]
fn no_bill_exceeds_a_budget() {
    check_all(6, false, check_budget);
}

#[test]
#[ignore = "half a minute"]
fn no_bill_exceeds_a_budget_in_many_schedules() {
    check_all(40, true, check_budget);
}
