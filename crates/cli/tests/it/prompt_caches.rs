//! Prompt caches through the real program: what is read from them, and what they saved.

use std::process::{Command, Stdio};
use std::time::Duration;

use batchwright::Usd;
use batchwright_simulate::{BatchConfig, SimConfig, SimPrice, SimTier, Simulator, Trouble};
use serde_json::Value;

use super::batch_runs::{clean, command, with_provider};
use super::common::{Desk, Ended, RunToEnd, Running, prompt_lines, simulator};

/// Tokens of the system text, at 4 bytes per token.
const SHARED: u64 = 3_000;
const ANTHROPIC: (&str, &str) = ("anthropic", "claude-sonnet-4-5");
const OPENAI: (&str, &str) = ("openai", "gpt-5");

fn caching(batch: Duration) -> Simulator {
    let batches = BatchConfig::default().duration(batch);
    let config = SimConfig::default().prompt_caches(true).batches(batches);
    simulator(config.latency(Duration::from_millis(2)))
}

const QUICK: Duration = Duration::from_millis(800);

fn caches(desk: &Desk, sim: &Simulator, at: (&str, &str), words: &str) -> Command {
    asking(command(desk, sim, words), sim, at)
}

/// A command with this provider and model, and a shared system text.
fn asking(mut command: Command, sim: &Simulator, (provider, model): (&str, &str)) -> Command {
    let bytes = usize::try_from(SHARED * 4).unwrap();
    command
        .args(["--model", model, "--max-tokens", "16", "--system"])
        .arg(&"rule ".repeat(bytes)[..bytes])
        .env("BATCHWRIGHT_PROVIDER", provider)
        .env("ANTHROPIC_API_KEY", "k")
        .env("ANTHROPIC_BASE_URL", format!("http://{}", sim.addr()));
    command
}

fn run(desk: &Desk, sim: &Simulator, at: (&str, &str), words: &str) -> Ended {
    // By default, only the provider's own address gets marks.
    let always = if words.contains("--cache-prompt") {
        ""
    } else {
        "--cache-prompt always"
    };
    let words = format!("in.jsonl -o out.jsonl {always} {words}");
    caches(desk, sim, at, &words).ended()
}

/// The sum of a count over all results.
fn sum(lines: &[Value], count: &str) -> u64 {
    let counts = lines.iter().map(|line| line["usage"][count].as_u64());
    counts.map(Option::unwrap_or_default).sum()
}

#[test]
fn prompts_read_nearly_all_that_they_share() {
    read_nearly_all(120);
}

#[test]
#[ignore = "slow in a debug build"]
fn long_two_thousand_prompts_read_nearly_all_that_they_share() {
    read_nearly_all(2_000);
}

fn read_nearly_all(prompts: usize) {
    let all = prompts as u64;
    for (at, words) in [(ANTHROPIC, "-j 16"), (OPENAI, "-j 16")] {
        let (desk, sim) = (Desk::new(), caching(QUICK));
        desk.write("in.jsonl", prompt_lines(prompts));
        let told = run(&desk, &sim, at, &format!("{words} --json")).expect(0);
        let lines = desk.results("out.jsonl");
        let read = sum(&lines, "cached_input_tokens");
        let part = read as f64 / (SHARED * all) as f64;
        println!(
            "{} {words}: {:.2} % of the shared input",
            at.0,
            part * 100.0
        );
        assert!(part >= 0.95, "{at:?} {words}: {part}");
        let stats = sim.stats();
        assert_eq!((stats.malformed, stats.paid), (0, all));
        if at == ANTHROPIC {
            assert_eq!(sum(&lines, "cache_write_tokens"), SHARED, "{words}");
        }
        let saved = &told.json()["summary"]["cache_saved_usd"];
        let of_lines = lines
            .iter()
            .filter_map(|line| line["cache_saved_usd"].as_f64());
        let difference = saved.as_f64().unwrap() - of_lines.sum::<f64>();
        assert!(
            saved.as_f64() > Some(0.1) && difference.abs() < 1e-6,
            "{saved}"
        );
        clean(&desk);
    }
}

#[test]
fn a_run_that_is_resumed_with_another_setting_sends_nothing_again() {
    let (desk, sim) = (Desk::new(), caching(QUICK));
    desk.write("in.jsonl", prompt_lines(30));
    run(&desk, &sim, ANTHROPIC, "--max-items 12").expect(0);
    assert!(sum(&desk.results("out.jsonl"), "cached_input_tokens") > 0);
    desk.write("in.jsonl", prompt_lines(20));
    let before = sum(&desk.results("out.jsonl"), "cached_input_tokens");
    run(&desk, &sim, ANTHROPIC, "--cache-prompt auto").expect(0);
    let after = sum(&desk.results("out.jsonl"), "cached_input_tokens");
    assert_eq!(after, before, "the address is not the provider's own");
    for words in ["--cache-prompt never", "--cache-prompt always"] {
        run(&desk, &sim, ANTHROPIC, words).expect(0);
        assert_eq!(sim.stats().paid, 20, "{words}");
    }
}

#[test]
fn prompts_of_a_stream_are_cached_like_those_of_a_file() {
    for (words, cached) in [("", false), ("--cache-prompt always", true)] {
        let (desk, sim) = (Desk::new(), caching(QUICK));
        let words = format!("- -o out.jsonl {words}");
        let mut command = caches(&desk, &sim, ANTHROPIC, &words);
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.feed(&prompt_lines(40));
        running.child.stdin = None;
        running.wait().expect(0);
        let read = sum(&desk.results("out.jsonl"), "cached_input_tokens");
        assert_eq!(read, if cached { 39 * SHARED } else { 0 });
    }
}

#[test]
fn the_summary_tells_what_the_cache_saved() {
    let (desk, sim) = (Desk::new(), caching(QUICK));
    desk.write("in.jsonl", prompt_lines(50));
    let ended = run(&desk, &sim, ANTHROPIC, "").expect(0);
    // 49 times 3,000 tokens at $2.70 less, and once at $0.75 more, per million.
    ended.says("saved $0.394650: 147,000 tokens read, 3,000 written");
    let never = run(
        &desk,
        &sim,
        ANTHROPIC,
        "--cache-prompt never --temperature 0.5",
    )
    .expect(0);
    never.hides("tokens read");
}

/// Refusals and empty answers are billed too, and so is what they read from the cache or wrote.
#[test]
fn the_saving_includes_answers_that_cannot_be_used() {
    let config = SimConfig::default().prompt_caches(true).seed(3);
    let config = config
        .trouble(Trouble::Refusal, 0.2)
        .trouble(Trouble::Empty, 0.2);
    let batches = BatchConfig::default().duration(QUICK);
    let (desk, sim) = (Desk::new(), simulator(config.batches(batches)));
    desk.write("in.jsonl", prompt_lines(60));
    let told = run(&desk, &sim, ANTHROPIC, "--json").expect(3);
    let summary = &told.json()["summary"];
    let count = |name: &str| summary["usage"][name].as_f64().unwrap_or_default();
    // $3.00 per million, read at $0.30, written at $3.75 for 5 minutes.
    let read = count("cached_input_tokens") * 2.7;
    let expected = (read - count("cache_write_tokens") * 0.75) / 1e6;
    let saved = summary["cache_saved_usd"].as_f64().unwrap();
    assert!((saved - expected).abs() < 1e-9, "{saved}, not {expected}");
    let lines = desk.results("out.jsonl");
    let failed = |line: &&Value| line["success"] == false && line["cache_saved_usd"].is_f64();
    assert!(lines.iter().any(|line| failed(&line)));
    let of_lines = lines
        .iter()
        .filter_map(|line| line["cache_saved_usd"].as_f64());
    assert!((saved - of_lines.sum::<f64>()).abs() < 1e-9);
}

/// Models that bill what they write read a prompt again only up to a mark.
#[test]
fn what_is_written_without_a_mark_is_paid_and_booked() {
    for (words, written) in [("never", 20 * (SHARED + 2)), ("always", SHARED)] {
        let price = SimPrice {
            input: 4_000_000,
            cached_input: 400_000,
            cache_write: 5_000_000,
            cache_write_1h: 0,
            output: 20_000_000,
        };
        let config = SimConfig::default().prompt_caches(true);
        let sim = simulator(config.price("gpt-5.6", SimTier::Standard, price));
        let desk = Desk::new();
        desk.write("in.jsonl", prompt_lines(20));
        let words = format!("--cache-prompt {words} --json");
        let told = run(&desk, &sim, ("openai", "gpt-5.6"), &words).expect(0);
        let lines = desk.results("out.jsonl");
        let told_written = sum(&lines, "cache_write_tokens");
        assert!(
            told_written.abs_diff(written) <= 20,
            "{words}: {told_written}"
        );
        let billed = Usd::from_picos(sim.stats().billed_picos);
        let summary = &told.json()["summary"];
        assert_eq!(
            summary["cost_usd"].to_string(),
            serde_json::to_string(&billed).unwrap(),
            "{words}"
        );
        let saved = summary["cache_saved_usd"].as_f64().unwrap();
        assert_eq!(saved > 0.0, words.contains("always"), "{saved}");
    }
}

#[test]
fn a_worker_of_a_queue_writes_the_cache_at_most_once_per_slot() {
    for (when, slots) in [("always", 8), ("never", 0)] {
        let (desk, sim) = (Desk::new(), caching(QUICK));
        desk.write("in.jsonl", prompt_lines(60));
        let words = |words: &str| desk.command(words.split_whitespace());
        let mut submit = asking(
            with_provider(words("submit in.jsonl"), &sim),
            &sim,
            ANTHROPIC,
        );
        let id = submit.ended().expect(0).stdout;
        let mut work = with_provider(
            words("work --until-empty -j 8 --rpm 60000 --tpm 100000000"),
            &sim,
        );
        work.env("BATCHWRIGHT_PROVIDER", "anthropic")
            .env("ANTHROPIC_API_KEY", "k")
            .env("ANTHROPIC_BASE_URL", format!("http://{}", sim.addr()))
            .env("BATCHWRIGHT_CACHE_PROMPT", when);
        work.ended().expect(0);
        let mut results = words(&format!("results {} -o out.jsonl", id.trim()));
        results.ended().expect(0);
        let lines = desk.results("out.jsonl");
        let read = sum(&lines, "cached_input_tokens");
        let written = sum(&lines, "cache_write_tokens");
        assert!(written <= slots * SHARED, "{when}: {written}");
        let all = if when == "always" { 60 * SHARED } else { 0 };
        assert_eq!(read + written, all, "{when}");
        assert_eq!(sim.stats().paid, 60);
    }
}
