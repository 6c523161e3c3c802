//! The client of every provider against a simulator that checks its API strictly: the same prompts, with and
//! without failures.

use std::time::Duration;

use batchwright::{
    Bulk, Client, ErrorKind, LlmConfig, Outcome, Request, RetryPolicy, Route, Secret,
};
use batchwright_simulate::{SimConfig, Simulator, Trouble};

use super::common::each;
use super::every_provider::{PROVIDERS, Provider, never_malformed};

impl Provider {
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

fn prompts(n: usize) -> Vec<Request> {
    let prompt = |i| {
        Request::new(format!("prompt {i}"))
            .with_id(format!("i-{i}"))
            .with_system("Be brief; answer in json if asked to.")
            .with_max_tokens(64)
    };
    (0..n).map(prompt).collect()
}

const WEATHER: [(Trouble, f64); 11] = [
    (Trouble::Error500, 0.03),
    (Trouble::RateLimit, 0.006),
    (Trouble::Drop, 0.02),
    (Trouble::BrokenJson, 0.02),
    (Trouble::Truncated, 0.02),
    (Trouble::Html502, 0.02),
    (Trouble::BadRequest, 0.02),
    (Trouble::ContentFilter, 0.02),
    (Trouble::Refusal, 0.02),
    (Trouble::Overloaded, 0.006),
    (Trouble::Empty, 0.01),
];

/// The outcome of a prompt with this fault.
fn expected(trouble: Option<Trouble>) -> Result<(), ErrorKind> {
    match trouble {
        Some(Trouble::BadRequest) => Err(ErrorKind::Invalid),
        Some(Trouble::ContentFilter | Trouble::Refusal) => Err(ErrorKind::Blocked),
        // Billed, and not retried.
        Some(Trouble::Empty) => Err(ErrorKind::Malformed),
        _ => Ok(()),
    }
}

fn bad_weather(provider: &Provider) {
    let weather = |config: SimConfig, (kind, share)| config.trouble(kind, share);
    let config = WEATHER.into_iter().fold(SimConfig::default(), weather);
    let sim = provider.simulator(config);
    let requests = prompts(200);
    let outcomes = provider.run(&sim, &requests);
    let mut met = 0;
    for (request, outcome) in requests.iter().zip(&outcomes) {
        assert_eq!(outcome.id, request.id);
        let text = request.messages[0].text();
        let trouble = sim.config().plan(&text);
        met += usize::from(trouble.is_some());
        match (expected(trouble), &outcome.result) {
            (Ok(()), Ok(answer)) => assert_eq!(answer.text, format!("echo: {text}")),
            (Err(kind), Err(error)) => {
                assert_eq!(error.kind(), kind, "{error}");
                let bought_in_vain = trouble == Some(Trouble::Empty);
                assert_eq!(error.is_unusable_reply(), bought_in_vain, "{error}");
                assert_eq!(outcome.attempts, 1, "{}: {trouble:?}", provider.name);
            }
            (_, result) => panic!("{}: {trouble:?} led to {result:?}", provider.name),
        }
    }
    assert!(met > 20, "{met}");
    never_malformed(provider.name, &sim.stats());
}

#[test]
fn the_outcomes_of_every_provider_are_those_of_its_faults() {
    each(&PROVIDERS, bad_weather);
}
