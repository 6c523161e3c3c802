//! Text to speech, against the simulator's strict check of OpenAI's endpoint.

use batchwright::{ErrorKind, Outcome, Request};
use batchwright_simulate::{SimConfig, SimStats, Trouble, speech};
use serde_json::json;

use super::every_provider::PROVIDERS;

fn text(i: usize) -> String {
    format!("Good morning, number {i}.")
}

/// Eight texts with two voices, or `voice` in place of both.
fn spoken(provider: &str, config: SimConfig, voice: Option<&str>) -> (Vec<Outcome>, SimStats) {
    let provider = PROVIDERS.iter().find(|known| known.name == provider);
    let provider = provider.unwrap();
    let sim = provider.simulator(config);
    let request = |i| Request::speech(text(i), voice.unwrap_or(VOICES[i % 2]));
    let requests: Vec<_> = (0..8)
        .map(|i| request(i).with_extra("speed", json!(1.5)))
        .collect();
    (provider.run(&sim, &requests), sim.stats())
}

const VOICES: [&str; 2] = ["alloy", "nova"];

#[test]
fn speech_requests_pass_the_strict_check_of_every_provider() {
    for provider in [
        "openai",
        "groq",
        "azure",
        "together",
        "deepinfra",
        "custom",
        "local",
    ] {
        let (outcomes, stats) = spoken(provider, SimConfig::default(), None);
        for (i, outcome) in outcomes.iter().enumerate() {
            let answer = outcome.result.as_ref();
            let answer = answer.unwrap_or_else(|e| panic!("{provider}, {i}: {e}"));
            let sound = answer.audio.as_ref().unwrap()[44..].iter().copied();
            let own = speech(&text(i), VOICES[i % 2]).into_iter();
            assert!(own.flat_map(i16::to_le_bytes).eq(sound), "{provider}, {i}");
        }
        assert_eq!((stats.malformed, stats.speech_calls), (0, 8), "{provider}");
    }
    let (outcomes, stats) = spoken("anthropic", SimConfig::default(), None);
    let error = outcomes[0].result.as_ref().unwrap_err();
    let words = "anthropic makes no speech";
    assert!(error.message().contains(words), "{error}");
    assert_eq!(stats.calls, 0);
}

#[test]
fn permanently_rejected_speech_is_requested_once() {
    let refused = SimConfig::default().trouble(Trouble::BadRequest, 1.0);
    let (outcomes, stats) = spoken("openai", refused, None);
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert_eq!((error.kind(), stats.calls), (ErrorKind::Invalid, 8));
    let (outcomes, _) = spoken("openai", SimConfig::default(), Some("nobody"));
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert!(error.message().contains("voice"), "{error}");
}
