//! The formats of tables, and the file of a table, which appears under its name only when it is complete.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::sink::unwritable;
use crate::base::{AtomicFile, Context, Error, ErrorKind};
use crate::bulk::input::fault::of_file;

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
                let why =
                    format!("found {found}; a table is .csv, .tsv, .jsonl, .xlsx or .parquet");
                return Err(of_file(path.display(), why));
            }
        })
    }

    /// Whether the format can be written to a stream.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv | Self::Jsonl)
    }
}

const TAKEN: &str = "it already exists; to replace it, add --overwrite";

/// Creates the file of a table, which appears under its name only when it is complete.
///
/// # Errors
/// If the path exists and must not be overwritten, or cannot be written.
pub(super) fn create(path: &Path, overwrite: bool) -> Result<AtomicFile, Error> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let why = "it is not a regular file; to write text to standard output, use -o -";
        return Err(of_file(path.display(), why));
    }
    if !overwrite && fs::symlink_metadata(path).is_ok() {
        return Err(of_file(path.display(), TAKEN));
    }
    let new = AtomicFile::create(path, File::options().read(true).write(true));
    new.map_err(|error| {
        let why = format!("{}: cannot be written: {error}", path.display());
        Error::new(ErrorKind::Transient, why)
    })
}

/// Gives the complete file its name, unless the context was cancelled.
pub(super) fn finish(
    new: AtomicFile,
    path: &Path,
    overwrite: bool,
    ctx: &Context,
) -> Result<(), Error> {
    ctx.check()?;
    let placed = if overwrite {
        new.replace()
    } else {
        new.place()
    };
    placed.map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => of_file(path.display(), TAKEN),
        _ => unwritable(error),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_existing_file_is_replaced_only_with_overwrite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let left = || fs::read_dir(folder.path()).unwrap().count();
        let write = |text: &str, overwrite| {
            let file = create(&path, overwrite)?;
            file.file().write_all(text.as_bytes()).unwrap();
            Ok::<_, Error>(file)
        };
        let (first, late) = (write("one", false).unwrap(), write("late", false).unwrap());
        let ctx = Context::new();
        finish(first, &path, false, &ctx).unwrap();
        let taken = [
            finish(late, &path, false, &ctx),
            write("two", false).map(drop),
        ];
        for error in taken.map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains("--overwrite"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        finish(write("two", true).unwrap(), &path, true, &ctx).unwrap();
        ctx.cancel();
        let cancelled = finish(write("three", true).unwrap(), &path, true, &ctx).unwrap_err();
        assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(left(), 1);
        let none = create(&folder.path().join("no/out.csv"), false).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Transient);
        assert!(none.message().contains("cannot be written"), "{none}");
    }

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_counts_as_an_existing_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let error = create(&path, false).unwrap_err();
        assert!(error.message().contains("--overwrite"), "{error}");
        assert!(path.is_symlink());
    }
}
