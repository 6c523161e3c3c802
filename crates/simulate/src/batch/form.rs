//! Parses requests for files or batches: addresses with their queries, and forms with a file.

use std::ops::Range;

use memchr::memmem;

use super::Refusal;
use crate::prompt::Fault;

/// The pairs of an address's query.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query that may only have these names.
    pub(super) fn read(query: &str, known: &[String]) -> Result<Query, Fault> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        let query = Query(decoded.collect());
        match query.0.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(Fault::Unknown(name.clone())),
            None => Ok(query),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        let pairs = self.0.iter().filter(move |(known, _)| known == name);
        pairs.map(|(_, value)| value.as_str())
    }

    pub(super) fn whole(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, Fault> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => {
                let (least, most) = range.into_inner();
                let message =
                    format!("Invalid '{name}': expected a number from {least} to {most}.");
                Err(Fault::invalid(name, message))
            }
        }
    }
}

/// Resolves `%41` and `+`.
pub(super) fn decode(text: &str) -> String {
    let hex = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let coded = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3).and_then(hex));
        match coded.flatten() {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// An upload: the fields of a `multipart/form-data` body, and the position of its file.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) fields: Vec<(String, String)>,
    pub(super) file: Option<(String, Range<usize>)>,
}

impl Form {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Parses a form with this content type that may only have these parts.
pub(super) fn multipart(kind: &str, body: &[u8], known: &[&str]) -> Result<Form, Refusal> {
    let bad = |message: &str| Refusal::bad(400, message);
    let boundary = kind
        .strip_prefix("multipart/form-data")
        .and_then(|rest| rest.split_once("boundary="))
        .map(|(_, rest)| rest.split(';').next().unwrap_or_default().trim_matches('"'))
        .filter(|boundary| !boundary.is_empty())
        .ok_or_else(|| bad("The body must be multipart/form-data with a boundary."))?;
    let limit = format!("\r\n--{boundary}");
    let broken = || bad("The multipart body cannot be read.");
    let first = &limit.as_bytes()[2..];
    let mut at = body
        .starts_with(first)
        .then_some(first.len())
        .ok_or_else(broken)?;
    let mut form = Form::default();
    loop {
        if body[at..].starts_with(b"--") {
            return Ok(form);
        }
        if !body[at..].starts_with(b"\r\n") {
            return Err(broken());
        }
        let head = at + 2;
        let head_end = memmem::find(&body[head..], b"\r\n\r\n").ok_or_else(broken)? + head;
        let start = head_end + 4;
        let end = memmem::find(&body[start..], limit.as_bytes()).ok_or_else(broken)? + start;
        let text = std::str::from_utf8(&body[head..head_end]).map_err(|_| broken())?;
        let disposition = text
            .lines()
            .find(|line| {
                line.to_ascii_lowercase()
                    .starts_with("content-disposition:")
            })
            .ok_or_else(broken)?;
        let name = parameter(disposition, "name").ok_or_else(broken)?;
        if !known.contains(&name) {
            return Err(Fault::Unknown(name.to_owned()).into());
        }
        match parameter(disposition, "filename") {
            Some(file) if name == "file" => form.file = Some((file.to_owned(), start..end)),
            None if name != "file" => {
                let value = String::from_utf8_lossy(&body[start..end]).into_owned();
                form.fields.push((name.to_owned(), value));
            }
            _ => return Err(bad("The part 'file', and it alone, must have a filename.")),
        }
        at = end + limit.len();
    }
}

/// `"x"` of `; name="x"`.
fn parameter<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = line.split(';').map(str::trim).skip(1);
    parts.find_map(|part| {
        let value = part.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches('"'))
    })
}
