//! Reads JSON trees strictly: each access specifies the expected type, and a fault contains its place. For bodies whose
//! speed does not matter.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::prompt::Fault;

/// An object and its place in the body. Null counts as absent.
pub(super) struct Object<'v> {
    map: &'v Map<String, Value>,
    path: String,
    spelling: Spelling,
}

/// The spelling of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Exact,
    /// In camel case or snake case, as in JSON of protocol buffers. Known names are in camel case.
    Protobuf,
}

impl<'v> Object<'v> {
    pub(super) fn new(
        value: &'v Value,
        path: impl Into<String>,
        spelling: Spelling,
    ) -> Result<Object<'v>, Fault> {
        let path = path.into();
        match value.as_object() {
            Some(map) => Ok(Object {
                map,
                path,
                spelling,
            }),
            None => Err(wrong(path, "an object")),
        }
    }

    /// The place of a field.
    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Rejects fields that are not `known`.
    pub(super) fn only<'k>(&self, known: impl IntoIterator<Item = &'k str>) -> Result<(), Fault> {
        let known: Vec<&str> = known.into_iter().collect();
        let is_known = |name: &String| {
            known.contains(&name.as_str())
                || self.spelling == Spelling::Protobuf
                    && known.iter().any(|known| snake(known) == *name)
        };
        match self.map.keys().find(|name| !is_known(name)) {
            Some(name) => Err(Fault::Unknown(self.at(name))),
            None => Ok(()),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'v Value> {
        let mut value = self.map.get(name);
        if value.is_none() && self.spelling == Spelling::Protobuf {
            value = self.map.get(&snake(name));
        }
        value.filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'v str>, Fault> {
        self.read(name, "a string", Value::as_str)
    }

    pub(super) fn list(&self, name: &str) -> Result<Option<&'v Vec<Value>>, Fault> {
        self.read(name, "an array", Value::as_array)
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        self.read(name, "a boolean", Value::as_bool)
    }

    /// An integer of at least `least`.
    pub(super) fn whole(&self, name: &str, least: u64) -> Result<Option<u64>, Fault> {
        let Some(number) = self.read(name, "a non-negative integer", Value::as_u64)? else {
            return Ok(None);
        };
        if number < least {
            let message = format!("'{}' must be at least {least}.", self.at(name));
            return Err(Fault::invalid(self.at(name), message));
        }
        Ok(Some(number))
    }

    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, Fault> {
        let Some(number) = self.read(name, "a number", Value::as_f64)? else {
            return Ok(None);
        };
        in_range(self.at(name), number, range).map(Some)
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Object<'v>>, Fault> {
        self.get(name)
            .map(|value| Object::new(value, self.at(name), self.spelling))
            .transpose()
    }

    /// The objects of a list.
    pub(super) fn objects(&self, name: &str) -> Result<Option<Vec<Object<'v>>>, Fault> {
        let Some(list) = self.list(name)? else {
            return Ok(None);
        };
        let object = |(place, value)| {
            let path = format!("{}[{place}]", self.at(name));
            Object::new(value, path, self.spelling)
        };
        list.iter()
            .enumerate()
            .map(object)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    pub(super) fn missing(&self, name: &str) -> Fault {
        Fault::Missing(self.at(name))
    }

    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| wrong(self.at(name), expected))
    }
}

pub(super) fn in_range(
    at: impl Into<String>,
    number: f64,
    range: RangeInclusive<f64>,
) -> Result<f64, Fault> {
    if range.contains(&number) {
        return Ok(number);
    }
    let at = at.into();
    let message = format!(
        "'{at}' must be from {} to {}, found {number}.",
        range.start(),
        range.end()
    );
    Err(Fault::invalid(at, message))
}

pub(super) fn wrong(at: String, expected: &str) -> Fault {
    let message = format!("Invalid type for '{at}': expected {expected}.");
    Fault::invalid(at, message)
}

/// `maxOutputTokens` as `max_output_tokens`.
pub(super) fn snake(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_name_their_place() {
        let value = json!({"list": [{"a": 1}, {"a": "x", "b": null}], "c": -1});
        let root = Object::new(&value, "", Spelling::Exact).unwrap();
        let list = root.objects("list").unwrap().unwrap();
        assert_eq!(list[0].text("a").unwrap_err().at(), "list[0].a");
        assert_eq!(list[1].text("a"), Ok(Some("x")));
        assert_eq!(list[1].text("b"), Ok(None));
        assert_eq!(
            list[1].only(["a"]),
            Err(Fault::Unknown("list[1].b".to_owned()))
        );
        assert_eq!(root.whole("c", 0).unwrap_err().at(), "c");
        assert_eq!(root.number("c", -2.0..=0.0), Ok(Some(-1.0)));
        assert!(root.number("c", 0.0..=1.0).is_err());
    }

    #[test]
    fn protocol_buffers_allow_two_spellings_and_no_third() {
        let value = json!({"top_p": 0.5, "maxOutputTokens": 3, "Seed": 1});
        let root = Object::new(&value, "", Spelling::Protobuf).unwrap();
        assert_eq!(root.number("topP", 0.0..=1.0), Ok(Some(0.5)));
        assert_eq!(root.whole("maxOutputTokens", 1), Ok(Some(3)));
        assert_eq!(
            root.only(["topP", "maxOutputTokens", "seed"]),
            Err(Fault::Unknown("Seed".to_owned()))
        );
    }
}
