//! The output: a file that is its own checkpoint, or a stream that cannot be resumed.
//!
//! Lines are appended completely and never changed. A killed process leaves at most one truncated last line, which is
//! removed; a line that a full disk truncated is removed before the write is retried. A lock on the file itself
//! prevents two runs at once, also across the rename of a compaction.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::base::disk::same_file;
use crate::base::json_read::without_bom;
use crate::base::{AtomicFile, Error, ErrorKind, LockedFile, named_file};

use super::input::fault::of_file;
use super::input::{State, hash_prefix, is_automatic};
use super::options::FileRunError;
use super::replies::Replies;

pub(crate) mod archive;
mod rescue;

/// The parsed fields of a line of an earlier run.
#[derive(Debug, Deserialize)]
pub(crate) struct PreviousLine {
    pub id: String,
    pub success: bool,
    /// Null for jobs of a host's own kinds. Naming the function makes the field required.
    #[serde(deserialize_with = "Option::deserialize")]
    pub request_hash: Option<String>,
    pub model: Option<String>,
    pub provider: Option<String>,
    error: Option<Value>,
    pub attempts: Option<u32>,
}

impl PreviousLine {
    pub(crate) fn ended(&self) -> State {
        let unusable = |error: &Value| error.get("unusable_reply") == Some(&Value::Bool(true));
        match self.error.as_ref().is_some_and(unusable) {
            _ if self.success => State::Done,
            true => State::Unusable,
            false => State::Failed,
        }
    }

    /// True for a billed reply, whether or not it is usable; `extract` costs nothing.
    pub(crate) fn is_paid_reply(&self) -> bool {
        match self.ended() {
            State::Done => self.provider.as_deref() != Some("extract"),
            State::Unusable => true,
            _ => false,
        }
    }

    /// True for a row without an id that made no prompt: it was never sent.
    pub(crate) fn is_unnamed_bad_row(&self) -> bool {
        self.ended() == State::Failed && self.attempts == Some(0) && is_automatic(&self.id)
    }

    /// Its error, if it is a failure.
    #[cfg(feature = "files")]
    pub(crate) fn error(&self) -> Option<Error> {
        serde_json::from_value(self.error.clone()?).ok()
    }

    /// The first bytes of the request hash; for an answer to be replaced, a value that matches nothing.
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

/// A results file, locked and ready for appending.
pub(crate) struct ResultsFile {
    path: PathBuf,
    file: LockedFile,
    len: u64,
    fsync: bool,
    /// What is mended before the first line is appended.
    found: Found,
    /// Whether the file may have more than `len` bytes, which are not complete lines.
    dirty: bool,
    /// Whether the last lines could not be written.
    stopped: bool,
    /// How another program has changed the file in the meantime.
    disturbed: Option<Error>,
}

/// Receives a line and its position.
type VisitLine<'v> = dyn FnMut(PreviousLine, u64) + 'v;

/// The beginning of a result line; other text cannot be a truncated result line.
const LINE_START: &[u8] = b"{\"id\":\"";
/// A longer line is not a result line, and is not read into memory.
pub(crate) const LONGEST_LINE: u64 = 256 * 1024 * 1024;

impl ResultsFile {
    /// Opens or creates the file, locks it, and passes every complete line to `visit` with its position. Nothing is
    /// changed yet.
    ///
    /// # Errors
    /// When it cannot be used; the message says what to do.
    pub(crate) fn open(
        path: &Path,
        fsync: bool,
        visit: &mut VisitLine<'_>,
    ) -> Result<Self, FileRunError> {
        let file = lock(path)?;
        let mut results = Self {
            path: path.to_owned(),
            file,
            len: 0,
            fsync,
            found: Found::default(),
            dirty: false,
            stopped: false,
            disturbed: None,
        };
        results.found = results.read(visit).map_err(FileRunError::Usage)?;
        Ok(results)
    }

    /// Repairs what a killed run or a power failure left behind, before the first line is appended. Returns whether
    /// lines have another position now.
    pub(crate) fn mend(&mut self) -> Result<bool, Error> {
        let failed = |path: &Path, error: io::Error| trouble(path, "cannot mend", &error);
        self.mend_io().map_err(|error| failed(&self.path, error))?;
        let Found {
            unreadable,
            has_zeros,
            ..
        } = std::mem::take(&mut self.found);
        if unreadable.is_empty() && !has_zeros {
            return Ok(false);
        }
        if !unreadable.is_empty() {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".unreadable");
            let aside = PathBuf::from(aside);
            let moved = self.copy_lines(&unreadable, &aside);
            moved.map_err(|error| failed(&aside, error))?;
            let (path, lines) = (self.path.display(), unreadable.len());
            let aside = aside.display();
            log::warn!("{path}: {lines} lines that cannot be read were moved to {aside}");
        }
        let mut places = Vec::new();
        self.scan(&mut |_, at| places.push(at))?;
        self.rewrite("cannot mend", &places)?;
        Ok(true)
    }

    /// Appends the lines at these positions to another file, and syncs it to the disk.
    fn copy_lines(&self, places: &[u64], to: &Path) -> io::Result<()> {
        self.make_beside(to)?;
        let mut copy = OpenOptions::new().append(true).open(to)?;
        let mut lines = LinesAt::new(&self.file)?;
        for place in places {
            copy.write_all(lines.read(*place)?)?;
        }
        copy.sync_all()
    }

    /// The folder for replies that are too large for a line.
    pub(crate) fn replies(&self) -> Replies {
        Replies::beside(&self.path)
    }

    /// Number of bytes of complete lines.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Passes every line to `visit` with its position.
    pub(crate) fn scan(&self, visit: &mut VisitLine<'_>) -> Result<(), Error> {
        self.read(visit).map(drop)
    }

    /// The line at a position.
    pub(super) fn line_at(&self, at: u64) -> Result<String, Error> {
        let read = LinesAt::new(&self.file).and_then(|mut lines| {
            let line = lines.read(at)?;
            Ok(String::from_utf8_lossy(line).into_owned())
        });
        read.map_err(|e| trouble(&self.path, "cannot read", &e))
    }

    /// Passes the text of every line to `visit`.
    pub(super) fn lines(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        let passed = each_line(&self.path, &self.file, &mut |line, _, _, _| {
            visit(line);
            Ok(())
        });
        passed.map(drop)
    }

    fn read(&self, visit: &mut VisitLine<'_>) -> Result<Found, Error> {
        let mut found = Found::default();
        let (mut readable, mut first) = (0_usize, None);
        found.has_zeros = each_line(&self.path, &self.file, &mut |line, at, number, whole| {
            match serde_json::from_slice::<PreviousLine>(line) {
                Ok(previous) => {
                    readable += 1;
                    visit(previous, at);
                }
                Err(_) if !whole && could_be_torn(line, at) => {
                    found.torn = Torn::CutAt(at);
                    return Ok(());
                }
                Err(why) => {
                    first.get_or_insert((number, why));
                    found.unreadable.push(at);
                }
            }
            if !whole {
                found.torn = Torn::NoLineEnd;
            }
            Ok(())
        })?;
        // It is a file of something else, unless most of its lines are results.
        match first {
            Some((number, why)) if readable < found.unreadable.len() => {
                let shown = self.path.display();
                let why = format!(
                    "{shown}:{number}: not a result line ({why}); the file is left untouched: name another output"
                );
                Err(Error::new(ErrorKind::Invalid, why))
            }
            _ => Ok(found),
        }
    }

    fn mend_io(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.found.torn) {
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

    /// Appends complete lines. After an error the file does not contain them.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), Error> {
        // Changes by other programs are reported by the next check; here they must not damage a line. The metadata are not
        // read, because Linux then writes exact times to the disk's journal with the next write. Few file systems, such as
        // 9p, return a length here that may be old.
        let length = self.file.seek(SeekFrom::End(0));
        if length.is_ok_and(|length| length != self.len) {
            let _ = self.undisturbed();
        }
        let written = self.append_io(lines);
        self.written(written)
    }

    /// Reports on standard error that the run waits and that it goes on. Both are errors, because a quiet run shows no
    /// progress and logs only errors.
    fn written(&mut self, written: io::Result<()>) -> Result<(), Error> {
        let path = self.path.display();
        let had_stopped = std::mem::replace(&mut self.stopped, written.is_err());
        let written = written.map_err(|error| {
            let why = format!("cannot write {path}: {error}; sending stops until it works");
            Error::new(ErrorKind::Transient, why)
        });
        match &written {
            Err(error) if !had_stopped => log::error!("{}", error.message()),
            Ok(()) if had_stopped => log::error!("{path} can be written again: the run goes on"),
            _ => {}
        }
        written
    }

    pub(super) fn append_io(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.dirty {
            self.file.set_len(self.len)?;
            self.dirty = false;
        }
        // With as few system calls as possible: a process that is killed between two of them leaves a truncated line.
        let written = self.file.write_all(lines).and_then(|()| {
            if self.fsync {
                self.file.sync_data()
            } else {
                Ok(())
            }
        });
        match written {
            Ok(()) => {
                self.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // A partial write leaves a truncated line, to which a later append would be joined.
                self.dirty = self.file.set_len(self.len).is_err();
                Err(error)
            }
        }
    }

    /// Syncs the appended lines to the disk.
    #[cfg(feature = "files")]
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let synced = self.file.sync_data();
        synced.map_err(|e| trouble(&self.path, "cannot sync", &e))
    }

    /// Rewrites the file with the lines at these positions, in this order: writes a temporary file, locks it, syncs it,
    /// and renames it. The message of an error begins with `what`.
    pub(crate) fn rewrite(&mut self, what: &str, places: &[u64]) -> Result<(), Error> {
        let written = self.rewrite_io(places);
        written.map_err(|e| trouble(&self.path, what, &e))
    }

    fn rewrite_io(&mut self, places: &[u64]) -> io::Result<()> {
        // Locked before it gets the name, so that the file is locked at every moment.
        let new = AtomicFile::create(&self.path, OpenOptions::new().append(true).read(true))?;
        let mut out = BufWriter::with_capacity(1 << 20, new.file());
        let mut lines = LinesAt::new(&self.file)?;
        for place in places {
            out.write_all(lines.read(*place)?)?;
        }
        out.flush()?;
        drop(out);
        if !self.is_in_place() {
            return Err(io::Error::other("another program removed or replaced it"));
        }
        self.file = LockedFile::held(new.replace()?);
        self.len = self.file.metadata()?.len();
        Ok(())
    }
}

/// Reads the lines at some positions.
pub(crate) struct LinesAt<'f> {
    file: BufReader<&'f File>,
    at: u64,
    line: Vec<u8>,
}

impl<'f> LinesAt<'f> {
    pub(crate) fn new(file: &'f File) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(1 << 16, file);
        file.rewind()?;
        let (at, line) = (0, Vec::new());
        Ok(Self { file, at, line })
    }

    /// The line at that position, with its line end.
    pub(crate) fn read(&mut self, place: u64) -> io::Result<&[u8]> {
        self.line.clear();
        // Neighbours are frequent, so the buffer is kept if the next line is within it.
        self.file.seek_relative(place as i64 - self.at as i64)?;
        let mut bounded = (&mut self.file).take(LONGEST_LINE);
        self.at = place + bounded.read_until(b'\n', &mut self.line)? as u64;
        Ok(without_zeros(&self.line))
    }
}

/// What is to be mended in an output.
#[derive(Default)]
struct Found {
    torn: Torn,
    unreadable: Vec<u64>,
    has_zeros: bool,
}

#[derive(Default)]
enum Torn {
    #[default]
    Nothing,
    NoLineEnd,
    CutAt(u64),
}

/// A killed process leaves the beginning of a result line as the last line; a power failure may leave zeros after other
/// lines. Any other text is data of another program.
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

/// The line without zeros before it.
fn without_zeros(line: &[u8]) -> &[u8] {
    let zeros = line.iter().take_while(|byte| **byte == 0).count();
    &line[zeros..]
}

/// Moves to the first line and returns its position: some editors write a byte order mark before it.
fn to_text(file: &mut (impl BufRead + Seek)) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mark = file.fill_buf()?;
    let length = mark.len() - without_bom(mark).len();
    file.consume(length);
    Ok(length as u64)
}

/// Receives a line that is not blank, its position, its number, and whether it had a line end.
type Visit<'a> = dyn FnMut(&[u8], u64, u64, bool) -> Result<(), Error> + 'a;

/// Passes each line that is not blank to `visit`. Returns whether there are zeros before a line or its end.
///
/// # Errors
/// If the file at `path` cannot be read, or the error of `visit`.
pub(crate) fn each_line(path: &Path, file: &File, visit: &mut Visit<'_>) -> Result<bool, Error> {
    let failed = |error: io::Error| trouble(path, "cannot read", &error);
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut at = to_text(&mut reader).map_err(failed)?;
    let mut number = 0_u64;
    let mut line = Vec::new();
    let (mut whole, mut has_zeros) = (true, false);
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LONGEST_LINE);
        let read = bounded.read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            return Ok(has_zeros);
        }
        // A line that is too long arrives in pieces.
        number += u64::from(whole);
        whole = line.last() == Some(&b'\n');
        has_zeros |= whole && line[0] == 0;
        // The end of a file may be zeros after a power failure; the next result was appended to them.
        let text = match without_zeros(&line).trim_ascii() {
            [] if !whole => line.trim_ascii(),
            text => text,
        };
        if !text.is_empty() {
            visit(text, at, number, whole)?;
        }
        at += read as u64;
    }
}

fn lock(path: &Path) -> Result<LockedFile, Error> {
    // After a rename between opening and locking, the lock would belong to a removed file.
    for _ in 0..10 {
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let file = named_file::output(options, path, true, false)
            .map_err(|e| trouble(path, "cannot open the output", &e))?;
        let locked = LockedFile::try_lock(file).map_err(|e| trouble(path, "cannot lock", &e))?;
        let file = locked.ok_or_else(|| {
            let why = "another run is writing to it; wait for its end or name another output";
            of_file(path.display(), why)
        })?;
        if same_file(&file, path) {
            return Ok(file);
        }
    }
    let why = "another program replaces it again and again";
    Err(of_file(path.display(), why))
}

pub(super) fn trouble(path: &Path, what: &str, error: &io::Error) -> Error {
    of_file(path.display(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_started_does_not_keep_the_lock_of_a_closed_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut first = ResultsFile::open(&path, false, &mut |_, _| {}).unwrap();
        first
            .append(b"{\"id\":\"a\",\"success\":true,\"request_hash\":null,\"error\":null}\n")
            .unwrap();
        first.rewrite("sort", &[0]).unwrap();
        // Between fork and exec, a child has such a copy.
        let copy = first.file.try_clone().unwrap();
        drop(first);
        ResultsFile::open(&path, false, &mut |_, _| {}).unwrap();
        drop(copy);
    }
}
