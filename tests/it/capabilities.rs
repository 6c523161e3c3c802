//! The table of providers in the documentation, compared cell by cell with the calls of each client to a provider
//! with its API.

use std::time::Duration;

use batchwright::batch::BatchSettings;
use batchwright::client::RateHints;
use batchwright::queue::WorkerSettings;
use batchwright::unstable::BatchClient;
use batchwright::{
    Context, ErrorKind, Job, JobQueue, LlmClient, LlmConfig, ProcessId, Request, ResponseFormat,
    Route, Secret, Worker,
};
use batchwright_simulate::{BatchConfig, SimConfig, Trouble, embedding};
use serde_json::json;

use super::every_provider::{PROVIDERS, Provider, never_malformed};

const PAGE: &str = include_str!("../../docs/providers.md");

fn answered(provider: &Provider, config: SimConfig, request: &Request) -> batchwright::Response {
    let sim = provider.simulator(config);
    let route = Route::new(provider.client(&sim, "sk-right"));
    let answer = route.complete(request, &Context::new());
    never_malformed(provider.name, &sim.stats());
    answer.unwrap_or_else(|e| panic!("{}: {e}", provider.name))
}

fn calls(provider: &Provider) {
    let answer = answered(provider, SimConfig::default(), &Request::new("hello"));
    assert_eq!(answer.text, "echo: hello");
}

/// Submits two prompts in one batch and collects them. Returns also the maximum number of prompts in a batch.
fn batches(provider: &Provider) -> String {
    let soon = BatchConfig::default().duration(Duration::from_millis(20));
    let sim = provider.simulator(SimConfig::default().batches(soon));
    let config = LlmConfig::new(provider.name)
        .base_url(provider.url(&sim))
        .api_key(Secret::new("sk-right"))
        .model("m-1");
    let client = match config.batch_client() {
        Ok(client) => client,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            return "none".to_owned();
        }
    };
    let requests = client.limits().requests;
    let queue = JobQueue::in_memory().unwrap();
    let prompts = ["one", "two"].map(|text| Job::from(Request::new(text)));
    queue.enqueue(ProcessId::new(), prompts).unwrap();
    let often = BatchSettings::default().poll_interval(Some(Duration::from_millis(20)));
    let report = Worker::new(&queue)
        .completions(provider.client(&sim, "sk-right"))
        .batches(client)
        .settings(WorkerSettings::default().batches(often))
        .until_empty(true)
        .run()
        .unwrap();
    assert_eq!((report.completed, report.batches), (2, 1), "{report:?}");
    assert_eq!((sim.stats().calls, sim.stats().paid), (0, 2));
    never_malformed(provider.name, &sim.stats());
    format!("{},000", requests / 1000)
}

/// The simulator's answer matches the schema only if the schema was sent in the right field.
fn structured(provider: &Provider) {
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "founded": {"type": "integer"}},
        "required": ["city", "founded"],
        "additionalProperties": false,
    });
    let format = ResponseFormat::json_schema(schema).unwrap();
    let request = Request::new("Basel, as json").with_response_format(format);
    let answer = answered(provider, SimConfig::default(), &request);
    let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
    assert!(value["city"].is_string() && value["founded"].is_i64());
    let format = ResponseFormat::JsonObject;
    let request = Request::new("Basel, as json").with_response_format(format);
    let answer = answered(provider, SimConfig::default(), &request);
    assert!(answer.text.starts_with('{'), "{}", answer.text);
}

/// Embeds 600 texts, also with fewer dimensions; a provider without embeddings reports that before any call.
fn embeddings(provider: &Provider) -> String {
    for dimensions in [None, Some(16)] {
        let text = |i: usize| {
            let mut text = Request::embedding(format!("text {i}"));
            text.params.dimensions = dimensions;
            text
        };
        let texts: Vec<_> = (0..600).map(text).collect();
        let sim = provider.simulator(SimConfig::default());
        let client = provider.client(&sim, "sk-right");
        if let Err(error) = client.embed(&[&texts[0]], &Context::new()) {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(sim.stats().calls, 0);
            return "none".to_owned();
        }
        for (i, outcome) in provider.run(&sim, &texts).into_iter().enumerate() {
            let answer = outcome
                .result
                .unwrap_or_else(|e| panic!("{}: {e}", provider.name));
            let own = embedding(&format!("text {i}"), dimensions.unwrap_or(8) as usize);
            assert_eq!(answer.embedding, Some(own), "{}, {i}", provider.name);
        }
        let calls = 1 + 600_u64.div_ceil(client.pack_limits().inputs.into());
        let stats = sim.stats();
        assert_eq!(
            (stats.embedded, stats.embedding_calls),
            (601, calls),
            "{}",
            provider.name
        );
        never_malformed(provider.name, &stats);
    }
    "yes".to_owned()
}

/// Input and output tokens, including cached and reasoning tokens if the API reports them.
fn usage(provider: &Provider) -> String {
    let config = SimConfig::default()
        .cached_tokens(4)
        .reasoning_tokens(3)
        .output_tokens(16);
    let request = Request::new("x".repeat(40));
    let usage = answered(provider, config, &request).usage.unwrap();
    assert_eq!(usage.input_tokens, 10, "{}", provider.name);
    let told = [
        (usage.cached_input_tokens, 4, "cached"),
        (usage.reasoning_tokens, 3, "reasoning"),
    ];
    let told = told.into_iter().filter(|(tokens, ..)| *tokens > 0);
    let told: Vec<&str> = told
        .map(|(tokens, expected, name)| {
            assert_eq!(tokens, expected, "{name}");
            name
        })
        .collect();
    assert_eq!(usage.output_tokens, 19, "{}: {usage:?}", provider.name);
    match &told[..] {
        [] => "none".to_owned(),
        told => told.join(", "),
    }
}

fn limits(provider: &Provider) -> String {
    let config = SimConfig::default().rpm(600).tpm(90_000);
    let hints: RateHints = answered(provider, config, &Request::new("x")).rate_hints();
    let day = Duration::from_secs(86_400);
    match (hints.requests, hints.tokens) {
        (Some(requests), Some(tokens)) => {
            let minutes = requests.period.as_secs() / 60;
            assert_eq!((requests.limit, tokens.limit), (600 * minutes, 90_000));
            let each = ["minute", "day"][usize::from(requests.period == day)];
            format!("requests per {each}, tokens per minute")
        }
        (None, None) => "from refusals".to_owned(),
        _ => panic!("{}: {hints:?}", provider.name),
    }
}

fn errors(provider: &Provider) {
    let known = [
        (Trouble::RateLimit, ErrorKind::RateLimited),
        (Trouble::Quota, ErrorKind::Quota),
        (Trouble::Unauthorized, ErrorKind::Auth),
        (Trouble::UnknownModel, ErrorKind::UnknownModel),
        (Trouble::BadRequest, ErrorKind::Invalid),
        (Trouble::ContentFilter, ErrorKind::Blocked),
        (Trouble::Refusal, ErrorKind::Blocked),
        (Trouble::Error500, ErrorKind::Transient),
        (Trouble::Error503, ErrorKind::Transient),
        (Trouble::Overloaded, ErrorKind::Transient),
        (Trouble::Html502, ErrorKind::Transient),
        (Trouble::Drop, ErrorKind::Transient),
        (Trouble::Truncated, ErrorKind::Transient),
        (Trouble::BrokenJson, ErrorKind::Malformed),
        (Trouble::Empty, ErrorKind::Malformed),
    ];
    for (trouble, kind) in known {
        let sim = provider.simulator(SimConfig::default().trouble(trouble, 1.0));
        let client = provider.client(&sim, "sk-right");
        let error = client
            .complete(&Request::new("x"), &Context::new())
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{}: {error}", provider.name);
    }
    // The missing key is reported before any answer; a local server needs no key.
    let sim = provider.simulator(SimConfig::default());
    let refused = provider
        .client(&sim, "sk-wrong")
        .complete(&Request::new("x"), &Context::new());
    match refused {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Auth, "{error}"),
        Ok(_) => assert_eq!(provider.name, "local"),
    }
}

#[test]
fn the_table_of_providers_matches_their_clients() {
    let mut missing = Vec::new();
    for provider in &PROVIDERS {
        calls(provider);
        structured(provider);
        errors(provider);
        let cells = [
            format!("`{}`", provider.name),
            batches(provider),
            embeddings(provider),
            usage(provider),
            limits(provider),
        ];
        let row = format!("| {} |", cells.join(" | "));
        if !PAGE.lines().any(|line| line == row) {
            missing.push(row);
        }
    }
    assert!(
        missing.is_empty(),
        "docs/providers.md lacks:\n{}",
        missing.join("\n")
    );
}
