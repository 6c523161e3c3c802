//! Batch files from the documentation of providers, run unchanged: against the provider that they were written for,
//! and against others.

use std::path::PathBuf;

use batchwright_simulate::{BatchConfig, Recorder, SimConfig, Simulator, Vendor};
use serde_json::{Value, json};

use super::batch_runs::SHORT;
use super::common::{Desk, Ended, Has, RunToEnd, cases, simulator};

/// A file, and the provider whose documentation contains it.
const EXAMPLES: [(&str, &str); 5] = [
    ("openai_chat", "openai"),
    ("azure_chat", "azure"),
    ("openai_responses", "openai"),
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
fn a_responses_line_brings_its_calls_and_all_that_its_reply_holds() {
    let (desk, sim) = (Desk::new(), sim());
    let line = |id: &str, more: Value| {
        let mut body = json!({"model": "gpt-5.4", "input": "Oslo?"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        json!({"custom_id": id, "method": "POST", "url": "/v1/responses", "body": body})
    };
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}},
        "required": ["city"]});
    let tools = json!([{"type": "function", "name": "weather", "parameters": city},
        {"type": "custom", "name": "code"}]);
    let call =
        json!({"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"});
    let result = json!({"type": "function_call_output", "call_id": "c", "output": "7"});
    let lines = [
        line("calls", json!({"tools": tools})),
        line(
            "goes on",
            json!({"tools": tools, "input": [{"role": "user", "content": "Oslo?"}, call, result]}),
        ),
        line(
            "searches",
            json!({"tools": [{"type": "web_search"}],
                "include": ["message.output_text.logprobs"], "top_logprobs": 1}),
        ),
    ];
    desk.write("in.jsonl", lines.map(|line| format!("{line}\n")).concat());
    for strategy in ["sync", "batch"] {
        let words = format!("run in.jsonl -o {strategy}.jsonl --strategy {strategy} --ordered");
        let ended = start(&desk, &sim, "openai", &words).expect(0);
        let results = desk.results(&format!("{strategy}.jsonl"));
        let [calls, goes_on, searches] = &results[..] else {
            panic!("{}", ended.stderr);
        };
        calls.has(json!({"text": null, "success": true}));
        assert_eq!(calls["finish_reason"], "tool_calls");
        let made = calls["tool_calls"].as_array().unwrap();
        assert_eq!(
            (&made[0]["name"], &made[1]["name"]),
            (&json!("weather"), &json!("code"))
        );
        assert!(made[0]["arguments"]["city"].is_string());
        assert_eq!(made[1]["arguments"], "Oslo?");
        assert_eq!(goes_on["text"], "echo: Oslo?");
        searches.has(json!({"/citations/0/type": "url_citation", "/usage/web_search_calls": 1}));
        assert!(searches["logprobs"][0]["logprob"].is_number());
    }
    assert_eq!(sim.stats().malformed, 0);
}

#[test]
fn lines_are_translated_for_other_providers_or_rejected_with_the_lost_field() {
    for (name, provider) in [
        ("anthropic", "openai"),
        ("anthropic", "gemini"),
        ("gemini", "openai"),
        ("gemini", "anthropic"),
        ("openai_responses", "anthropic"),
        ("openai_responses", "mistral"),
    ] {
        let (desk, sim) = (Desk::new(), sim());
        let all = example(name);
        let kept: Vec<&str> = all
            .lines()
            .filter(|line| !line.contains("web_search"))
            .collect();
        desk.write("in.jsonl", kept.join("\n"));
        let ended = start(&desk, &sim, provider, "run in.jsonl -o out.jsonl --model m");
        let ended = ended.expect(0);
        assert_eq!(
            desk.results("out.jsonl").len(),
            kept.len(),
            "{}",
            ended.stderr
        );
        assert_eq!(sim.stats().malformed, 0, "{name} at {provider}");
    }
    let (desk, sim) = (Desk::new(), sim());
    desk.write("in.jsonl", example("openai_responses"));
    let ended = start(
        &desk,
        &sim,
        "anthropic",
        "run in.jsonl -o out.jsonl --model m",
    )
    .expect(2)
    .says("in.jsonl:6: found that the field \"tools[0].type\" of openai's API has no place");
    drop(ended.says("nothing was sent"));
    assert_eq!(sim.stats().calls, 0);
    // If at least one provider supports the line, it is sent there.
    let chat = r#"{"prompt":"hi","id":"plain"}"#;
    let cached = r#"{"custom_id":"c","params":{"model":"x","max_tokens":9,"thinking":{"type":"adaptive"},"messages":[{"role":"user","content":"hi"}]}}"#;
    desk.write("in.jsonl", format!("{chat}\n{cached}\n"));
    let ended = start(&desk, &sim, "openai", "run in.jsonl -o out.jsonl --model m").expect(2);
    drop(ended.says("in.jsonl:2: found that the field \"thinking\" of anthropic's API"));
    start(
        &desk,
        &sim,
        "anthropic",
        "run in.jsonl -o out.jsonl --model m",
    )
    .expect(0);
    // Answered items are not sent, whichever provider gets the rest.
    let more = r#"{"prompt":"more","id":"more"}"#;
    desk.write("in.jsonl", format!("{chat}\n{cached}\n{more}\n"));
    start(&desk, &sim, "openai", "run in.jsonl -o out.jsonl --model m")
        .ends(0, "2 finished before, 1 to send");
    desk.input(format!(
        "{more}\n\n{}\n",
        cached.replace("\"hi\"", "\"ho\"")
    ));
    start(&desk, &sim, "openai", "run in.jsonl -o out.jsonl --model m")
        .expect(2)
        .says("in.jsonl:3: found that the field \"thinking\" of anthropic's API");
}

#[test]
fn flags_that_a_native_line_cannot_use_are_reported() {
    let (desk, sim) = (Desk::new(), sim());
    desk.write("in.jsonl", example("anthropic"));
    for (flag, says) in cases(
        r#"
        --system x => --system
        --temperature 0.1 => --temperature
        --json-mode => and --json-mode
        --json-schema {"properties":{"a":{"type":"string"}}} => and --json-schema
        --service-tier flex => and service_tier of --service-tier or --extra
        --extra {"top_k":4} => and top_k of --extra
    "#,
    ) {
        let words = format!("run in.jsonl -o out.jsonl {flag}");
        start(&desk, &sim, "anthropic", &words).ends(2, says);
    }
    // Fields of the line take precedence.
    start(
        &desk,
        &sim,
        "anthropic",
        "run in.jsonl -o out.jsonl --max-tokens 5",
    )
    .expect(0);
    assert_eq!(sim.stats().calls, 2);
    let streamed = r#"{"custom_id":"s","method":"POST","url":"/v1/responses","body":{"input":"x","stream":true}}"#;
    desk.write("in.jsonl", streamed);
    start(&desk, &sim, "openai", "run in.jsonl -o out2.jsonl")
        .ends(2, "in.jsonl:1: found true in \"stream\"");
    // Only one of four answers would be kept, but all would be billed.
    let four = r#"{"key":"k","request":{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"candidateCount":4}}}"#;
    desk.write("in.jsonl", four);
    start(&desk, &sim, "gemini", "run in.jsonl -o out3.jsonl")
        .expect(2)
        .says("in.jsonl:1: found 4 in \"generationConfig.candidateCount\"; expected 1");
}

#[test]
fn lines_for_two_end_points_make_two_batches_and_a_worker_reads_them_from_the_queue() {
    let (desk, sim) = (Desk::new(), sim());
    let chat = example("openai_chat").replace("gpt-3.5-turbo-0125", "gpt-5.4");
    let (chat, responses) = (chat.lines(), example("openai_responses"));
    let mut mixed = String::new();
    for (i, line) in responses.lines().enumerate() {
        let between = chat.clone().nth(i).unwrap_or_default();
        mixed += &format!("{line}\n{between}\n");
    }
    desk.write("in.jsonl", mixed);
    let id = start(&desk, &sim, "openai", "submit in.jsonl")
        .expect(0)
        .stdout;
    std::fs::remove_file(desk.path("in.jsonl")).unwrap();
    start(&desk, &sim, "openai", "config set llm.bulk_strategy batch").expect(0);
    start(&desk, &sim, "openai", "work --until-empty").expect(0);
    let words = format!("results {} -o out.jsonl", id.trim());
    start(&desk, &sim, "openai", &words).expect(0);
    assert_eq!(desk.ids("out.jsonl").len(), 8);
    assert_eq!(sim.batch_stats().created, 2);
    assert_eq!(sim.stats().calls, 0);
}
