//! A part of a file.

use serde::Serialize;

/// What a [`Unit`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitKind {
    /// A whole file.
    File,
    /// A function or method.
    Function,
    /// A class, or what comes next to it.
    Class,
    /// Some lines.
    Lines,
    /// Lines of about so many tokens.
    Tokens,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unit<'t> {
    /// `path::qualified.name`; of a whole file its path. Where a name is defined again, `~2`, `~3` … behind it, in the order
    /// of the file. At most 512 bytes: a longer one ends in a part of its SHA-256.
    pub id: String,
    /// The file, as it was named.
    pub path: String,
    /// Its own name.
    pub name: String,
    /// The same behind those of what it is in: `Outer.method.inner`.
    pub qualified_name: String,
    /// What it is.
    pub kind: UnitKind,
    /// The language by its usual name in lower case; `text` where it is not known.
    pub language: &'static str,
    /// The first line, counted from 1: that of the first decorator, attribute or comment that belongs to it.
    pub start_line: u64,
    /// The last line.
    pub end_line: u64,
    /// Its lines as they stand in the file, decorators included.
    pub content: &'t str,
}

impl Unit<'_> {
    /// How many lines it has.
    pub fn lines(&self) -> u64 {
        self.end_line + 1 - self.start_line
    }
}
