//! Reading JSON: the fields of an object with their original text, unique names of fields, or a limited number of values.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The fields of an object, in their order, each with the original text of its value.
#[derive(Debug, Default)]
pub(crate) struct JsonObject<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

/// Up to this number of fields are compared one by one.
const FEW: usize = 32;

impl<'a> JsonObject<'a> {
    /// Parses an object; `None` if the text is something else.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// The field with that name, which is probably at the index `likely`.
    pub(crate) fn get(&self, name: &str, likely: usize) -> Option<&'a RawValue> {
        let guess = self.0.get(likely).filter(|(key, _)| key == name);
        let found = guess.or_else(|| self.0.iter().find(|(key, _)| key == name));
        found.map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = JsonObject<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonObject<'de>, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(8);
                let mut places = HashMap::new();
                while let Some(JsonString(name)) = map.next_key()? {
                    let value = map.next_value()?;
                    let known = match fields.len() {
                        0..=FEW => fields.iter().position(|(other, _)| *other == name),
                        _ => {
                            let all = places.len()..fields.len();
                            places.extend(all.map(|i| (fields[i].0.clone(), i)));
                            places.get(&name).copied()
                        }
                    };
                    // As everywhere, the last of several fields with one name counts.
                    match known {
                        Some(earlier) => fields[earlier].1 = value,
                        None => fields.push((name, value)),
                    }
                }
                Ok(JsonObject(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The field of an object with that name. A few names are faster compared than hashed.
pub(crate) fn field_of<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    if object.len() > FEW {
        return object.get(name);
    }
    let mut fields = object.iter();
    fields.find_map(|(key, value)| (key == name).then_some(value))
}

/// A string, borrowed if nothing in it is escaped.
#[derive(serde::Deserialize)]
pub(crate) struct JsonString<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// A value that rejects objects, at any depth, that name a field twice, because readers ignore one of the two.
#[derive(Debug)]
pub struct UniqueJson(
    /// The value as [`Value`] reads it.
    pub Value,
);

impl<'de> Deserialize<'de> for UniqueJson {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let reader = ValueReader {
            left: None,
            unique: true,
        };
        reader.deserialize(from).map(Self)
    }
}

/// Reads a value like [`Value`], with these conditions.
#[derive(Clone, Copy)]
pub(crate) struct ValueReader<'c> {
    /// Number of further values that are allowed, including lists and objects; `None` for no limit.
    pub left: Option<&'c Cell<usize>>,
    /// Whether an object that names a field twice is rejected.
    pub unique: bool,
}

impl ValueReader<'_> {
    /// Counts a value.
    ///
    /// # Errors
    /// If there are more values than allowed.
    fn count<E: Error>(self) -> Result<(), E> {
        let Some(left) = self.left else { return Ok(()) };
        let fewer = left.get().checked_sub(1);
        left.set(fewer.ok_or_else(|| E::custom("a field of more values than any answer has"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.count()?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            match fields.entry(name) {
                Entry::Occupied(field) if self.unique => {
                    let name = field.key();
                    return Err(A::Error::custom(format!("{name:?} occurs twice")));
                }
                Entry::Occupied(mut field) => drop(field.insert(object.next_value_seed(self)?)),
                Entry::Vacant(field) => {
                    field.insert(object.next_value_seed(self)?);
                }
            }
        }
        Ok(Value::Object(fields))
    }
}

/// The bytes without the byte order mark that some editors and servers write before a text.
pub(crate) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The content of a JSON file that is a part of the program.
pub(crate) fn table<T: serde::Deserialize<'static>>(json: &'static str) -> T {
    serde_json::from_str(json).expect("the tests read this file too")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_values_their_spelling() {
        let object = JsonObject::parse(r#"{"b":1.50,"a\n":[1, 2],"b":{"c":null}}"#).unwrap();
        let fields: Vec<_> = object.fields().map(|(name, v)| (name, v.get())).collect();
        assert_eq!(fields, [("b", r#"{"c":null}"#), ("a\n", "[1, 2]")]);
        assert_eq!(object.get("a\n", 7).unwrap().get(), "[1, 2]");
        assert!(object.get("c", 0).is_none());
        for other in ["[1]", "7", "\"a\"", "{", "{} {}"] {
            assert!(JsonObject::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn all_json_is_read_except_duplicate_fields() {
        for text in [
            r#"{"a":[null,true,-1,18446744073709551615,-0.0,1e300,"x\u00e9\n",{"b":{}}],"c":{"a":1}}"#,
            "3",
            "[[],{}]",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let UniqueJson(unique) = serde_json::from_str(text).unwrap();
            assert_eq!(unique.to_string(), value.to_string());
        }
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"b":2,"\u0061":3}]}"#] {
            let error = serde_json::from_str::<UniqueJson>(text).unwrap_err();
            assert!(error.to_string().starts_with("\"a\" occurs twice"));
        }
        let deep = "[".repeat(1000);
        let error = serde_json::from_str::<UniqueJson>(&deep).unwrap_err();
        assert!(error.to_string().contains("recursion limit"), "{error}");
    }
}
