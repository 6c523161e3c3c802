//! Every provider by name, and the API that the simulator checks strictly for it.

use std::time::Duration;

use batchwright::{Bulk, Client, LlmConfig, Outcome, Request, RetryPolicy, Route, Secret};
use batchwright_simulate::{SimConfig, SimStats, Simulator, Vendor};

/// A provider by name, the vendor whose API the simulator has for it, and the path of that API.
#[derive(Debug)]
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

    pub fn client(&self, sim: &Simulator, key: &str) -> Client {
        LlmConfig::new(self.name)
            .base_url(self.url(sim))
            .api_key(Secret::new(key))
            .model("m-1")
            .client()
            .unwrap()
    }

    pub fn run(&self, sim: &Simulator, requests: &[Request]) -> Vec<Outcome> {
        let patience = RetryPolicy::default().base_delay(Duration::from_millis(10));
        let route = Route::new(self.client(sim, "sk-right")).retry(patience);
        Bulk::new(route).concurrency(32).collect(requests).unwrap()
    }
}

/// Asserts that no request was rejected as malformed.
#[track_caller]
pub fn never_malformed(name: &str, stats: &SimStats) {
    assert_eq!(stats.malformed, 0, "{name}: {stats:?}");
}
