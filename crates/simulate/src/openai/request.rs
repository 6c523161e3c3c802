//! What a chat request says: the model, the text that makes the prompt, the cap on output, the shape
//! asked for. A good body is read in one pass without building a tree; only a bad one is read again,
//! to say what is wrong with it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::{Fields, TABLE};
use super::format;
use super::messages::{Messages, ROLES};
use super::parts::Word;
use crate::Vendor;
use crate::prompt::{Fault, Prompt};
use crate::rules;
use crate::tool_rules::{self, IdCheck, SchemaCheck};
use crate::tools::Tools;
use crate::tree::{Object, Spelling};

#[derive(Default)]
struct Body<'a> {
    fields: Fields<'a>,
    model: Option<Cow<'a, str>>,
    messages: Option<Messages<'a>>,
    max_completion_tokens: Option<u64>,
    max_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    n: Option<u64>,
    seed: Option<i64>,
    random_seed: Option<i64>,
    reasoning_effort: Option<Word<'a>>,
    service_tier: Option<Word<'a>>,
    stops: usize,
    logprobs: Option<Value>,
    /// Something is said of tools.
    tools: bool,
    stream: Option<bool>,
    format: Option<&'a RawValue>,
}

impl Body<'_> {
    /// The value of a field that a rule may speak of.
    fn value(&self, field: &str) -> Option<Value> {
        match field {
            "max_completion_tokens" => self.max_completion_tokens.map(Value::from),
            "max_tokens" => self.max_tokens.map(Value::from),
            "temperature" => self.temperature.map(Value::from),
            "top_p" => self.top_p.map(Value::from),
            "n" => self.n.map(Value::from),
            "seed" => self.seed.map(Value::from),
            "random_seed" => self.random_seed.map(Value::from),
            "reasoning_effort" => self
                .reasoning_effort
                .as_ref()
                .map(|Word(word)| (&**word).into()),
            "service_tier" => self
                .service_tier
                .as_ref()
                .map(|Word(word)| (&**word).into()),
            "stop" => Some(self.stops.into()),
            "logprobs" => self.logprobs.clone(),
            "stream" => self.stream.map(Value::from),
            _ => None,
        }
    }
}

/// How many strings `stop` has.
struct Stops(usize);

/// Reads a request's body as `vendor` does; without one everything is taken that any of them takes.
pub(crate) fn parse(body: &[u8], vendor: Option<Vendor>) -> Result<Prompt<'_>, Fault> {
    let mut read = match serde_json::from_slice::<Body<'_>>(body) {
        Ok(read) => read,
        Err(error) => return Err(explain(body, &error.to_string())),
    };
    if let Some(name) = read.fields.foreign_to(vendor) {
        return Err(Fault::Unknown(name.to_owned()));
    }
    let Some(model) = read.model.take() else {
        return Err(Fault::Missing("model".to_owned()));
    };
    let Some(messages) = read.messages.take() else {
        return Err(Fault::Missing("messages".to_owned()));
    };
    for (place, fields) in &messages.fields {
        if let Some(name) = fields.foreign_to(vendor) {
            return Err(Fault::Unknown(format!("messages[{place}].{name}")));
        }
    }
    for (place, part) in &messages.parts {
        if let Err(message) = part.check(vendor) {
            let at = format!("messages[{place}].content");
            return Err(Fault::invalid(at, "invalid_value", message));
        }
    }
    for rule in &rules::get(&TABLE).values {
        if let Some(value) = read.value(&rule.field) {
            rule.check(&value, vendor)?;
        }
    }
    let shape = match read.format {
        Some(format) => format::read(format, body, vendor)?,
        None => None,
    };
    // Few speak of them, and these are read once more.
    let tools = if read.tools
        || messages
            .fields
            .iter()
            .any(|(_, fields)| fields.has("tool_calls") || fields.has("tool_call_id"))
    {
        tools(body, vendor)?
    } else {
        None
    };
    Ok(Prompt {
        tools,
        logprobs: read
            .logprobs
            .is_some_and(|wanted| wanted != false && wanted != 0),
        model,
        text: messages.last_user.unwrap_or(messages.last),
        tokens: messages.bytes.div_ceil(4),
        cap: read
            .max_completion_tokens
            .filter(|_| vendor != Some(Vendor::Local))
            .or(read.max_tokens),
        shape,
    })
}

fn tools(body: &[u8], vendor: Option<Vendor>) -> Result<Option<Box<Tools>>, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = Object::new(&value, "", Spelling::Exact)?;
    let strict: Option<SchemaCheck> = match vendor {
        Some(Vendor::OpenAi) => Some(format::strict),
        _ => None,
    };
    let customs = matches!(vendor, None | Some(Vendor::OpenAi));
    let ids: Option<IdCheck> = match vendor {
        Some(Vendor::OpenAi | Vendor::Azure) => Some(tool_rules::forty_characters),
        Some(Vendor::Mistral) => Some(tool_rules::nine_characters),
        _ => None,
    };
    Ok(tool_rules::openai(&root, strict, customs, ids)?.map(Box::new))
}

impl<'de: 'a, 'a> Deserialize<'de> for Body<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Body<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut body = Body::default();
                while let Some(Word(name)) = map.next_key()? {
                    match &*name {
                        "model" => body.model = Some(map.next_value::<Word<'de>>()?.0),
                        "messages" => body.messages = Some(map.next_value()?),
                        "max_completion_tokens" => body.max_completion_tokens = map.next_value()?,
                        "max_tokens" => body.max_tokens = map.next_value()?,
                        "temperature" => body.temperature = map.next_value()?,
                        "top_p" => body.top_p = map.next_value()?,
                        "n" => body.n = map.next_value()?,
                        "stream" => body.stream = map.next_value()?,
                        "seed" => body.seed = map.next_value()?,
                        "random_seed" => body.random_seed = map.next_value()?,
                        "reasoning_effort" => body.reasoning_effort = map.next_value()?,
                        "service_tier" => body.service_tier = map.next_value()?,
                        "stop" => {
                            body.stops = map.next_value::<Option<Stops>>()?.map_or(0, |all| all.0);
                        }
                        "logprobs" => body.logprobs = map.next_value()?,
                        "response_format" => body.format = map.next_value()?,
                        "tools" | "tool_choice" | "parallel_tool_calls" | "web_search_options" => {
                            map.next_value::<IgnoredAny>()?;
                            body.tools = true;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                    if !body.fields.add(name) {
                        return Err(A::Error::custom("a field comes twice"));
                    }
                }
                Ok(body)
            }
        }
        deserializer.deserialize_map(Whole)
    }
}

impl<'de> Deserialize<'de> for Stops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Stops;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Stops, E> {
                Ok(Stops(1))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stops, A::Error> {
                let mut count = 0;
                while seq.next_element::<Word<'de>>()?.is_some() {
                    count += 1;
                }
                Ok(Stops(count))
            }
        }
        deserializer.deserialize_any(Count)
    }
}

/// Finds out what is wrong with a body that could not be read.
fn explain(body: &[u8], error: &str) -> Fault {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Fault::NotJson;
    };
    look_for_fault(&value)
        .err()
        .unwrap_or_else(|| Fault::invalid("", "invalid_type", format!("Invalid request: {error}.")))
}

fn look_for_fault(value: &Value) -> Result<(), Fault> {
    let root = Object::new(value, "", Spelling::Exact)?;
    root.text("model")?.ok_or_else(|| root.missing("model"))?;
    let messages = root.objects("messages")?;
    let messages = messages.ok_or_else(|| root.missing("messages"))?;
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected at least one message.";
        return Err(Fault::invalid("messages", "empty_array", message));
    }
    for message in messages {
        let role = message.text("role")?.unwrap_or_default();
        if !ROLES.contains(&role) {
            let at = message.at("role");
            let known = ROLES.join("', '");
            let message = format!("Invalid value for '{at}'. Supported values are: '{known}'.");
            return Err(Fault::invalid(at, "invalid_value", message));
        }
        let good = match message.get("content") {
            None => role == "assistant",
            Some(content) => content.is_string() || content.is_array(),
        };
        if !good {
            let at = message.at("content");
            let message = format!("Invalid value for '{at}': expected a string or an array.");
            return Err(Fault::invalid(at, "invalid_type", message));
        }
    }
    for name in ["max_completion_tokens", "max_tokens", "n"] {
        root.whole(name, 0)?;
    }
    for name in ["temperature", "top_p"] {
        root.number(name, f64::MIN..=f64::MAX)?;
    }
    for name in ["seed", "random_seed"] {
        if root.get(name).is_some_and(|seed| !seed.is_i64()) {
            let message = format!("Invalid type for '{name}': expected an integer.");
            return Err(Fault::invalid(name, "invalid_type", message));
        }
    }
    root.flag("stream").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_message_makes_the_prompt_and_all_text_its_tokens() {
        let body = br#"{"model":"m","max_tokens":9,"max_completion_tokens":5,"temperature":0.2,
            "messages":[{"role":"system","content":"12345"},{"role":"user","content":"one"},
            {"role":"user","content":"say \"hi\""},
            {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",
                "function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c","content":"x"}]}"#;
        let chat = parse(body, None).unwrap();
        assert_eq!((&*chat.model, &*chat.text), ("m", "say \"hi\""));
        assert_eq!((chat.tokens, chat.cap), (5, Some(5)));
    }

    #[test]
    fn the_text_of_parts_is_joined() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":[
            {"type":"text","text":"one "},{"type":"image_url","image_url":{"url":"https://x"}},
            {"type":"text","text":"two"}]}]}"#;
        assert_eq!(parse(body, None).unwrap().text, "one two");
    }

    #[test]
    fn plain_text_is_borrowed_from_the_body() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"plain"}]}"#;
        assert!(matches!(
            parse(body, None).unwrap().text,
            Cow::Borrowed("plain")
        ));
    }

    #[test]
    fn bad_bodies_are_explained() {
        let user = r#"[{"role":"user","content":"x"}]"#;
        let with = |rest: &str| format!(r#"{{"model":"m","messages":{user},{rest}}}"#);
        let messages = |messages: &str| format!(r#"{{"model":"m","messages":{messages}}}"#);
        let cases = [
            ("{".to_owned(), "", "NotJson"),
            ("[]".to_owned(), "", "invalid_type"),
            ("{}".to_owned(), "model", "Missing"),
            (r#"{"model":1}"#.to_owned(), "model", "invalid_type"),
            (r#"{"model":"m"}"#.to_owned(), "messages", "Missing"),
            (messages(r#""x""#), "messages", "invalid_type"),
            (messages("[]"), "messages", "empty_array"),
            (
                messages(r#"[{"role":"god","content":"x"}]"#),
                "messages[0].role",
                "invalid_value",
            ),
            (
                messages(r#"[{"role":"user","content":null}]"#),
                "messages[0].content",
                "invalid_type",
            ),
            (with(r#""max_tokens":-1"#), "max_tokens", "invalid_type"),
            (
                with(r#""max_tokens":0"#),
                "max_tokens",
                "integer_below_min_value",
            ),
            (with(r#""seed":0.5"#), "seed", "invalid_type"),
            (with(r#""stop":5"#), "", "invalid_type"),
            (with(r#""temperature":2.5"#), "temperature", "invalid_value"),
            (with(r#""top_p":-1"#), "top_p", "invalid_value"),
            (with(r#""stream":true"#), "stream", "unsupported_value"),
            (with(r#""seed":1,"x":1"#), "x", "Unknown"),
            (with(r#""seed":1,"seed":1"#), "", "invalid_type"),
        ];
        for (body, at, code) in cases {
            let fault = parse(body.as_bytes(), None).unwrap_err();
            let found = match &fault {
                Fault::NotJson => "NotJson",
                Fault::Unknown(_) => "Unknown",
                Fault::Missing(_) => "Missing",
                Fault::Invalid { code, .. } => code,
            };
            assert_eq!((fault.at(), found), (at, code), "{body}");
        }
    }

    #[test]
    fn vendors_differ_in_what_they_take() {
        let with = |rest: &str| {
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{rest}}}"#)
        };
        let cases = [
            (Vendor::Mistral, r#""temperature":1.6"#, "temperature"),
            (Vendor::Mistral, r#""seed":1"#, "seed"),
            (Vendor::Groq, r#""n":2"#, "n"),
            (Vendor::Groq, r#""random_seed":1"#, "random_seed"),
            (Vendor::OpenAi, r#""stop":["a","b","c","d","e"]"#, "stop"),
            (Vendor::OpenAi, r#""top_k":1"#, "top_k"),
            (Vendor::Xai, r#""messagez":1"#, "messagez"),
            (Vendor::Mistral, r#""random_seed":-1"#, "random_seed"),
            (
                Vendor::Mistral,
                r#""reasoning_effort":"low""#,
                "reasoning_effort",
            ),
            (Vendor::Groq, r#""service_tier":"default""#, "service_tier"),
            (Vendor::Together, r#""logprobs":true"#, "logprobs"),
            (Vendor::Cerebras, r#""temperature":1.6"#, "temperature"),
            (Vendor::DeepInfra, r#""seed":-1"#, "seed"),
        ];
        for (vendor, rest, at) in cases {
            let body = with(rest);
            let fault = parse(body.as_bytes(), Some(vendor)).unwrap_err();
            assert_eq!(fault.at(), at, "{vendor} {rest}");
            assert!(
                parse(body.as_bytes(), Some(Vendor::Local)).is_ok(),
                "{rest}"
            );
        }
    }

    #[test]
    fn vendors_differ_in_what_a_message_may_have() {
        let cases = [
            (Vendor::Groq, r#""name":"ann""#, "messages[1].name"),
            (Vendor::Mistral, r#""name":"ann""#, "messages[1].name"),
            (Vendor::Xai, r#""refusal":null"#, "messages[1].refusal"),
            (
                Vendor::OpenAi,
                r#""reasoning_content":"x""#,
                "messages[1].reasoning_content",
            ),
            (Vendor::OpenAi, r#""mood":1"#, "messages[1].mood"),
        ];
        for (vendor, field, at) in cases {
            let body = format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"x"}},
                {{"role":"user",{field},"content":"x"}}]}}"#
            );
            let fault = parse(body.as_bytes(), Some(vendor)).unwrap_err();
            assert_eq!(fault.at(), at, "{vendor}");
            assert!(parse(body.as_bytes(), Some(Vendor::Local)).is_ok());
        }
        let named = br#"{"model":"m","messages":[{"role":"user","name":"ann","content":"x"}]}"#;
        assert!(parse(named, Some(Vendor::OpenAi)).is_ok());
        let twice = br#"{"model":"m","messages":[{"role":"user","role":"user","content":"x"},
            {"role":"user","name":"a","name":"b","content":"x"}]}"#;
        assert!(parse(twice, None).is_err());
    }

    #[test]
    fn a_local_server_does_not_know_the_newer_cap() {
        let body = br#"{"model":"m","max_completion_tokens":5,
            "messages":[{"role":"user","content":"x"}]}"#;
        assert_eq!(parse(body, Some(Vendor::Local)).unwrap().cap, None);
        assert_eq!(parse(body, Some(Vendor::OpenAi)).unwrap().cap, Some(5));
    }

    #[test]
    fn every_prefix_of_a_good_body_is_refused_without_panic() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":["#;
        for end in 0..body.len() {
            assert!(parse(&body[..end], None).is_err());
        }
    }
}
