//! A fault of an input: its place, what was found there, and what was expected instead; and names in messages.

use std::{fmt, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::names::closest;
use crate::base::{Error, ErrorKind};

/// Maximum length of an excerpt of a value in a message, in characters.
const EXCERPT: usize = 60;

/// A fault of one record; the caller adds the place. As JSON it stands in the place of a row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) found: String,
    pub(crate) expected: String,
    /// The flags of the program that would help. A request from elsewhere cannot use them.
    #[serde(skip)]
    flags: Option<String>,
    /// Whether it concerns a file that the record names, not the record itself.
    #[serde(skip)]
    pub(super) of_file: bool,
}

impl Fault {
    pub(crate) fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            expected: expected.into(),
            flags: None,
            of_file: false,
        }
    }

    /// The fault of two values that exclude each other.
    pub(super) fn two(found: impl Into<String>) -> Self {
        Self::new(found, "one of them")
    }

    /// The fault of a null that a template uses.
    pub(super) fn null(name: &str) -> Self {
        let skipped = "--bad-rows skip leaves such rows out";
        let help = if cfg!(feature = "templates") {
            let field = placeholder(name, "|default('')");
            format!("write {field} for an empty text instead, or {skipped}")
        } else {
            skipped.to_owned()
        };
        Self::new(format!("null in \"{name}\""), "a value").with_flags(help)
    }

    /// The fault of a record with an id that another one has.
    pub(super) fn repeated(id: &str, other: &str) -> Self {
        let found = format!("the id {id:?}, which {other} has already");
        Self::new(found, "a different id for every item")
    }

    /// A fault from a text of the form `found …; expected …`.
    pub(super) fn told(why: String) -> Self {
        let (found, expected) = why.split_once("; expected ").unwrap_or((&why, "another"));
        Self::new(found.strip_prefix("found ").unwrap_or(found), expected)
    }

    /// The fault of a file that is not sent.
    pub(super) fn refused(file: String) -> Self {
        Self {
            of_file: true,
            ..Self::told(file)
        }
    }

    /// The fault of a field with a wrong value.
    pub(super) fn field(name: &str, value: &Value, expected: impl Into<String>) -> Self {
        Self::new(format!("{} in \"{name}\"", described(value)), expected)
    }

    /// The same with the flags that would help.
    pub(super) fn with_flags(mut self, flags: impl Into<String>) -> Self {
        self.flags = Some(flags.into());
        self
    }

    /// The same for a request that no run reads.
    pub(super) fn without_flags(mut self) -> Self {
        self.flags = None;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {}; expected {}", self.found, self.expected)?;
        match &self.flags {
            Some(flags) => write!(f, "; {flags}"),
            None => Ok(()),
        }
    }
}

/// The bytes as text.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| {
        Fault::new(
            format!(
                "invalid UTF-8 at byte {} of the record",
                error.valid_up_to()
            ),
            "UTF-8 text: say what it is, such as --encoding windows-1252, save it as CSV UTF-8, or convert \
             it: iconv -f WINDOWS-1252 -t UTF-8 in.csv > out.csv",
        )
    })
}

/// The bytes as text without NUL.
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, Fault> {
    let text = utf8(bytes)?;
    check_nul(text).map(|()| text)
}

/// Rejects a NUL byte in what should be text.
pub(super) fn check_nul(text: &str) -> Result<(), Fault> {
    if text.contains('\0') {
        return Err(Fault::new(
            "a NUL byte",
            "UTF-8 text: if it is UTF-16, say --encoding utf-16le, or convert it: iconv -f UTF-16LE -t UTF-8 \
             in.csv > out.csv",
        ));
    }
    Ok(())
}

/// The place of a record in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// A line, a row of a table that has no lines, or an item of a list.
    what: &'static str,
    /// From 1.
    number: u64,
}

impl Place {
    pub(crate) fn line(number: u64) -> Self {
        Self { what: LINE, number }
    }

    /// The row of a table that has no lines.
    pub(crate) fn row(number: u64) -> Self {
        Self {
            what: "row",
            number,
        }
    }

    /// The first element of a list.
    pub(crate) fn first_item() -> Self {
        Self {
            what: ITEM,
            number: 1,
        }
    }

    pub(super) fn is_line(self) -> bool {
        self.what == LINE
    }

    pub(super) fn is_item(self) -> bool {
        self.what == ITEM
    }

    /// The place of the record on that line of a file whose first line is at this place.
    pub(crate) fn at(self, line: u64) -> Self {
        let number = (self.number + line).saturating_sub(1);
        Self { number, ..self }
    }

    /// The same with its file.
    pub(super) fn of(self, file: &str) -> String {
        if self.is_line() {
            format!("{file}:{}", self.number)
        } else {
            format!("{file}: {self}")
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.number)
    }
}

const LINE: &str = "line";
const ITEM: &str = "item";

/// An error of a whole file.
pub(crate) fn of_file(file: impl fmt::Display, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("{file}: {why}"))
}

/// A file that cannot be read.
pub(crate) fn unreadable(file: impl fmt::Display, error: &io::Error) -> Error {
    of_file(file, format!("cannot be read: {error}"))
}

/// A file that is not one complete JSON list.
pub(crate) fn of_list(file: &str, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let (found, expected) = if error.is_data() {
        (
            message.to_owned(),
            "a list of objects: --format json:FIELD names the field that has it",
        )
    } else {
        (
            format!("invalid JSON ({message} at column {})", error.column()),
            "one complete list of objects: as UTF-8, or with its --encoding",
        )
    };
    let place = Place::line(error.line() as u64);
    at(file, place, Fault::new(found, expected))
}

/// An error in the record at that place.
pub(crate) fn at(file: &str, place: Place, why: impl fmt::Display) -> Error {
    of_file(place.of(file), why)
}

/// The type of a value and its beginning.
pub(super) fn described(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("{kind} ({})", excerpt(&value.to_string()))
}

/// The beginning of a text, on one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(EXCERPT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(EXCERPT).is_some() {
        out.pop();
        out.push('…');
    }
    out
}

/// `"a", "b", "c"`, cut after a dozen.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 12;
    let mut names = names.into_iter();
    let mut out = String::new();
    for name in names.by_ref().take(SHOWN) {
        if !out.is_empty() {
            out.push_str(", ");
        }
        out.push_str(&format!("\"{}\"", super::fault::excerpt(name)));
    }
    match names.count() {
        0 if out.is_empty() => "none".to_owned(),
        0 => out,
        more => format!("{out} and {more} more"),
    }
}

/// The place of a field in a template, with a filter or with `""`.
pub(super) fn placeholder(name: &str, filter: &str) -> String {
    let root = name.split(['.', '[']).next().unwrap_or_default();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_variable = root.chars().all(is_word) && !root.starts_with(|c: char| c.is_ascii_digit());
    let is_plain =
        filter.is_empty() && !name.contains(['{', '}', '|']) && !name.starts_with("file:");
    if is_plain || is_variable && !root.is_empty() && !name.contains('|') {
        return format!("{{{{{name}{filter}}}}}");
    }
    let mark = if name.contains('"') { '\'' } else { '"' };
    format!("{{{{row[{mark}{name}{mark}]{filter}}}}}")
}

/// ` (did you mean "prompt"?)`, or an empty text if no name is similar.
pub(super) fn hint<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match closest(name, names) {
        Some(near) => format!(" (did you mean \"{near}\"?)"),
        None => String::new(),
    }
}
