//! The contents of replies in result lines, for calls, batches and the queue alike.

use std::process::Command;

use batchwright_simulate::{BatchConfig, SimConfig};
use serde_json::{Value, json};

use super::batch_runs::SHORT;
use super::batch_site::{KINDS, Site};
use super::common::{Desk, Has, RunToEnd, each, results};

const TOOL: &str = r#"{"type":"function","function":{"name":"get_weather","strict":true,
    "description":"The weather in a city now","parameters":{"type":"object",
    "properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}}}"#;

/// A question, and the same conversation after the tool was called.
fn prompts() -> String {
    let tools: Value = serde_json::from_str(&format!("[{TOOL}]")).unwrap();
    let ask = json!({"role": "user", "content": "How warm is it in Oslo?"});
    let call = json!({"id": "call00001", "name": "get_weather", "arguments": {"city": "Oslo"}});
    let called = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let came = json!({"role": "tool", "tool_call_id": "call00001", "content": "7 degrees"});
    let lines = [
        json!({"id": "asks", "messages": [ask], "max_tokens": 500,
            "extra": {"tools": tools, "tool_choice": "required"}}),
        json!({"id": "goes on", "messages": [ask, called, came], "max_tokens": 500,
            "extra": {"tools": tools}}),
    ];
    lines.map(|line| format!("{line}\n")).concat()
}

/// Ids and times differ between calls, and a batch has other prices.
fn without_what_differs(line: &Value) -> Value {
    let mut line = line.clone();
    for field in ["latency_ms", "reply", "cost_usd", "service_tier"] {
        line.as_object_mut().unwrap().remove(field);
    }
    if let Some(call) = line.pointer_mut("/tool_calls/0") {
        call["id"] = "".into();
    }
    line
}

#[test]
fn tool_calls_are_kept_in_calls_in_batches_and_in_the_queue() {
    each(&KINDS, |at| {
        let batches = BatchConfig::default().duration(SHORT);
        let config = SimConfig::default().batches(batches).reasoning_tokens(5);
        let site = Site::with(at, config, 0, |_| String::new());
        let desk: &Desk = &site.desk;
        std::fs::write(desk.path("in.jsonl"), prompts()).unwrap();
        let run = |words: &str, strategy: &str, code: i32| {
            let mut command: Command = site.command(words);
            command.env("BATCHWRIGHT_BULK_STRATEGY", strategy);
            command.ended().expect(code).stdout
        };
        run("run in.jsonl -o calls.jsonl --ordered", "sync", 0);
        run("run in.jsonl -o batch.jsonl --ordered", "batch", 0);
        let mut submit = desk.command("submit in.jsonl --model sim-1".split_whitespace());
        let id = submit.ended().expect(0).stdout;
        run("work --until-empty", "sync", 0);
        let mut take = desk.command(["results", id.trim()]);
        let mut queue = results(&take.ended().expect(0).stdout);
        queue.sort_by_key(|line| line["id"].to_string());
        let calls = desk.results("calls.jsonl");
        for lines in [&calls, &desk.results("batch.jsonl"), &queue] {
            assert_eq!(lines.len(), 2, "{}", at.name);
            for (line, expected) in lines.iter().zip(&calls) {
                assert_eq!(
                    without_what_differs(line),
                    without_what_differs(expected),
                    "{}",
                    at.name
                );
            }
            let asks = &lines[0];
            asks.has(json!({"text": null, "success": true}));
            asks.has(json!({"finish_reason": "tool_calls", "/tool_calls/0/name": "get_weather"}));
            assert!(asks["tool_calls"][0]["arguments"]["city"].is_string());
            assert!(
                lines[1]["text"]
                    .as_str()
                    .is_some_and(|text| text.contains("Oslo"))
            );
        }
        assert_eq!(site.sim.stats().malformed, 0, "{}", at.name);
    });
}
