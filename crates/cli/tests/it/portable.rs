//! One prompt file in OpenAI's format, unchanged against every provider that checks its own format strictly.

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Ended, RunToEnd};
use super::every_provider::{PROVIDERS, Provider, never_malformed};

/// A recorded turn of OpenAI's API.
fn recorded_turn() -> Value {
    json!({"role": "assistant", "content": "two", "refusal": null, "annotations": [],
        "tool_calls": [], "audio": null, "function_call": null})
}

fn line(id: usize, mut body: Value) -> String {
    if body.get("messages").is_none() {
        body["messages"] = json!([{"role": "user", "content": "hello"}]);
    }
    let line = json!({"custom_id": format!("i-{id}"), "method": "POST",
        "url": "/v1/chat/completions", "body": body});
    format!("{line}\n")
}

/// The fields that every provider gets in its own format.
fn prompt_file() -> Vec<String> {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let function = json!({"name": "f", "parameters": parameters});
    let bodies = [
        json!({"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"], "max_completion_tokens": 64, "n": 1,
            "stream": false, "stream_options": null, "metadata": null, "response_format": {"type": "text"}}),
        json!({"tools": [{"type": "function", "function": function}], "tool_choice": "none"}),
        json!({"messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "one"},
            recorded_turn(),
            {"role": "user", "content": [{"type": "text", "text": "three"}]}]}),
    ];
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
fn a_file_in_openais_format_runs_against_every_provider() {
    let desk = Desk::new();
    let lines = prompt_file();
    desk.write("in.jsonl", lines.concat());
    for provider in &PROVIDERS {
        let name = provider.name;
        let sim = provider.simulator(SimConfig::default());
        run(&desk, provider, &provider.url(&sim)).expect(0);
        let results = desk.results(&format!("{name}.jsonl"));
        assert_eq!(results.len(), lines.len());
        never_malformed(name, &sim.stats());
        let first = results.iter().find(|line| line["id"] == "i-0").unwrap();
        let left_out = match name {
            "anthropic" | "deepseek" => json!(["seed"]),
            _ => Value::Null,
        };
        assert_eq!(first["left_out"], left_out, "{name}");
    }
}
