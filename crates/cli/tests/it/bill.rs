//! The provider's own bill against the result lines and what a queue says was spent, in seeded runs with all that can happen.

use std::process::Command;

use batchwright::{ProcessId, Usd};
use batchwright_simulate::{BatchConfig, SimConfig, SimPrice, SimStats, Simulator, Trouble};

use super::batch_runs::SHORT;
use super::bills::{self, CONCURRENCY, Sims, check_all, kill_when, many, price_file, troubled};
use super::common::{Desk, Ended, Random, RunToEnd, Running, all_ids, eventually, simulator, usd};

/// In picodollars per token, all even, because batches and the flex tier cost half.
const PRICE: SimPrice = SimPrice {
    input: 1_250_000,
    cached_input: 130_004,
    output: 7_300_004,
};
/// The most tokens of a call: of a prompt, and of an answer with what providers may add.
const MOST_TOKENS: (u64, u64) = (200, 400);

/// How the prompts are sent, and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// By `run`.
    Run,
    /// By a worker of the queue; the results are fetched at the end.
    Queue,
}

/// One seeded case.
#[derive(Debug)]
struct World {
    way: Way,
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
        let providers: &[&str] = match strategy {
            "flex" => &["openai", "gemini"],
            _ => &["openai", "gemini", "anthropic"],
        };
        let provider = providers[pick(providers.len() as u64) as usize];
        let sim = sim.cached_tokens(pick(3) * 2).reasoning_tokens(pick(2) * 5);
        let way = match pick(2) {
            0 => Way::Run,
            _ => Way::Queue,
        };
        let sim = sim.batches(batches);
        World {
            way,
            provider,
            strategy,
            has_fallback: pick(2) == 0,
            items: 20 + pick(60) as usize,
            kills: pick(3),
            trouble,
            sim,
        }
    }

    /// The flag of the prompts.
    fn tier(&self) -> &'static str {
        if self.strategy == "flex" {
            "--service-tier flex"
        } else {
            ""
        }
    }

    fn is_batch(&self) -> bool {
        self.strategy == "batch"
    }

    /// Some prompts are equal.
    fn input(&self) -> String {
        let line = |i: usize| {
            let prompt = i % (self.items - self.items / 8);
            format!("{{\"id\":\"i-{i}\",\"prompt\":\"prompt {prompt}\"}}\n")
        };
        (0..self.items).map(line).collect()
    }

    /// The flags of the command that sends the prompts.
    fn flags(&self) -> String {
        let mut words = format!(
            "-q -j {CONCURRENCY} --max-retries 9 --provider {} --model m",
            self.provider
        );
        if self.is_batch() {
            words += " --strategy batch";
        }
        if self.has_fallback {
            words += " --fallback mistral:m";
        }
        words
    }
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

/// A case that runs.
struct Site {
    world: World,
    desk: Desk,
    sims: Sims,
}

impl Site {
    fn new(seed: u64) -> Site {
        let world = World::new(seed);
        let sims = [(); 2].map(|()| simulator(world.sim.clone().price("m", PRICE)));
        let desk = Desk::new();
        desk.write("in.jsonl", world.input());
        desk.write("prices.json", price_file(PRICE));
        desk.plain("config set llm.prices prices.json").expect(0);
        Site { world, desk, sims }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = bills::command(&self.desk, &self.sims, words);
        command.env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "50ms");
        command
    }

    fn execute(&self, words: &str) -> Ended {
        self.command(words).ended()
    }

    fn sending(&self) -> String {
        let (flags, tier) = (self.world.flags(), self.world.tier());
        match self.world.way {
            Way::Run => format!("run in.jsonl -o out.jsonl {flags} {tier} --prices prices.json"),
            Way::Queue => {
                format!("work --until-empty {flags} --rpm 600000 --tpm 99999999")
            }
        }
    }

    /// Sends all prompts. Returns the number of kills.
    fn send(&self, seed: u64) -> u64 {
        let world = &self.world;
        let process = (world.way == Way::Queue).then(|| {
            let words = format!("submit in.jsonl --model m {}", world.tier());
            let ended = self.execute(&words).expect(0);
            ended.stdout.trim().parse::<ProcessId>().unwrap()
        });
        let mut random = Random(!seed);
        let sending = self.sending();
        let start = || Running::start(&mut self.command(&sending));
        let paid = |after: u64| move |stats: &SimStats| stats.paid > after;
        let mut kills = 0;
        for _ in 0..world.kills {
            let until = self.sims[0].stats().paid + random.below(world.items as u64);
            kills += u64::from(kill_when(start(), &self.sims[0], paid(until)));
        }
        let mut last = start();
        // Some waits before retries are long on a busy machine.
        let mut has_ended = || eventually(|| last.child.try_wait().unwrap().is_some());
        let _ = (0..4).any(|_| has_ended());
        let ended = last.wait();
        let code = ended.status.code();
        assert!(matches!(code, Some(0 | 3)), "seed {seed}: {}", ended.stderr);
        if let Some(process) = process {
            self.execute(&format!("results {process} -o out.jsonl"));
        }
        kills
    }
}

fn check(seed: u64) {
    let site = Site::new(seed);
    let kills = site.send(seed);
    let (world, desk) = (&site.world, &site.desk);
    let stats = site.sims.each_ref().map(Simulator::stats);
    let billed: u64 = stats.iter().map(|stats| stats.billed_picos).sum();
    let billed = Usd::from_picos(billed);
    let lines = desk.results("out.jsonl");
    // Nothing was billed for items without usage.
    let used = lines.iter().filter(|line| !line["usage"].is_null());
    let of_lines: Usd = used.map(|line| usd(&line["cost_usd"])).sum();
    // What a queue spent stays when the results are fetched.
    let spent = match world.way {
        Way::Queue => {
            let shown = desk.plain("status --json").expect(0).json();
            let days = shown["spent"].as_array().unwrap().iter();
            days.map(|row| usd(&row["cost_usd"])).sum()
        }
        Way::Run => of_lines,
    };
    let case = format!("seed {seed}, {kills} kills, {world:?}: {of_lines} of lines, {spent}");
    if world.way == Way::Queue && (kills == 0 || world.is_batch()) {
        assert_eq!(spent, billed, "{case}");
    } else if world.way == Way::Queue {
        // The calls in flight at a kill are lost to the program.
        let (input, output) = MOST_TOKENS;
        let most = input * PRICE.input + output * PRICE.output;
        let most = Usd::from_picos(kills * CONCURRENCY * most);
        assert!(
            spent <= billed && billed.saturating_sub(spent) <= most,
            "{case}"
        );
    }
    assert!(spent > Usd::ZERO && of_lines <= billed, "{case}");
    // A further run sends failed items again, and their lines replace the earlier ones.
    if world.kills == 0 {
        assert_eq!(of_lines, billed, "{case}");
    }
    if world.trouble == 0.0 && !world.is_batch() {
        assert_eq!(desk.ids("out.jsonl"), all_ids(world.items), "{case}");
    }
}

#[test]
fn the_bill_equals_the_lines_and_what_a_queue_says() {
    check_all(0..9, 6, check);
}

/// `SIMULATION_SEEDS` sets the number of runs.
#[test]
#[ignore = "half a minute"]
fn the_bill_equals_the_lines_and_what_a_queue_says_in_many_runs() {
    check_all(many(60), 16, check);
}
