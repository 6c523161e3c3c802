//! What becomes of an output that somebody removes, replaces, cuts short or writes to while a run is
//! writing its results there.

use std::io;

use super::{ResultsFile, Torn};
use crate::base::error::{Error, ErrorKind};
use crate::base::rescue::{copy_beside, same_file};

impl ResultsFile {
    /// Looks whether the file is still where and as long as this run has made it. When it is not
    /// where it was, what the open file holds is copied beside its old place, and so is all that
    /// comes later; the error, from then on the same, says where.
    pub(crate) fn undisturbed(&mut self) -> Result<(), Error> {
        if let Some(error) = &self.disturbed {
            return Err(error.clone());
        }
        let found = if !self.is_in_place() {
            self.rescue()
        } else {
            let len = self.file.metadata().map_or(self.len, |found| found.len());
            if len == self.len || self.dirty {
                return Ok(());
            }
            let whole = self.len;
            if let Err(error) = self.end_last_line() {
                log::warn!("{}: cannot end its last line: {error}", self.path.display());
                self.len = len;
            }
            format!(
                "{}: another program truncated it or wrote to it during the run: it has \
                 {len} bytes where the run had written {whole}; sending stopped. To send \
                 the missing items, run the same command again",
                self.path.display()
            )
        };
        // At once, since calls in flight may go on for long.
        log::warn!("{found}");
        let error = Error::new(ErrorKind::Invalid, found);
        self.disturbed = Some(error.clone());
        Err(error)
    }

    /// Results that still come must not be joined to a line that somebody else cut in the middle.
    fn end_last_line(&mut self) -> io::Result<()> {
        self.torn = self.read(&mut |_, _, _| {}).unwrap_or(Torn::NoLineEnd);
        self.mend_io()
    }

    /// Whether the open file still has its name.
    pub(crate) fn is_in_place(&self) -> bool {
        same_file(&self.file, &self.path)
    }

    /// Goes on in a copy beside the file that lost its name, and says so.
    fn rescue(&mut self) -> String {
        let lost = format!(
            "{}: another program removed or replaced it during the run; sending stopped",
            self.path.display()
        );
        let (path, copy) = match copy_beside(&self.path, &self.file, self.len) {
            Ok(copied) => copied,
            Err(e) => {
                return format!(
                    "{lost}, and its results cannot be saved in a new file next to it: {e}"
                );
            }
        };
        self.len = copy.metadata().map_or(self.len, |copy| copy.len());
        (self.file, self.dirty) = (copy, false);
        let saved = path.display();
        let message = format!(
            "{lost}. All its results are saved in {saved}: to resume, move that file back and run \
             the same command"
        );
        self.path = path;
        message
    }
}
