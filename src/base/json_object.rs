//! The fields of a JSON object with their original text, in their order.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

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
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
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

/// A string, borrowed if nothing in it is escaped.
#[derive(Deserialize)]
pub(crate) struct JsonString<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

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
}
