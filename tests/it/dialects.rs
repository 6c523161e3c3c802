//! The client of every provider against a simulator that checks its API strictly: the same prompts, with and
//! without failures.

use std::time::Duration;

use batchwright::{
    Bulk, Client, ErrorKind, LlmConfig, Outcome, Request, RetryPolicy, Route, Secret,
};
use batchwright_simulate::{SimConfig, Simulator, Trouble};

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

/// Anthropic rejects most features of a schema, and objects with other properties
/// (https://docs.anthropic.com, structured outputs, limits of JSON Schema).
#[cfg(feature = "schema")]
#[test]
fn unsupported_schemas_are_converted_for_anthropic() {
    use batchwright::ResponseFormat;
    use batchwright_simulate::Recorder;
    use serde_json::json;

    let anthropic = PROVIDERS.iter().find(|p| p.name == "anthropic").unwrap();
    let recorder = Recorder::default();
    let sim = anthropic.simulator(SimConfig::default().recorder(recorder.clone()));
    let row = |inner: serde_json::Value| json!({"type": "object", "properties": {"a": inner}});
    let schemas = [
        row(json!({"type": "integer", "minimum": 1, "maximum": 5, "multipleOf": 1})),
        row(json!({"type": ["string", "null"], "minLength": 1, "pattern": "^.", "default": "x"})),
        row(
            json!({"type": "array", "minItems": 1, "maxItems": 3, "uniqueItems": true,
            "items": {"type": "string", "format": "uri-reference"}}),
        ),
        row(json!({"oneOf": [row(json!({"const": "x"})), {"type": "null"}]})),
        json!({"title": "T", "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object", "properties": {"a": {"$ref": "#/$defs/d", "description": "x"}},
            "$defs": {"d": row(json!({"type": "number", "exclusiveMinimum": 0}))}}),
    ];
    let requests = schemas.map(|schema| {
        let format = ResponseFormat::json_schema(schema).unwrap();
        Request::new("hello").with_response_format(format)
    });
    for (outcome, request) in anthropic.run(&sim, &requests).into_iter().zip(&requests) {
        let sent = &request.params.response_format;
        assert!(outcome.is_success(), "{:?}: {sent:?}", outcome.result);
        assert_eq!(outcome.attempts, 1, "{sent:?}");
    }
    assert_eq!(sim.stats().malformed, 0);
    let bodies = recorder.take();
    assert_eq!(bodies.len(), requests.len());
    for body in bodies {
        for word in [
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "multipleOf",
            "minLength",
            "maxItems",
            "uniqueItems",
            "oneOf",
            "uri-reference",
        ] {
            assert!(!body.contains(&format!("\"{word}\"")), "{word} in {body}");
        }
        let objects = body.matches("\"type\":\"object\"").count();
        let closed = body.matches("\"additionalProperties\":false").count();
        assert!(objects > 0 && closed == objects, "{body}");
    }
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

macro_rules! bad_weather {
    ($($test:ident: $at:expr;)*) => {$(
        #[test]
        fn $test() {
            bad_weather(&PROVIDERS[$at]);
        }
    )*};
}
bad_weather! {
    bad_weather_of_openai: 0;
    bad_weather_of_anthropic: 1;
    bad_weather_of_gemini: 2;
    bad_weather_of_xai: 3;
    bad_weather_of_groq: 4;
    bad_weather_of_mistral: 5;
    bad_weather_of_a_local_server: 6;
    bad_weather_of_any_compatible_server: 7;
    bad_weather_of_openrouter: 8;
    bad_weather_of_deepseek: 9;
    bad_weather_of_together: 10;
    bad_weather_of_fireworks: 11;
    bad_weather_of_deepinfra: 12;
    bad_weather_of_cerebras: 13;
    bad_weather_of_nvidia: 14;
    bad_weather_of_azure: 15;
}
