//! A part of a file.

use serde::Serialize;

/// The kind of a [`Unit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitKind {
    /// A complete file.
    File,
    /// A function or method.
    Function,
    /// A class, or the closest equivalent.
    Class,
    /// Some lines.
    Lines,
    /// Lines with about this number of tokens.
    Tokens,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unit<'t> {
    /// `path::qualified.name`; for a complete file its path. If a name is defined again, `~2`, `~3` … follows, in the
    /// order of the file. At most 512 bytes: a longer id ends in a part of its SHA-256.
    pub id: String,
    /// The path of the file, as given.
    pub path: String,
    /// Its own name, without enclosing names.
    pub name: String,
    /// The name, preceded by the names of the enclosing definitions: `Outer.method.inner`.
    pub qualified_name: String,
    /// The kind of the unit.
    pub kind: UnitKind,
    /// The usual name of the language in lower case; `text` if it is unknown.
    pub language: &'static str,
    /// The first line, counted from 1, including decorators, attributes and comments that belong to the unit.
    pub start_line: u64,
    /// The last line.
    pub end_line: u64,
    /// Its lines, unchanged, including decorators.
    pub content: &'t str,
}

impl Unit<'_> {
    /// Number of lines.
    pub fn lines(&self) -> u64 {
        self.end_line + 1 - self.start_line
    }
}
