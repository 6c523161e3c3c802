//! Reads the usual reply of a chat: one text, an end and token counts. This takes half as long as reading a reply that
//! may contain anything. All other replies are rejected here, and then [`openai`](super) reads them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::llm::reply_details::ReplyDetails;

use super::super::answer::Answer;
use super::super::counts::{CountDetails, USUAL_USAGE};
use super::super::error_body::own_word;
use super::Counts;

/// Returns `None` for any reply that is not the usual one.
pub(super) fn read(body: &[u8]) -> Option<Answer> {
    let Object(reply) = serde_json::from_slice::<Object<Reply<'_>>>(body).ok()?;
    let (Object(choice),) = reply.choices;
    // Read apart, so that all of its text is checked.
    let usage = reply.usage.get();
    let Object(usage) = match usage.len() {
        ..=USUAL_USAGE => serde_json::from_str::<Object<Usage>>(usage).ok()?,
        _ => return None,
    };
    let word = |text: String| own_word(Some(Value::String(text)));
    Some(Answer {
        text: choice.message.0.content,
        finish: word(choice.finish_reason),
        model: Some(word(reply.model)),
        usage: Counts::from(usage).usage(),
        details: ReplyDetails {
            service_tier: reply.service_tier.map(word).filter(|tier| !tier.is_empty()),
            ..ReplyDetails::default()
        },
        ..Answer::default()
    })
}

/// Fields that would change the answer are of the types `()` and `Empty`: any value in them rejects the reply.
#[derive(Deserialize)]
#[expect(dead_code, reason = "some fields only have to be missing")]
struct Reply<'b> {
    #[serde(borrow, default)]
    id: Option<&'b str>,
    model: String,
    choices: (Object<Choice>,),
    #[serde(borrow)]
    usage: &'b RawValue,
    service_tier: Option<String>,
    #[serde(default)]
    citations: Empty,
    #[serde(default)]
    error: (),
}

/// Null or an empty list.
type Empty = Option<[(); 0]>;

/// A JSON object. A structure alone would also be read from a list of its fields.
#[derive(Default)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "some fields only have to be missing")]
struct Choice {
    finish_reason: String,
    message: Object<Message>,
    #[serde(default)]
    logprobs: (),
    #[serde(default)]
    native_finish_reason: (),
    #[serde(default)]
    error: (),
    #[serde(default)]
    provider_specific_fields: (),
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "some fields only have to be missing")]
struct Message {
    content: String,
    #[serde(default)]
    refusal: (),
    #[serde(default)]
    tool_calls: Empty,
    #[serde(default)]
    function_call: (),
    #[serde(default)]
    audio: (),
    #[serde(default)]
    images: Empty,
    #[serde(default)]
    reasoning: (),
    #[serde(default)]
    reasoning_content: (),
    #[serde(default)]
    reasoning_details: Empty,
    #[serde(default)]
    thinking_blocks: Empty,
    #[serde(default)]
    provider_specific_fields: (),
    #[serde(default)]
    annotations: Empty,
}

/// A larger number than `u32` has is not a count of tokens.
#[derive(Deserialize)]
#[expect(dead_code, reason = "some fields only have to be missing")]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: Option<u32>,
    num_cached_tokens: Option<u32>,
    prompt_cache_hit_tokens: Option<u32>,
    #[serde(default)]
    cost_in_usd_ticks: (),
    #[serde(default)]
    cost: (),
    #[serde(default)]
    cost_details: (),
    #[serde(default)]
    is_byok: (),
    prompt_tokens_details: Option<Object<Details>>,
    completion_tokens_details: Option<Object<Details>>,
    cache_creation_input_tokens: Option<u32>,
    #[serde(default)]
    server_tool_use: (),
    num_sources_used: Option<u32>,
    num_server_side_tools_used: Option<u32>,
    #[serde(default)]
    server_side_tool_usage_details: (),
    num_search_queries: Option<u32>,
}

#[derive(Default, Deserialize)]
#[expect(dead_code, reason = "one field only has to be missing")]
struct Details {
    cached_tokens: Option<u32>,
    reasoning_tokens: Option<u32>,
    audio_tokens: Option<u32>,
    image_tokens: Option<u32>,
    cache_write_tokens: Option<u32>,
    cache_creation_tokens: Option<u32>,
    #[serde(default)]
    cache_creation_token_details: (),
}

impl From<Usage> for Counts {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: Some(usage.prompt_tokens).into(),
            completion_tokens: Some(usage.completion_tokens).into(),
            total_tokens: usage.total_tokens.into(),
            num_cached_tokens: usage.num_cached_tokens.into(),
            prompt_cache_hit_tokens: usage.prompt_cache_hit_tokens.into(),
            prompt_tokens_details: usage.prompt_tokens_details.unwrap_or_default().0.into(),
            completion_tokens_details: usage.completion_tokens_details.unwrap_or_default().0.into(),
            cache_creation_input_tokens: usage.cache_creation_input_tokens.into(),
            num_sources_used: usage.num_sources_used.into(),
            num_server_side_tools_used: usage.num_server_side_tools_used.into(),
            num_search_queries: usage.num_search_queries.into(),
            ..Self::default()
        }
    }
}

impl From<Details> for CountDetails {
    fn from(details: Details) -> Self {
        Self {
            cached_tokens: details.cached_tokens.into(),
            reasoning_tokens: details.reasoning_tokens.into(),
            audio_tokens: details.audio_tokens.into(),
            image_tokens: details.image_tokens.into(),
            cache_write_tokens: details.cache_write_tokens.into(),
            cache_creation_tokens: details.cache_creation_tokens.into(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use super::super::super::vendor::Vendor;
    use super::*;
    use crate::base::random::Random;

    /// A name, and values as JSON.
    type Field = (&'static str, &'static [&'static str]);

    /// Fields of a reply with values that are usual and values that are not, by the place of the field.
    const FIELDS: [(&str, &[Field]); 5] = [
        (
            "",
            &[
                ("id", &["\"c-1\"", "null", "7", "\"c\\u0041\""]),
                ("object", &["\"chat.completion\"", "[1]", "\"gr\u{fc}n\""]),
                ("model", &["\"m\"", "\"m\\u00e4\"", "null", "3"]),
                ("service_tier", &["\"default\"", "null", "\"\"", "[]"]),
                ("citations", &["[]", "null", "[\"https://a.example\"]"]),
                ("error", &["null", "{\"message\":\"x\",\"code\":429}"]),
            ],
        ),
        (
            "choice",
            &[
                ("index", &["0"]),
                (
                    "finish_reason",
                    &[
                        "\"stop\"",
                        "\"length\"",
                        "\"content_filter\"",
                        "\"error\"",
                        "null",
                        "5",
                    ],
                ),
                ("logprobs", &["null", "[]", "{\"content\":[]}"]),
                ("native_finish_reason", &["null", "\"error\"", "\"STOP\""]),
                ("error", &["null", "{\"message\":\"x\"}"]),
                (
                    "provider_specific_fields",
                    &["null", "{\"native_finish_reason\":\"error\"}"],
                ),
            ],
        ),
        (
            "message",
            &[
                ("role", &["\"assistant\""]),
                (
                    "content",
                    &[
                        "\"yes\"",
                        "\" \"",
                        "\"\"",
                        "null",
                        "\"a\\n\\u00e4\"",
                        "[{\"type\":\"text\",\"text\":\"x\"}]",
                    ],
                ),
                ("refusal", &["null", "\"no\"", "\"\""]),
                (
                    "tool_calls",
                    &[
                        "null",
                        "[]",
                        "[{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]",
                    ],
                ),
                (
                    "function_call",
                    &["null", "{\"name\":\"f\",\"arguments\":\"{}\"}"],
                ),
                ("audio", &["null", "{\"transcript\":\"x\"}"]),
                ("images", &["null", "[]", "[{}]"]),
                ("reasoning", &["null", "\"hm\"", "\"\""]),
                ("reasoning_content", &["null", "\"hm\""]),
                ("reasoning_details", &["null", "[]", "[{\"text\":\"hm\"}]"]),
                (
                    "thinking_blocks",
                    &["null", "[]", "[{\"thinking\":\"hm\"}]"],
                ),
                (
                    "provider_specific_fields",
                    &["null", "{\"refusal\":\"no\"}"],
                ),
                (
                    "annotations",
                    &["[]", "null", "[{\"type\":\"url_citation\"}]"],
                ),
            ],
        ),
        (
            "usage",
            &[
                (
                    "prompt_tokens",
                    &["9", "0", "\"9\"", "9.0", "4294967296", "null"],
                ),
                ("completion_tokens", &["4", "null", "4.5"]),
                ("total_tokens", &["13", "16", "null", "-1"]),
                ("num_cached_tokens", &["2", "null"]),
                ("prompt_cache_hit_tokens", &["3", "\"3\""]),
                ("cost_in_usd_ticks", &["null", "77"]),
                ("cost", &["null", "0.25", "{\"total_cost\":0.5}"]),
                ("cost_details", &["null", "{\"upstream_inference_cost\":1}"]),
                ("is_byok", &["null", "true"]),
                ("cache_creation_input_tokens", &["5", "null"]),
                ("server_tool_use", &["null", "{\"web_search_requests\":2}"]),
                ("num_sources_used", &["1", "null"]),
                ("num_server_side_tools_used", &["2", "null"]),
                (
                    "server_side_tool_usage_details",
                    &["null", "{\"web_search_calls\":2}"],
                ),
                ("num_search_queries", &["1", "null"]),
                ("note", &["1", "\"gr\u{fc}n\"", "1e999"]),
            ],
        ),
        (
            "details",
            &[
                ("cached_tokens", &["3", "0", "null", "\"3\""]),
                ("reasoning_tokens", &["3", "0", "null"]),
                ("audio_tokens", &["1", "0", "null"]),
                ("image_tokens", &["1", "null"]),
                ("cache_write_tokens", &["1", "null"]),
                ("cache_creation_tokens", &["1", "null"]),
                ("note", &["1", "\"gr\u{fc}n\""]),
                (
                    "cache_creation_token_details",
                    &["null", "{\"ephemeral_5m_input_tokens\":1}", "4"],
                ),
            ],
        ),
    ];

    /// The fields of a place as JSON, without the braces. `oddity` of 100 values are not the first of their list.
    fn fields(random: &mut Random, place: &str, oddity: u64) -> String {
        let (_, all) = FIELDS.iter().find(|(name, _)| *name == place).unwrap();
        let mut fields = Vec::new();
        for (name, values) in *all {
            // Missing, once, or rarely twice.
            let times = match random.index(60) {
                0 => 2,
                1..5 => 0,
                _ => 1,
            };
            for _ in 0..times {
                let at = if random.chance(oddity) {
                    random.index(values.len())
                } else {
                    0
                };
                fields.push(format!("\"{name}\":{}", values[at]));
            }
        }
        fields.join(",")
    }

    fn body(random: &mut Random) -> Vec<u8> {
        let oddity = [0, 2, 10, 40][random.index(4)];
        let mut of = |place: &str| fields(random, place, oddity);
        let (outer, choice, message, usage) = (of(""), of("choice"), of("message"), of("usage"));
        let (read, written) = (of("details"), of("details"));
        // Objects are rarely lists.
        let mut object = |fields: String, list: &str| match random.index(50) {
            0 => list.to_owned(),
            _ => format!("{{{fields}}}"),
        };
        let message = object(message, "[\"yes\"]");
        let choice = object(
            format!("{choice},\"message\":{message}"),
            "[\"stop\",{\"content\":\"yes\"}]",
        );
        let (read, written) = (
            object(read, "[3,0,0,0,0,0]"),
            object(written, "[0,3,0,0,0,0]"),
        );
        let usage = format!(
            "{usage},\"prompt_tokens_details\":{read},\"completion_tokens_details\":{written}"
        );
        let usage = object(usage, "[9,4]");
        let choices = match random.index(20) {
            0 => String::new(),
            1 => format!("{choice},{choice}"),
            _ => choice,
        };
        let body = format!("{{{outer},\"choices\":[{choices}],\"usage\":{usage}}}");
        let body = body.replace("{,", "{");
        match random.index(10) {
            0 => body.replace("gr\u{fc}n", &"long".repeat(600)).into_bytes(),
            // Not UTF-8.
            1 => body.chars().map(|letter| letter as u8).collect(),
            _ => body.into_bytes(),
        }
    }

    /// Records the names of the fields that a structure reads.
    #[derive(Clone, Copy)]
    struct Names<'n>(&'n Cell<&'static [&'static str]>);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("only names"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &str,
            names: &'static [&'static str],
            any: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.set(names);
            self.deserialize_any(any)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn names<T: Deserialize<'static>>() -> BTreeSet<&'static str> {
        let names = Cell::default();
        let _ = T::deserialize(Names(&names));
        names.get().iter().copied().collect()
    }

    /// A field that only the tolerant reader knows would be ignored here.
    #[test]
    fn each_field_of_the_tolerant_reader_is_known() {
        assert_eq!(names::<Reply<'_>>(), names::<super::super::Reply<'_>>());
        assert_eq!(names::<Choice>(), names::<super::super::Choice<'_>>());
        assert_eq!(names::<Message>(), names::<super::super::Message<'_>>());
        assert_eq!(names::<Usage>(), names::<Counts>());
        assert_eq!(names::<Details>(), names::<CountDetails>());
        assert!(names::<Reply<'_>>().contains("choices"));
    }

    #[test]
    fn a_usual_reply_is_read_like_any_other() {
        let vendor = Vendor::named("openai").unwrap();
        let mut usual = 0;
        for seed in 0..20_000 {
            let body = &*body(&mut Random(seed));
            let Some(answer) = read(body) else { continue };
            usual += 1;
            let quick = answer.conclude(vendor.name, body, false);
            let tolerant = super::super::read_any(vendor, body, false);
            let shown = String::from_utf8_lossy(body);
            let tolerant = tolerant.unwrap_or_else(|error| panic!("seed {seed}: {error}: {shown}"));
            let debug = |result| format!("{result:?}");
            assert_eq!(debug(&quick), debug(&tolerant), "seed {seed}: {shown}");
        }
        assert!((2_000..18_000).contains(&usual), "{usual}");
    }
}
