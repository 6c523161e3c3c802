//! Prompt caches through the real program: what is read from them in calls and in batches, and what they saved.

use std::process::{Command, Stdio};
use std::time::Duration;

use batchwright_simulate::{BatchConfig, SimConfig, Simulator};
use serde_json::Value;

use super::batch_runs::{accepted, clean, command, kill, only_process, queue, submitted, summary};
use super::common::{Desk, Ended, Running, all_ids, prompt_lines, simulator};

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

fn caches(desk: &Desk, sim: &Simulator, (provider, model): (&str, &str), words: &str) -> Command {
    let bytes = usize::try_from(SHARED * 4).unwrap();
    let mut command = command(desk, sim, words);
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
    Running::start(&mut caches(desk, sim, at, &words)).wait()
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
    for (at, words) in [
        (ANTHROPIC, "-j 16"),
        (OPENAI, "-j 16"),
        (ANTHROPIC, "--strategy batch"),
        (OPENAI, "--strategy batch"),
    ] {
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
        let saved = &summary(&told)["summary"]["cache_saved_usd"];
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
fn prompts_of_a_stream_are_cached_only_if_all_are() {
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
    let never = run(&desk, &sim, ANTHROPIC, "--cache-prompt never --samples 2").expect(0);
    never.hides("tokens read");
}

#[test]
fn a_run_that_is_killed_while_its_pilot_is_at_the_provider_buys_nothing_twice() {
    let (desk, sim) = (Desk::new(), caching(Duration::from_secs(2)));
    desk.write("in.jsonl", prompt_lines(40));
    let words = "in.jsonl -o out.jsonl --strategy batch --cache-prompt always";
    let running = Running::start(&mut caches(&desk, &sim, ANTHROPIC, words));
    accepted(&sim, 1);
    kill(running);
    run(&desk, &sim, ANTHROPIC, "--strategy batch").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(40));
    assert_eq!((sim.stats().paid, sim.stats().paid_twice), (40, 0));
    let written = sum(&desk.results("out.jsonl"), "cache_write_tokens");
    assert!(written <= 2 * SHARED, "{written}");
    clean(&desk);
}

#[test]
fn a_run_that_is_cancelled_while_others_wait_for_its_pilot_buys_nothing_more() {
    let (desk, sim) = (Desk::new(), caching(Duration::from_secs(2)));
    desk.write("in.jsonl", prompt_lines(40));
    let words = "in.jsonl -o out.jsonl --strategy batch --cache-prompt always";
    let running = Running::start(&mut caches(&desk, &sim, ANTHROPIC, words));
    submitted(&desk, 1);
    queue(&desk).cancel(only_process(&desk)).unwrap();
    let ended = running.wait();
    assert!(!ended.status.success(), "{}", ended.stderr);
    assert!(sim.stats().paid <= 1, "{:?}", sim.stats());
    assert_eq!(sim.batch_stats().items_accepted, 1);
}

#[test]
fn requests_that_share_nothing_do_not_wait_for_a_pilot() {
    let (desk, sim) = (Desk::new(), caching(QUICK));
    let shared = "rule ".repeat(2_400);
    let row = |i: usize| match i % 2 {
        0 => format!("{{\"id\":\"i-{i}\",\"prompt\":\"prompt {i}\",\"system\":\"{shared}\"}}\n"),
        _ => format!("{{\"id\":\"i-{i}\",\"prompt\":\"prompt {i}\"}}\n"),
    };
    desk.write("in.jsonl", (0..60).map(row).collect::<String>());
    let words =
        "in.jsonl -o out.jsonl --strategy batch --cache-prompt always --model claude-sonnet-4-5";
    let mut command = command(&desk, &sim, words);
    command
        .env("BATCHWRIGHT_PROVIDER", "anthropic")
        .env("ANTHROPIC_API_KEY", "k")
        .env("ANTHROPIC_BASE_URL", format!("http://{}", sim.addr()));
    Running::start(&mut command).wait().expect(0);
    assert_eq!(
        sim.batch_stats().created,
        3,
        "the pilot, the others, and those that share"
    );
    assert_eq!(
        sum(&desk.results("out.jsonl"), "cached_input_tokens"),
        29 * SHARED
    );
}
