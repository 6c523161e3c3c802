//! Billed replies that a compaction removes from an output: they are stored in a file next to it,
//! `OUTPUT.superseded.jsonl`, and restored if their requests are needed again.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::{LinesAt, PreviousLine, ResultsFile, each_line, trouble};
use crate::base::{Error, ErrorKind, named_file, private};
use crate::bulk::appender::{Key, ResultsAppender, key};
use crate::bulk::options::FileRunError;

/// Number of bytes that are written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// An answer in the archive: its position, and its item.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Archived {
    at: u64,
    id: Key,
}

impl ResultsFile {
    /// Appends the lines at these positions to the archive and syncs it to the disk. If a run was killed between this
    /// and the compaction, lines that are in the archive already are not appended again.
    pub(crate) fn archive(&self, mut replaced: Vec<u64>) -> Result<(), Error> {
        if replaced.is_empty() {
            return Ok(());
        }
        replaced.sort_unstable();
        self.append_to_archive(&replaced).map_err(|error| {
            let why = format!(
                "all results are saved, but the superseded answers in {} cannot be moved to their own file, so they stay \
                 there: {error}",
                self.path.display()
            );
            Error::new(ErrorKind::Invalid, why)
        })
    }

    fn append_to_archive(&self, places: &[u64]) -> Result<(), FileRunError> {
        let path = self.archive_path();
        let made = self.make_beside(&path);
        made.map_err(|error| trouble(&path, "cannot create", &error))?;
        let mut archive = ResultsAppender::open_for(&path, false)?;
        let (mut lines, mut bytes) = (Vec::new(), 0);
        for place in places {
            let line = self.line_at(*place)?;
            bytes += line.len();
            lines.push(line);
            if bytes >= CHUNK_BYTES {
                archive.append(&lines)?;
                (lines, bytes) = (Vec::new(), 0);
            }
        }
        archive.append(&lines)?;
        Ok(())
    }

    /// Creates the file with the permissions of the output from the start.
    pub(super) fn make_beside(&self, path: &Path) -> io::Result<()> {
        match private::open(OpenOptions::new().append(true).create_new(true), path) {
            Ok(archive) => archive.set_permissions(self.file.metadata()?.permissions()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Passes every line of the archive to `visit`. An unreadable archive counts as empty.
    pub(crate) fn archived(&self, visit: &mut dyn FnMut(PreviousLine, Archived)) {
        let path = self.archive_path();
        let Ok(archive) = named_file::regular(&path, true) else {
            return;
        };
        let read = each_line(&path, &archive, &mut |line, at, _, _| {
            if let Ok(line) = serde_json::from_slice::<PreviousLine>(line) {
                let id = key(&line.id);
                visit(line, Archived { at, id });
            }
            Ok(())
        });
        if read.is_err() {
            log::warn!("{}: earlier answers cannot be read", path.display());
        }
    }

    /// Appends these answers of the archive to the output again.
    ///
    /// # Errors
    /// If the archive no longer contains one of them, or the output cannot be written.
    pub(crate) fn restore(&mut self, places: &[Archived]) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        let path = self.archive_path();
        let failed = |error: io::Error| {
            let what = "cannot take earlier answers back from it";
            trouble(&path, what, &error)
        };
        let archive = named_file::regular(&path, true).map_err(failed)?;
        let mut archive = LinesAt::new(&archive).map_err(failed)?;
        let mut lines = String::new();
        for (i, place) in places.iter().enumerate() {
            let line = String::from_utf8_lossy(archive.read(place.at).map_err(failed)?);
            let parsed = serde_json::from_str::<PreviousLine>(&line).ok();
            let parsed = parsed.filter(|found| found.success);
            if parsed.is_none_or(|found| key(&found.id) != place.id) {
                let why = "it changed after it was read; run the same command again";
                return Err(failed(io::Error::other(why)));
            }
            lines.push_str(line.trim());
            lines.push('\n');
            if lines.len() >= CHUNK_BYTES || i + 1 == places.len() {
                self.append_io(lines.as_bytes()).map_err(failed)?;
                lines.clear();
            }
        }
        Ok(())
    }

    fn archive_path(&self) -> PathBuf {
        // A link to the output has the same archive.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".superseded.jsonl");
        path.with_file_name(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(id: &str, success: bool) -> String {
        format!("{{\"id\":\"{id}\",\"success\":{success},\"request_hash\":\"00\"}}\n")
    }

    #[test]
    fn an_answer_missing_in_the_archive_is_not_restored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut output = ResultsFile::open(&path, false, &mut |_, _| {}).unwrap();
        let archive = output.archive_path();
        let whole = line("a", true) + &line("b", true);
        fs::write(&archive, &whole).unwrap();
        let mut places = Vec::new();
        output.archived(&mut |_, place| places.push(place));
        for other in [
            line("a", true) + &line("c", true),
            line("a", true) + &line("b", false),
            whole[..whole.len() - 9].to_owned(),
            line("a", true),
        ] {
            fs::write(&archive, &other).unwrap();
            assert!(output.restore(&places[1..]).is_err(), "{other}");
        }
        fs::remove_file(&archive).unwrap();
        assert!(output.restore(&places).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        fs::write(&archive, &whole).unwrap();
        output.restore(&places).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn replaced_lines_are_archived_once_and_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let texts = ["a", "b", "c"].map(|id| line(&id.repeat(CHUNK_BYTES * 2 / 3), true));
        fs::write(&path, texts.concat()).unwrap();
        let output = ResultsFile::open(&path, false, &mut |_, _| {}).unwrap();
        let replaced = [1, 0].map(|n| n * texts[0].len() as u64);
        for _ in 0..2 {
            output.archive(replaced.to_vec()).unwrap();
            let kept = fs::read_to_string(output.archive_path()).unwrap();
            let ids: Vec<_> = kept.lines().map(|line| &line[7..8]).collect();
            assert_eq!(ids, ["a", "b"]);
        }
    }
}
