//! Records in a file, a line of JSON each.

use std::path::Path;

use crate::base::error::{Error, ErrorKind};

use super::line_file::LineFile;
use super::record::JobRecord;

/// A file of [`JobRecord`]s, a line of JSON each, written as commands end.
pub struct RecordFile(LineFile);

impl RecordFile {
    /// Opens a file, or makes it. To one that has lines, more are only added with `resume`; an unfinished last
    /// line is cut off.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it has lines and `resume` is not set, when they are no records, when another
    /// run writes it, or when it cannot be opened.
    pub fn open(path: &Path, resume: bool) -> Result<Self, Error> {
        let mut lines = 0_u64;
        let is_record = |line: &[u8]| line.starts_with(b"{\"id\":") && line.ends_with(b"}");
        let file = LineFile::open(path, |line| {
            lines += 1;
            match is_record(line) {
                true => Ok(()),
                false => Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "line {lines} of {} is no record of a command; the file was left as it is",
                        path.display()
                    ),
                )),
            }
        })?;
        if lines > 0 && !resume {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} has {lines} records of an earlier run: --resume with its --joblog adds to them, \
                     and a run from the beginning needs another file",
                    path.display()
                ),
            ));
        }
        Ok(Self(file))
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When it cannot be written; the file is as it was before.
    pub fn append(&mut self, record: &JobRecord) -> Result<(), Error> {
        let mut line = serde_json::to_vec(record)
            .map_err(|why| Error::new(ErrorKind::Invalid, why.to_string()))?;
        line.push(b'\n');
        self.0.append(&line)
    }
}
