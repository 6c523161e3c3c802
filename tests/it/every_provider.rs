//! Every provider by name, the API that the simulator checks strictly for it, and the fields of a prompt file for
//! each. The tests of the program use this file too.

use batchwright_simulate::{SimConfig, SimStats, Simulator, Vendor};
use serde_json::{Value, json};

/// A provider by name, the vendor whose API the simulator has for it, and the path of that API.
pub struct Provider {
    pub name: &'static str,
    pub vendor: Option<Vendor>,
    path: &'static str,
}

pub const PROVIDERS: [Provider; 16] = [
    Provider::new("openai", Some(Vendor::OpenAi), ""),
    Provider::new("anthropic", None, ""),
    Provider::new("gemini", None, ""),
    Provider::new("xai", Some(Vendor::Xai), ""),
    Provider::new("groq", Some(Vendor::Groq), "/openai/v1"),
    Provider::new("mistral", Some(Vendor::Mistral), ""),
    Provider::new("local", Some(Vendor::Local), ""),
    Provider::new("custom", None, ""),
    Provider::new("openrouter", Some(Vendor::OpenRouter), ""),
    Provider::new("deepseek", Some(Vendor::DeepSeek), ""),
    Provider::new("together", Some(Vendor::Together), ""),
    Provider::new("fireworks", Some(Vendor::Fireworks), ""),
    Provider::new("deepinfra", Some(Vendor::DeepInfra), ""),
    Provider::new("cerebras", Some(Vendor::Cerebras), ""),
    Provider::new("nvidia", Some(Vendor::Nvidia), ""),
    Provider::new("azure", Some(Vendor::Azure), ""),
];

impl Provider {
    const fn new(name: &'static str, vendor: Option<Vendor>, path: &'static str) -> Self {
        Self { name, vendor, path }
    }

    pub fn simulator(&self, config: SimConfig) -> Simulator {
        let config = config.api_key("sk-right");
        let config = match self.vendor {
            Some(vendor) => config.vendor(vendor),
            None => config,
        };
        Simulator::start(config).unwrap()
    }

    pub fn url(&self, sim: &Simulator) -> String {
        format!("http://{}{}", sim.addr(), self.path)
    }
}

/// Asserts that no request was rejected as malformed.
#[track_caller]
pub fn never_malformed(name: &str, stats: &SimStats) {
    assert_eq!(stats.malformed, 0, "{name}: {stats:?}");
}

/// The fields of OpenAI's chat API that are not parameters of a request, and those that compatible servers are
/// known for.
pub fn body_fields() -> Vec<(&'static str, Value)> {
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
pub fn recorded_turn() -> Value {
    json!({"role": "assistant", "content": "two", "refusal": null, "annotations": [],
        "tool_calls": [], "audio": null, "function_call": null, "reasoning_content": "hm",
        "name": "bob"})
}
