//! The cells of a row of a table, according to RFC 4180 or of a JSON list. This is own code, because rows are parsed separately
//! on any thread; tests compare it with the csv crate.

use std::borrow::Cow;

use memchr::memchr;
use serde_json::value::RawValue;

use super::fault::Fault;

/// The fields of one row. Like other readers, it accepts a quote inside an unquoted field, and text after a closing
/// quote, unchanged.
pub(super) fn fields(row: &str, delimiter: u8) -> Vec<Cow<'_, str>> {
    read(row, delimiter).0
}

/// The fields of one row that may be quoted.
///
/// # Errors
/// If text follows a closing quote: its author may have meant another field, or several rows.
pub(super) fn quoted_fields(row: &str, delimiter: u8) -> Result<Vec<Cow<'_, str>>, Fault> {
    match read(row, delimiter) {
        (fields, None) => Ok(fields),
        (_, Some(field)) => Err(Fault::new(
            format!("text after the closing quotation mark of field {field}"),
            "a delimiter or the end of the row there: inside quotes, \" is written \"\"; if quotation marks are text in \
             this file, say --quotes off",
        )),
    }
}

/// The fields, and the number of the first one with text after its closing quote.
fn read(row: &str, delimiter: u8) -> (Vec<Cow<'_, str>>, Option<usize>) {
    let bytes = row.as_bytes();
    let plain_end =
        |from: usize| memchr(delimiter, &bytes[from..]).map_or(bytes.len(), |i| from + i);
    let (mut out, mut misquoted) = (Vec::new(), None);
    let mut at = 0;
    loop {
        let end = if bytes.get(at) == Some(&b'"') {
            let (mut field, closed) = quoted(row, at + 1);
            let end = plain_end(closed);
            if end > closed {
                field.to_mut().push_str(&row[closed..end]);
                misquoted = misquoted.or(Some(out.len() + 1));
            }
            out.push(field);
            end
        } else {
            let end = plain_end(at);
            out.push(Cow::Borrowed(&row[at..end]));
            end
        };
        if end == bytes.len() {
            return (out, misquoted);
        }
        at = end + 1;
    }
}

/// The quoted text that begins at `from`, and the position after its closing quote.
fn quoted(row: &str, from: usize) -> (Cow<'_, str>, usize) {
    let bytes = row.as_bytes();
    let mut field = Cow::Borrowed("");
    let mut at = from;
    loop {
        let end = memchr(b'"', &bytes[at..]).map_or(bytes.len(), |i| at + i);
        field += &row[at..end];
        if bytes.get(end + 1) != Some(&b'"') {
            return (field, (end + 1).min(bytes.len()));
        }
        field += "\"";
        at = end + 2;
    }
}

/// The values of a row that is a JSON list.
pub(super) fn values(row: &str) -> Result<Vec<&RawValue>, Fault> {
    serde_json::from_str(row)
        .map_err(|error| Fault::new(format!("invalid JSON ({error})"), "a list of values"))
}

/// A field of a record for templates and ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field<'r> {
    /// JSON null, or an empty cell of a typed table. Tables of text have none.
    Null,
    Text(Cow<'r, str>),
    /// A number, boolean, list or object in JSON.
    Json(Cow<'r, str>),
}

impl<'r> Field<'r> {
    pub(super) fn of(value: &'r RawValue) -> Self {
        match value.get() {
            "null" => Self::Null,
            // JSON allows halves of surrogate pairs, which are not valid text.
            json if json.starts_with('"') => {
                Self::Text(serde_json::from_str(json).map_or(Cow::Borrowed(json), Cow::Owned))
            }
            json => Self::Json(Cow::Borrowed(json)),
        }
    }

    /// Its text in a prompt: a string without its quotes, an empty text for null, otherwise its JSON.
    pub(super) fn into_text(self) -> Cow<'r, str> {
        match self {
            Self::Null => Cow::Borrowed(""),
            Self::Text(text) | Self::Json(text) => text,
        }
    }

    pub(super) fn as_text(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Text(text) | Self::Json(text) => text,
        }
    }
}
