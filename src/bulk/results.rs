//! The output: a file that is its own checkpoint, or a stream that cannot be resumed.
//!
//! Lines are appended whole and never changed. What a killed process leaves behind is at worst one
//! torn last line, which is cut off; what a full disk leaves is cut off before the write is tried
//! again. A lock on the file itself keeps two runs apart, across the rename of a compaction too.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::base::atomic_file::AtomicFile;
use crate::base::error::{Error, ErrorKind};
use crate::base::rescue::same_file;

use super::input::{EarlierResult, hash_prefix, is_automatic};
use super::options::FileRunError;
use super::replies::Replies;
use super::run_settings::{RunSettings, with_end};

pub(crate) mod archive;
mod rescue;
pub(crate) mod superseded;

/// What a line of an earlier run says about its item.
#[derive(Debug, Deserialize)]
pub(crate) struct PreviousLine {
    pub id: String,
    pub success: bool,
    /// Null for jobs of a host's own kinds. Naming the function makes the field a must.
    #[serde(deserialize_with = "Option::deserialize")]
    pub request_hash: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub provider: Option<String>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Says something of its row.
    #[serde(default)]
    pub input: Option<IgnoredAny>,
    /// Set aside for a changed request: see [`superseded::SupersededFlags`].
    #[serde(default)]
    pub superseded: bool,
    /// The settings of the run that wrote it, see [`RunSettings`].
    #[serde(default)]
    pub settings: Option<String>,
}

impl PreviousLine {
    pub(crate) fn ended(&self) -> EarlierResult {
        let unusable = |error: &Value| error.get("unusable_reply") == Some(&Value::Bool(true));
        match self.error.as_ref().is_some_and(unusable) {
            _ if self.success => EarlierResult::Success,
            true => EarlierResult::Unusable,
            false => EarlierResult::Failure,
        }
    }

    /// True for a reply that somebody was paid for, whether or not it can be used; `extract` costs nothing.
    pub(crate) fn is_paid_reply(&self) -> bool {
        match self.ended() {
            EarlierResult::Success => self.provider.as_deref() != Some("extract"),
            EarlierResult::Unusable => true,
            EarlierResult::Failure => false,
        }
    }

    /// True for a row without an id that made no prompt: it was never sent.
    pub(crate) fn is_unnamed_bad_row(&self) -> bool {
        self.ended() == EarlierResult::Failure && self.attempts == Some(0) && is_automatic(&self.id)
    }

    /// Why it is no success.
    #[cfg(feature = "files")]
    pub(crate) fn error(&self) -> Option<Error> {
        serde_json::from_value(self.error.clone()?).ok()
    }

    /// The fingerprint's beginning; one that fits nothing for an answer that is to be replaced.
    pub(crate) fn prefix(&self, redo_extracts: bool) -> u64 {
        let prefix = self.request_hash.as_deref().and_then(hash_prefix);
        let prefix = prefix.unwrap_or(0);
        if redo_extracts && self.provider.as_deref() == Some("extract") {
            !prefix
        } else {
            prefix
        }
    }
}

/// A results file, locked and ready to be appended to.
pub(crate) struct ResultsFile {
    path: PathBuf,
    file: File,
    len: u64,
    fsync: bool,
    torn: Torn,
    /// More than `len` bytes may be in the file, and they are no whole lines.
    dirty: bool,
    /// What somebody else did to the file meanwhile.
    disturbed: Option<Error>,
    /// The settings that new lines carry.
    settings: Option<RunSettings>,
    /// Paid answers that a compaction removes go to the archive first.
    archives: bool,
}

/// Gets a line, its place, and the line as it stands there.
type VisitLine<'v> = dyn FnMut(PreviousLine, u64, &str) + 'v;

/// How a result line begins; what does not cannot be the torn rest of one.
const LINE_START: &[u8] = b"{\"id\":\"";
/// A longer line is no result of ours, and is not read into memory to find out.
pub(crate) const LONGEST_LINE: u64 = 256 * 1024 * 1024;

impl ResultsFile {
    /// Opens or creates the file, takes its lock, and hands every finished line to `visit` with
    /// its place. Nothing is changed yet.
    ///
    /// # Errors
    /// When it cannot be used, with what to do about it.
    pub(crate) fn open(
        path: &Path,
        fsync: bool,
        visit: &mut dyn FnMut(PreviousLine, u64),
    ) -> Result<Self, FileRunError> {
        let file = lock(path).map_err(FileRunError::Output)?;
        let mut results = Self {
            path: path.to_owned(),
            file,
            len: 0,
            fsync,
            torn: Torn::Nothing,
            dirty: false,
            disturbed: None,
            settings: None,
            archives: false,
        };
        let torn = results.read(&mut |line, at, _| visit(line, at));
        results.torn = torn.map_err(FileRunError::Usage)?;
        Ok(results)
    }

    /// Has new lines carry these settings, and a compaction keep the paid answers that it removes, if wanted.
    pub(crate) fn of_run(mut self, settings: RunSettings, archives: bool) -> Self {
        self.settings = Some(settings);
        self.archives = archives;
        self
    }

    /// Repairs what a killed run left behind, before the first line is appended.
    pub(crate) fn mend(&mut self) -> Result<(), Error> {
        self.mend_io()
            .map_err(|e| trouble(&self.path, "cannot mend", &e))
    }

    /// Where replies go that are too large for a line of it.
    pub(crate) fn replies(&self) -> Replies {
        Replies::beside(&self.path)
    }

    /// Bytes that are whole lines.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Hands every line to `visit` with its place.
    pub(crate) fn scan(&self, visit: &mut dyn FnMut(PreviousLine, u64)) -> Result<(), Error> {
        self.scan_lines(&mut |line, at, _| visit(line, at))
    }

    /// The same with the line as it stands there.
    pub(crate) fn scan_lines(&self, visit: &mut VisitLine<'_>) -> Result<(), Error> {
        self.read(visit).map(drop)
    }

    /// The line at a place.
    pub(super) fn line_at(&self, at: u64) -> Result<String, Error> {
        let mut line = String::new();
        let mut file = BufReader::new(&self.file);
        let read = file.seek(SeekFrom::Start(at));
        let read = read.and_then(|_| file.take(LONGEST_LINE).read_line(&mut line));
        read.map_err(|e| trouble(&self.path, "cannot read", &e))?;
        Ok(line)
    }

    /// Hands every line to `visit` as it stands there.
    pub(super) fn lines(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        let lines = each_line(&self.file, &mut |line, _, _, _| {
            visit(line);
            Ok(())
        });
        lines.map_err(|e| e.unwrap_or_else(|io| trouble(&self.path, "cannot read", &io)))
    }

    fn read(&self, visit: &mut VisitLine<'_>) -> Result<Torn, Error> {
        let path = &self.path;
        let refused = |(number, why): &(u64, String), is_output: bool| {
            let shown = path.display();
            // Another output would buy again what stands in the others.
            let advice = if is_output {
                format!(
                    "take that line out, by sed -i {number}d {shown}, and the same command keeps the \
                 other results and sends again what is missing"
                )
            } else {
                "name another output".to_owned()
            };
            let why = format!("not a result line ({why}); the file is left untouched: {advice}");
            Error::new(ErrorKind::Invalid, format!("{shown}:{number}: {why}"))
        };
        let mut torn = Torn::Nothing;
        let (mut results, mut broken) = (0_u64, None);
        each_line(&self.file, &mut |line, at, number, whole| {
            let parsed = serde_json::from_slice::<PreviousLine>(line);
            if let Some(broken) = &broken {
                return Err(refused(broken, parsed.is_ok()));
            }
            match parsed {
                Ok(previous) => {
                    visit(previous, at, std::str::from_utf8(line).unwrap_or_default());
                }
                Err(_) if !whole && could_be_torn(line, at) => {
                    torn = Torn::CutAt(at);
                    return Ok(());
                }
                Err(e) => {
                    let found = (number, e.to_string());
                    // At the beginning of a file the next line tells what it is.
                    return match results {
                        0 => {
                            broken = Some(found);
                            Ok(())
                        }
                        _ => Err(refused(&found, true)),
                    };
                }
            }
            results += 1;
            if !whole {
                torn = Torn::NoLineEnd;
            }
            Ok(())
        })
        .map_err(|e| e.unwrap_or_else(|io| trouble(path, "cannot read", &io)))?;
        broken.map_or(Ok(torn), |broken| Err(refused(&broken, false)))
    }

    fn mend_io(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.torn, Torn::Nothing) {
            Torn::Nothing => {}
            Torn::NoLineEnd => self.file.write_all(b"\n")?,
            Torn::CutAt(at) => {
                log::info!("{}: cutting off a torn last line", self.path.display());
                self.file.set_len(at)?;
            }
        }
        self.len = self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// Appends whole lines. After an error nothing of them is in the file.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), Error> {
        // What others did is told by whoever looks next; here it must not maim a line.
        if self
            .file
            .metadata()
            .is_ok_and(|found| found.len() != self.len)
        {
            let _ = self.undisturbed();
        }
        let end = self.settings.as_ref().map(RunSettings::line_end);
        let written = match &end {
            Some(end) => self.append_pieces(&mut with_end(lines, end)),
            None => self.append_io(lines),
        };
        self.written(written)
    }

    /// The same for lines that carry their settings already.
    pub(crate) fn append_complete(&mut self, lines: &[u8]) -> Result<(), Error> {
        let written = self.append_io(lines);
        self.written(written)
    }

    /// The settings that new lines carry.
    pub(crate) fn settings(&self) -> Option<&RunSettings> {
        self.settings.as_ref()
    }

    fn written(&self, written: io::Result<()>) -> Result<(), Error> {
        written.map_err(|error| {
            let path = self.path.display();
            Error::new(
                ErrorKind::Transient,
                format!("cannot write {path}: {error}; sending stops until it works"),
            )
        })
    }

    pub(super) fn append_io(&mut self, lines: &[u8]) -> io::Result<()> {
        self.append_pieces(&mut [IoSlice::new(lines)])
    }

    fn append_pieces(&mut self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        if self.dirty {
            self.file.set_len(self.len)?;
            self.dirty = false;
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let written = write_pieces(&mut self.file, pieces).and_then(|()| {
            if self.fsync {
                self.file.sync_data()
            } else {
                Ok(())
            }
        });
        match written {
            Ok(()) => {
                self.len += length as u64;
                Ok(())
            }
            Err(error) => {
                // A short write leaves a torn line that a later append would bury.
                self.dirty = self.file.set_len(self.len).is_err();
                Err(error)
            }
        }
    }

    /// Has the disk itself take what was appended.
    #[cfg(feature = "files")]
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let synced = self.file.sync_data();
        synced.map_err(|e| trouble(&self.path, "cannot sync", &e))
    }

    /// Rewrites the file with the lines at these places, in this order, or with all of them as they stand, each as
    /// `edit` leaves it: a temporary file, its lock, sync, rename. The message of an error begins with `what`.
    pub(crate) fn rewrite(
        &mut self,
        what: &str,
        places: Option<Vec<u64>>,
        edit: &mut Edit<'_>,
    ) -> Result<(), Error> {
        let mut places = places.map(Vec::into_iter);
        let written = self.replace_io(|source, out| {
            let mut line = Vec::new();
            let mut at = source.seek(SeekFrom::Start(0))?;
            loop {
                if let Some(places) = &mut places {
                    let Some(place) = places.next() else {
                        return Ok(());
                    };
                    // Neighbours are usual, so the buffer is kept when the next line lies within it.
                    source.seek_relative(place as i64 - at as i64)?;
                    at = place;
                }
                line.clear();
                let read = source.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
                if read == 0 {
                    return Ok(());
                }
                edit(at, &mut line).map_err(io::Error::other)?;
                out.write_all(&line)?;
                at += read as u64;
            }
        });
        written.map_err(|e| trouble(&self.path, what, &e))
    }

    fn replace_io(
        &mut self,
        write: impl FnOnce(&mut Reading<'_>, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        // Locked before it gets the name, so that there is no moment in which nobody holds it.
        let new = AtomicFile::create(&self.path, OpenOptions::new().append(true).read(true))?;
        let mut out = BufWriter::with_capacity(1 << 20, new.file());
        write(&mut BufReader::with_capacity(1 << 16, &self.file), &mut out)?;
        out.flush()?;
        drop(out);
        if !self.is_in_place() {
            return Err(io::Error::other("another program removed or replaced it"));
        }
        self.file = new.replace()?;
        self.len = self.file.metadata()?.len();
        Ok(())
    }
}

/// Changes a line with its end, which stood at that place.
pub(crate) type Edit<'e> = dyn FnMut(u64, &mut Vec<u8>) -> Result<(), Error> + 'e;

/// A results file that is read while its successor is written.
type Reading<'f> = BufReader<&'f File>;

enum Torn {
    Nothing,
    NoLineEnd,
    CutAt(u64),
}

/// After a kill the last line is the beginning of a result line; after a power loss, behind
/// others, it may be zeros. Whatever else stands there is somebody's data.
pub(crate) fn could_be_torn(line: &[u8], at: u64) -> bool {
    if at > 0 && line.iter().all(|byte| *byte == 0) {
        return true;
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() {
        return false;
    }
    let Some(id) = line.strip_prefix(LINE_START) else {
        return LINE_START.starts_with(line);
    };
    let mut escaped = false;
    let end = id.iter().position(|byte| {
        let quote = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        quote
    });
    match end {
        None => true,
        Some(end) => {
            let rest = &id[end + 1..];
            let next = b",\"success\":";
            next.starts_with(&rest[..rest.len().min(next.len())])
        }
    }
}

/// Calls `visit` with each non-blank line, its place, its number, and whether it had an end.
type Visit<'a> = dyn FnMut(&[u8], u64, u64, bool) -> Result<(), Error> + 'a;

fn each_line(file: &File, visit: &mut Visit<'_>) -> Result<(), Result<Error, io::Error>> {
    each_line_within(LONGEST_LINE, file, visit)
}

fn each_line_within(
    longest: u64,
    file: &File,
    visit: &mut Visit<'_>,
) -> Result<(), Result<Error, io::Error>> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    reader.seek(SeekFrom::Start(0)).map_err(Err)?;
    let (mut at, mut number) = (0_u64, 0_u64);
    let mut line = Vec::new();
    let mut whole = true;
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(longest);
        let read = bounded.read_until(b'\n', &mut line).map_err(Err)?;
        if read == 0 {
            return Ok(());
        }
        // A line that is too long comes in pieces.
        number += u64::from(whole);
        whole = line.last() == Some(&b'\n');
        let text = line.trim_ascii();
        if !text.is_empty() {
            visit(text, at, number, whole).map_err(Ok)?;
        }
        at += read as u64;
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    // A rename between opening and locking would leave us with the lock of a file that is gone.
    for _ in 0..10 {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|e| trouble(path, "cannot open the output", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "{}: another run is writing to it; wait for its end or name another output",
                        path.display()
                    ),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(trouble(path, "cannot lock", &e)),
        }
        if same_file(&file, path) {
            return Ok(file);
        }
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "{}: another program replaces it again and again",
            path.display()
        ),
    ))
}

pub(super) fn trouble(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("{}: {what}: {error}", path.display()),
    )
}

/// As few calls of the system as there can be: a process that is killed between two of them leaves a truncated line.
fn write_pieces(file: &mut File, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match file.write_vectored(pieces) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut pieces, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_a_line_that_is_too_long_have_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        std::fs::write(&path, "first line\n\nthird\n").unwrap();
        let mut found = Vec::new();
        let file = File::open(&path).unwrap();
        each_line_within(4, &file, &mut |line, at, number, _| {
            found.push((String::from_utf8_lossy(line).into_owned(), at, number));
            Ok(())
        })
        .unwrap();
        let pieces = [
            ("firs", 0, 1),
            ("t li", 4, 1),
            ("ne", 8, 1),
            ("thir", 12, 3),
            ("d", 16, 3),
        ];
        assert_eq!(
            found,
            pieces.map(|(text, at, number)| (text.to_owned(), at, number))
        );
    }
}
