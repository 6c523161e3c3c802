//! Reading JSON with conditions: unique field names, or a limited number of values.

use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

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

#[cfg(test)]
mod tests {
    use super::*;

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
