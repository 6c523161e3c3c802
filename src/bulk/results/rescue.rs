//! Handles an output that another program removes, replaces, truncates or writes to while a run writes its results
//! there.

use std::io;

use super::{ResultsFile, Torn};
use crate::base::disk::{copy_beside, same_file};
use crate::base::{Error, ErrorKind, LockedFile};

impl ResultsFile {
    /// Checks whether the file is still at its path and has the length that this run wrote. If it is not at its path,
    /// the content of the open file is copied to a new file next to it, and so are all later results; the error, which
    /// stays the same from then on, names that file.
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
        // Logged immediately, because calls in flight may continue for long.
        log::warn!("{found}");
        let error = Error::new(ErrorKind::Invalid, found);
        self.disturbed = Some(error.clone());
        Err(error)
    }

    /// Later results must not be joined to a line that another program truncated.
    fn end_last_line(&mut self) -> io::Result<()> {
        self.found.torn = self
            .read(&mut |_, _| {})
            .map_or(Torn::NoLineEnd, |found| found.torn);
        self.mend_io()
    }

    /// Whether the open file still has its name.
    pub(crate) fn is_in_place(&self) -> bool {
        same_file(&self.file, &self.path)
    }

    /// Continues in a copy next to the removed file. Returns a message about it.
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
        (self.file, self.dirty) = (LockedFile::held(copy), false);
        let saved = path.display();
        let message = format!(
            "{lost}. All its results are saved in {saved}: to resume, move that file back and run \
             the same command"
        );
        self.path = path;
        message
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn later_results_are_not_joined_to_a_line_that_another_program_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let line = |id| format!("{{\"id\":\"{id}\",\"success\":true,\"request_hash\":\"00\"}}\n");
        let whole = line("a") + &line("b");
        fs::write(&path, &whole).unwrap();
        let mut output = ResultsFile::open(&path, false, &mut |_, _| {}).unwrap();
        let other = File::options().write(true).open(&path).unwrap();
        other.set_len(whole.len() as u64 - 9).unwrap();
        output.append(line("c").as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), line("a") + &line("c"));
        assert!(output.undisturbed().is_err());
    }
}
