//! Budgets against the providers' own bills, in seeded schedules with retries, fallback, two OS processes and kills.

use std::process::Command;

use batchwright::Usd;
use batchwright_simulate::{SimConfig, SimPrice, SimStats, Simulator, Trouble};

use super::bills::{self, CONCURRENCY, Sims, check_all, kill_when, many, price_file, troubled};
use super::common::{Desk, Random, RunToEnd, Running, prompt_lines, simulator};

/// In picodollars per token.
const PRICE: SimPrice = SimPrice::new(1_250_000, 7_300_004);
/// The most that a call can cost, in picodollars: a prompt of `prompt_lines` with the tokens that a provider may add, and
/// `--max-tokens 20`.
const MOST: u64 = 240 * 1_250_000 + 20 * 7_300_004;

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scope {
    /// Two workers of one process.
    Process,
    /// One run at a time.
    Run,
}

/// One seeded case.
#[derive(Debug)]
struct World {
    scope: Scope,
    has_fallback: bool,
    items: u64,
    kills: u64,
    sim: SimConfig,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let kinds = [
            Trouble::RateLimit,
            Trouble::Error503,
            Trouble::ContentFilter,
            Trouble::Drop,
            Trouble::Truncated,
        ];
        let (sim, _) = troubled(seed, &mut random, &kinds);
        let mut pick = |n: u64| random.below(n);
        let scopes = [Scope::Process, Scope::Run];
        World {
            // Six seeds have each scope with each number of kills.
            scope: scopes[(seed % 2) as usize],
            kills: seed / 2 % 3,
            has_fallback: pick(2) == 0,
            items: 60 + pick(60),
            sim: sim.price("m", PRICE),
        }
    }

    /// What work at the same time shares the budget.
    fn words(&self, flag: &str) -> Vec<String> {
        let work = "work --until-empty -q --rpm 600000 --tpm 99999999".to_owned();
        match self.scope {
            Scope::Process => vec![work.clone(), work],
            Scope::Run => vec![format!("run in.jsonl -o a.jsonl -q --max-tokens 20 {flag}")],
        }
    }

    fn command(&self, desk: &Desk, sims: &Sims, words: &str) -> Command {
        let mut words = words.to_owned();
        if words.starts_with("run") || words.starts_with("work") {
            words += &format!(" -j {CONCURRENCY} --max-retries 9 --provider openai --model m");
            if self.has_fallback {
                words += " --fallback mistral:m";
            }
        }
        bills::command(desk, sims, &words)
    }
}

fn billed(sims: &Sims) -> u64 {
    sims.iter()
        .map(Simulator::stats)
        .map(|stats| stats.billed_picos + stats.billed_unseen_picos)
        .sum()
}

/// The items that are done, in the output and in the queue.
fn done(desk: &Desk) -> u64 {
    let lines = desk.exists("a.jsonl").then(|| desk.results("a.jsonl"));
    let lines = lines.into_iter().flatten();
    let of_runs = lines.filter(|line| line["success"] == true).count() as u64;
    let queue = super::batch_runs::home_queue(desk);
    let processes = queue.open_processes().unwrap();
    of_runs
        + processes
            .iter()
            .map(|process| process.counts.completed)
            .sum::<u64>()
}

fn check(seed: u64) {
    let world = World::new(seed);
    let desk = Desk::new();
    let sims = [(); 2].map(|()| simulator(world.sim.clone()));
    let execute = |words: &str| world.command(&desk, &sims, words).ended().expect(0);
    desk.write("prices.json", price_file(PRICE));
    execute("config set llm.prices prices.json");
    desk.write("in.jsonl", prompt_lines(world.items as usize));
    // An answer has 16 tokens and the prompt has about 3.
    let one = 16 * PRICE.output + 3 * PRICE.input;
    let mut random = Random(!seed);
    let affordable = world.items * (30 + random.below(60)) / 100;
    let budget = Usd::from_picos(affordable * one);
    let dollars = format!("{:.12}", budget.picos() as f64 / 1e12);
    let mut flag = String::new();
    match world.scope {
        Scope::Process => {
            execute(&format!(
                "submit in.jsonl --model m --max-tokens 20 --budget {dollars}"
            ));
        }
        Scope::Run => flag = format!("--budget {dollars}"),
    }
    let words = world.words(&flag);
    let start = || {
        let running = words
            .iter()
            .map(|words| Running::start(&mut world.command(&desk, &sims, words)));
        running.collect::<Vec<_>>()
    };
    let mut killed = 0;
    for _ in 0..world.kills {
        let until = sims[0].stats().calls + random.below(affordable / 2);
        for running in start() {
            killed += u64::from(kill_when(running, &sims[0], |stats| stats.calls > until));
        }
    }
    // Twice, because a program may end while another one still holds what it needs.
    for _ in 0..2 {
        for running in start() {
            let ended = running.wait();
            let code = ended.status.code();
            assert!(
                matches!(code, Some(0 | 3 | 4)),
                "seed {seed}: {}",
                ended.stderr
            );
        }
    }
    let (billed, done) = (billed(&sims), done(&desk));
    let case = format!("seed {seed}, {world:?}: {done} done, {billed} billed of {budget}");
    // A worker does not count the calls in flight of the other one, nor what the jobs of one that was killed have cost beyond
    // the mean of the jobs before.
    let beside = match world.scope {
        Scope::Process => (1 + killed) * CONCURRENCY * MOST,
        Scope::Run => 0,
    };
    assert!(billed <= budget.picos() + beside, "{case}");
    // Billed answers that are no items, calls of unknown outcome at their most, and what counts for killed programs: the
    // record of a run is ahead by a part of the budget, and each job that a worker had counts as the mean.
    let stats = sims.each_ref().map(Simulator::stats);
    let lost = |stats: &SimStats| {
        let of = |kind| stats.by_trouble.get(kind).copied().unwrap_or_default();
        of("drop") + of("truncated")
    };
    let unknown = stats.iter().map(lost).sum::<u64>() + killed * CONCURRENCY;
    let ahead = match world.scope {
        Scope::Process => 4 * CONCURRENCY * one,
        Scope::Run => budget.picos() / 64,
    };
    let lost = billed.saturating_sub(done * one) + unknown * MOST + killed * ahead + MOST;
    let possible = budget.picos().saturating_sub(lost) / one;
    assert!(
        done >= possible.min(world.items) * 9 / 10,
        "{possible} possible: {case}"
    );
}

#[test]
fn no_bill_exceeds_a_budget() {
    check_all(0..6, 6, check);
}

#[test]
#[ignore = "half a minute"]
fn no_bill_exceeds_a_budget_in_many_schedules() {
    check_all(many(40), 12, check);
}
