//! JSON as far as a table needs it: an object's fields as they stand, and what a value is in a cell.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cell::Cell;

/// The fields of an object, in their order, each value as it was written.
#[derive(Debug, Default)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// As many fields are compared one by one.
const FEW: usize = 32;

impl<'a> Object<'a> {
    /// Reads an object; none if the text is something else.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// The field of that name, which is likely to be at that place.
    pub(super) fn get(&self, name: &str, likely: usize) -> Option<&'a RawValue> {
        let guess = self.0.get(likely).filter(|(key, _)| key == name);
        let found = guess.or_else(|| self.0.iter().find(|(key, _)| key == name));
        found.map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                let mut places = HashMap::new();
                while let Some(Name(name)) = map.next_key()? {
                    let value = map.next_value()?;
                    let known = match fields.len() {
                        0..=FEW => fields.iter().position(|(other, _)| *other == name),
                        _ => {
                            let all = places.len()..fields.len();
                            places.extend(all.map(|i| (fields[i].0.clone(), i)));
                            places.get(&name).copied()
                        }
                    };
                    // As everywhere, the last of two of one name counts.
                    match known {
                        Some(earlier) => fields[earlier].1 = value,
                        None => fields.push((name, value)),
                    }
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A name, borrowed where nothing in it is escaped.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value that is no null.
pub(super) fn present(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

/// The text of a string; none for other values.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let Name(text) = serde_json::from_str(value.get()).ok()?;
    Some(text)
}

/// What a value is in a cell: lists and objects stay JSON.
pub(super) fn cell(value: &RawValue) -> Cell<'_> {
    let written = value.get();
    match written.as_bytes().first() {
        Some(b'"') => text(value).map_or(Cell::Null, Cell::Text),
        Some(b'{' | b'[') => Cell::Json(Cow::Borrowed(written)),
        Some(b't') => Cell::Bool(true),
        Some(b'f') => Cell::Bool(false),
        Some(b'n') | None => Cell::Null,
        Some(_) => number(written),
    }
}

/// An integer of 64 bits, a floating point number, or the digits of what is neither.
fn number(written: &str) -> Cell<'_> {
    let whole = !written.contains(['.', 'e', 'E']);
    match (written.parse(), written.parse::<f64>()) {
        (Ok(n), _) if whole => Cell::Int(n),
        (_, Ok(x)) if !whole && x.is_finite() => Cell::Float(x),
        _ => Cell::Text(Cow::Borrowed(written)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_values_their_spelling() {
        let object = Object::parse(r#"{"b":1.50,"a\n":[1, 2],"b":{"c":null}}"#).unwrap();
        let fields: Vec<_> = object.fields().map(|(name, v)| (name, v.get())).collect();
        assert_eq!(fields, [("b", r#"{"c":null}"#), ("a\n", "[1, 2]")]);
        assert_eq!(object.get("a\n", 7).unwrap().get(), "[1, 2]");
        assert!(object.get("c", 0).is_none());
        for other in ["[1]", "7", "\"a\"", "{", "{} {}"] {
            assert!(Object::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn values_are_what_they_are_in_json() {
        let object = Object::parse(
            r#"{"a":7,"b":-0.5,"c":"x\u00e9","d":true,"e":null,"f":[1],"g":9223372036854775808,"h":1e400,"i":3.0}"#,
        )
        .unwrap();
        let cells: Vec<Cell<'_>> = object.fields().map(|(_, value)| cell(value)).collect();
        let expected = [
            Cell::Int(7),
            Cell::Float(-0.5),
            Cell::Text("xé".into()),
            Cell::Bool(true),
            Cell::Null,
            Cell::Json("[1]".into()),
            Cell::Text("9223372036854775808".into()),
            Cell::Text("1e400".into()),
            Cell::Float(3.0),
        ];
        assert_eq!(cells, expected);
    }
}
