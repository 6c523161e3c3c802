//! Which forms a table can have, and which of them this build can write.

use std::path::Path;

use crate::base::error::{Error, ErrorKind};

/// How an exported table is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportFormat {
    /// Fields separated by commas, quoted as RFC 4180 has it.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// A JSON object a row.
    Jsonl,
    /// A worksheet of Excel and its like, with the feature `excel`.
    Xlsx,
    /// The table `results` of a new SQLite file, with the feature `queue`.
    Sqlite,
    /// An Apache Parquet file, with the feature `parquet`.
    Parquet,
}

impl ExportFormat {
    /// The form that the path's extension names.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the extensions that there are.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        Ok(match extension.to_ascii_lowercase().as_str() {
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "jsonl" | "ndjson" => Self::Jsonl,
            "xlsx" => Self::Xlsx,
            "sqlite" | "sqlite3" | "db" => Self::Sqlite,
            "parquet" => Self::Parquet,
            other => {
                let found = match other {
                    "" => "no extension".to_owned(),
                    other => format!(".{other}"),
                };
                let why = format!(
                    "{}: found {found}; a table is .csv, .tsv, .jsonl, .xlsx, .sqlite, .db or .parquet",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Invalid, why));
            }
        })
    }

    /// True for what can be written to a stream.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv | Self::Jsonl)
    }

    /// Refuses what this build cannot write.
    pub(super) fn check_built(self) -> Result<(), Error> {
        let (built, feature) = match self {
            Self::Csv | Self::Tsv | Self::Jsonl => return Ok(()),
            Self::Xlsx => (cfg!(feature = "excel"), "excel"),
            Self::Sqlite => (cfg!(feature = "queue"), "queue"),
            Self::Parquet => (cfg!(feature = "parquet"), "parquet"),
        };
        if built {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "this program was built without the feature `{feature}`; .csv is always there"
                ),
            ))
        }
    }
}
