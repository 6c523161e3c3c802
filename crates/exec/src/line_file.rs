//! A file to which one run at a time appends complete lines; it is repaired when it is continued.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use batchwright::unstable::{copy_beside, same_file};
use rustix::fs::OFlags;

use crate::invalid;
use batchwright::Error;

/// A longer line was not written by this program.
const LONGEST: u64 = 256 * 1024 * 1024;

/// The end of a file that does not end with a line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// A complete line without its line end.
    Line,
    /// A truncated line, which a killed run left behind.
    Torn,
}

pub(super) struct LineFile {
    path: PathBuf,
    file: File,
    /// The state of the file after the last write; `None` for a pipe or a device, which are not checked.
    written: Option<Written>,
    /// The change that another program made meanwhile.
    lost: Option<Error>,
}

#[derive(Clone, Copy)]
struct Written {
    /// Length of the part with complete lines.
    whole: u64,
    /// The part after it, which is repaired before something is appended.
    tail: Option<Tail>,
}

impl LineFile {
    /// Opens or creates the file, and locks it as long as this value exists. `line` receives each existing line without
    /// its line end, and whether it had one; it decides what to do with a last line without one. Nothing is changed
    /// yet.
    ///
    /// Links are not followed, because a command of an earlier run may have created one.
    pub fn open(
        path: &Path,
        mut line: impl FnMut(&[u8], bool) -> Result<Tail, Error>,
    ) -> Result<Self, Error> {
        let trouble = |why: io::Error| trouble(path, "cannot open", &why);
        let found = path.symlink_metadata().ok();
        if found.as_ref().is_some_and(|found| found.is_symlink()) && !is_of_the_system(path) {
            let why = format!(
                "{} is a link, which is not followed: name the file itself",
                path.display()
            );
            return Err(invalid(why));
        }
        // A pipe that is also open for reading would keep itself open.
        let regular = found.is_none_or(|found| found.is_file());
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(regular);
        if regular {
            options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        }
        let mut file = options.open(path).map_err(trouble)?;
        let mut opened = Self {
            path: path.to_owned(),
            file: file.try_clone().map_err(trouble)?,
            written: None,
            lost: None,
        };
        if !regular {
            return Ok(opened);
        }
        file.try_lock().map_err(|_| {
            let why = format!("{} is being written by another run", path.display());
            invalid(why)
        })?;
        file.seek(SeekFrom::Start(0)).map_err(trouble)?;
        let (mut whole, mut tail) = (0, None);
        let mut reader = BufReader::with_capacity(64 * 1024, &file);
        let mut text = Vec::new();
        loop {
            text.clear();
            let mut bounded = reader.by_ref().take(LONGEST);
            let read = bounded.read_until(b'\n', &mut text).map_err(trouble)? as u64;
            if read == LONGEST {
                let why = format!(
                    "{} has a line of more than 256 MiB, which is none of ours; the file was left as it is",
                    path.display()
                );
                return Err(invalid(why));
            }
            if text.last() == Some(&b'\n') {
                text.pop();
                line(&text, true)?;
                whole += read;
                continue;
            }
            if read > 0 {
                // After a power failure, the file may contain zeros in place of a line.
                let lost = whole > 0 && text.iter().all(|byte| *byte == 0);
                let kind = if lost {
                    Tail::Torn
                } else {
                    line(&text, false)?
                };
                if kind == Tail::Line {
                    whole += read;
                }
                tail = Some(kind);
            }
            break;
        }
        opened.written = Some(Written { whole, tail });
        Ok(opened)
    }

    /// Appends a line, which must end with a line end: completely or not at all.
    ///
    /// # Errors
    /// If it cannot be written, or as [`check`](Self::check).
    pub fn append(&mut self, line: &[u8]) -> Result<(), Error> {
        self.mend()
            .map_err(|why| trouble(&self.path, "cannot mend", &why))?;
        self.check()?;
        if let Err(why) = self.file.write_all(line) {
            if let Some(written) = self.written {
                let _ = self.file.set_len(written.whole);
            }
            return Err(trouble(&self.path, "cannot write", &why));
        }
        if let Some(written) = &mut self.written {
            written.whole += line.len() as u64;
        }
        Ok(())
    }

    fn mend(&mut self) -> io::Result<()> {
        let Some(written) = &mut self.written else {
            return Ok(());
        };
        match written.tail {
            None => return Ok(()),
            Some(Tail::Line) => {
                self.file.write_all(b"\n")?;
                written.whole += 1;
            }
            Some(Tail::Torn) => {
                log::info!(
                    "{}: cut off a line that was not finished",
                    self.path.display()
                );
                self.file.set_len(written.whole)?;
            }
        }
        written.tail = None;
        Ok(())
    }

    /// Checks that the file still exists and has the length that this run has written.
    ///
    /// # Errors
    /// If another program removed, replaced, truncated or wrote to it. If the file has no name any more, its contents
    /// are copied to a file next to its path, and the error names the copy.
    pub fn check(&mut self) -> Result<(), Error> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let Some(Written { whole, tail: None }) = self.written else {
            return Ok(());
        };
        let path = self.path.display();
        let why = if !same_file(&self.file, &self.path) {
            let lost = format!(
                "{path}: it was removed or replaced while the run was going on; nothing more is run"
            );
            match copy_beside(&self.path, &self.file, whole) {
                Ok((copy, _)) => format!(
                    "{lost}. What it held is saved in {}: to go on, move that file back",
                    copy.display()
                ),
                Err(why) => format!("{lost}, and what it held cannot be saved beside it: {why}"),
            }
        } else {
            let length = self.file.metadata().map_or(whole, |found| found.len());
            if length == whole {
                return Ok(());
            }
            format!(
                "{path}: somebody else cut it short or wrote to it while the run was going on: it has \
                 {length} bytes where the run had written {whole}; nothing more is run"
            )
        };
        let lost = invalid(why);
        self.lost = Some(lost.clone());
        Err(lost)
    }
}

impl Drop for LineFile {
    fn drop(&mut self) {
        // A command that is being started also has the descriptor until its `exec`.
        let _ = self.file.unlock();
    }
}

/// Whether the path is in a folder where no command can create links, for example `/dev/stdout` or `/dev/fd/63`.
fn is_of_the_system(path: &Path) -> bool {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| folder.starts_with("/dev") || folder.starts_with("/proc"))
}

fn trouble(path: &Path, what: &str, why: &io::Error) -> Error {
    invalid(format!("{what} {}: {why}", path.display()))
}
