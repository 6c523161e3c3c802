//! Files to which one run at a time appends complete lines, and which are repaired when they are continued; and the file
//! of records, a line of JSON each.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use batchwright::Error;
use batchwright::unstable::{named_file, same_file};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::invalid;
use crate::record::JobRecord;

/// A longer line was not written by this program.
const LONGEST: u64 = 256 * 1024 * 1024;

/// The end of a file that does not end with a line end.
enum Tail {
    /// A complete line without its line end.
    Line,
    /// A truncated line, or zeros in its place, which a killed run or a power failure left behind.
    Torn,
}

pub(super) struct LineFile {
    path: PathBuf,
    file: File,
    /// Whether it is no pipe or device, which are neither locked nor repaired.
    regular: bool,
    /// Number of complete lines.
    pub lines: u64,
    /// Length of the part with complete lines, when it was opened.
    whole: u64,
    /// What is repaired before something is appended.
    tail: Option<Tail>,
}

impl LineFile {
    /// Opens or creates the file, and locks it as long as this value exists. `is_ours` receives each existing line without
    /// its line end, and whether it had one; it decides whether that is a complete `what`. If others come before it, the
    /// last line may be a part of one. Nothing is changed yet.
    ///
    /// Links are not followed, because a command of an earlier run may have created one.
    pub fn open(
        path: &Path,
        what: &str,
        mut is_ours: impl FnMut(&[u8], bool) -> bool,
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
        let file = named_file::output(&mut options, path, !regular, true).map_err(trouble)?;
        let mut opened = Self {
            path: path.to_owned(),
            file: file.try_clone().map_err(trouble)?,
            regular,
            lines: 0,
            whole: 0,
            tail: None,
        };
        if !regular {
            return Ok(opened);
        }
        file.try_lock().map_err(|_| {
            let why = format!("{} is being written by another run", path.display());
            invalid(why)
        })?;
        let mut reader = BufReader::with_capacity(64 * 1024, &file);
        let mut text = Vec::new();
        loop {
            text.clear();
            let mut bounded = reader.by_ref().take(LONGEST);
            let read = bounded.read_until(b'\n', &mut text).map_err(trouble)? as u64;
            if read == 0 {
                break;
            }
            let ended = text.pop_if(|byte| *byte == b'\n').is_some();
            if read < LONGEST && is_ours(&text, ended) {
                opened.lines += 1;
                opened.whole += read;
                opened.tail = (!ended).then_some(Tail::Line);
            } else if read < LONGEST && !ended && opened.lines > 0 {
                opened.tail = Some(Tail::Torn);
            } else {
                let (file, line) = (path.display(), opened.lines + 1);
                return Err(invalid(format!(
                    "{file} has no {what} in its line {line}; it was left as it is"
                )));
            }
        }
        Ok(opened)
    }

    /// Appends lines, each with its line end: completely or not at all.
    ///
    /// # Errors
    /// If it cannot be written, or as [`check`](Self::check).
    pub fn append(&mut self, lines: &[u8]) -> Result<(), Error> {
        let mended = match self.tail.take() {
            None => Ok(()),
            Some(Tail::Line) => self.file.write_all(b"\n"),
            Some(Tail::Torn) => {
                log::info!(
                    "{}: cut off a line that was not finished",
                    self.path.display()
                );
                self.file.set_len(self.whole)
            }
        };
        mended.map_err(|why| trouble(&self.path, "cannot mend", &why))?;
        self.check()?;
        let before = self.file.metadata().map(|found| found.len());
        self.file.write_all(lines).map_err(|why| {
            if let (true, Ok(before)) = (self.regular, before) {
                let _ = self.file.set_len(before);
            }
            trouble(&self.path, "cannot write", &why)
        })?;
        self.lines += 1;
        Ok(())
    }

    /// Checks that the file still exists.
    ///
    /// # Errors
    /// If another program removed or replaced it.
    pub fn check(&self) -> Result<(), Error> {
        if !self.regular || same_file(&self.file, &self.path) {
            return Ok(());
        }
        Err(invalid(format!(
            "{}: it was removed or replaced while the run was going on; nothing more is run",
            self.path.display()
        )))
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

/// A file of [`JobRecord`]s, one line of JSON each, written as commands end.
pub struct RecordFile {
    file: LineFile,
    /// Number of records that it had when it was opened.
    pub before: u64,
}

impl RecordFile {
    /// Opens a file, or creates it. If it has lines already, more are added only with `resume`; then a truncated record
    /// of a killed run is removed, if there is a whole one before it. A link is not followed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](batchwright::ErrorKind::Invalid) if it has lines and `resume` is not set, if they are not records, if another run writes
    /// to it, or if it cannot be opened.
    pub fn open(path: &Path, resume: bool) -> Result<Self, Error> {
        let file = LineFile::open(path, "record of a command", |line, _| {
            serde_json::from_slice::<Known>(line).is_ok()
        })?;
        let before = file.lines;
        if before > 0 && !resume {
            return Err(invalid(format!(
                "{} has {before} records of an earlier run: --resume with its --joblog adds to them, \
                 and a run from the beginning needs another file",
                path.display()
            )));
        }
        Ok(Self { file, before })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// If it cannot be written; then the file is unchanged.
    pub fn append(&mut self, record: &JobRecord) -> Result<(), Error> {
        let mut line = serde_json::to_vec(record).map_err(|why| invalid(why.to_string()))?;
        line.push(b'\n');
        self.file.append(&line)
    }

    /// Checks that the file still exists.
    ///
    /// # Errors
    /// If another program removed or replaced it.
    pub fn check(&self) -> Result<(), Error> {
        self.file.check()
    }
}

/// What a record has, and lines of other files have not.
#[derive(Deserialize)]
struct Known {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "seq")]
    _seq: u64,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::record::CommandJob;

    fn record(id: &str) -> JobRecord {
        JobRecord::pending(Arc::new(CommandJob::new("x").with_id(id)))
    }

    fn error(result: Result<RecordFile, Error>) -> String {
        result.err().unwrap().message().to_owned()
    }

    #[test]
    fn other_files_are_unchanged_and_a_truncated_record_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        for theirs in [
            "dear diary",
            "{\"id\":1}",
            "{\"id\":\"a\",\"success\":true",
            "{\"key\": 3",
            "{\"id\":\"a\",\"success\":true}\n",
        ] {
            fs::write(&path, theirs).unwrap();
            for resume in [false, true] {
                let why = error(RecordFile::open(&path, resume));
                assert!(why.contains("in its line 1"), "{theirs}: {why}");
                assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
            }
        }
        fs::remove_file(&path).unwrap();
        let append = |resume| {
            let mut file = RecordFile::open(&path, resume).unwrap();
            file.append(&record("a\"b")).unwrap();
            fs::read(&path).unwrap()
        };
        let whole = append(false);
        for cut in 1..whole.len() - 1 {
            fs::write(&path, [&whole[..], &whole[..cut]].concat()).unwrap();
            assert_eq!(append(true), whole.repeat(2));
        }
        // An editor removed the last line end.
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(error(RecordFile::open(&path, false)).contains("1 records of an earlier run"));
        assert_eq!(append(true), whole.repeat(2));
    }

    #[test]
    fn a_removed_or_replaced_file_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut removed = RecordFile::open(&path, false).unwrap();
        removed.append(&record("a")).unwrap();
        removed.check().unwrap();
        fs::remove_file(&path).unwrap();
        for again in [false, true] {
            let why = removed.append(&record("b")).unwrap_err();
            assert!(why.message().contains("removed or replaced"), "{why}");
            if !again {
                fs::write(&path, "x").unwrap();
            }
        }
        let victim = folder.path().join("victim");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(error(RecordFile::open(&path, true)).contains("is a link"));
        assert!(!victim.exists());
    }
}
