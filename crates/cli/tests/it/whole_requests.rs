//! One request with all features: tools, images, a document, reasoning. It is sent to each provider in that
//! provider's format, in calls and in batches, and the reply is stored completely.

use batchwright_simulate::{BatchConfig, Recorder, SimConfig};
use serde_json::{Value, json};

use super::batch_runs::SHORT;
use super::batch_site::{ALL, Site};
use super::common::{Desk, RunToEnd, each};
use super::every_provider::never_malformed;

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
        let documents = ["openai", "mistral", "anthropic", "gemini"].contains(&at.name);
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
            let counts = !["mistral", "together", "deepinfra"].contains(&at.name);
            let counted = if counts { 7 } else { 0 };
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
        never_malformed(at.name, &site.sim.stats());
        assert_eq!(site.sim.batch_stats().items_accepted, 1, "{}", at.name);
    });
}
