//! One prompt file in OpenAI's format, unchanged against every provider that checks its own format strictly.

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Ended, RunToEnd};
use super::every_provider::{PROVIDERS, Provider, never_malformed};

/// The fields of OpenAI's chat API that are not parameters of a request, and those that compatible servers are
/// known for.
fn body_fields() -> Vec<(&'static str, Value)> {
    let efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    let tiers = ["auto", "default", "flex"];
    let words = |field, words: &[&str]| -> Vec<(&'static str, Value)> {
        words.iter().map(|word| (field, json!(word))).collect()
    };
    let mut fields = vec![
        ("frequency_penalty", json!(0.1)),
        ("function_call", json!("none")),
        ("logit_bias", json!({"50256": -100})),
        ("logprobs", json!(true)),
        ("metadata", json!({"run": "r7"})),
        ("metadata", json!({"user_id": "u-1"})),
        ("metadata", Value::Null),
        ("modalities", json!(["text"])),
        ("parallel_tool_calls", json!(false)),
        (
            "prediction",
            json!({"type": "content", "content": "likely"}),
        ),
        ("presence_penalty", json!(0.1)),
        ("prompt_cache_key", json!("k")),
        ("prompt_cache_retention", json!("24h")),
        ("safety_identifier", json!("u-1")),
        ("store", json!(true)),
        ("tool_choice", json!("none")),
        (
            "tools",
            json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ),
        ("top_logprobs", json!(2)),
        ("user", json!("u-1")),
        ("verbosity", json!("low")),
        ("web_search_options", json!({})),
        ("top_k", json!(40)),
        ("min_p", json!(0.05)),
        ("repetition_penalty", json!(1.1)),
    ];
    fields.extend(words("reasoning_effort", &efforts));
    fields.extend(words("service_tier", &tiers));
    fields
}

/// A recorded turn of OpenAI's API, with a speaker's name inserted.
fn recorded_turn() -> Value {
    json!({"role": "assistant", "content": "two", "refusal": null, "annotations": [],
        "tool_calls": [], "audio": null, "function_call": null, "reasoning_content": "hm",
        "name": "bob"})
}

fn line(id: usize, mut body: Value) -> String {
    if body.get("messages").is_none() {
        body["messages"] = json!([{"role": "user", "content": "hello"}]);
    }
    let line = json!({"custom_id": format!("i-{id}"), "method": "POST",
        "url": "/v1/chat/completions", "body": body});
    format!("{line}\n")
}

/// Each field on a separate line, all of them on one line, and the content parts that can be added.
fn prompt_file() -> Vec<String> {
    let each = body_fields().into_iter().map(|(field, value)| {
        let mut body = json!({});
        body[field] = value;
        body
    });
    let mut bodies: Vec<Value> = each.collect();
    let mut all = json!({"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END", "\n"],
        "max_completion_tokens": 64, "n": 1, "stream": false, "stream_options": null,
        "response_format": {"type": "text"}});
    for (field, value) in body_fields() {
        all[field] = value;
    }
    bodies.push(all);
    bodies.push(json!({"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "one", "name": "ann"},
        recorded_turn(),
        {"role": "user", "content": [{"type": "text", "text": "three"}]}]}));
    bodies.push(json!({"seed": -5_000_000_000_i64, "temperature": 1.8}));
    let lines = bodies.into_iter().enumerate();
    lines.map(|(id, body)| line(id, body)).collect()
}

fn run(desk: &Desk, provider: &Provider, url: &str) -> Ended {
    let key = match provider.name {
        "local" | "custom" => format!("{}_LLM_API_KEY", provider.name),
        "azure" => "azure_openai_api_key".to_owned(),
        name => format!("{name}_API_KEY"),
    };
    let words = format!(
        "run in.jsonl -o {0}.jsonl --provider {0} --model m-1 --base-url {url}",
        provider.name
    );
    let mut command = desk.command(words.split(' '));
    command.env(key.to_uppercase(), "sk-right").ended()
}

#[test]
fn a_file_in_openais_format_runs_against_every_provider_and_reports_omitted_fields() {
    let desk = Desk::new();
    let lines = prompt_file();
    desk.write("in.jsonl", lines.concat());
    for provider in &PROVIDERS {
        let name = provider.name;
        let sim = provider.simulator(SimConfig::default());
        let ended = run(&desk, provider, &provider.url(&sim)).expect(0);
        assert_eq!(desk.ids(&format!("{name}.jsonl")).len(), lines.len());
        never_malformed(name, &sim.stats());
        for (field, leaving) in [
            (
                "verbosity",
                "anthropic gemini xai groq mistral deepseek together fireworks deepinfra cerebras",
            ),
            (
                "metadata",
                "anthropic gemini xai groq deepseek together deepinfra cerebras",
            ),
            ("messages[].name", "anthropic gemini groq mistral fireworks"),
            ("seed", "anthropic gemini mistral deepseek deepinfra"),
            ("stop", "anthropic"),
            ("temperature", "anthropic mistral cerebras"),
            (
                "service_tier",
                "anthropic gemini xai mistral deepseek together deepinfra",
            ),
            ("top_k", "openai xai groq mistral deepseek cerebras azure"),
            ("reasoning_effort", ""),
        ] {
            let words = match field {
                "temperature" => "accepts a temperature of at most".to_owned(),
                _ => format!("`{field}`"),
            };
            let lines = ended.stderr.lines();
            let told = lines.filter(|line| line.contains(&words) && line.contains("omitted"));
            let told = told.count();
            let leaves = leaving.split(' ').any(|leaving| leaving == name);
            assert_eq!(
                told,
                usize::from(leaves),
                "{name} {field}: {}",
                ended.stderr
            );
        }
    }
}
