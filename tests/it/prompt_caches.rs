//! Prompt caches of providers: which requests are marked.

use batchwright::files::CachePrompt;
use batchwright::{Bulk, LlmConfig, Request, Route, Secret};
use batchwright_simulate::{Recorder, SimConfig};

use crate::common::simulator;

/// Requests with a shared system text of 3,000 tokens.
fn requests(n: usize) -> Vec<Request> {
    let request = |i| {
        Request::new(format!("question {i}"))
            .with_system("rule ".repeat(2_400))
            .with_max_tokens(16)
    };
    (0..n).map(request).collect()
}

#[test]
fn by_default_an_address_that_is_not_the_providers_own_gets_no_marks() {
    for (which, marked) in [
        (CachePrompt::Auto, false),
        (CachePrompt::Never, false),
        (CachePrompt::Always, true),
    ] {
        let recorder = Recorder::default();
        let sim = simulator(SimConfig::default().recorder(recorder.clone()));
        let config = LlmConfig::new("anthropic").model("claude-sonnet-4-5");
        let config = config.base_url(format!("http://{}", sim.addr()));
        let client = config.api_key(Secret::new("sk-test")).client().unwrap();
        let route = Route::new(client).cache_prompt(which);
        Bulk::new(route).collect(&requests(20)).unwrap();
        let bodies = recorder.take();
        assert_eq!(bodies.len(), 20);
        let is_marked = |body: &String| body.contains("cache_control");
        assert!(
            bodies.iter().all(|body| is_marked(body) == marked),
            "{which:?}"
        );
    }
}

#[test]
fn a_mark_does_not_change_the_hash() {
    let plain = requests(1).remove(0);
    let lifetime = Some(batchwright::client::CacheLifetime::Hour);
    let marked = plain.clone().with_cache_prefix(lifetime);
    let hash = batchwright::client::request_hash;
    assert_eq!(hash(&marked), hash(&plain));
}
