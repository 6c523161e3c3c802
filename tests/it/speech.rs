//! Text to speech, against the simulator's strict check of OpenAI's endpoint.

use std::time::Duration;

use batchwright::{
    Bulk, Client, ErrorKind, LlmConfig, Outcome, Request, RetryPolicy, Route, Secret,
};
use batchwright_simulate::{SimConfig, Simulator, Trouble, Vendor, speech};
use serde_json::json;

use super::common::simulator;

const VOICES: [&str; 2] = ["alloy", "nova"];

pub fn client(sim: &Simulator, provider: &str) -> Client {
    LlmConfig::new(provider)
        .api_key(Secret::new("k"))
        .base_url(format!("http://{}", sim.addr()))
        .model("m")
        .client()
        .unwrap()
}

fn text(i: usize) -> String {
    format!("Good morning, number {i}.")
}

fn requests(n: usize) -> Vec<Request> {
    let request = |i| Request::speech(text(i), VOICES[i % 2]).with_extra("speed", json!(1.5));
    (0..n).map(request).collect()
}

pub fn run(client: Client, requests: &[Request]) -> Vec<Outcome> {
    let retry = RetryPolicy::default().max_retries(12);
    let retry = retry.base_delay(Duration::from_millis(1));
    let run = Bulk::new(Route::new(client).retry(retry)).concurrency(4);
    run.collect(requests).unwrap()
}

#[track_caller]
fn has_own_sounds(outcomes: &[Outcome]) {
    for (i, outcome) in outcomes.iter().enumerate() {
        let answer = outcome.result.as_ref();
        let sound = &answer
            .unwrap_or_else(|e| panic!("{i}: {e}"))
            .audio
            .as_ref()
            .unwrap()[44..];
        let own = speech(&text(i), VOICES[i % 2]).into_iter();
        assert!(
            own.flat_map(i16::to_le_bytes).eq(sound.iter().copied()),
            "{i}"
        );
    }
}

#[test]
fn speech_requests_pass_the_strict_check_of_every_provider() {
    for (provider, vendor) in [
        ("openai", Some(Vendor::OpenAi)),
        ("groq", Some(Vendor::Groq)),
        ("azure", Some(Vendor::Azure)),
        ("together", Some(Vendor::Together)),
        ("deepinfra", Some(Vendor::DeepInfra)),
        ("custom", None),
        ("local", Some(Vendor::Local)),
    ] {
        let mut config = SimConfig::default();
        if let Some(vendor) = vendor {
            config = config.vendor(vendor);
        }
        let sim = simulator(config);
        has_own_sounds(&run(client(&sim, provider), &requests(8)));
        let stats = sim.stats();
        assert_eq!((stats.malformed, stats.speech_calls), (0, 8), "{provider}");
    }
    let sim = simulator(SimConfig::default());
    let outcomes = run(client(&sim, "anthropic"), &requests(1));
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert!(
        error.message().contains("anthropic makes no speech"),
        "{error}"
    );
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn permanently_rejected_speech_is_requested_once() {
    let sim = simulator(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    let outcomes = run(client(&sim, "openai"), &requests(1));
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert_eq!((error.kind(), sim.stats().calls), (ErrorKind::Invalid, 1));
    let sim = simulator(SimConfig::default());
    let unknown = Request::speech("Hello.", "nobody");
    let outcomes = run(client(&sim, "openai"), &[unknown]);
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert!(error.message().contains("voice"), "{error}");
}
