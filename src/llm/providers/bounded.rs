//! Fields of replies that may have any content. They are parsed into a tree only up to a number of values, because two
//! bytes of JSON can take a hundred bytes of memory. A larger field makes its reply fail; the reply is kept unparsed.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::json_value::ValueReader;

use super::error_body::own_word;

/// The maximum number of values in one field, including lists and objects: far more than in any answer.
pub(super) const MOST_NODES: usize = 50_000;

/// A field as it came: it is parsed only if it is needed.
pub(super) type Raw<'b> = Option<&'b RawValue>;

/// Parses JSON that has no more values.
pub(super) fn value(json: &str) -> serde_json::Result<Value> {
    let left = Cell::new(MOST_NODES);
    let reader = ValueReader {
        left: Some(&left),
        unique: false,
    };
    let mut from = serde_json::Deserializer::from_str(json);
    let value = reader.deserialize(&mut from)?;
    from.end().map(|()| value)
}

/// A field that may be missing.
pub(super) fn field(raw: Raw<'_>) -> serde_json::Result<Option<Value>> {
    raw.map(|raw| value(raw.get())).transpose()
}

/// A scalar as text; empty if it is missing.
pub(super) fn word(raw: Raw<'_>) -> serde_json::Result<String> {
    Ok(own_word(field(raw)?))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dialect::testing::decoded;
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Reply<'b> {
        #[serde(borrow)]
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
