//! How a file is split: its parts, their names, and where its lines begin.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::definitions::definitions;
use super::info::{SkipReason, escaped, escaped_path};
use super::language::{Language, UnitKind};
use super::text::Lines;
use crate::base::json_text::hex;
use crate::base::{Error, ErrorKind};

/// How files are split: `file`, `function`, `class`, `lines:40`, `tokens:2000`.
///
/// ```
/// use batchwright::sources::Split;
/// let split: Split = "lines:2".parse()?;
/// let units = split.units("a.txt", "1\n2\n3\n").unwrap();
/// assert_eq!(units[1].id, "a.txt::lines.2");
/// assert_eq!((units[1].content, units[1].start_line, units[1].end_line), ("3\n", 3, 3));
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Split {
    /// Each file is one unit.
    #[default]
    File,
    /// Each named function, including methods and nested functions, which are also part of the enclosing function.
    Function,
    /// Each class; in other languages the closest equivalent: struct, enum, trait, impl, interface.
    Class,
    /// Parts with this number of lines; the last part of a file may have fewer.
    Lines(NonZeroU32),
    /// Parts of complete lines with at most this many tokens, at 4 bytes per token. A longer line is cut.
    Tokens(NonZeroU32),
}

/// The approximate number of bytes of text per token of a language model.
const BYTES_A_TOKEN: usize = 4;

impl FromStr for Split {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            let why = format!(
                "there is no split {text:?}; expected file, function, class, lines:N or tokens:N, with N of at \
                 least 1"
            );
            Error::new(ErrorKind::Invalid, why)
        };
        let number = |digits: &str| digits.trim().parse().map_err(|_| bad());
        match text.trim().split_once(':') {
            None => match text.trim() {
                "file" => Ok(Self::File),
                "function" => Ok(Self::Function),
                "class" => Ok(Self::Class),
                _ => Err(bad()),
            },
            Some(("lines", n)) => Ok(Self::Lines(number(n)?)),
            Some(("tokens", n)) => Ok(Self::Tokens(number(n)?)),
            Some(_) => Err(bad()),
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::Function => f.write_str("function"),
            Self::Class => f.write_str("class"),
            Self::Lines(n) => write!(f, "lines:{n}"),
            Self::Tokens(n) => write!(f, "tokens:{n}"),
        }
    }
}

impl Split {
    /// The parts of a file in order, without empty ones. `path` is the name of the file in ids; its extension
    /// determines the language.
    ///
    /// # Errors
    /// The reason for which the file is skipped: it is empty, it contains no part of this kind, it cannot be parsed,
    /// there is no parser for it, or the parts, which include the parts nested in them, would exceed 8 times the file
    /// and 1 MiB.
    pub fn units<'t>(
        self,
        path: impl AsRef<Path>,
        text: &'t str,
    ) -> Result<Vec<Unit<'t>>, SkipReason> {
        let path = path.as_ref();
        if text.trim().is_empty() {
            return Err(SkipReason::Empty);
        }
        let language = Language::of(path);
        let file = Parts {
            path: escaped_path(path),
            language: language.map_or("text", |language| language.name()),
            text,
            lines: Lines::of(text),
        };
        let definitions = |kind| file.definitions(language.ok_or(SkipReason::NoParser)?, kind);
        let units = match self {
            Self::File => vec![file.whole()],
            Self::Lines(n) => file.pieces(file.lines.ends_every(n), UnitKind::Lines),
            Self::Tokens(n) => {
                let bytes = (n.get() as usize).saturating_mul(BYTES_A_TOKEN);
                file.pieces(file.lines.ends_within(text, bytes), UnitKind::Tokens)
            }
            Self::Function => definitions(UnitKind::Function)?,
            Self::Class => definitions(UnitKind::Class)?,
        };
        if units.is_empty() {
            Err(SkipReason::NoUnits)
        } else {
            Ok(units)
        }
    }
}

/// Maximum length of an item's id in bytes.
const MAX_ID_BYTES: usize = 512;
/// Number of hash digits at the end of an id that would otherwise be too long.
const DIGITS: usize = 16;

/// A file that is split.
struct Parts<'t> {
    path: String,
    language: &'static str,
    text: &'t str,
    lines: Lines,
}

impl<'t> Parts<'t> {
    fn id(&self, name: &str) -> String {
        bounded(format!("{}::{}", self.path, escaped(name)))
    }

    fn unit(&self, id: String, name: String, range: Range<usize>, kind: UnitKind) -> Unit<'t> {
        let last = range.end.saturating_sub(1).max(range.start);
        Unit {
            id,
            path: self.path.clone(),
            qualified_name: name.clone(),
            name,
            kind,
            language: self.language,
            start_line: self.lines.line_of(range.start),
            end_line: self.lines.line_of(last),
            content: &self.text[range],
        }
    }

    fn whole(&self) -> Unit<'t> {
        let name = self.path.rsplit('/').next().unwrap_or_default().to_owned();
        let id = bounded(self.path.clone());
        self.unit(id, name, 0..self.text.len(), UnitKind::File)
    }

    fn definitions(
        &self,
        language: &Language,
        kind: UnitKind,
    ) -> Result<Vec<Unit<'t>>, SkipReason> {
        let found = definitions(language, self.text, kind, &self.lines)?;
        let mut seen = HashMap::new();
        let units = found.into_iter().map(|found| {
            let nth = seen.entry(found.qualified.clone()).or_insert(0u32);
            *nth += 1;
            let id = match *nth {
                1 => self.id(&found.qualified),
                n => self.id(&format!("{}~{n}", found.qualified)),
            };
            let range = self.lines.whole_from(self.text, found.range);
            Unit {
                name: found.name,
                ..self.unit(id, found.qualified, range, kind)
            }
        });
        Ok(units.collect())
    }

    /// Consecutive parts. Parts that contain only blanks are counted but omitted.
    fn pieces(&self, ends: Vec<usize>, kind: UnitKind) -> Vec<Unit<'t>> {
        let word = if kind == UnitKind::Lines {
            "lines"
        } else {
            "tokens"
        };
        let starts = std::iter::once(0).chain(ends.clone());
        let parts = starts.zip(ends).enumerate();
        let parts = parts.filter(|(_, (start, end))| !self.text[*start..*end].trim().is_empty());
        let parts = parts.map(|(i, (start, end))| {
            let name = format!("{word}.{}", i + 1);
            self.unit(self.id(&name), name, start..end, kind)
        });
        parts.collect()
    }
}

fn bounded(id: String) -> String {
    if id.len() <= MAX_ID_BYTES {
        return id;
    }
    let digits = hex(&Sha256::digest(id.as_bytes()));
    let mut end = MAX_ID_BYTES - DIGITS - 1;
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{}", &id[..end], &digits[..DIGITS])
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

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
