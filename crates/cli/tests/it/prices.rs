//! The cost of calls; the provider computes its bill independently.

use std::process::Command;
use std::time::Duration;

use batchwright::Usd;
use batchwright_simulate::{Recorder, SimConfig, Simulator};
use serde_json::{Value, json};

use super::batch_runs::{clean, command};
use super::common::{Desk, HOME, Has, RunToEnd, Running, good, simulator, usd};

#[test]
fn own_prices_override_the_table_and_unknown_ones_are_counted_separately() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let line = |id: &str, model: &str| json!({"id": id, "prompt": "p", "model": model}).to_string();
    desk.input([line("a", "gpt-4o-mini"), line("b", "new")].join("\n"));
    let run = |output: &str, words: &str| {
        let words = format!("in.jsonl -o {output} {words}");
        let ended = command(&desk, &sim, &words).ended().expect(0);
        let lines = desk.results(output);
        let of = |id: &str| lines.iter().find(|line| line["id"] == id).unwrap()["cost_usd"].clone();
        (ended, of("a"), of("b"))
    };
    let (ended, table, unknown) = run("one.jsonl", "");
    assert_eq!(unknown, Value::Null);
    ended.says(", and 1 item without a known price");
    assert!(usd(&table) > Usd::ZERO);

    let of_new = |price: f64| {
        let models = json!([{"models": ["new"], "prices": [{"input": price, "output": 0}]}]);
        json!({"providers": {"*": {"models": models}}}).to_string()
    };
    desk.write("set.json", of_new(1.0));
    desk.plain(&format!("config set llm.prices set.json --data-dir {HOME}"))
        .expect(0);
    let with_home = format!("--data-dir {HOME}");
    let (_, same, set) = run("two.jsonl", &with_home);
    assert_eq!(same, table);
    let input = &desk.results("two.jsonl")[0]["usage"]["input_tokens"];
    assert_eq!(usd(&set).picos(), input.as_u64().unwrap() * 1_000_000);

    let mine = json!({"providers": {"openai": {"models": [
        {"models": ["new", "gpt-4o-mini"], "prices": [{"input": 2, "output": 0}]}]}}});
    desk.write("mine.json", mine.to_string());
    let (_, first, second) = run("three.jsonl", &format!("{with_home} --prices mine.json"));
    assert_eq!((usd(&first), &first), (usd(&set) + usd(&set), &second));

    desk.write("bad.json", "{\"providers\": []}");
    desk.write("dear.json", of_new(-1.0));
    for (file, why) in [
        ("bad.json", "these are not prices"),
        ("dear.json", "these are not prices"),
        ("none.json", "cannot read none.json"),
    ] {
        let words = format!("in.jsonl -o four.jsonl --prices {file}");
        command(&desk, &sim, &words).ended().ends(2, why);
    }
}

/// Tokens of the system text, at 4 bytes per token. The simulator reports all as read from the cache.
const SHARED: u64 = 3_000;
const ANTHROPIC: (&str, &str) = ("anthropic", "claude-sonnet-4-5");
const OPENAI: (&str, &str) = ("openai", "gpt-5");

/// A run of these prompts with a shared system text, at a provider with this model.
fn cached(
    desk: &Desk,
    sim: &Simulator,
    (provider, model): (&str, &str),
    prompts: usize,
    words: &str,
) -> Command {
    desk.prompts("in.jsonl", prompts);
    let words = format!("in.jsonl -o out.jsonl --model {model} --max-tokens 16 {words}");
    let bytes = usize::try_from(SHARED * 4).unwrap();
    let mut command = command(desk, sim, &words);
    command
        .arg("--system")
        .arg(&"rule ".repeat(bytes)[..bytes])
        .env("BATCHWRIGHT_PROVIDER", provider)
        .env("ANTHROPIC_API_KEY", "k")
        .env("ANTHROPIC_BASE_URL", format!("http://{}", sim.addr()));
    command
}

#[test]
fn one_call_is_made_alone_and_each_request_is_marked() {
    let is_marked =
        |body: &&String| body.contains("cache_control") || body.contains("prompt_cache_key");
    for at in [ANTHROPIC, OPENAI] {
        let recorder = Recorder::default();
        // By default, an address that is not the provider's own gets no marks.
        let sim = simulator(SimConfig::default().recorder(recorder.clone()));
        let desk = Desk::new();
        cached(&desk, &sim, at, 2, "").ended().expect(0);
        assert_eq!(recorder.take().iter().filter(is_marked).count(), 0);
        let slow = SimConfig::default().latency(Duration::from_millis(50));
        let (desk, sim) = (Desk::new(), simulator(slow.recorder(recorder.clone())));
        let mut run = cached(&desk, &sim, at, 40, "-j 16");
        let running = Running::start(run.env("BATCHWRIGHT_CACHE_PROMPT", "always"));
        let mut most = 0;
        let has_answered = |stats: &batchwright_simulate::SimStats| {
            if stats.answered == 0 {
                most = most.max(stats.calls);
            }
            stats.answered > 0
        };
        assert!(sim.wait_until(has_answered, Duration::from_secs(180)));
        running.wait().expect(0);
        assert!(most <= 1, "{}: {most} calls before the first answer", at.0);
        let bodies = recorder.take();
        let marked = bodies.iter().filter(is_marked).count();
        assert_eq!((bodies.len(), marked), (40, 40), "{}", at.0);
        assert_eq!(sim.stats().malformed, 0);
        clean(&desk);
    }
}

#[test]
fn the_summary_says_what_the_cache_saved() {
    let config = SimConfig::default().cached_tokens(SHARED);
    let (desk, sim) = (Desk::new(), simulator(config));
    let ended = cached(&desk, &sim, ANTHROPIC, 50, "--json")
        .ended()
        .expect(0);
    let summary = &ended.json()["summary"];
    // 50 times 3,000 tokens at $2.70 less per million.
    assert_eq!(summary["cache_saved_usd"], 0.405, "{summary}");
    let lines = desk.results("out.jsonl");
    let saved = lines
        .iter()
        .filter_map(|line| line["cache_saved_usd"].as_f64());
    assert!((saved.sum::<f64>() - 0.405).abs() < 1e-9);
}

/// As some editors write at the beginning of a file.
#[test]
fn a_byte_order_mark_is_no_part_of_a_text_or_a_schema() {
    let recorder = Recorder::default();
    let config = SimConfig::default().answer("{}").recorder(recorder.clone());
    let (desk, sim) = (Desk::with(1), simulator(config));
    let write = |name: &str, text: &str| desk.write(name, format!("\u{feff}{text}"));
    write("system.txt", "brief\n");
    write("template.txt", "Sum up: {{prompt}}\n");
    write(
        "schema.json",
        r#"{"type": "object", "properties": {"a": {"type": "string"}}}"#,
    );
    write("header.txt", "X-Team: a\n");
    write("prices.json", r#"{"providers": {}}"#);
    let words = "in.jsonl --system @system.txt --template @template.txt --json-schema schema.json \
                 --header @header.txt --prices prices.json -o out.jsonl";
    desk.run(&sim, words).expect(0);
    let body: Value = serde_json::from_str(&recorder.take()[0]).unwrap();
    let messages = json!([
        {"role": "system", "content": "brief"},
        {"role": "user", "content": "Sum up: prompt 0"},
    ]);
    assert_eq!(body["messages"], messages);
    assert_eq!(body["response_format"]["type"], "json_schema", "{body}");
}

#[test]
fn a_dry_run_needs_no_key_and_prints_none() {
    let desk = Desk::with(2);
    let words = "run in.jsonl -o out.jsonl --provider openai --model m --dry-run";
    desk.plain(words)
        .ends(0, "OPENAI_API_KEY")
        .says("would send 2 items");
    let mut command = desk.command(words.split(' '));
    command.env("OPENAI_API_KEY", "sk-very-secret-1234567890");
    let ended = command.ended().expect(0);
    assert!(!ended.stdout.contains("secret") && !ended.stderr.contains("secret"));
    // A dry run rejects invalid arguments too, and a real run needs its key.
    desk.plain("run in.jsonl -o out.jsonl --provider opnai --dry-run")
        .expect(2);
    let real = "run in.jsonl -o out.jsonl --provider openai --model m";
    desk.plain(real).ends(1, "OPENAI_API_KEY");
}

#[test]
fn a_dry_run_reports_tokens_and_cost_by_call_and_by_batch_of_what_is_to_be_sent() {
    let (desk, sim) = (Desk::with(40), good());
    let sent = |words: &str| {
        let words = format!("run in.jsonl -o out.jsonl --provider openai {words}");
        let mut command = desk.command(words.split_whitespace());
        command
            .env("OPENAI_API_KEY", "k")
            .env("OPENAI_BASE_URL", sim.base_url());
        command.ended()
    };
    let priced = "--model gpt-4o-mini --max-tokens 20";
    sent(&format!("{priced} --max-items 30")).expect(0);
    let calls = sim.stats().calls;
    let plan = sent(&format!("{priced} --dry-run --json")).expect(0).json();
    plan.has(json!({"total": 40, "finished_before": 30, "to_send": 10}));
    let model = &plan["models"][0];
    model.has(json!({"model": "openai/gpt-4o-mini", "requests": 10, "max_output_tokens": 200}));
    let cost = |strategy: &str, end: &str| model["cost_usd"][strategy][end].as_f64().unwrap();
    let input = model["input_tokens"].as_u64().unwrap() as f64;
    assert!(
        (cost("sync", "input") - input * 0.15e-6).abs() < 1e-9,
        "{model}"
    );
    let most = cost("sync", "input") + 200.0 * 0.6e-6;
    assert!((cost("sync", "most") - most).abs() < 1e-9, "{model}");
    assert!((cost("batch", "most") - most / 2.0).abs() < 1e-9, "{model}");
    sent(&format!("{priced} --dry-run"))
        .ends(0, "dry run: would send 10 items, about ")
        .says("openai/gpt-4o-mini, sync: $")
        .says("openai/gpt-4o-mini, batch: $")
        .says("for the input of 10 requests; at most $");
    sent("--model gpt-4o-mini --dry-run").ends(0, "--max-tokens limits it");
    let unknown = sent("--model house --dry-run --json").expect(0).json();
    assert_eq!(unknown["models"][0]["cost_usd"]["sync"], Value::Null);
    sent("--model house --dry-run").ends(0, "openai/house, sync: the price is unknown");
    assert_eq!(sim.stats().calls, calls, "nothing was sent");
}
