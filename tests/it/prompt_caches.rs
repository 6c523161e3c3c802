//! Prompt caches of providers: which requests are marked, against a simulator that caches by time and prefix as Anthropic
//! documents it.

use std::time::Duration;

use batchwright::files::CachePrompt;
use batchwright::{Bulk, LlmConfig, Outcome, Request, Route, Secret, Usage};
use batchwright_simulate::{SimConfig, Simulator};

use crate::common::simulator;

/// Tokens of the shared beginning, at 4 bytes per token.
const SHARED: u64 = 3_000;

fn caching() -> SimConfig {
    let config = SimConfig::default().prompt_caches(true).cache_speed(60);
    config.latency(Duration::from_millis(3))
}

fn route(sim: &Simulator) -> Route<'static> {
    let config = LlmConfig::new("anthropic").model("claude-sonnet-4-5");
    let config = config.base_url(format!("http://{}", sim.addr()));
    Route::new(config.api_key(Secret::new("sk-test")).client().unwrap())
}

fn system(name: &str) -> String {
    let bytes = usize::try_from(SHARED * 4).unwrap();
    format!("{name} {}", "rule ".repeat(bytes))[..bytes].to_owned()
}

fn requests(system: &str, n: usize) -> Vec<Request> {
    let request = |i| {
        Request::new(format!("question {i}"))
            .with_system(system)
            .with_max_tokens(16)
    };
    (0..n).map(request).collect()
}

fn usage(outcomes: &[Outcome]) -> Usage {
    let mut all = Usage::default();
    for outcome in outcomes {
        all += outcome.result.as_ref().unwrap().usage.unwrap();
    }
    all
}

#[test]
fn by_default_an_address_that_is_not_the_providers_own_gets_no_marks() {
    for (which, cached) in [
        (CachePrompt::Auto, false),
        (CachePrompt::Never, false),
        (CachePrompt::Always, true),
    ] {
        let sim = simulator(caching());
        let route = route(&sim).cache_prompt(which);
        let outcomes = Bulk::new(route).collect(&requests(&system("one"), 20));
        let usage = usage(&outcomes.unwrap());
        assert_eq!(usage.cached_input_tokens > 0, cached, "{which:?}");
    }
}

#[test]
fn a_mark_does_not_change_the_hash() {
    let plain = requests(&system("one"), 1).remove(0);
    let lifetime = Some(batchwright::client::CacheLifetime::Hour);
    let marked = plain.clone().with_cache_prefix(lifetime);
    let hash = batchwright::client::request_hash;
    assert_eq!(hash(&marked), hash(&plain));
}
