//! The messages of a chat request, read in one pass.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::fields::Fields;
use super::parts::{Content, Part, Word};

pub(super) const ROLES: [&str; 5] = ["developer", "system", "user", "assistant", "tool"];

#[derive(Default)]
pub(super) struct Messages<'a> {
    pub bytes: u64,
    pub last: Cow<'a, str>,
    pub last_user: Option<Cow<'a, str>>,
    /// The fields of those that have more than a role and a text.
    pub fields: Vec<(usize, Fields<'a>)>,
    /// The parts that are more than text, each with its message.
    pub parts: Vec<(usize, Part<'a>)>,
}

struct Message<'a> {
    role: Cow<'a, str>,
    content: Option<Content<'a>>,
    fields: Option<Fields<'a>>,
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
                let mut count = 0;
                while let Some(message) = seq.next_element::<Message<'de>>()? {
                    if let Some(fields) = message.fields {
                        all.fields.push((count, fields));
                    }
                    let place = count;
                    count += 1;
                    let user = message.role == "user";
                    if !user && !ROLES.contains(&&*message.role) {
                        return Err(A::Error::custom("unknown role"));
                    }
                    // An assistant that only called tools has no text; everyone else must have some.
                    let text = match message.content {
                        Some(Content(text, parts)) => {
                            all.parts
                                .extend(parts.into_iter().map(|part| (place, part)));
                            text
                        }
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
                if count == 0 {
                    return Err(A::Error::custom("no messages"));
                }
                Ok(all)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Message<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Message<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut role, mut content, mut fields) = (None, None, None);
                while let Some(Word(name)) = map.next_key()? {
                    match &*name {
                        "role" if role.is_none() => role = Some(map.next_value::<Word<'de>>()?.0),
                        "content" if content.is_none() => content = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            let fields = fields.get_or_insert_with(Fields::of_message);
                            if !fields.add(name) {
                                return Err(A::Error::custom("a field comes twice"));
                            }
                        }
                    }
                }
                Ok(Message {
                    role: role.ok_or_else(|| A::Error::missing_field("role"))?,
                    content,
                    fields,
                })
            }
        }
        deserializer.deserialize_map(Whole)
    }
}
