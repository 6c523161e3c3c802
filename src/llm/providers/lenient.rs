//! Replies that are JSON but for bytes that are not valid UTF-8. The answer in them was paid for, so these bytes are
//! replaced and it is read.

use std::borrow::Cow;

use crate::base::bom::without_bom;

const WARNING: &str = "the reply is not valid UTF-8: wrong bytes are replaced by \u{fffd}";

/// Reads JSON strictly, and where that fails, without its wrong bytes; then with a warning.
///
/// # Errors
/// What is still wrong with it.
pub(super) fn read<T>(
    body: &[u8],
    strictly: impl Fn(&[u8]) -> serde_json::Result<T>,
) -> serde_json::Result<(T, Option<String>)> {
    // A cut-off reply stays one if a proxy ends it with white space.
    let body = without_bom(body).trim_ascii_end();
    let read = strictly(body).map(|read| (read, None));
    read.or_else(|error| match String::from_utf8_lossy(body) {
        Cow::Owned(text) => Ok((strictly(text.as_bytes())?, Some(WARNING.to_owned()))),
        Cow::Borrowed(_) => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn value(body: &[u8]) -> serde_json::Result<(Value, Option<String>)> {
        read(body, |body| serde_json::from_slice(body))
    }

    #[test]
    fn wrong_bytes_are_replaced_with_a_warning_and_nothing_else_is_mended() {
        let plain = value(b"\xef\xbb\xbf{\"a\": 1}").unwrap();
        assert_eq!(plain, (json!({"a": 1}), None));
        let (found, warning) = value(b"{\"a\": \"x\xffy\"}").unwrap();
        assert_eq!(found, json!({"a": "x\u{fffd}y"}));
        assert_eq!(warning.as_deref(), Some(WARNING));
        for other in [
            &b""[..],
            b"<html>",
            b"\xff\xfe",
            b"{\"a\": NaN}",
            b"[\"\\ud800\"]",
            b"{\"a\": \"x\xc3",
        ] {
            assert!(value(other).is_err());
        }
    }
}
