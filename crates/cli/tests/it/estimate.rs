//! The cost of a run, as `estimate` and `run --dry-run` report it before anything is billed.

use std::process::Command;

use batchwright::Usd;
use batchwright_simulate::{BatchConfig, SimConfig, Simulator};
use serde_json::{Value, json};

use super::batch_runs::{SHORT, taking};
use super::common::{Desk, Ended, Has, Random, RunToEnd, simulator, usd};

/// The program with a provider whose prices are known.
fn command(desk: &Desk, sim: &Simulator, words: &str) -> Command {
    let mut command = desk.command(words.split_whitespace());
    command
        .env("OPENAI_API_KEY", "sk-estimate-0123456789")
        .env("OPENAI_BASE_URL", sim.base_url())
        .args(["--provider", "openai", "--data-dir", "data"]);
    command
}

fn ended(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    command(desk, sim, words).ended()
}

fn estimate(desk: &Desk, sim: &Simulator, words: &str) -> Value {
    let plan = ended(desk, sim, &format!("estimate --json {words}"))
        .expect(0)
        .json();
    plan["estimate"].clone()
}

/// The sum of the costs of result lines.
fn paid(lines: &[Value]) -> Usd {
    lines.iter().map(|line| usd(&line["cost_usd"])).sum()
}

/// A random number from 0 to 1.
fn share(random: &mut Random) -> f64 {
    random.below(1 << 20) as f64 / f64::from(1 << 20)
}

/// Items with prompts and answers of different lengths: the simulator returns as many tokens as allowed.
fn varied(items: usize, seed: u64) -> String {
    let random = &mut Random(seed);
    let size = 20.0 + 400.0 * share(random);
    let answer = 5.0 + 200.0 * share(random);
    let lines = (0..items).map(|i| {
        let prompt = "word ".repeat((size * (0.2 + 1.6 * share(random))) as usize + 1);
        let spread = (1.2 * (share(random) + share(random) - 1.0)).exp();
        let most = (answer * spread) as u32 + 1;
        json!({"id": i.to_string(), "prompt": prompt, "max_tokens": most}).to_string() + "\n"
    });
    lines.collect()
}

#[test]
fn an_estimate_and_a_dry_run_send_nothing_and_change_no_file() {
    let (desk, sim) = (Desk::with(30), simulator(SimConfig::default()));
    let words = "in.jsonl -o out.jsonl --model gpt-4o-mini";
    let table = ended(&desk, &sim, &format!("estimate {words} --max-tokens 50"))
        .ends(0, "estimate: would send 30 items")
        .says("nothing was sent")
        .stdout;
    for part in [
        "input tokens",
        "output tokens",
        "1,500",
        "cost, sync",
        "cost, batch",
        "duration",
    ] {
        assert!(table.contains(part), "{table}");
    }
    let dry = ended(&desk, &sim, &format!("run {words} --dry-run"))
        .ends(0, "cost, sync")
        .says("--max-tokens limits it, --sample 50 (billed) measures it");
    assert_eq!(dry.stdout, "");
    assert_eq!(sim.stats().calls, 0);
    assert!(!desk.exists("out.jsonl") && !desk.exists("data/estimates.json"));
    // A sample is a part of an estimate, and needs a file for its results.
    ended(&desk, &sim, &format!("run {words} --sample 5")).ends(2, "--dry-run");
    ended(
        &desk,
        &sim,
        "estimate in.jsonl --model gpt-4o-mini --sample 5",
    )
    .ends(2, "--output");
    assert_eq!(sim.stats().calls, 0);
}

#[cfg(feature = "tokenizer")]
#[test]
fn the_tokenizer_counts_the_input_of_openais_models_until_replies_to_it_are_known() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    // 19 tokens for gpt-4o, 30 for gpt-4, and 7 around each message; 102 bytes.
    let text = "Die größten Flüsse Europas heißen Wolga und Donau, schön übersichtlich für Käufer geprüft.";
    desk.write(
        "in.txt",
        (0..40)
            .map(|i| format!("{i}: {text}\n"))
            .collect::<String>(),
    );
    let of = |words: &str| estimate(&desk, &sim, &format!("in.txt -o out.jsonl {words}"));
    let counted = |model: &str| {
        let estimate = of(&format!("--max-tokens 20 --model {model}"));
        estimate["models"][0].has(json!({"input_from": "tokenizer"}));
        (
            estimate["input_tokens"]["low"].as_u64().unwrap() / 40,
            estimate["input_tokens"]["high"].as_u64().unwrap() / 40,
        )
    };
    // A number, a colon and a space more.
    assert_eq!(counted("gpt-4o-mini"), (24, 28));
    assert_eq!(counted("gpt-4"), (35, 39));
    for model in ["claude-opus-5", "mistral-large-latest"] {
        let by_size = of(&format!("--max-tokens 20 --model {model}"));
        by_size["models"][0].has(json!({"input_from": "request_size"}));
        let high = by_size["input_tokens"]["high"].as_u64().unwrap();
        assert!(high / 40 > 50, "{by_size}");
    }
    let words = "in.txt -o out.jsonl --max-tokens 20 --model gpt-4o-mini";
    ended(&desk, &sim, &format!("run {words} --dry-run"))
        .expect(0)
        .says("the tokenizer of the model");
    assert_eq!(sim.stats().calls, 0);
    // Replies to this input report what the provider really counts.
    ended(&desk, &sim, &format!("run {words} --max-items 10")).expect(0);
    let rest = of("--max-tokens 20 --model gpt-4o-mini");
    rest["models"][0].has(json!({"requests": 30, "input_from": "same_input"}));
}

#[test]
fn an_estimate_counts_only_items_to_send() {
    let (desk, sim) = (Desk::with(40), simulator(SimConfig::default()));
    let words = "in.jsonl -o out.jsonl --model gpt-4o-mini --max-tokens 20";
    let all = estimate(&desk, &sim, words);
    all.has(json!({"provider": "openai", "requests": 40}));
    all["output_tokens"].has(json!({"low": 40, "high": 800}));
    assert_eq!(all["models"][0]["output_from"], "max_tokens");
    ended(&desk, &sim, &format!("run {words} --max-items 30")).expect(0);
    let rest = estimate(&desk, &sim, words);
    rest.has(json!({"requests": 10}));
    // The 30 replies show that every answer has 16 tokens, and how the input is counted.
    rest["output_tokens"].has(json!({"low": 160, "high": 160}));
    rest["models"][0].has(json!({"input_from": "same_input", "output_from": "same_input"}));
    ended(&desk, &sim, &format!("run {words}")).expect(0);
    let nothing = estimate(&desk, &sim, words);
    nothing.has(json!({"requests": 0, "missing": []}));
    nothing["cost_usd"]["sync"].has(json!({"low": 0.0, "high": 0.0}));

    // Another input of the same model is estimated from the numbers that the data folder keeps.
    let input_from = if cfg!(feature = "tokenizer") {
        "tokenizer"
    } else {
        "earlier_replies"
    };
    desk.write("other.txt", "Name a prime number, please.\n".repeat(3));
    let other = estimate(&desk, &sim, "other.txt -o other.jsonl --model gpt-4o-mini");
    other["models"][0].has(json!({"input_from": input_from, "output_from": "earlier_replies"}));
    let kept = desk.read("data/estimates.json");
    assert!(
        kept.contains("gpt-4o-mini") && !kept.contains("prompt"),
        "{kept}"
    );
}

#[test]
fn a_sample_is_spread_out_kept_and_not_sent_again() {
    let (desk, sim) = (Desk::with(100), simulator(SimConfig::default()));
    let words = "in.jsonl -o out.jsonl --model gpt-4o-mini";
    let sampled = format!("{words} --sample 10");
    ended(&desk, &sim, &format!("estimate {sampled}"))
        .expect(0)
        .says("sample: sends 10 items of the input, spread evenly; these calls are billed")
        .says("sample: 10 of 10 answered")
        .says("would send 90 items")
        .says("nothing but the sample was sent");
    let mut ids: Vec<usize> = desk
        .ids("out.jsonl")
        .iter()
        .map(|id| id[2..].parse().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]);
    assert_eq!(sim.stats().calls, 10);
    // A repeated estimate needs no call, and a larger sample only the missing calls.
    ended(&desk, &sim, &format!("estimate {sampled}")).ends(0, "already has 10 replies");
    assert_eq!(sim.stats().calls, 10);
    let batch = "--sample 15 --strategy batch --no-wait";
    ended(&desk, &sim, &format!("estimate {words} {batch}")).ends(0, "sample: 5 of 5 answered");
    assert_eq!(sim.stats().calls, 15);
    ended(&desk, &sim, &format!("run {words}")).expect(0);
    assert_eq!(
        (sim.stats().calls, desk.results("out.jsonl").len()),
        (100, 100)
    );
}

#[test]
fn a_sample_that_cannot_be_sent_gives_no_estimate() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().models(["another"]));
    desk.prompts("in.jsonl", 20);
    let words = "estimate in.jsonl -o out.jsonl --model gpt-4o-mini --sample 5";
    let stopped = ended(&desk, &sim, words).expect(4);
    assert_eq!(stopped.says("the sample was stopped").stdout, "");
    let mut piped = command(
        &desk,
        &sim,
        "estimate - -o new.jsonl --model gpt-4o-mini --sample 5",
    );
    let input = std::fs::File::open(desk.path("in.jsonl")).unwrap();
    piped
        .stdin(input)
        .ended()
        .ends(2, "--sample reads the input twice");
    // Without a sample a pipe is read to its end.
    let mut piped = command(&desk, &sim, "estimate - --model gpt-4o-mini");
    let input = std::fs::File::open(desk.path("in.jsonl")).unwrap();
    let read = piped.stdin(input).ended().expect(0);
    read.shows("cost, sync");
}

/// The first estimate of an input has no replies that report what was cached.
#[test]
fn the_lower_end_counts_a_shared_system_text_as_cached() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().prompt_caches(true));
    desk.prompts("in.jsonl", 60);
    let system = format!("--system {}", "rule".repeat(3_000));
    let words = format!("in.jsonl -o out.jsonl --model gpt-5 --max-tokens 16 -j 4 {system}");
    let range = &estimate(&desk, &sim, &words)["cost_usd"]["sync"];
    ended(&desk, &sim, &format!("run {words} --cache-prompt always")).expect(0);
    let lines = desk.results("out.jsonl");
    let cost = paid(&lines);
    assert!(
        lines
            .iter()
            .any(|line| line["cache_saved_usd"].as_f64() > Some(0.0))
    );
    assert!(
        usd(&range["low"]) <= cost && cost <= usd(&range["high"]),
        "{cost} is not in {range}"
    );
}

#[test]
fn an_unknown_price_is_named_and_tokens_are_reported_anyway() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let line = |i: usize| {
        let model = if i < 5 { "gpt-4o-mini" } else { "house-model" };
        json!({"id": i.to_string(), "prompt": "p", "model": model, "max_tokens": 9}).to_string()
            + "\n"
    };
    desk.write("in.jsonl", (0..8).map(line).collect::<String>());
    let words = "in.jsonl -o out.jsonl";
    let found = estimate(&desk, &sim, words);
    found["output_tokens"].has(json!({"low": 8, "high": 72}));
    assert_eq!(found["cost_usd"]["sync"], Value::Null);
    let models = found["models"].as_array().unwrap();
    assert_eq!(
        (&models[0]["requests"], &models[1]["requests"]),
        (&json!(5), &json!(3))
    );
    assert!(models[0]["cost_usd"]["sync"]["high"].as_f64() > Some(0.0));
    assert_eq!(models[1]["cost_usd"]["sync"], Value::Null);
    let missing = found["missing"][0].as_str().unwrap();
    assert!(missing.contains("house-model is unknown"), "{missing}");
    let table = ended(&desk, &sim, &format!("estimate {words}"))
        .expect(0)
        .stdout;
    assert!(
        table.contains("unknown") && table.contains("house-model"),
        "{table}"
    );

    let prices = r#"{"providers": {"*": {"models": [{"models": ["house-model"], "prices": [{"input": 1, "output": 2}]}]}}}"#;
    desk.write("prices.json", prices);
    let found = estimate(&desk, &sim, &format!("{words} --prices prices.json"));
    assert!(usd(&found["cost_usd"]["sync"]["high"]) > Usd::ZERO);
    // The price has no batch tier.
    assert_eq!(found["cost_usd"]["batch"], Value::Null);
}

#[test]
fn a_fallback_and_the_fees_of_searches_are_named() {
    let (desk, sim) = (Desk::with(10), simulator(SimConfig::default()));
    let words = "in.jsonl -o out.jsonl --model gpt-4o-search-preview --max-tokens 20";
    let mut with_fallback = command(&desk, &sim, &format!("estimate {words} --json"));
    with_fallback.args(["--fallback", "anthropic:claude-sonnet-4-5"]);
    let run = with_fallback
        .env("ANTHROPIC_API_KEY", "k")
        .ended()
        .expect(0);
    let plan = run.json();
    let found = &plan["estimate"];
    found.has(json!({"fallbacks_not_included": ["anthropic/claude-sonnet-4-5"]}));
    let cost = &found["cost_usd"]["sync"];
    assert!(
        usd(&cost["low"]) > Usd::ZERO && cost["high"].is_null(),
        "{cost}"
    );
    let missing = found["missing"].to_string();
    assert!(missing.contains("bills each search apart"), "{missing}");
    // The replies do not report how many searches they made.
    ended(&desk, &sim, &format!("run {words}")).ends(0, "cost       unknown");
    assert!(
        desk.results("out.jsonl")
            .iter()
            .all(|line| line["cost_usd"].is_null())
    );
}

#[test]
fn lines_of_batches_are_not_taken_for_calls() {
    let (desk, sim) = (Desk::with(40), taking(SHORT));
    let words = "in.jsonl -o out.jsonl --model gpt-4o-mini --max-tokens 20";
    ended(
        &desk,
        &sim,
        &format!("run {words} --strategy batch --max-items 30"),
    )
    .expect(0);
    let tiers = desk.results("out.jsonl");
    assert!(tiers.iter().all(|line| line["service_tier"] == "batch"));
    let rest = estimate(&desk, &sim, words);
    rest.has(json!({"requests": 10}));
    rest["models"][0].has(json!({"output_from": "same_input", "call_seconds": null}));
}

#[test]
fn the_limiting_rate_is_named_including_a_reported_one() {
    let (desk, sim) = (Desk::with(120), simulator(SimConfig::default().rpm(6_000)));
    let words = "in.jsonl -o out.jsonl --model gpt-4o-mini --max-tokens 20";
    let at = |more: &str| estimate(&desk, &sim, &format!("{words} {more}"));
    let slow = at("--rpm 60");
    slow.has(json!({"limited_by": "requests_per_minute", "/duration_seconds/low": 120.0}));
    assert_eq!(at("--rpm 60 --tpm 30")["limited_by"], "tokens_per_minute");
    assert_eq!(at("")["limited_by"], Value::Null);
    assert_eq!(at("--strategy batch")["duration_seconds"], Value::Null);
    ended(&desk, &sim, &format!("run {words} --max-items 60")).expect(0);
    let known = at("-j 1");
    assert_eq!(
        known["models"][0]["limits"]["requests_per_minute"]
            .as_f64()
            .map(f64::round),
        Some(6_000.0)
    );
    assert!(
        known["duration_seconds"]["high"].as_f64() > Some(0.0),
        "{known}"
    );
}

#[test]
#[ignore = "ten seconds"]
fn the_cost_of_runs_is_in_the_range_of_a_sample_of_50() {
    const RUNS: u64 = 20;
    let (mut contained, mut wide) = (0, Vec::new());
    std::thread::scope(|scope| {
        let run = |seed: u64| {
            let desk = Desk::new();
            let batches = BatchConfig::default();
            let sim = simulator(SimConfig::default().output_tokens(100_000).batches(batches));
            desk.write("in.jsonl", varied(150 + 10 * seed as usize, seed));
            let words = "in.jsonl -o out.jsonl --model gpt-4o-mini -j 16 --quiet";
            let range = &estimate(&desk, &sim, &format!("{words} --sample 50"))["cost_usd"]["sync"];
            let before = paid(&desk.results("out.jsonl"));
            ended(&desk, &sim, &format!("run {words}")).expect(0);
            let cost = paid(&desk.results("out.jsonl")).saturating_sub(before);
            let (low, high) = (usd(&range["low"]), usd(&range["high"]));
            (low <= cost && cost <= high, high.dollars() / low.dollars())
        };
        let threads: Vec<_> = (0..2)
            .map(|half| {
                scope.spawn(move || (0..RUNS / 2).map(|i| run(2 * i + half)).collect::<Vec<_>>())
            })
            .collect();
        for (is_in, width) in threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
        {
            contained += u64::from(is_in);
            wide.extend(Some(width).filter(|width| *width > 2.0));
        }
    });
    assert!(contained * 100 >= RUNS * 95, "{contained} of {RUNS}");
    assert!(wide.is_empty(), "{wide:?}");
}
