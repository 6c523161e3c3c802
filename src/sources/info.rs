//! Properties of a file, the reason why it is skipped, and counts of these reasons.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A file that a scan found, or another entry with a matching name.
///
/// As JSON it has the fields `path`, `size`, `modified` (seconds since 1970), `is_valid`, and for a skipped file
/// `skip_reason` ([`SkipReason::kind`]) and `skip_message`. A path that is not UTF-8 is written by [`shown_path`],
/// and `path_base64` has its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its path, beginning with the scanned folder.
    pub path: PathBuf,
    /// Size in bytes; 0 if unknown.
    pub size: u64,
    /// Time of the last modification, if known.
    pub modified_time: Option<SystemTime>,
    /// Whether it can be used.
    pub is_valid: bool,
    /// The reason if it cannot be used.
    pub skip_reason: Option<SkipReason>,
}

impl FileInfo {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            size: 0,
            modified_time: None,
            is_valid: true,
            skip_reason: None,
        }
    }

    /// The same file, marked as skipped.
    pub(crate) fn skipped(mut self, reason: SkipReason) -> Self {
        self.is_valid = false;
        self.skip_reason = Some(reason);
        self
    }

    /// Its path as text, see [`shown_path`].
    pub fn name(&self) -> Cow<'_, str> {
        shown_path(&self.path)
    }
}

impl Serialize for FileInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok();
        let modified = self.modified_time.and_then(since);
        let mut out = serializer.serialize_struct("FileInfo", 7)?;
        out.serialize_field("path", &self.name())?;
        if self.path.to_str().is_none() {
            let bytes = STANDARD.encode(self.path.as_os_str().as_encoded_bytes());
            out.serialize_field("path_base64", &bytes)?;
        }
        out.serialize_field("size", &self.size)?;
        out.serialize_field("modified", &modified.map(|since| since.as_secs()))?;
        out.serialize_field("is_valid", &self.is_valid)?;
        if let Some(reason) = &self.skip_reason {
            out.serialize_field("skip_reason", reason.kind())?;
            out.serialize_field("skip_message", &reason.to_string())?;
        }
        out.end()
    }
}

/// A path as text. In a path that is not UTF-8, each invalid byte is written as `\xff` and each backslash as `\\`,
/// so that different names stay different.
pub fn shown_path(path: &Path) -> Cow<'_, str> {
    match path.to_str() {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(shown_bytes(path, |text| text.replace('\\', r"\\"))),
    }
}

/// A path as part of an id: it is unique and contains no control characters for a terminal.
pub(super) fn escaped_path(path: &Path) -> String {
    shown_bytes(path, escaped)
}

/// The name without control characters for a terminal. A backslash is doubled, so that different names stay
/// different.
pub(super) fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c == '\\' || c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}

fn shown_bytes(path: &Path, shown: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        out.push_str(&shown(chunk.valid()));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The reason why a file is skipped. `Display` writes it for people.
#[derive(Debug, Clone, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// It is larger than the limit.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// Its extension is not among the requested ones.
    Extension,
    /// It contains a NUL byte, which a text never does.
    Binary,
    /// It contains bytes that are not UTF-8.
    #[strum(serialize = "not_utf8")]
    NotUtf8 {
        /// The line of the first such byte, counted from 1.
        line: u64,
    },
    /// The file or folder cannot be read or no longer exists; with the system's message.
    Unreadable(String),
    /// A symbolic link, and links are not followed.
    SymbolicLink,
    /// A symbolic link to a folder that contains the link.
    Loop,
    /// A pipe, a socket or a device.
    NotAFile,
    /// An ignore file such as `.gitignore` excludes it.
    Ignored,
    /// It contains only blanks.
    Empty,
    /// It was to be split, but it is nested so deeply that its parts, which include the parts nested in them, would
    /// together be many times the size of the file.
    TooNested {
        /// The maximum size in bytes of all parts together, including their names.
        limit: u64,
    },
    /// It cannot be parsed.
    SyntaxError {
        /// The line of the first error, counted from 1.
        line: u64,
    },
    /// It was to be split into functions or classes, but its language is unknown.
    NoParser,
    /// It was to be split into functions or classes, but it contains none.
    NoUnits,
}

impl SkipReason {
    /// The stable name used in JSON, in `snake_case`.
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit } => write!(f, "larger than {limit} bytes"),
            Self::Extension => f.write_str("another extension"),
            Self::Binary => f.write_str("binary: it holds a NUL byte"),
            Self::NotUtf8 { line } => write!(f, "not UTF-8 (line {line})"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::SymbolicLink => f.write_str("a symbolic link, which is not followed"),
            Self::Loop => f.write_str("a symbolic link to a folder that it is in"),
            Self::NotAFile => f.write_str("no file, but a pipe, socket or device"),
            Self::Ignored => f.write_str("left out by an ignore file, such as .gitignore"),
            Self::Empty => f.write_str("empty"),
            Self::TooNested { limit } => write!(
                f,
                "nested too deep: its parts, each with those within it, would be more than {limit} bytes"
            ),
            Self::SyntaxError { line } => write!(f, "a syntax error on line {line}"),
            Self::NoParser => f.write_str("no parser for its extension"),
            Self::NoUnits => f.write_str("no part to split into"),
        }
    }
}

/// Number of files that are listed individually.
const SHOWN: usize = 5;

/// The skipped files of folders: counts, and the first files in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Number of files per reason, by [`SkipReason::kind`](super::SkipReason::kind).
    pub reasons: BTreeMap<&'static str, u64>,
    /// The first skipped files, with their reasons.
    pub first: Vec<FileInfo>,
}

impl LeftOut {
    /// Counts a file if it cannot be used, and logs it at level `debug`.
    pub fn add(&mut self, file: &FileInfo) {
        let Some(reason) = &file.skip_reason else {
            return;
        };
        log::debug!("{} is left out: {reason}", file.name());
        *self.reasons.entry(reason.kind()).or_default() += 1;
        if self.first.len() < SHOWN {
            self.first.push(file.clone());
        }
    }

    /// Adds the counts of another folder.
    pub(crate) fn extend(&mut self, other: Self) {
        for (kind, n) in other.reasons {
            *self.reasons.entry(kind).or_default() += n;
        }
        let room = SHOWN - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }

    /// Total number of files.
    pub fn count(&self) -> u64 {
        self.reasons.values().sum()
    }
}

/// `2 binary, 1 syntax error`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, n)) in self.reasons.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{n} {}", kind.replace('_', " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf8_are_distinguished_and_keep_their_bytes() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let named = |name: &[u8]| FileInfo::new(PathBuf::from(OsStr::from_bytes(name)));
        assert_eq!(named(b"a/\xffb.py").name(), r"a/\xffb.py");
        assert_ne!(named(b"\xff").name(), named(b"\xfe").name());
        assert_ne!(named(b"\xff\\xfe").name(), named(b"\xff\xfe").name());
        let ids = [&b"\xff"[..], br"\xff", br"\\xff", b"\n", br"\n", b"n"];
        let ids = ids.map(|name| escaped_path(&named(name).path));
        assert_eq!(ids, [r"\xff", r"\\xff", r"\\\\xff", r"\n", r"\\n", "n"]);
        let json = serde_json::to_value(named(b"a\xff").skipped(SkipReason::Binary)).unwrap();
        let expected = serde_json::json!({
            "path": r"a\xff", "path_base64": "Yf8=", "size": 0, "modified": null, "is_valid": false,
            "skip_reason": "binary", "skip_message": "binary: it holds a NUL byte",
        });
        assert_eq!(json, expected);
        let plain = serde_json::to_value(named(b"a")).unwrap();
        assert!(plain.get("path_base64").is_none() && plain.get("skip_reason").is_none());
    }
}
