//! Embeddings at every provider that has them, against the strict simulator.

use batchwright::{Outcome, Request};
use batchwright_simulate::{SimConfig, Vendor, embedding};

use super::common::simulator;
use super::speech::{client, run};

/// The providers with embeddings: the name, the vendor whose API it has, and the number of texts per call.
const EMBEDDERS: [(&str, Vendor, usize); 11] = [
    ("openai", Vendor::OpenAi, 128),
    ("mistral", Vendor::Mistral, 64),
    ("gemini", Vendor::OpenAi, 100),
    ("local", Vendor::Local, 32),
    ("custom", Vendor::OpenAi, 32),
    ("openrouter", Vendor::OpenRouter, 32),
    ("together", Vendor::Together, 32),
    ("fireworks", Vendor::Fireworks, 32),
    ("deepinfra", Vendor::DeepInfra, 32),
    ("nvidia", Vendor::Nvidia, 32),
    ("azure", Vendor::Azure, 128),
];

fn requests(n: usize, dimensions: Option<u32>) -> Vec<Request> {
    let request = |i: usize| {
        let mut request = Request::embedding(format!("text {i}")).with_id(i.to_string());
        request.params.dimensions = dimensions;
        request
    };
    (0..n).map(request).collect()
}

#[track_caller]
fn has_own_vectors(outcomes: &[Outcome], dimensions: usize) {
    for (i, outcome) in outcomes.iter().enumerate() {
        let answer = outcome
            .result
            .as_ref()
            .unwrap_or_else(|e| panic!("{i}: {e}"));
        let own = embedding(&format!("text {i}"), dimensions);
        assert_eq!(answer.embedding.as_ref(), Some(&own), "{i}");
    }
}

#[test]
fn requests_pass_the_strict_check_of_every_provider() {
    for (provider, vendor, inputs) in EMBEDDERS {
        for dimensions in [None, Some(16)] {
            let sim = simulator(SimConfig::default().vendor(vendor));
            let outcomes = run(client(&sim, provider), &requests(600, dimensions));
            has_own_vectors(&outcomes, dimensions.map_or(8, |n| n as usize));
            let stats = sim.stats();
            assert_eq!((stats.malformed, stats.embedded), (0, 600), "{provider}");
            assert_eq!(
                stats.embedding_calls,
                600_u64.div_ceil(inputs as u64),
                "{provider}"
            );
        }
    }
}
