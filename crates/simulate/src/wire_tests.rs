//! Each kind of trouble in each dialect: its status and the words by which a client knows it.

use serde_json::{Value, json};

use super::test_client::{Client, Has, Reply, start};
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

/// A trouble, whom a prompt was sent to, the status of the reply, a place of its body, and what is there.
const ERRORS: &str = r#"
quota openai 429 /error/code insufficient_quota
quota xai 403 /error Your team has used all available credits or reached its monthly spending limit.
quota groq 403 /error/code spend_limit_reached
quota mistral 402 /type payment_required
quota anthropic 429 /error/details/error_code enforced_spend_limit_reached
quota gemini 402 /error/status RESOURCE_EXHAUSTED
unauthorized openai 401 /error/code invalid_api_key
unauthorized xai 400 /error Incorrect API key provided.
unauthorized mistral 401 /message Unauthorized
unauthorized anthropic 401 /error/type authentication_error
unauthorized gemini 400 /error/details/0/reason API_KEY_INVALID
unknown_model openai 404 /error/code model_not_found
unknown_model xai 404 /error The model m does not exist or your team has no access to it.
unknown_model mistral 400 /code 1500
unknown_model anthropic 404 /error/message model: m
unknown_model gemini 404 /error/status NOT_FOUND
overloaded openai 503 /error/code server_is_overloaded
overloaded xai 503 /code The service is currently unavailable
overloaded groq 498 /error/code capacity_exceeded
overloaded mistral 503 /object error
overloaded anthropic 529 /error/type overloaded_error
overloaded gemini 503 /error/status UNAVAILABLE
error_503 anthropic 503 /error/type api_error
error_500 xai 500 /code Internal error
error_500 anthropic 500 /error/type api_error
error_500 gemini 500 /error/status INTERNAL
bad_request xai 400 /code Client specified an invalid argument
bad_request anthropic 400 /error/type invalid_request_error
bad_request gemini 400 /error/status INVALID_ARGUMENT
rate_limit groq 429 /error/code rate_limit_exceeded
rate_limit xai 429 /code Some resource has been exhausted
rate_limit mistral 429 /code 1300
rate_limit anthropic 429 /error/type rate_limit_error
rate_limit gemini 429 /error/details/1/retryDelay 1s
"#;

#[test]
fn errors_have_each_vendors_status_and_words() {
    for row in ERRORS.trim().lines() {
        let [kind, name, status, place, words] = row.splitn(5, ' ').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let to = match name {
            "anthropic" => Anthropic,
            "gemini" => Gemini,
            vendor => Like(vendor.parse().unwrap()),
        };
        let (sim, reply) = first(kind.parse().unwrap(), to, false);
        let value = reply.json();
        assert_eq!(reply.status.to_string(), status, "{row}: {value}");
        let found = value.pointer(place).and_then(Value::as_str);
        assert_eq!(found, Some(words), "{row}: {value}");
        assert_eq!(sim.stats().malformed, 0);
    }
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
fn what_ends_is_followed_by_an_answer_in_every_dialect() {
    for to in ALL {
        for kind in [
            Trouble::Error500,
            Trouble::Error503,
            Trouble::Overloaded,
            Trouble::RateLimit,
            Trouble::BrokenJson,
            Trouble::Html502,
            Trouble::Empty,
        ] {
            let (sim, mut client) = start(to.config().trouble(kind, 1.0));
            for _ in 0..kind.times().unwrap() {
                let reply = to.ask(&mut client, "hello", false);
                let value = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
                let text = value.pointer(to.places().0).cloned();
                assert!(text.is_none() || text == Some("".into()), "{kind} {to:?}");
            }
            let reply = to.ask(&mut client, "hello", false);
            let text = reply.json().pointer(to.places().0).cloned();
            assert_eq!(text, Some("echo: hello".into()), "{kind} {to:?}");
            assert_eq!((sim.stats().answered, sim.stats().malformed), (1, 0));
        }
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
        assert_eq!(stats.maybe_paid_resent, 0);
    }
}

#[test]
fn a_refusal_is_no_answer() {
    for to in ALL {
        let (sim, reply) = first(Trouble::Refusal, to, false);
        let value = reply.is(200).json();
        assert_eq!((sim.stats().paid, sim.stats().answered), (1, 0));
        match to {
            Like(_) => {
                assert!(value["choices"][0]["message"]["refusal"].is_string());
                assert!(value["choices"][0]["message"]["content"].is_null());
            }
            Anthropic => {
                value.has(json!({"stop_reason": "refusal",
                    "/stop_details/category": "general_harms", "content": []}));
            }
            Gemini => {
                let candidate = json!({"finishReason": "SAFETY"});
                assert_eq!(value["candidates"], json!([candidate]));
            }
        }
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
