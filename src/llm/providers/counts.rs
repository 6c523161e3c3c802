//! The counts in a reply's usage, which providers write in many ways.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::bounded;

/// No call has more tokens. What is stated above it is no count, and would leave sums no room.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// No usage has more fields.
const MOST_COUNTS: usize = 1_000;

/// Bytes of JSON that cannot hold too many values. Hardly any usage is longer.
pub(super) const USUAL_USAGE: usize = 2 * MOST_COUNTS;

/// Calls of tools that the provider carried out itself, by kind: all of them, and searches of the web.
/// Beside them there may be counts of what they brought.
pub(super) fn server_tools(used: Option<&Value>) -> (u64, u64) {
    let is_calls = |name: &str| name.ends_with("_requests") || name.ends_with("_calls");
    let fields = used.and_then(Value::as_object).into_iter().flatten();
    let calls = fields.filter(|(name, _)| is_calls(name));
    let counts = calls.filter_map(|(name, value)| Some((name, Count::deserialize(value).ok()?.0?)));
    counts.fold((0, 0), |(all, searches), (name, calls)| {
        let found = if name.starts_with("web_search_") {
            calls
        } else {
            0
        };
        (all + calls, searches + found)
    })
}

/// The counts of a usage, read apart from the answer: a strange one must not cost it.
pub(super) fn counts<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    // A list would be read as the fields of a structure in their order.
    let json = raw.filter(|raw| bounded::is_object(raw))?.get();
    let counts = match json.len() {
        ..=USUAL_USAGE => serde_json::from_str(json).ok(),
        _ => None,
    };
    counts.or_else(|| {
        // A `Value` accepts a name that occurs twice.
        let most = Cell::new(MOST_COUNTS);
        let value = bounded::value(json.as_bytes(), &most).ok()?;
        T::deserialize(value).ok()
    })
}

/// A count of tokens: a number, or one in quotes as protobuf writes 64 bits; anything else counts
/// as absent.
#[derive(Clone, Copy, Default)]
pub(super) struct Count(pub Option<u64>);

impl Count {
    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    /// The number; 0 if it is absent.
    pub(super) fn or_zero(self) -> u64 {
        self.0.unwrap_or(0)
    }
}

/// The output tokens: the stated number, or else what a total has beyond the input. A reply that states neither may
/// have any number, which is not zero.
pub(super) fn output_of(stated: Count, total: Count, input: u64) -> Option<u64> {
    stated.0.or_else(|| total.0?.checked_sub(input))
}

impl From<Option<u32>> for Count {
    fn from(count: Option<u32>) -> Self {
        Self(count.map(u64::from))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        Ok(Self(count.filter(|count| *count <= MOST_TOKENS)))
    }
}

/// An object of counts; anything else counts as an empty one.
pub(super) fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    deserializer.deserialize_any(Object(PhantomData))
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Default + Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<T, E> {
        Ok(T::default())
    }
}

/// The parts of the tokens of a prompt, or of a completion, in OpenAI's words.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CountDetails {
    pub cached_tokens: Count,
    pub reasoning_tokens: Count,
    pub audio_tokens: Count,
    pub image_tokens: Count,
    pub cache_write_tokens: Count,
    pub cache_creation_tokens: Count,
    #[serde(deserialize_with = "object")]
    pub cache_creation_token_details: CacheWrites,
}

/// Tokens that were written to a cache, by how long they stay there, in Anthropic's words.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CacheWrites {
    pub ephemeral_5m_input_tokens: Count,
    pub ephemeral_1h_input_tokens: Count,
}

/// Some write whole numbers as `12.0`.
fn whole(number: f64) -> Option<u64> {
    let fits = number.fract() == 0.0 && (0.0..=MOST_TOKENS as f64).contains(&number);
    fits.then_some(number as u64)
}

/// One of the counts in an object that may be anything.
pub(super) fn count_in(details: &Value, name: &str) -> Option<u64> {
    Count::deserialize(details.get(name)?).ok()?.0
}
