//! Values that a store keeps as JSON in a row: the text says in which form it is.
//!
//! A changed form gets the next number. A step of the [migrations](super::migrations) rewrites the old ones, or whoever
//! reads them understands both.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, ErrorKind};

/// The form of all values. Those of commit 35927327 have no number, and this form.
const FORM: u32 = 1;

/// How a text with a number begins.
const HEAD: &str = "{\"form\":";

/// An object, with the number of its form before its fields.
pub fn write(value: &impl Serialize) -> String {
    // Serializing strings, numbers, lists and maps with string keys cannot fail.
    let text = serde_json::to_string(value).unwrap_or_default();
    match text.strip_prefix('{') {
        Some("}") => format!("{HEAD}{FORM}}}"),
        Some(fields) => format!("{HEAD}{FORM},{fields}"),
        None => text,
    }
}

/// The value of a text. `what` names it.
///
/// # Errors
/// When it has a form that this program does not know yet; when it is damaged.
pub fn read<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
    let (form, fields) = split(text);
    if form > FORM {
        return Err(invalid(format!(
            "{what} was written in a newer form ({form}, this program knows {FORM}): update batchwright"
        )));
    }
    let mut plain = Cow::Borrowed(text);
    if fields.len() < text.len() {
        plain = Cow::Owned(format!("{{{fields}"));
    }
    serde_json::from_str(&plain).map_err(|error| invalid(format!("{what} cannot be read: {error}")))
}

/// What follows the opening brace and the number of the form, if there is one; the text itself if it is no object.
pub fn fields(text: &str) -> &str {
    let (_, fields) = split(text);
    fields.strip_prefix('{').unwrap_or(fields)
}

fn split(text: &str) -> (u32, &str) {
    let Some(rest) = text.strip_prefix(HEAD) else {
        return (FORM, text);
    };
    let (form, fields) = rest.split_at(rest.find([',', '}']).unwrap_or_default());
    let fields = fields.strip_prefix(',').unwrap_or(fields);
    (form.parse().unwrap_or(u32::MAX), fields)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_value_is_read_in_its_form_and_a_newer_one_is_named() {
        for value in [json!({}), json!({"a": 1})] {
            let text = write(&value);
            assert!(text.starts_with(HEAD), "{text}");
            assert_eq!(read::<Value>("it", &text).unwrap(), value);
            assert_eq!(format!("{{{}", fields(&text)), value.to_string());
        }
        let fails = |text: &str| read::<Value>("it", text).unwrap_err().to_string();
        assert!(read::<Value>("it", r#"{"a":1}"#).is_ok(), "without one");
        assert!(fails(r#"{"form":2,"a":1}"#).contains("update"));
        assert!(fails(r#"{"form":1,"a"#).contains("cannot be read"));
    }
}
