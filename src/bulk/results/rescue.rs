//! What becomes of an output that somebody removes, replaces, cuts short or writes to while a run is
//! writing its results there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{ResultsFile, Torn, same_file};
use crate::base::disk::sync_folder;
use crate::base::error::{Error, ErrorKind};
use crate::base::private;

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
                "{}: somebody else cut it short or wrote to it while the run was going on: it has \
                 {len} bytes where the run had written {whole}; nothing more is sent. The same \
                 command sends again what is missing in it",
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
        self.torn = self.read(&mut |_, _| {}).unwrap_or(Torn::NoLineEnd);
        self.mend_io()
    }

    /// Whether the open file still has its name.
    pub(crate) fn is_in_place(&self) -> bool {
        same_file(&self.file, &self.path)
    }

    /// Goes on in a copy beside the file that lost its name, and says so.
    fn rescue(&mut self) -> String {
        let lost = format!(
            "{}: it was removed or replaced while the run was going on; nothing more is sent",
            self.path.display()
        );
        let (path, copy) = match self.copy_beside() {
            Ok(copied) => copied,
            Err(e) => return format!("{lost}, and what it held cannot be saved beside it: {e}"),
        };
        self.len = copy.metadata().map_or(self.len, |copy| copy.len());
        (self.file, self.dirty) = (copy, false);
        let saved = path.display();
        let message = format!(
            "{lost}. All its results are saved in {saved}: to go on, move that file back and run \
             the same command"
        );
        self.path = path;
        message
    }

    fn copy_beside(&self) -> io::Result<(PathBuf, File)> {
        let (path, copy) = rescue_file(&self.path)?;
        // Locked like any other output, since this run still writes to it.
        let copied = copy.try_lock().map_err(io::Error::from).and_then(|()| {
            let mut held = (&self.file).take(self.len);
            held.get_mut().seek(SeekFrom::Start(0))?;
            io::copy(&mut held, &mut &copy)?;
            copy.set_permissions(self.file.metadata()?.permissions())?;
            copy.sync_all()
        });
        if let Err(error) = copied {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let _ = sync_folder(&path);
        Ok((path, copy))
    }
}

/// A new file beside the path; in the folder for temporary files when that one is gone too.
fn rescue_file(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut number = 1;
    loop {
        let beside = folder.join(format!("{name}.rescued-{number}"));
        let mut options = OpenOptions::new();
        options.create_new(true).append(true).read(true);
        match private::open(&mut options, &beside) {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let instead = std::env::temp_dir();
                if folder == instead {
                    return Err(error);
                }
                folder = instead;
            }
            Err(error) => return Err(error),
        }
    }
}
