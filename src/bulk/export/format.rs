//! The formats of tables, and which of them this build can write.

use std::path::Path;

use crate::base::{Error, ErrorKind};

/// The format of an exported table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportFormat {
    /// Fields separated by commas, quoted as in RFC 4180.
    Csv,
    /// Fields separated by tabs, quoted in the same way.
    Tsv,
    /// One JSON object per row.
    Jsonl,
    /// A worksheet for Excel and similar programs; needs the feature `tables`.
    Xlsx,
    /// An Apache Parquet file; needs the feature `tables`.
    Parquet,
}

impl ExportFormat {
    /// The format for the extension of the path.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unknown extension; the message lists the known ones.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        Ok(match extension.to_ascii_lowercase().as_str() {
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "jsonl" | "ndjson" => Self::Jsonl,
            "xlsx" => Self::Xlsx,
            "parquet" => Self::Parquet,
            other => {
                let found = match other {
                    "" => "no extension".to_owned(),
                    other => format!(".{other}"),
                };
                let why = format!(
                    "{}: found {found}; a table is .csv, .tsv, .jsonl, .xlsx or .parquet",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Invalid, why));
            }
        })
    }

    /// Whether the format can be written to a stream.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv | Self::Jsonl)
    }

    /// Rejects formats that this build cannot write.
    #[cfg(feature = "tables")]
    pub(super) fn check_built(self) -> Result<(), Error> {
        Ok(())
    }

    /// Rejects formats that this build cannot write.
    #[cfg(not(feature = "tables"))]
    pub(super) fn check_built(self) -> Result<(), Error> {
        if self.is_text() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Invalid, crate::bulk::NOT_BUILT))
        }
    }
}
