//! Prompt caches through the real program: what is read from them in calls and in batches, and what they saved.

use std::process::{Command, Stdio};
use std::time::Duration;

use batchwright::Usd;
use batchwright_simulate::{BatchConfig, SimConfig, SimPrice, SimTier, Simulator, Trouble};
use serde_json::Value;

use super::batch_runs::{
    accepted, clean, command, kill, only_process, queue, submitted, with_provider,
};
use super::common::{Desk, Ended, RunToEnd, Running, all_ids, eventually, prompt_lines, simulator};

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
    for words in ["", "--strategy batch"] {
        let config = SimConfig::default().prompt_caches(true).seed(3);
        let config = config
            .trouble(Trouble::Refusal, 0.2)
            .trouble(Trouble::Empty, 0.2);
        let batches = BatchConfig::default().duration(QUICK);
        let (desk, sim) = (Desk::new(), simulator(config.batches(batches)));
        desk.write("in.jsonl", prompt_lines(60));
        let told = run(&desk, &sim, ANTHROPIC, &format!("{words} --json")).expect(3);
        let summary = &told.json()["summary"];
        let count = |name: &str| summary["usage"][name].as_f64().unwrap_or_default();
        // $3.00 per million, read at $0.30, written at $3.75 for 5 minutes and at $6.00 for an hour; half in batches.
        let (extra, factor) = if words.is_empty() {
            (0.75, 1.0)
        } else {
            (3.0, 0.5)
        };
        let read = count("cached_input_tokens") * 2.7;
        let expected = (read - count("cache_write_tokens") * extra) * factor / 1e6;
        let saved = summary["cache_saved_usd"].as_f64().unwrap();
        assert!(
            (saved - expected).abs() < 1e-9,
            "{words}: {saved}, not {expected}"
        );
        let lines = desk.results("out.jsonl");
        let failed = |line: &&Value| line["success"] == false && line["cache_saved_usd"].is_f64();
        assert!(lines.iter().any(|line| failed(&line)), "{words}");
        let of_lines = lines
            .iter()
            .filter_map(|line| line["cache_saved_usd"].as_f64());
        assert!((saved - of_lines.sum::<f64>()).abs() < 1e-9);
    }
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
    assert_eq!(written, SHARED);
    // The pilot of the killed run, and the others.
    assert_eq!(sim.batch_stats().created, 2);
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
fn a_run_whose_pilot_was_cancelled_sends_another_one() {
    let (desk, sim) = (Desk::new(), caching(Duration::from_secs(2)));
    desk.write("in.jsonl", prompt_lines(40));
    let words = "in.jsonl -o out.jsonl --strategy batch --cache-prompt always";
    let running = Running::start(&mut caches(&desk, &sim, ANTHROPIC, words));
    submitted(&desk, 1);
    kill(running);
    queue(&desk).cancel(only_process(&desk)).unwrap();
    run(&desk, &sim, ANTHROPIC, "--strategy batch").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(40));
    assert_eq!((sim.stats().paid, sim.stats().paid_twice), (40, 0));
    let written = sum(&desk.results("out.jsonl"), "cache_write_tokens");
    assert_eq!(written, SHARED);
    clean(&desk);
}

/// The other provider reports cached tokens, which say nothing about the cache of the first one.
#[test]
fn a_pilot_that_another_provider_answers_has_written_no_cache() {
    let batches = BatchConfig::default().duration(QUICK);
    let config = SimConfig::default().prompt_caches(true).batches(batches);
    let config = config.trouble(Trouble::Error500, 0.05);
    let config = config.trouble_times(Trouble::Error500, None);
    let fails = |config: &SimConfig, i: usize| config.plan(&format!("prompt {i}")).is_some();
    let mut seeds = (0..).map(|seed| config.clone().seed(seed));
    let only_the_first = |config: &SimConfig| (0..20).all(|i| fails(config, i) == (i == 0));
    let first = simulator(seeds.find(only_the_first).unwrap());
    let other = SimConfig::default().cached_tokens(4);
    let other = simulator(other.batches(BatchConfig::default().duration(QUICK)));
    let desk = Desk::new();
    desk.write("in.jsonl", prompt_lines(20));
    let words = "in.jsonl -o out.jsonl --strategy batch --cache-prompt always --max-retries 0 --fallback mistral:m";
    let mut command = caches(&desk, &first, ANTHROPIC, words);
    command
        .env("MISTRAL_API_KEY", "k")
        .env("MISTRAL_BASE_URL", other.base_url());
    command.ended().expect(0);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines[0]["provider"], "mistral");
    assert_eq!(sum(&lines, "cache_write_tokens"), 0);
}

/// A run that has the answer of its pilot, and is submitting other requests.
fn submitting(desk: &Desk, sim: &Simulator) -> Running {
    const ITEMS: u64 = 12_000;
    let shared = "rule ".repeat(2_400);
    let row = |i: u64| match i {
        0 | 1 => format!("{{\"id\":\"i-{i}\",\"prompt\":\"p {i}\",\"system\":\"{shared}\"}}\n"),
        _ => format!("{{\"id\":\"i-{i}\",\"prompt\":\"p {i}\"}}\n"),
    };
    desk.write("in.jsonl", (0..ITEMS).map(row).collect::<String>());
    let words =
        "in.jsonl -o out.jsonl --strategy batch --cache-prompt always --model claude-sonnet-4-5";
    let mut command = command(desk, sim, words);
    command
        .env("BATCHWRIGHT_PROVIDER", "anthropic")
        .env("ANTHROPIC_API_KEY", "k")
        .env("ANTHROPIC_BASE_URL", format!("http://{}", sim.addr()));
    let running = Running::start(&mut command);
    submitted(desk, 1);
    let (queue, process) = (queue(desk), only_process(desk));
    let is_halfway = || {
        let counts = queue.process(process).unwrap().unwrap().counts;
        counts.completed == 1 && counts.total > 1 && counts.total < ITEMS
    };
    assert!(eventually(is_halfway));
    running
}

#[test]
fn a_run_that_is_interrupted_while_it_submits_keeps_what_is_answered() {
    let (desk, sim) = (Desk::new(), caching(QUICK));
    let running = submitting(&desk, &sim);
    running.signal("INT");
    running
        .wait()
        .ends(130, "interrupted; what finished is saved");
    assert_eq!(desk.results("out.jsonl").len(), 1);
}

#[test]
fn a_run_that_is_cancelled_while_it_submits_ends_as_cancelled() {
    let (desk, sim) = (Desk::new(), caching(QUICK));
    let running = submitting(&desk, &sim);
    queue(&desk).cancel(only_process(&desk)).unwrap();
    running
        .wait()
        .ends(4, "interrupted; what finished is saved");
    assert_eq!(desk.results("out.jsonl").len(), 1);
    assert_eq!(sim.stats().paid, 1);
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
    command.ended().expect(0);
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
