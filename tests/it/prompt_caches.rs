//! Prompt caches of providers: how much of a shared beginning is read from the cache, against a simulator that caches by
//! time and prefix as Anthropic and OpenAI document it.

use std::time::Duration;

use batchwright::files::CachePrompt;
use batchwright::{Bulk, LlmConfig, Outcome, Request, Route, Secret, Usage};
use batchwright_simulate::{SimConfig, Simulator, Trouble};

use crate::common::simulator;

/// Tokens of the shared beginning, at 4 bytes per token.
const SHARED: u64 = 3_000;

fn caching() -> SimConfig {
    let config = SimConfig::default().prompt_caches(true).cache_speed(60);
    config.latency(Duration::from_millis(3))
}

fn route(sim: &Simulator, provider: &str, model: &str) -> Route<'static> {
    let url = match provider {
        "anthropic" => format!("http://{}", sim.addr()),
        _ => sim.base_url(),
    };
    let config = LlmConfig::new(provider).model(model).base_url(url);
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

/// The part of the shared input of this number of prompts that was read from the cache.
fn part(usage: &Usage, prompts: usize) -> f64 {
    usage.cached_input_tokens as f64 / (SHARED * prompts as u64) as f64
}

const MODELS: [(&str, &str); 3] = [
    ("anthropic", "claude-sonnet-4-5"),
    ("openai", "gpt-5"),
    ("openai", "gpt-5.6"),
];

#[test]
fn nearly_all_of_a_shared_beginning_is_read_from_the_cache() {
    for (provider, model) in MODELS {
        let sim = simulator(caching());
        let route = route(&sim, provider, model).cache_prompt(CachePrompt::Always);
        let requests = requests(&system("one"), 500);
        let outcomes = Bulk::new(route).concurrency(16).collect(&requests).unwrap();
        let usage = usage(&outcomes);
        let part = part(&usage, requests.len());
        println!("{provider} {model}, calls: {:.2} % cached", 100.0 * part);
        assert!(part >= 0.95, "{provider} {model}: {usage:?}");
        assert_eq!(sim.stats().malformed, 0);
        // Only the first call wrote the cache.
        assert!(usage.cache_write_tokens <= SHARED + 100, "{usage:?}");
    }
}

#[test]
fn without_the_gate_calls_that_start_together_each_write_the_cache() {
    let sim = simulator(caching());
    let requests = requests(&system("one"), 50);
    // No request is marked, so nothing is cached.
    let never = route(&sim, "anthropic", MODELS[0].1).cache_prompt(CachePrompt::Never);
    let outcomes = Bulk::new(never).concurrency(16).collect(&requests).unwrap();
    let none = usage(&outcomes);
    assert_eq!((none.cached_input_tokens, none.cache_write_tokens), (0, 0));
}

#[test]
fn by_default_an_address_that_is_not_the_providers_own_gets_no_marks() {
    for (which, cached) in [(CachePrompt::Auto, false), (CachePrompt::Always, true)] {
        let sim = simulator(caching());
        let route = route(&sim, "anthropic", MODELS[0].1).cache_prompt(which);
        let outcomes = Bulk::new(route).collect(&requests(&system("one"), 20));
        let usage = usage(&outcomes.unwrap());
        assert_eq!(usage.cached_input_tokens > 0, cached, "{which:?}");
    }
}

#[test]
fn equal_requests_count_once_and_hashes_do_not_change() {
    let sim = simulator(caching());
    let same = |_| requests(&system("one"), 1).remove(0).with_temperature(0.0);
    let route = route(&sim, "anthropic", MODELS[0].1).cache_prompt(CachePrompt::Always);
    let outcomes = Bulk::new(route)
        .collect(&(0..20).map(same).collect::<Vec<_>>())
        .unwrap();
    let usage = usage(&outcomes[..1]);
    assert_eq!(usage.cache_write_tokens, 0, "only one prompt was sent");
    let marked = same(0).with_cache_prefix(Some(batchwright::client::CacheLifetime::Hour));
    let hash = batchwright::client::request_hash;
    assert_eq!(hash(&marked), hash(&same(0)));
}

#[test]
fn two_beginnings_are_each_written_once_and_a_failed_first_call_is_replaced() {
    let config = caching().trouble(Trouble::Error500, 0.2).seed(7);
    let sim = simulator(config);
    let mut all = requests(&system("one"), 100);
    let other = requests(&system("two"), 100).into_iter().enumerate();
    all.extend(other.map(|(i, mut request)| {
        request.messages[0].content = format!("other {i}").into();
        request
    }));
    let quick = batchwright::RetryPolicy::default().base_delay(Duration::from_millis(1));
    let route = route(&sim, "anthropic", MODELS[0].1)
        .cache_prompt(CachePrompt::Always)
        .retry(quick);
    let outcomes = Bulk::new(route).concurrency(16).collect(&all).unwrap();
    let usage = usage(&outcomes);
    assert!(part(&usage, all.len()) > 0.97, "{usage:?}");
}
