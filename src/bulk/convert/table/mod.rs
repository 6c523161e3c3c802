//! Tables that are not text: Parquet and worksheets.

use std::path::Path;

#[cfg(feature = "tables")]
use batchwright_tables::{Error as TableError, Rows, Value};

#[cfg(feature = "tables")]
use super::rows::Spooled;
#[cfg(feature = "tables")]
use crate::base::Context;
use crate::base::Error;
#[cfg(feature = "tables")]
use crate::bulk::input::{Columns, NamedFile, Place, Source};
use crate::bulk::input::{PromptSettings, fault};
#[cfg(feature = "tables")]
use crate::bulk::spool::{SpoolFile, most_unpacked};

/// What is said about a table in a program that was built without them.
#[cfg(not(feature = "tables"))]
pub(crate) const NOT_BUILT: &str = "this program was built without Parquet and Excel tables: take a released program, or \
    build it with the feature `tables`";

/// A kind of table that is not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub(super) enum Kind {
    Parquet,
    #[strum(serialize = ".xlsx")]
    Xlsx,
}

/// Number of bytes of a file that show its kind.
pub(super) const START_BYTES: usize = 48;

impl Kind {
    /// The kind according to the extension.
    fn named(path: &Path) -> Option<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        Some(match extension.to_ascii_lowercase().as_str() {
            "parquet" => Self::Parquet,
            "xlsx" | "xlsm" => Self::Xlsx,
            _ => return None,
        })
    }

    /// The kind of a file according to its first bytes. Any ZIP archive may be a workbook, so its name decides.
    fn found(start: &[u8], named: Option<Self>) -> Option<Self> {
        match start {
            [b'P', b'A', b'R', b'1', ..] => Some(Self::Parquet),
            [b'P', b'K', 3, 4, ..] => named.filter(|kind| *kind == Self::Xlsx),
            _ => None,
        }
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
        let refused = |why: String| Err(fault::of_file(path.display(), why));
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
        if settings.sheet.is_some() && found != Some(Self::Xlsx) {
            return refused(
                "found --sheet, which applies only to .xlsx files; expected such a file".to_owned(),
            );
        }
        match (found, settings.encoding) {
            (Some(kind), Some(_)) => refused(format!(
                "found --encoding, which applies only to text; this is a {kind} file"
            )),
            _ => Ok(found),
        }
    }

    /// Writes the table as rows of JSON.
    #[cfg(feature = "tables")]
    pub(super) fn open(
        self,
        path: &Path,
        origin: Source,
        settings: &PromptSettings,
        folder: &Path,
        ctx: &Context,
    ) -> Result<NamedFile, Error> {
        let name = path.display().to_string();
        let spool = SpoolFile::new(folder, &name, most_unpacked(origin.len()))?;
        let mut rows = Spooled::new(&name, spool, ctx);
        let read = match self {
            Self::Parquet => batchwright_tables::read_parquet(path, &mut rows),
            Self::Xlsx => {
                batchwright_tables::read_sheet(path, settings.sheet.as_deref(), &mut rows)
            }
        };
        read.map_err(|error| of_table(&name, error))?;
        Ok(NamedFile {
            origin: Some(origin),
            ..rows.into_file()?
        })
    }
}

/// An error of the table as one of the input.
#[cfg(feature = "tables")]
fn of_table(name: &str, error: TableError) -> Error {
    let why = match error {
        TableError::Failed(error) => match error.downcast::<Error>() {
            Ok(error) => return *error,
            Err(other) => other.to_string(),
        },
        refused => refused.to_string(),
    };
    fault::of_file(name, why)
}

#[cfg(feature = "tables")]
fn passed(error: Error) -> TableError {
    TableError::Failed(error.into())
}

#[cfg(feature = "tables")]
impl Rows for Spooled<'_> {
    fn columns(&mut self, names: &[String], before: u64) -> Result<(), TableError> {
        if names.is_empty() {
            let why = "found no columns; expected a table with some";
            return Err(TableError::Refused(why.to_owned()));
        }
        self.columns = Some(Columns::new(names.to_vec(), before));
        self.first = Place::row(before + 1);
        Ok(())
    }

    fn row(&mut self, values: &[Value]) -> Result<(), TableError> {
        let written = match values {
            [] => self.blank(),
            values => self.row(values),
        };
        written.map_err(passed)
    }
}

#[cfg(test)]
mod tests;
