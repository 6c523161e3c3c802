//! What a chat request says, as far as the simulator cares: the model, the text that makes the prompt,
//! and the cap on output. A good body is read in one pass without building a tree; only a bad one is
//! read again, to say what is wrong with it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value;

/// A valid request.
#[derive(Debug)]
pub(super) struct Chat<'a> {
    pub(super) model: Cow<'a, str>,
    /// The text of the last user message, or of the last message if no user speaks.
    pub(super) text: Cow<'a, str>,
    /// A token for every four bytes of message text, rounded up.
    pub(super) prompt_tokens: u64,
    /// The most completion tokens wanted.
    pub(super) cap: Option<u64>,
}

/// What is wrong with a request, in the terms of an error body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<&'static str>,
}

const ROLES: [&str; 5] = ["developer", "system", "user", "assistant", "tool"];

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    messages: Messages<'a>,
    max_completion_tokens: Option<u64>,
    max_tokens: Option<u64>,
    stream: Option<bool>,
}

#[derive(Default)]
struct Messages<'a> {
    bytes: u64,
    last: Cow<'a, str>,
    last_user: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
}

struct Content<'a>(Cow<'a, str>);

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Content<'a>>,
}

impl Chat<'_> {
    /// Reads a request's body.
    pub(super) fn parse(body: &[u8]) -> Result<Chat<'_>, Fault> {
        let read = match serde_json::from_slice::<Body<'_>>(body) {
            Ok(read) => read,
            Err(error) => return Err(explain(body, &error.to_string())),
        };
        let cap = read.max_completion_tokens.or(read.max_tokens);
        if read.stream == Some(true) {
            return Err(Fault {
                message: "Unsupported value: 'stream' must be false.".to_owned(),
                param: Some("stream"),
                code: Some("unsupported_value"),
            });
        }
        if cap == Some(0) {
            return Err(Fault {
                message: "Invalid value: the output cap must be at least 1.".to_owned(),
                param: Some(if read.max_completion_tokens.is_some() {
                    "max_completion_tokens"
                } else {
                    "max_tokens"
                }),
                code: Some("integer_below_min_value"),
            });
        }
        Ok(Chat {
            model: read.model,
            text: read.messages.last_user.unwrap_or(read.messages.last),
            prompt_tokens: read.messages.bytes.div_ceil(4),
            cap,
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Messages<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Messages<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Messages::default();
                let mut empty = true;
                while let Some(message) = seq.next_element::<Message<'de>>()? {
                    empty = false;
                    let user = message.role == "user";
                    if !user && !ROLES.contains(&&*message.role) {
                        return Err(A::Error::custom("unknown role"));
                    }
                    // An assistant that only called tools has no text; everyone else must have some.
                    let text = match message.content {
                        Some(Content(text)) => text,
                        None if message.role == "assistant" => Cow::Borrowed(""),
                        None => return Err(A::Error::custom("missing content")),
                    };
                    all.bytes += text.len() as u64;
                    if user {
                        all.last_user = Some(text);
                    } else {
                        all.last = text;
                    }
                }
                if empty {
                    return Err(A::Error::custom("no messages"));
                }
                Ok(all)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Cow::Borrowed("");
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    if let Some(Content(text)) = part.text {
                        all += text;
                    }
                }
                Ok(Content(all))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Finds out what is wrong with a body that could not be read.
fn explain(body: &[u8], error: &str) -> Fault {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Fault {
            message: "We could not parse the JSON body of your request.".to_owned(),
            param: None,
            code: None,
        };
    };
    let fault = |message: String, param, code| Fault {
        message,
        param: Some(param),
        code: Some(code),
    };
    match value.get("model") {
        None => {
            let message = "you must provide a model parameter".to_owned();
            return fault(message, "model", "missing_required_parameter");
        }
        Some(model) if !model.is_string() => {
            let message = "Invalid type for 'model': expected a string.".to_owned();
            return fault(message, "model", "invalid_type");
        }
        Some(_) => {}
    }
    let Some(messages) = value.get("messages") else {
        let message = "Missing required parameter: 'messages'.".to_owned();
        return fault(message, "messages", "missing_required_parameter");
    };
    let Some(messages) = messages.as_array() else {
        let message = "Invalid type for 'messages': expected an array of objects.".to_owned();
        return fault(message, "messages", "invalid_type");
    };
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected at least one message.".to_owned();
        return fault(message, "messages", "empty_array");
    }
    for (place, message) in messages.iter().enumerate() {
        let role = message.get("role").and_then(Value::as_str);
        if role.is_none_or(|role| !ROLES.contains(&role)) {
            let message = format!(
                "Invalid value for 'messages[{place}].role'. Supported values are: '{}'.",
                ROLES.join("', '")
            );
            return fault(message, "messages", "invalid_value");
        }
        let content = message.get("content").unwrap_or(&Value::Null);
        let absent = content.is_null() && role != Some("assistant");
        if absent || !(content.is_null() || content.is_string() || content.is_array()) {
            let message = format!(
                "Invalid value for 'messages[{place}].content': expected a string or an array."
            );
            return fault(message, "messages", "invalid_type");
        }
    }
    Fault {
        message: format!("Invalid request: {error}."),
        param: None,
        code: Some("invalid_type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_message_makes_the_prompt_and_all_text_its_tokens() {
        let body = br#"{"model":"m","max_tokens":9,"max_completion_tokens":5,"temperature":0.2,
            "messages":[{"role":"system","content":"12345"},{"role":"user","content":"one"},
            {"role":"assistant","content":null,"tool_calls":[]},
            {"role":"user","content":"say \"hi\""},{"role":"tool","content":"x"}]}"#;
        let chat = Chat::parse(body).unwrap();
        assert_eq!((&*chat.model, &*chat.text), ("m", "say \"hi\""));
        assert_eq!((chat.prompt_tokens, chat.cap), (5, Some(5)));
    }

    #[test]
    fn the_text_of_parts_is_joined() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":[
            {"type":"text","text":"one "},{"type":"image_url","image_url":{"url":"x"}},
            {"type":"text","text":"two"}]}]}"#;
        assert_eq!(Chat::parse(body).unwrap().text, "one two");
    }

    #[test]
    fn plain_text_is_borrowed_from_the_body() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"plain"}]}"#;
        assert!(matches!(
            Chat::parse(body).unwrap().text,
            Cow::Borrowed("plain")
        ));
    }

    #[test]
    fn bad_bodies_are_explained() {
        let user = r#"[{"role":"user","content":"x"}]"#;
        let cases = [
            ("{", None, None),
            ("[]", Some("model"), Some("missing_required_parameter")),
            (r#"{"model":1}"#, Some("model"), Some("invalid_type")),
            (
                r#"{"model":"m"}"#,
                Some("messages"),
                Some("missing_required_parameter"),
            ),
            (
                r#"{"model":"m","messages":"x"}"#,
                Some("messages"),
                Some("invalid_type"),
            ),
            (
                r#"{"model":"m","messages":[]}"#,
                Some("messages"),
                Some("empty_array"),
            ),
            (
                r#"{"model":"m","messages":[{"role":"god","content":"x"}]}"#,
                Some("messages"),
                Some("invalid_value"),
            ),
            (
                r#"{"model":"m","messages":[{"role":"user","content":null}]}"#,
                Some("messages"),
                Some("invalid_type"),
            ),
            (
                &format!(r#"{{"model":"m","messages":{user},"max_tokens":-1}}"#),
                None,
                Some("invalid_type"),
            ),
            (
                &format!(r#"{{"model":"m","messages":{user},"max_tokens":0}}"#),
                Some("max_tokens"),
                Some("integer_below_min_value"),
            ),
            (
                &format!(r#"{{"model":"m","messages":{user},"stream":true}}"#),
                Some("stream"),
                Some("unsupported_value"),
            ),
        ];
        for (body, param, code) in cases {
            let fault = Chat::parse(body.as_bytes()).unwrap_err();
            assert_eq!((fault.param, fault.code), (param, code), "{body}");
        }
    }

    #[test]
    fn every_prefix_of_a_good_body_is_refused_without_panic() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":["#;
        for end in 0..body.len() {
            assert!(Chat::parse(&body[..end]).is_err());
        }
    }
}
