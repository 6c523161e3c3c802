//! The cost of calls; the provider computes its bill independently.

use std::process::Command;
use std::time::Duration;

use batchwright::Usd;
use batchwright_simulate::{Recorder, SimConfig, Simulator};
use serde_json::{Value, json};

use super::batch_runs::{clean, command};
use super::common::{Desk, Has, PATIENCE, RunToEnd, Running, cases, good, simulator, usd};

#[test]
fn own_prices_override_the_table_and_unknown_ones_are_counted_separately() {
    let (desk, sim) = (Desk::new(), good());
    desk.input(
        "{\"id\":\"a\",\"prompt\":\"p\",\"model\":\"gpt-4o-mini\"}\n\
         {\"id\":\"b\",\"prompt\":\"p\",\"model\":\"new\"}\n",
    );
    let run = |words: &str| command(&desk, &sim, &format!("in.jsonl --ordered {words}")).ended();
    run("-o one.jsonl").ends(0, ", and 1 item without a known price");
    let lines = desk.results("one.jsonl");
    assert!(usd(&lines[0]["cost_usd"]) > Usd::ZERO);
    assert_eq!(lines[1]["cost_usd"], Value::Null);

    let prices = |price: f64| {
        let prices = json!([{"input": price, "output": 0}]);
        let models = json!([{"models": ["new", "gpt-4o-mini"], "prices": prices}]);
        let prices = json!({"providers": {"*": {"models": models}}});
        desk.write("prices.json", prices.to_string());
    };
    prices(2.0);
    run("-o own.jsonl --prices prices.json").expect(0);
    for line in desk.results("own.jsonl") {
        let input = line["usage"]["input_tokens"].as_u64().unwrap();
        assert_eq!(usd(&line["cost_usd"]).picos(), input * 2_000_000);
    }
    prices(-1.0);
    run("-o bad.jsonl --prices prices.json").ends(2, "these are not prices");
    run("-o bad.jsonl --prices none.json").ends(2, "cannot read none.json");
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
        assert!(sim.wait_until(has_answered, PATIENCE));
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
fn the_summary_counts_what_was_read_from_the_cache() {
    let sim = simulator(SimConfig::default().cached_tokens(SHARED));
    let desk = Desk::new();
    let ended = cached(&desk, &sim, ANTHROPIC, 50, "--json").ended();
    let cached = json!({"/summary/usage/cached_input_tokens": 50 * SHARED});
    ended.expect(0).json().has(cached);
}

/// As some editors write at the beginning of a file.
#[test]
fn a_byte_order_mark_is_no_part_of_a_text_or_a_schema() {
    let recorder = Recorder::default();
    let config = SimConfig::default().answer("{}").recorder(recorder.clone());
    let (desk, sim) = (Desk::with(1), simulator(config));
    for (name, text) in cases(
        r#"
        system.txt => brief
        template.txt => Sum up: {{prompt}}
        schema.json => {"type": "object", "properties": {"a": {"type": "string"}}}
        header.txt => X-Team: a
        prices.json => {"providers": {}}
    "#,
    ) {
        desk.write(name, format!("\u{feff}{text}\n"));
    }
    let words = "in.jsonl --system @system.txt --template @template.txt --json-schema schema.json \
                 --header @header.txt --prices prices.json -o out.jsonl";
    desk.run(&sim, words).expect(0);
    let body: Value = serde_json::from_str(&recorder.take()[0]).unwrap();
    body.has(json!({
        "/messages/0": {"role": "system", "content": "brief"},
        "/messages/1": {"role": "user", "content": "Sum up: prompt 0"},
        "/response_format/type": "json_schema",
    }));
}

#[test]
fn a_dry_run_needs_no_key_and_prints_none() {
    let desk = Desk::with(2);
    let words = "run in.jsonl -o out.jsonl --provider openai --model m";
    let dry = || desk.command(words.split(' ').chain(["--dry-run"]));
    dry()
        .ended()
        .ends(0, "OPENAI_API_KEY")
        .tells("would send 2 items");
    let ended = dry()
        .env("OPENAI_API_KEY", "sk-very-secret-1234567890")
        .ended();
    let ended = ended.expect(0);
    assert!(!ended.stdout.contains("secret") && !ended.stderr.contains("secret"));
    // A dry run rejects invalid arguments too, and a real run needs its key.
    let unknown = words.replace("openai", "opnai") + " --dry-run";
    desk.plain(&unknown).expect(2);
    desk.plain(words).ends(1, "OPENAI_API_KEY");
}

#[test]
fn a_dry_run_reports_tokens_and_cost_by_call_and_by_batch_of_what_is_to_be_sent() {
    let (desk, sim) = (Desk::with(40), good());
    let run = |words: &str| {
        let words = format!("in.jsonl -o out.jsonl {words}");
        command(&desk, &sim, &words).ended().expect(0)
    };
    let priced = "--model gpt-4o-mini --max-tokens 20";
    run(&format!("{priced} --max-items 30"));
    let plan = run(&format!("{priced} --dry-run --json")).json();
    plan.has(json!({"total": 40, "finished_before": 30, "to_send": 10}));
    let model = &plan["models"][0];
    model.has(json!({"model": "openai/gpt-4o-mini", "requests": 10, "max_output_tokens": 200}));
    let input = model["input_tokens"].as_f64().unwrap() * 0.15e-6;
    let most = input + 200.0 * 0.6e-6;
    let is = |path: &str, expected: f64| {
        let found = model.pointer(&format!("/cost_usd/{path}")).unwrap();
        let found = found.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-9, "{path}: {model}");
    };
    is("sync/input", input);
    is("sync/most", most);
    is("batch/most", most / 2.0);
    run(&format!("{priced} --dry-run"))
        .says("dry run: would send 10 items, about ")
        .says("openai/gpt-4o-mini, sync: $")
        .says("openai/gpt-4o-mini, batch: $")
        .tells("for the input of 10 requests; at most $");
    run("--model gpt-4o-mini --dry-run").tells("--max-tokens limits it");
    let unknown = run("--model house --dry-run --json").json();
    unknown.has(json!({"/models/0/cost_usd/sync": null}));
    run("--model house --dry-run").tells("openai/house, sync: the price is unknown");
    assert_eq!(sim.stats().calls, 30, "nothing was sent");
}
