//! Tables that are not text: Parquet, worksheets, SQLite. Each is written once as lines of JSON lists; the first line
//! has the names of the columns.

#[cfg(any(feature = "parquet", feature = "excel"))]
mod panics;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(feature = "queue")]
mod sqlite;
#[cfg(any(feature = "parquet", feature = "excel"))]
mod time;
#[cfg(feature = "excel")]
mod xlsx;

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::made_from;
use crate::base::{Context, Error};
use crate::bulk::input::{
    Bounded, Form, InputError, MAX_RECORD_BYTES, NamedFile, Origin, PromptSettings,
};
use crate::bulk::spool::SpoolFile;
#[cfg(any(feature = "parquet", feature = "excel"))]
use panics::unless_it_panics;

/// A kind of table that is not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Parquet,
    Xlsx,
    Sqlite,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "Parquet",
            Self::Xlsx => ".xlsx",
            Self::Sqlite => "SQLite",
        })
    }
}

/// The first bytes of an SQLite file.
const SQLITE: &[u8] = b"SQLite format 3\0";
/// Number of bytes of a file that show its kind.
pub(super) const START_BYTES: usize = SQLITE.len();

impl Kind {
    /// The kind according to the extension.
    fn named(path: &Path) -> Option<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        Some(match extension.to_ascii_lowercase().as_str() {
            "parquet" => Self::Parquet,
            "xlsx" | "xlsm" => Self::Xlsx,
            "db" | "sqlite" | "sqlite3" => Self::Sqlite,
            _ => return None,
        })
    }

    /// The kind of a file according to its first bytes. Any ZIP archive may be a workbook, so its name decides.
    fn found(start: &[u8], named: Option<Self>) -> Option<Self> {
        match start {
            [b'P', b'A', b'R', b'1', ..] => Some(Self::Parquet),
            [b'P', b'K', 3, 4, ..] => named.filter(|kind| *kind == Self::Xlsx),
            _ => start.starts_with(SQLITE).then_some(Self::Sqlite),
        }
    }

    /// Whether the name or the settings refer to an SQLite file, and it is one. Only SQLite opens such a file: closing
    /// it here would release all locks of this OS process on it, also those of a connection of the host
    /// (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).
    pub(super) fn is_database(path: &Path, settings: &PromptSettings) -> bool {
        let others = settings.sheet.is_some() || settings.encoding.is_some();
        let told = settings.query.is_some() || Self::named(path) == Some(Self::Sqlite);
        #[cfg(feature = "queue")]
        let is_one = || sqlite::is_database(path);
        #[cfg(not(feature = "queue"))]
        let is_one = || false;
        told && settings.form.is_none() && !others && is_one()
    }

    /// The kind of a file with these first bytes; `None` for text.
    ///
    /// # Errors
    /// If its name contradicts the contents, or settings apply to another kind.
    pub(super) fn of(
        path: &Path,
        start: &[u8],
        settings: &PromptSettings,
    ) -> Result<Option<Self>, Error> {
        let refused = |why: String| Err(InputError::of_file(path.display(), why).into());
        let named = Self::named(path);
        // An input that is declared as text is read as text.
        let (named, found) = match settings.form {
            Some(_) => (None, None),
            None => (named, Self::found(start, named)),
        };
        if let (Some(named), None) = (named, found) {
            return refused(format!(
                "found no {named} data, although the name says so; expected a name that fits the content"
            ));
        }
        let options = [
            (settings.sheet.is_some(), "--sheet", Self::Xlsx),
            (settings.query.is_some(), "--query", Self::Sqlite),
        ];
        let misfit = options
            .iter()
            .find(|(given, _, kind)| *given && found != Some(*kind));
        if let Some((_, flag, kind)) = misfit {
            return refused(format!(
                "found {flag}, which applies only to {kind} files; expected such a file"
            ));
        }
        match (found, settings.encoding) {
            (Some(kind), Some(_)) => refused(format!(
                "found --encoding, which applies only to text; this is a {kind} file"
            )),
            _ => Ok(found),
        }
    }

    /// Writes the table as rows of JSON.
    pub(super) fn open(
        self,
        path: &Path,
        origin: Origin,
        settings: &PromptSettings,
        folder: &Path,
        ctx: &Context,
    ) -> Result<NamedFile, Error> {
        let name = path.display().to_string();
        let len = std::fs::metadata(path).map_or(0, |found| found.len());
        let mut rows = Rows {
            spool: SpoolFile::new(folder, &name, settings.most_unpacked(len))?,
            line: Vec::new(),
            before: 0,
            name: &name,
            written: 0,
            dates: Vec::new(),
            ctx,
        };
        let Some(first_row) = self.write(path, settings, &mut rows) else {
            let why = format!("this program was built without {self} files; save it as CSV UTF-8");
            return Err(rows.refused(why));
        };
        let first_row = first_row?;
        let Rows { spool, dates, .. } = rows;
        let file = made_from(origin, name, Form::JsonRows, spool)?;
        Ok(NamedFile {
            first_row: Some(first_row),
            dates,
            ..file
        })
    }
}

impl Kind {
    /// Writes all rows, and returns the number of the first; `None` if this build does not support the kind.
    fn write(
        self,
        path: &Path,
        settings: &PromptSettings,
        rows: &mut Rows<'_>,
    ) -> Option<Result<u64, Error>> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet => Some(parquet::write(path, rows)),
            #[cfg(feature = "excel")]
            Self::Xlsx => Some(xlsx::write(path, settings.sheet.as_deref(), rows)),
            #[cfg(feature = "queue")]
            Self::Sqlite => Some(sqlite::write(path, settings.query.as_deref(), rows)),
            #[allow(unreachable_patterns)]
            _ => {
                let _ = (path, settings, rows);
                None
            }
        }
    }
}

/// Rows of JSON that are being written.
struct Rows<'r> {
    spool: SpoolFile,
    line: Vec<u8>,
    /// The input's name.
    name: &'r str,
    written: u64,
    /// Rows before the first one, including the header.
    before: u64,
    /// The columns that contain dates, which are texts in the rows.
    dates: Vec<usize>,
    ctx: &'r Context,
}

/// Whether a cell is empty: a formula may have returned an empty text.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

#[cfg_attr(
    not(any(feature = "parquet", feature = "queue", feature = "excel")),
    allow(dead_code)
)]
impl Rows<'_> {
    /// Writes the first line.
    fn names<N: AsRef<str>>(&mut self, names: &[N]) -> Result<(), Error> {
        if names.is_empty() {
            return Err(self.refused("found no columns; expected a table with some"));
        }
        let names: Vec<Value> = names
            .iter()
            .map(|name| Value::from(name.as_ref()))
            .collect();
        self.line(&names)
    }

    /// Writes a row with one value per column. A row of empty cells becomes a blank line, as in a CSV file.
    fn row(&mut self, values: &[Value]) -> Result<(), Error> {
        if values.iter().all(is_nothing) {
            self.blank()
        } else {
            self.line(values)
        }
    }

    fn blank(&mut self) -> Result<(), Error> {
        self.line::<Value>(&[])
    }

    fn line<V: Serialize>(&mut self, values: &[V]) -> Result<(), Error> {
        self.ctx.check()?;
        self.line.clear();
        if !values.is_empty() {
            let written = serde_json::to_writer(Bounded(&mut self.line), values);
            written.map_err(|error| {
                if error.is_io() {
                    self.too_large()
                } else {
                    self.refused(error.to_string())
                }
            })?;
        }
        self.line.push(b'\n');
        self.written += 1;
        self.spool.write(&self.line)
    }

    /// The error for the next row if it is longer than a record can be.
    fn too_large(&self) -> Error {
        let most = MAX_RECORD_BYTES >> 20;
        let row = match self.before + self.written {
            0 => "a header".to_owned(),
            row => format!("row {row}"),
        };
        self.refused(format!(
            "{row} has more than {most} MiB; expected at most {most} MiB"
        ))
    }

    /// The error of a reader that stopped: the work was cancelled, or the given reason.
    fn gave_up(&self, why: &dyn fmt::Display) -> Error {
        let cancelled = self.ctx.check().err();
        cancelled.unwrap_or_else(|| self.unreadable(why))
    }

    /// An error of the whole input.
    fn refused(&self, why: impl Into<String>) -> Error {
        InputError::of_file(self.name, why).into()
    }

    /// The error for an input whose contents do not have the expected format.
    fn unreadable(&self, why: &dyn fmt::Display) -> Error {
        self.refused(format!("cannot be read: {why}"))
    }
}

#[cfg(test)]
mod tests;
