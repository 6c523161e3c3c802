//! Dry runs: what can be seen and corrected before anything is billed.

use serde_json::{Value, json};

use batchwright_simulate::{Recorder, SimConfig};

use super::common::{Desk, Has, RunToEnd, good, simulator};

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

#[test]
fn all_of_many_repeated_ids_are_skipped() {
    let (desk, sim) = (Desk::new(), good());
    let line = |i: usize| format!("{{\"id\":\"{}\",\"prompt\":\"{i}\"}}\n", i % 10);
    desk.write("in.jsonl", (0..100).map(line).collect::<String>());
    desk.run(&sim, "in.jsonl -o out.jsonl --bad-rows skip")
        .expect(3);
    let lines = desk.results("out.jsonl");
    let answered = lines.iter().filter(|line| line["success"] == true).count();
    assert_eq!((lines.len(), answered, sim.stats().calls), (100, 10, 10));
}
