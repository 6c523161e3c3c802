//! Requests of any form: the client always sends unambiguous JSON to the right address.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use batchwright::client::Sent;
use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{
    Context, Error, ErrorKind, LlmClient, Message, Params, Request, ResponseFormat, Role,
};
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::conformance::client;
use crate::decoders::tries_all;
use crate::replies::VENDORS;

/// JSON in which no object has a field twice.
struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(serde::de::Error::custom(format!("`{name}` stands twice")));
            }
            names.insert(name);
            map.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[test]
fn a_duplicate_field_name_is_detected() {
    let read = |text| serde_json::from_str::<Unambiguous>(text).is_ok();
    assert!(read(r#"{"a": [null, true, -1, 1, 1.5, "x", {"a": 1}]}"#));
    assert!(!read(r#"{"a": [{"b": 1, "b": 2}]}"#));
    assert!(!read(r#"{"a": 1, "\u0061": 2}"#));
}

/// Stores the address and the body of a request.
#[derive(Default)]
struct Sink(Mutex<Option<(String, Vec<u8>)>>);

impl Transport for Sink {
    fn send(&self, request: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        let body = request.body.expect("a call has a body").to_vec();
        *self.0.lock() = Some((request.url.to_owned(), body));
        Ok(HttpReply {
            status: 200,
            headers: HttpHeaders::default(),
            body: Vec::new(),
        })
    }
}

/// Names that have a meaning in some API, and others.
fn name() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 38] = [
        "model",
        "messages",
        "role",
        "content",
        "name",
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "stop_sequences",
        "seed",
        "random_seed",
        "response_format",
        "reasoning_effort",
        "metadata",
        "service_tier",
        "store",
        "user",
        "system",
        "output_config",
        "thinking",
        "tools",
        "contents",
        "parts",
        "systemInstruction",
        "generationConfig",
        "thinkingConfig",
        "maxOutputTokens",
        "stopSequences",
        "responseJsonSchema",
        "safetySettings",
        "type",
        "text",
        "image_url",
        "url",
        "tool_call_id",
    ];
    prop_oneof![4 => select(&KNOWN).prop_map(str::to_owned), 1 => text()]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        select(&[
            "",
            " ",
            "text",
            "image_url",
            "data:;base64,",
            "data:a/b;base64,AA=="
        ])
        .prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((name(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn fields() -> impl Strategy<Value = Map<String, Value>> {
    vec((name(), value()), 0..6).prop_map(|fields| fields.into_iter().collect())
}

fn part() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(|text| json!({"type": "text", "text": text})),
        text().prop_map(|url| json!({"type": "image_url", "image_url": {"url": url}})),
        text().prop_map(|url| json!({"type": "image_url", "image_url": url})),
        (select(&["text", "image_url", "file"]), fields()).prop_map(|(kind, mut fields)| {
            fields.insert("type".to_owned(), kind.into());
            Value::Object(fields)
        }),
        value(),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    use Role::{Assistant, Developer, System, Tool, User};
    let role = prop_oneof![
        4 => Just(User),
        3 => Just(Assistant),
        2 => Just(System),
        1 => Just(Developer),
        1 => Just(Tool),
    ];
    let content = prop_oneof![
        text().prop_map(Value::from),
        vec(part(), 0..4).prop_map(Value::from),
        value(),
    ];
    (role, content, fields()).prop_map(|(role, content, extra)| {
        let mut message = Message::new(role, "");
        message.content = content;
        message.extra = extra;
        message
    })
}

fn params() -> impl Strategy<Value = Params> {
    let format = prop_oneof![
        Just(ResponseFormat::JsonObject),
        (text(), value(), any::<bool>()).prop_map(|(name, schema, strict)| {
            ResponseFormat::JsonSchema {
                name,
                schema,
                strict,
            }
        }),
    ];
    let number = || {
        of(prop_oneof![
            any::<f64>(),
            Just(f64::NAN),
            Just(f64::INFINITY)
        ])
    };
    let all = (
        number(),
        of(any::<u32>()),
        number(),
        vec(text(), 0..3),
        of(any::<i64>()),
        of(format),
    );
    all.prop_map(
        |(temperature, max_tokens, top_p, stop, seed, response_format)| Params {
            temperature,
            max_tokens,
            top_p,
            stop,
            seed,
            response_format,
            ..Params::default()
        },
    )
}

fn model() -> impl Strategy<Value = String> {
    const PLAIN: [&str; 4] = ["m", "gemini-x-001", "models/m", "tunedModels/my-own@1"];
    const ODD: [&str; 10] = [
        "meta/llama-x:8b",
        "",
        "/",
        "..",
        "../files/x",
        "a/..%2f/b",
        "m?alt=sse&key=k",
        "m#fragment",
        "m m",
        "m\r\nx-evil: 1",
    ];
    prop_oneof![
        4 => select(&PLAIN).prop_map(str::to_owned),
        2 => select(&ODD).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let system = of(text());
    let all = (model(), system, vec(message(), 0..4), params(), fields());
    all.prop_map(|(model, system, messages, params, extra)| {
        let mut request = Request::chat(messages).with_model(model);
        request.system = system;
        request.params = params;
        request.extra = extra;
        request
    })
}

fn check(vendor: &str, request: &Request) {
    let sink = Arc::new(Sink::default());
    let error = client(vendor, sink.clone())
        .unwrap()
        .complete(request, &Context::new())
        .unwrap_err();
    let Some((url, body)) = sink.0.lock().take() else {
        let found = (error.kind(), error.sent());
        assert_eq!(found, (ErrorKind::Invalid, Sent::No), "{vendor}: {error}");
        return;
    };
    let body = String::from_utf8(body).unwrap();
    if let Err(fault) = serde_json::from_str::<Unambiguous>(&body) {
        panic!("{vendor}: {fault}: {body}");
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    let fields = body.as_object().unwrap();
    // Replies are read completely, so no request may ask for a stream.
    assert!(!fields.contains_key("stream"), "{vendor}: {body}");
    let model = request.model.as_deref().unwrap();
    let path = url.strip_prefix("http://127.0.0.1:9/").unwrap();
    match vendor {
        "gemini" => {
            assert!(!fields.contains_key("model"), "{body}");
            let named = path.strip_prefix("v1beta/").unwrap();
            let named = named.strip_suffix(":generateContent").unwrap();
            assert!(named == model || named.strip_prefix("models/") == Some(model));
            let odd = |c: char| c.is_whitespace() || c.is_control() || "?#%\\".contains(c);
            assert!(!path.contains(odd) && !path.contains(".."), "{path}");
        }
        "anthropic" => {
            assert_eq!((path, &body["model"]), ("v1/messages", &json!(model)));
            assert!(body["max_tokens"].is_u64(), "{body}");
        }
        _ => {
            assert!(path.ends_with("/chat/completions"), "{path}");
            assert_eq!(body["model"], model);
            let roles = fields["messages"].as_array().unwrap().iter();
            let own = request.messages.first().map(|m| &m.role);
            let own = matches!(own, Some(Role::System | Role::Developer));
            let system = usize::from(request.system.is_some() && !own);
            let added = roles.len() - request.messages.len();
            // In JSON mode, a sentence may be added to the system text, or be the complete system text.
            let json = request.params.response_format == Some(ResponseFormat::JsonObject);
            assert!(added == system || (json && !own && added == 1), "{body}");
            for (n, (sent, message)) in roles.skip(added).zip(&request.messages).enumerate() {
                // JSON cannot express a value that is not a number.
                let same = sent["content"] == message.content;
                assert!(same || (json && own && n == 0), "{vendor}: {body}");
                let role = message.role.as_str();
                assert!(sent["role"] == role || sent["role"] == "system", "{vendor}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if tries_all() { 500 } else { 100 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_sent_as_plain_json_or_refused(request in request()) {
        for vendor in VENDORS {
            check(vendor, &request);
        }
    }
}
