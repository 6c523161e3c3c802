//! Fields of replies that may have any content. They are parsed into a tree only up to a number of values, because two
//! bytes of JSON can take a hundred bytes of memory. A larger field makes its reply fail; the reply is kept unparsed.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::json_mend::leniently;
use crate::base::json_read::{JsonObject, ValueReader};
use crate::llm::reply_details::{RawJson, shallow};

use super::rules::{cut, word as value_word};

/// The maximum number of values in one field, including lists and objects: far more than in any answer.
pub(super) const MOST_NODES: usize = 50_000;

/// A field as it came: it is parsed only if it is needed.
pub(super) type Raw<'b> = Option<&'b RawValue>;

/// A field with any content, parsed with its reply because most replies have it.
pub(super) fn any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    let left = Cell::new(MOST_NODES);
    let reader = ValueReader {
        left: Some(&left),
        unique: false,
    };
    let value = reader.deserialize(from)?;
    Ok(Some(value).filter(|value| !value.is_null()))
}

/// Parses JSON that has no more values.
pub(super) fn value(json: &str) -> serde_json::Result<Value> {
    let mut from = serde_json::Deserializer::from_str(json);
    let value = any(&mut from)?.unwrap_or_default();
    from.end().map(|()| value)
}

/// A field that may be missing.
pub(super) fn field(raw: Raw<'_>) -> serde_json::Result<Option<Value>> {
    raw.map(|raw| value(raw.get())).transpose()
}

/// A scalar as text; empty if it is missing.
pub(super) fn word(value: Option<Value>) -> String {
    match value {
        Some(Value::String(text)) => cut(text),
        other => value_word(other.as_ref()),
    }
}

/// The first entry of a list that may be missing. The other entries are not kept in memory.
pub(super) fn first<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    from.deserialize_any(First(PhantomData))
}

struct First<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for First<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<T>, A::Error> {
        let first = list.next_element()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

/// A field that is read apart from the answer: a strange one must not cost it.
pub(super) fn optional(raw: Raw<'_>) -> Option<Value> {
    field(raw).ok()?
}

/// A list that is read apart from the answer.
pub(super) fn list(raw: Raw<'_>) -> Vec<Value> {
    match optional(raw) {
        Some(Value::Array(items)) => items.into_iter().map(shallow).collect(),
        _ => Vec::new(),
    }
}

/// No call has more tokens. What is stated above it is no count, and would leave sums no room.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// No usage has more bytes of JSON.
const LONGEST: usize = 64 << 10;

/// The fields of a usage, read apart from the answer: a strange one must not cost it. Anything but an object counts as
/// an empty one.
#[derive(Default)]
pub(super) struct Counts<'b>(JsonObject<'b>);

impl<'b> Counts<'b> {
    pub(super) fn read(raw: Option<&'b RawValue>) -> Self {
        let json = raw.map(RawValue::get).filter(|json| json.len() <= LONGEST);
        let fields = json.and_then(JsonObject::parse);
        Self(fields.unwrap_or_default())
    }

    /// A count of tokens: a number, or one in quotes as protobuf writes 64 bits; anything else counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        count(self.0.get(name, 0)?.get())
    }

    /// The number; 0 if it is absent.
    pub(super) fn or_zero(&self, name: &str) -> u64 {
        self.get(name).unwrap_or(0)
    }

    /// The first of these counts that is stated.
    pub(super) fn first_of(&self, names: &[&str]) -> Option<u64> {
        names.iter().find_map(|name| self.get(name))
    }

    /// The counts in a field.
    pub(super) fn of(&self, name: &str) -> Self {
        Self::read(self.0.get(name, 0))
    }

    pub(super) fn value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(name, 0)?.get()).ok()
    }

    /// The output tokens: the stated number, or else what a total has beyond the input. A reply that states neither may
    /// have any number, which is not zero.
    pub(super) fn output(&self, stated: Option<u64>, total: &str, input: u64) -> Option<u64> {
        stated.or_else(|| self.get(total)?.checked_sub(input))
    }

    /// Calls of tools that the provider carried out itself, by kind: all of them, and searches of the web. Beside them
    /// there may be counts of what they brought.
    pub(super) fn server_tools(&self) -> (u64, u64) {
        let is_calls = |name: &str| name.ends_with("_requests") || name.ends_with("_calls");
        let calls = self.0.fields().filter(|(name, _)| is_calls(name));
        let counts = calls.map(|(name, raw)| (name, count(raw.get()).unwrap_or(0)));
        counts.fold((0, 0), |(all, searches), (name, calls)| {
            let is_search = name.starts_with("web_search_");
            (all + calls, searches + if is_search { calls } else { 0 })
        })
    }
}

/// A count in JSON.
pub(super) fn count(json: &str) -> Option<u64> {
    let digits = json.trim_matches('"');
    // Some write whole numbers as `12.0`.
    let whole = || {
        let number: f64 = digits.parse().ok()?;
        (number.fract() == 0.0 && number >= 0.0).then_some(number as u64)
    };
    let count = digits.parse().ok().or_else(whole);
    count.filter(|count| *count <= MOST_TOKENS)
}

/// A whole number, also one in quotes.
pub(super) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A reply, or a part of one that `part` finds in it, as JSON if it is JSON but for details.
pub(super) fn reply_json(
    body: &[u8],
    part: impl Fn(&str) -> serde_json::Result<RawJson>,
) -> RawJson {
    let read = leniently(body, part);
    read.map_or_else(
        |_| RawJson::new(&String::from_utf8_lossy(body)),
        |(json, _)| json,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dialect::testing::decoded;
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(bound(deserialize = "'de: 'b"))]
    struct Reply<'b> {
        any: Raw<'b>,
        #[serde(default, deserialize_with = "first")]
        list: Option<u8>,
    }

    fn read(json: &str) -> serde_json::Result<(Option<Value>, Option<u8>)> {
        let reply: Reply<'_> = serde_json::from_str(json)?;
        Ok((field(reply.any)?, reply.list))
    }

    #[test]
    fn a_field_holds_what_json_holds() {
        let all = json!({"a": [1, -1, 1.5, "x\n", true, null, {"b": []}]});
        let reply = read(&json!({ "any": all, "list": [7, 8] }).to_string()).unwrap();
        assert_eq!(reply, (Some(all), Some(7)));
        for none in [r#"{"any":null,"list":null}"#, "{}", r#"{"list":[]}"#] {
            assert_eq!(read(none).unwrap(), (None, None), "{none}");
        }
        assert!(read(r#"{"list":5}"#).is_err());
    }

    #[test]
    fn replies_of_very_many_values_fail_and_are_kept() {
        let many = format!("[{}[]]", "[],".repeat(1_100_000));
        for (name, body) in [
            ("openai", r#"{"choices":[{"message":{"content":MANY}}]}"#),
            ("openai", r#"{"choices":[{"message":{"tool_calls":MANY}}]}"#),
            ("anthropic", r#"{"type":"message","content":MANY}"#),
            ("gemini", r#"{"candidates":[{"content":{"parts":MANY}}]}"#),
            ("gemini", r#"[{"candidates":[{"content":{"parts":MANY}}]}]"#),
        ] {
            let error = decoded(name, &body.replace("MANY", &many)).unwrap_err();
            assert!(error.is_unusable_reply(), "{name}: {error}");
        }
        // Only the first of the choices counts, however many there are.
        let choices = r#"{"message":{"content":"yes"}},"#.to_owned() + &"{},".repeat(1000) + "{}";
        let answer = decoded("openai", &format!(r#"{{"choices":[{choices}]}}"#)).unwrap();
        assert_eq!(answer.text, "yes");
        let usage = format!(r#"{{"choices":[{{"message":{{"content":"y"}}}}],"usage":{many}}}"#);
        assert_eq!(decoded("openai", &usage).unwrap().usage, None);
    }

    #[test]
    fn a_field_of_very_many_values_is_refused() {
        let list = |values: usize| format!(r#"{{"any":[{}1]}}"#, "1,".repeat(values - 1));
        // The list is a value itself.
        let most = read(&list(MOST_NODES - 1)).unwrap().0.unwrap();
        assert_eq!(most.as_array().map(Vec::len), Some(MOST_NODES - 1));
        let error = read(&list(MOST_NODES)).unwrap_err();
        assert!(error.to_string().contains("more values than"), "{error}");
    }
}
