//! Parses requests for files or batches: addresses with their queries, and forms with a file.

use std::ops::{Range, RangeInclusive};

use memchr::memmem;

use super::Refusal;
use crate::rules::Fault;

/// The pairs of an address's query.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query that may only have these names.
    pub(super) fn read(query: &str, known: &[String]) -> Result<Query, Fault> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<_> = pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        match pairs.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(Fault::unknown(name)),
            None => Ok(Query(pairs)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn whole(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, Fault> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let message = format!("Invalid '{name}': expected a number of {range:?}.");
            Fault::invalid(name, message)
        })
    }
}

/// Resolves `%41`.
fn decode(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text);
    decoded.decode_utf8_lossy().into_owned()
}

/// The parts of an upload.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) purpose: Option<String>,
    /// The name of the file, and where it is in the body.
    pub(super) file: Option<(String, Range<usize>)>,
}

/// Parses a `multipart/form-data` body with this content type.
pub(super) fn multipart(kind: &str, body: &[u8]) -> Result<Form, Refusal> {
    let broken = || Refusal::bad(400, "The body must be multipart/form-data with a boundary.");
    let kind = kind
        .strip_prefix("multipart/form-data")
        .ok_or_else(broken)?;
    let (_, boundary) = kind.split_once("boundary=").ok_or_else(broken)?;
    let boundary = boundary.split(';').next().unwrap_or_default();
    let limit = format!("\r\n--{}", boundary.trim_matches('"'));
    let mut at = limit.len() - 2;
    if !body.starts_with(&limit.as_bytes()[2..]) {
        return Err(broken());
    }
    let mut form = Form::default();
    while !body[at..].starts_with(b"--") {
        let head_end = memmem::find(&body[at..], b"\r\n\r\n").ok_or_else(broken)? + at;
        let start = head_end + 4;
        let end = memmem::find(&body[start..], limit.as_bytes()).ok_or_else(broken)? + start;
        let head = String::from_utf8_lossy(&body[at..head_end]);
        match (parameter(&head, "name"), parameter(&head, "filename")) {
            (Some("file"), Some(name)) => form.file = Some((name.to_owned(), start..end)),
            (Some("purpose"), None) => {
                form.purpose = Some(String::from_utf8_lossy(&body[start..end]).into_owned());
            }
            (name, _) => return Err(Fault::unknown(name.unwrap_or_default()).into()),
        }
        at = end + limit.len();
    }
    Ok(form)
}

/// `x` of `; name="x"`, in the head of a part.
fn parameter<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = head.split([';', '\r', '\n']).map(str::trim);
    parts.find_map(|part| {
        let value = part.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches('"'))
    })
}
