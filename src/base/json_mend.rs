//! A second reader of JSON: it repairs the details in which servers deviate from the format.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::str::Chars;

use memchr::memmem::find;
use serde::de::DeserializeSeed;
use serde_json::Value;

use super::json_read::{JsonString, ValueReader, without_bom};

const NO_NUMBER: &str = "NaN or Infinity is read as null";
const TWICE: &str = "a field occurs twice, and the last one counts";
const BEHIND: &str = "the end mark of a stream behind it is ignored";
const ODD_TEXT: &str =
    "control characters are escaped, and half of a surrogate pair is replaced by \u{fffd}";

/// Reads JSON that was paid for. If it is valid but for details, it is read without them, with a warning.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn leniently<T>(
    body: &[u8],
    read: impl Fn(&str) -> serde_json::Result<T>,
) -> serde_json::Result<(T, Option<String>)> {
    let mut found = BTreeSet::new();
    // A cut-off reply stays one if a proxy ends it with white space.
    let mut text = String::from_utf8_lossy(without_bom(body).trim_ascii_end());
    if matches!(text, Cow::Owned(_)) {
        found.insert("bytes that are not valid UTF-8 are replaced by \u{fffd}");
    }
    // Half of a pair in a part that is passed on unread would make the line of its result unreadable.
    let has_pairs = ["\\ud", "\\uD"]
        .iter()
        .any(|half| find(text.as_bytes(), half.as_bytes()).is_some());
    if has_pairs && let Some(mended) = mended(&text, &mut found) {
        text = Cow::Owned(mended);
    }
    let value = read(&text).or_else(|error| {
        let mended = mended(&text, &mut found).map_or(text, Cow::Owned);
        read(&mended).or_else(|_| {
            // No other reader counts the last field of a name.
            let left = Cell::new(MOST_VALUES);
            let reader = ValueReader {
                left: Some(&left),
                unique: false,
            };
            let mut from = serde_json::Deserializer::from_str(&mended);
            found.insert(TWICE);
            let value = reader.deserialize(&mut from);
            let value = value.and_then(|value| from.end().map(|()| value.to_string()));
            value.and_then(|json| read(&json)).map_err(|_| error)
        })
    })?;
    let repairs: Vec<&str> = found.into_iter().collect();
    let warning = format!("the reply is not valid JSON: {}", repairs.join("; "));
    Ok((value, Some(warning).filter(|_| !repairs.is_empty())))
}

/// More values are not read as a tree, which takes a hundred times the memory of their text.
const MOST_VALUES: usize = 500_000;

/// An object or a list with repairs, except of fields that occur twice; `None` if it does not end.
fn mended(text: &str, found: &mut BTreeSet<&'static str>) -> Option<String> {
    let (mut rest, mut out, mut depth) = (text, String::with_capacity(text.len()), 0_usize);
    loop {
        let byte = rest.bytes().next()?;
        match byte {
            b'"' => {
                rest = string(rest, &mut out, found)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => {}
            _ => {
                let end = rest
                    .find([',', ']', '}', ' ', '\t', '\n', '\r'])
                    .unwrap_or(rest.len());
                let is_none = matches!(&rest[..end], "NaN" | "-NaN" | "Infinity" | "-Infinity");
                found.extend(is_none.then_some(NO_NUMBER));
                out.push_str(if is_none { "null" } else { &rest[..end] });
                rest = &rest[end..];
                continue;
            }
        }
        out.push(byte.into());
        rest = &rest[1..];
        if depth == 0 && matches!(byte, b'}' | b']') {
            break;
        }
    }
    let rest = rest.trim();
    if !rest.is_empty() && rest.lines().all(is_end_of_stream) {
        found.insert(BEHIND);
    } else {
        out.push_str(rest);
    }
    Some(out)
}

/// Whether this line of a stream has no data but the mark of its end.
fn is_end_of_stream(line: &str) -> bool {
    let data = line.strip_prefix("data:").unwrap_or(line).trim();
    matches!(data, "" | "[DONE]") || line.starts_with("event:") || line.starts_with(':')
}

/// Copies the string at the beginning of a text, and returns what follows.
fn string<'t>(
    text: &'t str,
    out: &mut String,
    found: &mut BTreeSet<&'static str>,
) -> Option<&'t str> {
    let mut escaped = false;
    let end = text[1..].find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let (string, rest) = text.split_at(end + 2);
    if serde_json::from_str::<JsonString<'_>>(string).is_ok() {
        out.push_str(string);
        return Some(rest);
    }
    let (mut units, mut chars) = (Vec::new(), string[1..=end].chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => units.push(escaped_unit(&mut chars)?),
            c => units.extend_from_slice(c.encode_utf16(&mut [0; 2])),
        }
    }
    found.insert(ODD_TEXT);
    out.push_str(&Value::from(String::from_utf16_lossy(&units)).to_string());
    Some(rest)
}

/// The code unit of an escape, behind its backslash.
fn escaped_unit(chars: &mut Chars<'_>) -> Option<u16> {
    match chars.next()? {
        'u' => u16::from_str_radix(&chars.take(4).collect::<String>(), 16).ok(),
        other => {
            let escaped = serde_json::from_str::<char>(&format!("\"\\{other}\""));
            u16::try_from(escaped.ok()?).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_repaired_and_everything_else_stays() {
        let mended = |text: &str| {
            let mut found = BTreeSet::new();
            mended(text, &mut found).map(|mended| (mended, found.into_iter().collect::<Vec<_>>()))
        };
        for (text, whole, found) in [
            (
                "[NaN,-Infinity, Infinity ,\"NaN\"]",
                "[null,null, null ,\"NaN\"]",
                &[NO_NUMBER][..],
            ),
            ("{\"a\":1.50}\ndata: [DONE]\n\n", "{\"a\":1.50}", &[BEHIND]),
            (
                "[\"a\tb\n\\\"\\n\\/\"]",
                "[\"a\\tb\\n\\\"\\n/\"]",
                &[ODD_TEXT],
            ),
            (
                r#"["\ud83d","\uDE00\ud83d\ude00é","\\ud83d","\ud83dx"]"#,
                "[\"\u{fffd}\",\"\u{fffd}😀é\",\"\\\\ud83d\",\"\u{fffd}x\"]",
                &[ODD_TEXT],
            ),
            // What a proxy appends is no detail.
            ("{\"a\":[1,{\"a\":2}]} x", "{\"a\":[1,{\"a\":2}]}x", &[]),
        ] {
            assert_eq!(
                mended(text),
                Some((whole.to_owned(), found.to_vec())),
                "{text}"
            );
        }
        let deep = "[".repeat(100_000);
        for text in ["[NaN", "[\"\\", "NaN", "", "]", &deep] {
            assert_eq!(mended(text), None, "{text}");
        }
    }
}
