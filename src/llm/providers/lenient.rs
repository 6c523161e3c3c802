//! Replies that are JSON but for a detail: a letter that is no valid Unicode, a number that JSON does
//! not have, a field that stands twice. The answer in them was paid for, so they are mended and read.

use std::borrow::Cow;
use std::cell::Cell;

use super::bounded;
use crate::base::bom::without_bom;

/// A body that can be read now, and what was done to it, for people.
struct Mended {
    json: Vec<u8>,
    done: Vec<&'static str>,
}

/// What holds more is not mended of fields that stand twice: each value takes far more memory than text.
const MOST_VALUES: usize = 1_000_000;
const UNICODE: &str = "characters that are not valid Unicode are replaced by \u{fffd}";
const NUMBERS: &str = "numbers that JSON does not allow are treated as missing";
const TWICE: &str = "of a repeated field, the last value is used";

impl Mended {
    /// The warning for the answer that was read; none if nothing of the reply was changed or left out.
    fn warning(&self) -> Option<String> {
        let done = self.done.join("; ");
        (!done.is_empty()).then(|| format!("the reply was no valid JSON and was mended: {done}"))
    }

    /// The same with the last of each field that stands twice.
    fn without_repeats(&self) -> Option<Self> {
        let value = bounded::value(&self.json, &Cell::new(MOST_VALUES)).ok()?;
        Some(Self {
            json: serde_json::to_vec(&value).ok()?,
            done: self.done.iter().copied().chain([TWICE]).collect(),
        })
    }
}

/// Reads JSON strictly, and where that fails, mended; then with the warning for what was read.
///
/// # Errors
/// What is still wrong with it.
pub(super) fn read<T>(
    body: &[u8],
    strictly: impl Fn(&[u8]) -> serde_json::Result<T>,
) -> serde_json::Result<(T, Option<String>)> {
    let error = match strictly(body) {
        Ok(read) => return Ok((read, None)),
        Err(error) => error,
    };
    let Some(mut mended) = mend(body) else {
        return Err(error);
    };
    let mut read = strictly(&mended.json);
    if read.as_ref().is_err_and(is_repeat)
        && let Some(once) = mended.without_repeats()
    {
        mended = once;
        read = strictly(&mended.json);
    }
    read.map(|read| (read, mended.warning()))
}

/// True for the error of a field that stands twice.
fn is_repeat(error: &serde_json::Error) -> bool {
    error.is_data() && error.to_string().starts_with("duplicate field")
}

/// Mends a body that was refused as JSON; none for what was not meant to be any.
fn mend(body: &[u8]) -> Option<Mended> {
    let body = without_bom(body);
    if !matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return None;
    }
    let text = String::from_utf8_lossy(body);
    let mut done = Vec::new();
    if let Cow::Owned(_) = text {
        done.push(UNICODE);
    }
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len() + 16);
    let mut note = |what| {
        if !done.contains(&what) {
            done.push(what);
        }
    };
    while let [first, after @ ..] = rest {
        rest = match first {
            b'"' => string(rest, &mut out, &mut note),
            b'-' | b'0'..=b'9' | b'N' | b'I' => number(rest, &mut out, &mut note),
            other => {
                out.push(*other);
                after
            }
        };
    }
    Some(Mended { json: out, done })
}

/// Copies the string at the beginning; returns what follows it.
fn string<'t>(text: &'t [u8], out: &mut Vec<u8>, note: &mut impl FnMut(&'static str)) -> &'t [u8] {
    out.push(b'"');
    let mut rest = &text[1..];
    loop {
        match rest {
            [] => return rest,
            [b'"', after @ ..] => {
                out.push(b'"');
                return after;
            }
            [b'\\', b'u', ..] => {
                let len = match (unit(rest), unit(rest.get(6..).unwrap_or_default())) {
                    (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
                    (Some(0xd800..0xe000), _) => {
                        note(UNICODE);
                        out.extend_from_slice(b"\\ufffd");
                        rest = &rest[6..];
                        continue;
                    }
                    _ => 2,
                };
                out.extend_from_slice(&rest[..len]);
                rest = &rest[len..];
            }
            [b'\\', escaped, after @ ..] => {
                out.extend_from_slice(&[b'\\', *escaped]);
                rest = after;
            }
            // Nothing is lost by it: the letter is read as it was meant.
            [control @ 0..0x20, after @ ..] => {
                out.extend_from_slice(format!("\\u{control:04x}").as_bytes());
                rest = after;
            }
            [other, after @ ..] => {
                out.push(*other);
                rest = after;
            }
        }
    }
}

/// The number in an escape such as `\ud83d`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

/// Copies the number at the beginning, or null for one that JSON does not have.
fn number<'t>(text: &'t [u8], out: &mut Vec<u8>, note: &mut impl FnMut(&'static str)) -> &'t [u8] {
    let within = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let end = text.iter().position(|byte| !within(byte));
    let (number, rest) = text.split_at(end.unwrap_or(text.len()));
    let unknown = [&b"NaN"[..], b"-NaN", b"Infinity", b"-Infinity"].contains(&number);
    let finite = || {
        let number = std::str::from_utf8(number).ok();
        let number = number.and_then(|number| number.parse::<f64>().ok());
        number.is_none_or(f64::is_finite)
    };
    if unknown || !finite() {
        note(NUMBERS);
        out.extend_from_slice(b"null");
    } else {
        out.extend_from_slice(number);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn value(body: &[u8]) -> (Value, Option<String>) {
        let mended = mend(body).unwrap();
        let value = serde_json::from_slice(&mended.json);
        let shown = String::from_utf8_lossy(&mended.json);
        (
            value.unwrap_or_else(|e| panic!("{e}: {shown}")),
            mended.warning(),
        )
    }

    #[test]
    fn broken_details_are_repaired_with_a_warning() {
        for (body, expected, expected_warning) in [
            (&b"\xef\xbb\xbf{\"a\": 1}"[..], json!({"a": 1}), None),
            (
                b"{\"a\": \"x\xffy\"}",
                json!({"a": "x\u{fffd}y"}),
                Some(UNICODE),
            ),
            (
                br#"["\ud800", "\udc00x", "\ud800\ud800\udc00"]"#,
                json!(["\u{fffd}", "\u{fffd}x", "\u{fffd}\u{10000}"]),
                Some(UNICODE),
            ),
            (
                br#"["\ud83d\ude00\\ud800\"", "\u00e4"]"#,
                json!(["\u{1f600}\\ud800\"", "ä"]),
                None,
            ),
            (
                b"{\"a\": NaN, \"b\": -Infinity, \"c\": [1e999, -1.5e3, 0]}",
                json!({"a": null, "b": null, "c": [null, -1500.0, 0]}),
                Some(NUMBERS),
            ),
            (
                b"{\"a\": \"NaN\", \"b\": \"one\ntwo\"}",
                json!({"a": "NaN", "b": "one\ntwo"}),
                None,
            ),
            (
                br#"{"a": [true, false, null, {"b": 12345678901234567890}]}"#,
                json!({"a": [true, false, null, {"b": 12_345_678_901_234_567_890_u64}]}),
                None,
            ),
        ] {
            let (found, warning) = value(body);
            assert_eq!(found, expected);
            assert_eq!(warning.is_some(), expected_warning.is_some(), "{warning:?}");
            assert!(
                warning
                    .unwrap_or_default()
                    .contains(expected_warning.unwrap_or_default())
            );
        }
    }

    #[test]
    fn text_that_is_not_json_and_truncated_json_are_not_repaired() {
        for other in [&b""[..], b"<html>", b"data: {}", b"true", b"\xff\xfe"] {
            assert!(mend(other).is_none());
        }
        for cut in [
            &b"{\"a\": \"\\ud8"[..],
            b"{\"a\": \"x\xc3",
            b"{\"a\": N",
            b"{\"a\": \"\\",
        ] {
            let mended = mend(cut).unwrap();
            let error = serde_json::from_slice::<Value>(&mended.json).unwrap_err();
            let shown = String::from_utf8_lossy(cut);
            assert!(error.is_eof() || cut.ends_with(b"N"), "{shown}: {error}");
        }
    }

    #[test]
    fn the_last_of_repeated_fields_counts() {
        #[derive(Debug, serde::Deserialize)]
        struct Reply {
            #[expect(dead_code, reason = "only the name matters")]
            usage: Value,
        }
        let body = br#"{"usage": {"a": 1}, "usage": {"a": 2}}"#;
        let error = serde_json::from_slice::<Reply>(body).unwrap_err();
        assert!(is_repeat(&error), "{error}");
        let mended = mend(body).unwrap().without_repeats().unwrap();
        assert_eq!(mended.json, br#"{"usage":{"a":2}}"#);
        assert!(mended.warning().unwrap().contains(TWICE));
    }
}
