//! What the tests of the clients do not show of troubles in each dialect; `tests/it/capabilities.rs` and `dialects.rs`
//! show that each kind is recognized.

use serde_json::{Value, json};

use super::test_client::{Client, Reply, start};
use super::{SimConfig, Simulator, Trouble, Vendor};

/// Whom a prompt is sent to.
#[derive(Debug, Clone, Copy)]
enum To {
    Like(Vendor),
    Anthropic,
    Gemini,
}

use To::{Anthropic, Gemini, Like};
use Vendor::{Groq, Local, Mistral, OpenAi, Xai};

impl To {
    fn config(self) -> SimConfig {
        match self {
            Like(vendor) => SimConfig::default().vendor(vendor),
            Anthropic | Gemini => SimConfig::default(),
        }
    }

    fn ask(self, client: &mut Client, text: &str, shaped: bool) -> Reply {
        let schema = json!({"type": "object", "required": ["a"],
            "properties": {"a": {"type": "string"}}, "additionalProperties": false});
        let (path, headers, mut body, name, shape) = match self {
            Like(_) => (
                "/v1/chat/completions",
                "",
                json!({"model": "m", "messages": [{"role": "user", "content": text}]}),
                "response_format",
                json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}),
            ),
            Anthropic => (
                "/v1/messages",
                "x-api-key: k\r\nanthropic-version: 2026-10-21\r\n",
                json!({"model": "m", "max_tokens": 99,
                    "messages": [{"role": "user", "content": text}]}),
                "output_config",
                json!({"format": {"type": "json_schema", "schema": schema}}),
            ),
            Gemini => (
                "/v1beta/models/m:generateContent",
                "x-goog-api-key: k\r\n",
                json!({"contents": [{"parts": [{"text": text}]}]}),
                "generationConfig",
                json!({"responseMimeType": "application/json", "responseJsonSchema": schema}),
            ),
        };
        if shaped {
            body[name] = shape;
        }
        client.post(path, headers, &body)
    }

    /// Where an answer's text is, and its finish reason.
    fn places(self) -> (&'static str, &'static str) {
        match self {
            Like(_) => ("/choices/0/message/content", "/choices/0/finish_reason"),
            Anthropic => ("/content/0/text", "/stop_reason"),
            Gemini => (
                "/candidates/0/content/parts/0/text",
                "/candidates/0/finishReason",
            ),
        }
    }
}

const ALL: [To; 7] = [
    Like(OpenAi),
    Like(Xai),
    Like(Groq),
    Like(Mistral),
    Like(Local),
    Anthropic,
    Gemini,
];

fn first(kind: Trouble, to: To, shaped: bool) -> (Simulator, Reply) {
    let sim = Simulator::start(to.config().trouble(kind, 1.0)).unwrap();
    let reply = to.ask(&mut Client::connect(&sim), "hello", shaped);
    (sim, reply)
}

#[test]
fn a_wait_is_asked_for_where_the_vendor_does_so() {
    let second = Some("1");
    let cases = [
        (Like(OpenAi), second, second.map(|_| "1000")),
        (Like(Groq), second, None),
        (Like(Xai), None, None),
        (Like(Mistral), None, None),
        (Anthropic, second, None),
        (Gemini, None, None),
    ];
    for (to, seconds, millis) in cases {
        let (_sim, reply) = first(Trouble::RateLimit, to, false);
        let told = (reply.header("retry-after"), reply.header("retry-after-ms"));
        assert_eq!(told, (seconds, millis), "{to:?}");
        let (_sim, reply) = first(Trouble::Overloaded, to, false);
        assert_eq!(reply.header("retry-after"), None, "{to:?}");
    }
}

#[test]
fn a_wrong_shape_comes_once_and_only_where_a_shape_was_asked_for() {
    for to in ALL {
        let (sim, mut client) = start(to.config().trouble(Trouble::InvalidJson, 1.0));
        let (text, finish) = to.places();
        let mut ask = |shaped| -> (Value, Value) {
            let value = to.ask(&mut client, "hello", shaped).is(200).json();
            let get = |place| value.pointer(place).cloned().unwrap_or_default();
            (get(text), get(finish))
        };
        assert_eq!(ask(false).0, "echo: hello");
        let (wrong, stop) = ask(true);
        assert_eq!(wrong, "This is not JSON.", "{to:?}");
        let (right, same) = ask(true);
        assert_eq!(right, r#"{"a":"echo: hello"}"#, "{to:?}");
        assert_eq!(stop, same, "{to:?}");
        let stats = sim.stats();
        assert_eq!((stats.paid, stats.answered), (3, 2));
    }
}

#[test]
fn a_cut_answer_is_half_and_says_so() {
    for to in ALL {
        let (_sim, reply) = first(Trouble::Length, to, false);
        let value = reply.json();
        let (text, finish) = to.places();
        assert_eq!(value.pointer(text), Some(&"echo:".into()), "{to:?}");
        let word = match to {
            Like(_) => "length",
            Anthropic => "max_tokens",
            Gemini => "MAX_TOKENS",
        };
        assert_eq!(value.pointer(finish), Some(&word.into()));
    }
}
