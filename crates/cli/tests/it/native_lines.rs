//! Batch files from the documentation of providers, run unchanged against the provider that they were written for.

use std::path::PathBuf;

use batchwright_simulate::{BatchConfig, Recorder, SimConfig, Simulator, Vendor};
use serde_json::{Value, json};

use super::batch_runs::SHORT;
use super::batch_site::{ALL, Site};
use super::common::{Desk, Ended, RunToEnd, cases, each, simulator};

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
        --json-schema object => and --json-schema object
        --json-schema {"properties":{"a":{"type":"string"}}} => and --json-schema
        --service-tier flex => and service_tier of --service-tier or --extra
        --extra {"top_k":4} => and top_k of --extra
    "#,
    ) {
        let words = format!("run in.jsonl -o out.jsonl {flag}");
        start(&desk, &sim, "anthropic", &words).ends(2, says);
    }
    assert_eq!(sim.stats().calls, 0);
}

/// A line with all features that a provider supports.
fn line(desk: &Desk, documents: bool) -> Value {
    desk.write("a.png", b"\x89PNG\r\n\x1a\nrest");
    desk.write("b.pdf", b"%PDF-1.7 rest");
    let mut content = vec![
        json!({"type": "text", "text": "What is it, and how is the weather there?"}),
        json!({"type": "image", "path": "a.png"}),
    ];
    if documents {
        content.push(json!({"type": "file", "path": "b.pdf"}));
    }
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}},
        "required": ["city"]});
    let function = json!({"name": "weather", "description": "Of a city", "parameters": parameters});
    json!({
        "custom_id": "all", "method": "POST", "url": "/v1/chat/completions",
        "body": {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": content}],
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "auto", "max_tokens": 2000}})
}

/// The files as base64.
const PICTURE: &str = "iVBORw0KGgpyZXN0";
const DOCUMENT: &str = "JVBERi0xLjcgcmVzdA==";

/// Asserts that a request contains the files, and the tool with its parameters, exactly once.
#[track_caller]
fn is_whole(body: &str, documents: bool) {
    let times = |what: &str| body.matches(what).count();
    assert_eq!(times(PICTURE), 1, "{body}");
    assert_eq!(times(DOCUMENT), usize::from(documents), "{body}");
    let parsed: Value = serde_json::from_str(body).unwrap();
    let mut tools = parsed["tools"].to_string();
    tools.retain(|c| c != ' ');
    assert_eq!(tools.matches(r#""name":"weather""#).count(), 1, "{body}");
    assert_eq!(tools.matches(r#""required":["city"]"#).count(), 1, "{body}");
}

#[test]
fn a_request_with_all_features_reaches_every_provider_by_calls_and_in_batches() {
    each(&ALL, |at| {
        let batches = BatchConfig::default().duration(SHORT);
        let recorder = Recorder::default();
        let config = SimConfig::default().batches(batches).reasoning_tokens(7);
        let config = config.recorder(recorder.clone());
        let site = Site::with(at, config, 0, |_| String::new());
        let documents = ["openai", "anthropic", "gemini"].contains(&at.name);
        let line = line(&site.desk, documents).to_string();
        site.desk.write("in.jsonl", line + "\n");
        for strategy in ["sync", "batch"] {
            let words = format!("run in.jsonl -o {strategy}.jsonl --strategy {strategy}");
            site.command(&words).ended().expect(0);
            let result = site.desk.results(&format!("{strategy}.jsonl")).remove(0);
            let [body] = &recorder.take()[..] else {
                panic!("{} {strategy}: it was not sent once", at.name);
            };
            is_whole(body, documents);
            let call = &result["tool_calls"][0];
            assert_eq!(call["name"], "weather", "{} {strategy}: {result}", at.name);
            assert!(
                call["arguments"]["city"].is_string(),
                "{}: {result}",
                at.name
            );
            let counted = if at.name == "deepinfra" { 0 } else { 7 };
            assert_eq!(result["usage"]["reasoning_tokens"], counted, "{}", at.name);
            // OpenAI's chat API returns no reasoning, nor does Azure's.
            if !["openai", "azure"].contains(&at.name) {
                let thoughts = result["reasoning"].to_string();
                assert!(
                    thoughts.contains("thinks"),
                    "{} {strategy}: {result}",
                    at.name
                );
            }
        }
        assert_eq!(site.sim.stats().malformed, 0, "{}", at.name);
        assert_eq!(site.sim.batch_stats().items_accepted, 1, "{}", at.name);
    });
}
