//! Batch files from the documentation of providers, run unchanged against the provider that they were written for.

use std::path::PathBuf;

use batchwright_simulate::{BatchConfig, Recorder, SimConfig, Simulator, Vendor};
use serde_json::Value;

use super::batch_runs::SHORT;
use super::common::{Desk, Ended, RunToEnd, cases, simulator};

/// A file, and the provider whose documentation contains it.
const EXAMPLES: [(&str, &str); 4] = [
    ("openai_chat", "openai"),
    ("azure_chat", "azure"),
    ("anthropic", "anthropic"),
    ("gemini", "gemini"),
];

fn example(name: &str) -> String {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/batch_examples"
    );
    let path = PathBuf::from(folder).join(format!("{name}.jsonl"));
    std::fs::read_to_string(path).unwrap()
}

fn sim() -> Simulator {
    simulator(SimConfig::default().batches(BatchConfig::default().duration(SHORT)))
}

fn sorted(mut bodies: Vec<Value>) -> Vec<String> {
    bodies.sort_by_key(Value::to_string);
    bodies.iter().map(Value::to_string).collect()
}

/// The bodies in the lines of a file. Those of OpenAI's chat API are parsed, and written in its present format.
fn bodies(name: &str) -> Vec<String> {
    let lines = example(name);
    let lines = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut bodies = ["body", "params", "request"].into_iter();
        let mut body = bodies.find_map(|field| line.get(field)).unwrap().clone();
        let fields = body.as_object_mut().unwrap();
        if name == "openai_chat"
            && let Some(most) = fields.remove("max_tokens")
        {
            fields.insert("max_completion_tokens".to_owned(), most);
        }
        body
    });
    sorted(lines.collect())
}

/// The program with these words, against a provider that the simulator imitates.
fn start(desk: &Desk, sim: &Simulator, provider: &str, words: &str) -> Ended {
    let (key, address, path) = match provider {
        "gemini" => ("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "/v1beta"),
        "azure" => ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", ""),
        "anthropic" => ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "/v1"),
        "mistral" => ("MISTRAL_API_KEY", "MISTRAL_BASE_URL", "/v1"),
        _ => ("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1"),
    };
    let mut command = desk.other(env!("CARGO_BIN_EXE_batchwright"), words.split_whitespace());
    command
        .env("BATCHWRIGHT_PROVIDER", provider)
        .env(key, "k")
        .env(address, format!("http://{}{path}", sim.addr()))
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
    command.ended()
}

#[test]
fn documented_batch_files_run_unchanged_by_calls_and_in_batches() {
    for (name, provider) in EXAMPLES {
        let recorder = Recorder::default();
        let mut config = SimConfig::default().recorder(recorder.clone());
        if provider == "azure" {
            config = config.vendor(Vendor::Azure);
        }
        let batches = BatchConfig::default().duration(SHORT);
        let (desk, sim) = (Desk::new(), simulator(config.batches(batches)));
        desk.write("in.jsonl", example(name));
        let items = example(name).lines().count();
        let model = if provider == "gemini" {
            "--model m"
        } else {
            ""
        };
        for strategy in ["sync", "batch"] {
            let words =
                format!("run in.jsonl -o {strategy}.jsonl --strategy {strategy} --ordered {model}");
            let ended = start(&desk, &sim, provider, &words).expect(0);
            let order = desk.order(&format!("{strategy}.jsonl"));
            assert_eq!(order.len(), items, "{name}: {}", ended.stderr);
            let arrived = recorder.take();
            let arrived = arrived
                .iter()
                .map(|body| serde_json::from_str(body).unwrap());
            assert_eq!(sorted(arrived.collect()), bodies(name), "{name} {strategy}");
        }
        assert_eq!(desk.order("sync.jsonl"), desk.order("batch.jsonl"));
        let texts = |file: &str| -> Vec<_> {
            desk.results(file)
                .iter()
                .map(|line| line["text"].clone())
                .collect()
        };
        assert_eq!(texts("sync.jsonl"), texts("batch.jsonl"), "{name}");
        assert_eq!(sim.stats().calls, items as u64);
        assert_eq!(sim.stats().malformed, 0, "{name}");
        assert_eq!(sim.batch_stats().items_accepted, items as u64);
    }
}

#[test]
fn lines_in_the_format_of_one_provider_go_to_no_other() {
    let own = r#"{"custom_id":"c","params":{"model":"x","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}}"#;
    let gemini = r#"{"key":"k","request":{"contents":[{"parts":[{"text":"hi"}]}]}}"#;
    let refused = |format: &str| {
        format!(
            "in.jsonl:2: found that a line in the format of {format}'s API goes only to {format}"
        )
    };
    let run = "run in.jsonl -o out.jsonl --model m";
    let chat = r#"{"prompt":"hi","id":"plain"}"#;
    for (line, format, other) in [
        (own, "anthropic", "openai"),
        (own, "anthropic", "gemini"),
        (gemini, "gemini", "anthropic"),
        (gemini, "gemini", "mistral"),
    ] {
        let (desk, sim) = (Desk::new(), sim());
        desk.write("in.jsonl", format!("{chat}\n{line}\n"));
        let ended = start(&desk, &sim, other, run).expect(2);
        drop(ended.says(&refused(format)).says("nothing was sent"));
        assert_eq!(sim.stats().calls, 0);
        // If at least one provider has the format, the line is sent there.
        start(&desk, &sim, format, run).expect(0);
        assert_eq!(sim.stats().malformed, 0);
        // Answered items are not sent, whichever provider gets the rest.
        let more = r#"{"prompt":"more","id":"more"}"#;
        desk.write("in.jsonl", format!("{chat}\n{line}\n{more}\n"));
        start(&desk, &sim, other, run).ends(0, "2 finished before, 1 to send");
    }
}

#[test]
fn flags_that_a_native_line_cannot_use_are_reported() {
    let (desk, sim) = (Desk::new(), sim());
    desk.write("in.jsonl", example("anthropic"));
    for (flag, says) in cases(
        r#"
        --system x => --system
        --temperature 0.1 => --temperature
        --json-schema object => --json-schema
        --service-tier flex => --service-tier
        --extra {"top_k":4} => --extra
    "#,
    ) {
        let words = format!("run in.jsonl -o out.jsonl {flag}");
        start(&desk, &sim, "anthropic", &words).ends(2, says);
    }
    assert_eq!(sim.stats().calls, 0);
}
