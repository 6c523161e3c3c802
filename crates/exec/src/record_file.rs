//! Records in a file, one line of JSON each.

use std::path::Path;

use batchwright::Error;
use serde::de::IgnoredAny;

use super::line_file::{LineFile, Tail};
use super::record::JobRecord;
use crate::invalid;

/// A file of [`JobRecord`]s, one line of JSON each, written as commands end.
pub struct RecordFile {
    file: LineFile,
    before: u64,
}

impl RecordFile {
    /// Opens a file, or creates it. If it has lines already, more are added only with `resume`; then a truncated record
    /// of a killed run is removed. A link is not followed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](batchwright::ErrorKind::Invalid) if it has lines and `resume` is not set, if they are not records, if another run writes
    /// to it, or if it cannot be opened.
    pub fn open(path: &Path, resume: bool) -> Result<Self, Error> {
        let mut lines = 0_u64;
        let file = LineFile::open(path, |line, ended| {
            lines += 1;
            let whole = serde_json::from_slice::<IgnoredAny>(line).is_ok();
            match begins_as_record(line) {
                true if whole => Ok(Tail::Line),
                true if !ended => Ok(Tail::Torn),
                _ => Err(invalid(format!(
                    "line {lines} of {} is no record of a command; the file was left as it is",
                    path.display()
                ))),
            }
        })?;
        if lines > 0 && !resume {
            return Err(invalid(format!(
                "{} has {lines} records of an earlier run: --resume with its --joblog adds to them, \
                     and a run from the beginning needs another file",
                path.display()
            )));
        }
        Ok(Self {
            file,
            before: lines,
        })
    }

    /// Number of records that it had when it was opened.
    pub fn before(&self) -> u64 {
        self.before
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

    /// Checks that the file still exists and has the length that this run has written.
    ///
    /// # Errors
    /// If another program removed, replaced, truncated or wrote to it; then its former contents are copied to a file
    /// next to it.
    pub fn check(&mut self) -> Result<(), Error> {
        self.file.check()
    }
}

/// Whether this is the beginning of a record: its id, followed by its number.
fn begins_as_record(line: &[u8]) -> bool {
    let (first, next) = (b"{\"id\":\"", b"\",\"seq\":");
    let Some(rest) = line.strip_prefix(first) else {
        return first.starts_with(line);
    };
    let mut escaped = false;
    let end = rest.iter().position(|byte| {
        let quote = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        quote
    });
    let rest = end.map_or(&[][..], |end| &rest[end..]);
    next.starts_with(&rest[..rest.len().min(next.len())])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::super::job::CommandJob;
    use super::*;

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
                assert!(why.contains("line 1 of"), "{theirs}: {why}");
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
    fn a_removed_replaced_or_changed_file_is_reported_and_rescued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let open = || {
            let _ = fs::remove_file(&path);
            let mut file = RecordFile::open(&path, false).unwrap();
            file.append(&record("a")).unwrap();
            file.check().unwrap();
            file
        };
        let mut removed = open();
        let held = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let why = removed.append(&record("b")).unwrap_err();
        assert!(why.message().contains("out.jsonl.rescued-1"), "{why}");
        let rescued = folder.path().join("out.jsonl.rescued-1");
        assert_eq!(fs::read(rescued).unwrap(), held);
        let mut written = open();
        fs::write(&path, "x").unwrap();
        let why = written.check().unwrap_err();
        assert!(why.message().contains("wrote to it"), "{why}");
        let victim = folder.path().join("victim");
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(error(RecordFile::open(&path, true)).contains("is a link"));
        assert!(!victim.exists());
    }
}
