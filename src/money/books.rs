//! What runs without a queue were billed, in a file for each output.
//!
//! A file has a record for each day, provider, model, tier and key. Each call updates its record in place, in one write
//! before the result of the call is recorded. A record does not cross a page, so a killed program leaves the old or the
//! new one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as IoErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::base::brief::beginning;
use crate::base::private;
use crate::base::store_path::resolved;
use crate::base::{AtomicFile, Charge, ChargeSum, Day, ProcessId, Usd};

use super::ledger::{ChargeBook, Ledger};

/// Bytes of a record: a JSON line, filled up with blanks. A page has a whole number of them.
const RECORD: usize = 1_024;

/// Longer names are cut, so that they fit into a record.
const MAX_NAME: usize = 120;

const FORMAT: &str = "batchwright ledger 1";

/// The beginning of a record's sums.
const SUMS: &str = r#","calls":"#;

/// How often a file is read again that changes while it is read.
const READINGS: usize = 8;

/// The book of a run without a queue: what its calls were billed, in a file of a folder. Give it to the
/// [route](crate::Route::booking) of the run. Runs of the same output share a file. **Unstable**: it may change in any
/// release.
pub struct RunBook {
    path: PathBuf,
    run: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until the first call, or while it cannot be opened.
    file: Option<File>,
    /// The file that takes the place of the book's own.
    other: Option<PathBuf>,
    /// Where the first record begins.
    start: u64,
    /// `None` for damaged records, which stay as they are.
    records: Vec<Option<Entry>>,
    /// The bytes of the record that was written last.
    buffer: String,
    /// Whether some records are not written.
    is_behind: bool,
    is_reported: bool,
}

/// A record in memory.
struct Entry {
    charge: Charge,
    /// The beginning of its line, which does not change when a call is added.
    names: String,
}

impl From<Charge> for Entry {
    fn from(charge: Charge) -> Self {
        let mut names = line(&charge);
        // Names contain no quotation marks.
        names.truncate(names.find(SUMS).unwrap_or(names.len()));
        Self { charge, names }
    }
}

impl Entry {
    /// Replaces `text` by the line of the record.
    fn write(&self, text: &mut String) {
        text.clear();
        text.push_str(&self.names);
        let sum = &self.charge.sum;
        let _ = write!(
            text,
            r#"{SUMS}{},"unpriced":{},"input_tokens":{},"cached_input_tokens":{},"output_tokens":{},"cost_picos":{}}}"#,
            sum.calls,
            sum.unpriced,
            sum.input_tokens,
            sum.cached_input_tokens,
            sum.output_tokens,
            sum.cost_usd.picos(),
        );
        fill(text);
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    run: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    day: Day,
    provider: String,
    model: Option<String>,
    tier: String,
    key: Option<String>,
    calls: u64,
    unpriced: u64,
    input_tokens: u64,
    cached_input_tokens: u64,
    output_tokens: u64,
    cost_picos: u64,
}

impl RunBook {
    /// The book of a run with this output, or with standard output, in a folder. The first call creates the file.
    pub fn new(folder: impl AsRef<Path>, output: Option<&Path>) -> Self {
        let output = output.and_then(|output| resolved(output, 0).ok());
        let name = match &output {
            Some(output) => ProcessId::named(output.as_os_str().as_encoded_bytes()),
            None => ProcessId::new(),
        };
        Self {
            path: file_of(folder.as_ref(), &name.to_string()),
            run: output.map(|output| output.to_string_lossy().into_owned()),
            state: Mutex::default(),
        }
    }

    /// Replaces the file of this name by what a run with a queue was billed. `run` names the run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn replace(folder: &Path, name: &str, run: &str, ledger: &Ledger) -> io::Result<()> {
        private::make_folder(folder)?;
        let mut text = header(Some(run.to_owned()));
        let plain = ledger.charges().map(|charge| charge.run(None).owner(None));
        for charge in plain.collect::<Ledger>().charges() {
            text += &line(&charge);
        }
        let mut options = File::options();
        let file = AtomicFile::create(&file_of(folder, name), options.write(true))?;
        file.file().write_all(text.as_bytes())?;
        file.replace().map(drop)
    }

    /// What all files of a folder contain, except those of these names. Also returns the files that cannot be read, or
    /// only in part.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn read_all(
        folder: &Path,
        without: &BTreeSet<String>,
    ) -> io::Result<(Ledger, Vec<PathBuf>)> {
        let (mut ledger, mut unreadable) = (Ledger::new(), Vec::new());
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok((ledger, unreadable)),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            if path.extension().is_none_or(|end| end != "jsonl")
                || name.is_none_or(|name| without.contains(name))
            {
                continue;
            }
            let found = read(&path);
            if found.as_ref().is_none_or(Book::is_damaged) {
                unreadable.push(path);
            }
            if let Some(Book { run, records, .. }) = found {
                let charges = records.into_iter().flatten();
                ledger.extend(charges.map(|charge| charge.run(run.clone())));
            }
        }
        unreadable.sort();
        Ok((ledger, unreadable))
    }
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.jsonl"))
}

/// Adds blanks up to a whole number of records.
fn fill(text: &mut String) {
    const BLANKS: &str = match std::str::from_utf8(&[b' '; RECORD]) {
        Ok(blanks) => blanks,
        Err(_) => "",
    };
    let bytes = (text.len() + 1).next_multiple_of(RECORD);
    text.push_str(&BLANKS[..bytes - 1 - text.len()]);
    text.push('\n');
}

fn filled(mut text: String) -> String {
    fill(&mut text);
    text
}

fn header(run: Option<String>) -> String {
    let format = FORMAT.to_owned();
    filled(serde_json::to_string(&Header { format, run }).unwrap_or_default())
}

/// The record of a charge.
fn line(charge: &Charge) -> String {
    let name = |name: &str| {
        // No byte of a name may take more than one in JSON.
        let plain = |c: char| {
            if c.is_control() || matches!(c, '"' | '\\') {
                ' '
            } else {
                c
            }
        };
        let name: String = name.chars().map(plain).collect();
        beginning(&name, MAX_NAME).to_owned()
    };
    let sum = charge.sum;
    let record = Record {
        day: charge.day,
        provider: name(&charge.provider),
        model: charge.model.as_deref().map(name),
        tier: name(&charge.tier),
        key: charge.key.as_deref().map(name),
        calls: sum.calls,
        unpriced: sum.unpriced,
        input_tokens: sum.input_tokens,
        cached_input_tokens: sum.cached_input_tokens,
        output_tokens: sum.output_tokens,
        cost_picos: sum.cost_usd.picos(),
    };
    filled(serde_json::to_string(&record).unwrap_or_default())
}

impl From<Record> for Charge {
    fn from(record: Record) -> Self {
        let sum = ChargeSum {
            calls: record.calls,
            unpriced: record.unpriced,
            input_tokens: record.input_tokens,
            cached_input_tokens: record.cached_input_tokens,
            output_tokens: record.output_tokens,
            cost_usd: Usd::from_picos(record.cost_picos),
        };
        Self::new(record.day, sum)
            .provider(record.provider)
            .model(record.model)
            .tier(&record.tier)
            .key(record.key)
    }
}

/// The content of a file.
#[derive(Default)]
struct Book {
    run: Option<String>,
    /// Where the first record begins.
    start: usize,
    /// `None` for damaged records.
    records: Vec<Option<Charge>>,
}

impl Book {
    /// Returns `None` if the text is something else, or its header is damaged.
    fn parse(text: &[u8]) -> Option<Self> {
        let start = text.iter().position(|byte| *byte == b'\n')? + 1;
        let (first, records) = text.split_at(start);
        let header: Header = serde_json::from_slice(first).ok()?;
        // A power failure may leave zeros in place of a page, so the ends of lines do not count.
        let record = |text| {
            serde_json::from_slice::<Record>(text)
                .ok()
                .map(Charge::from)
        };
        (header.format == FORMAT).then(|| Self {
            run: header.run,
            start,
            records: records.chunks(RECORD).map(record).collect(),
        })
    }

    fn is_damaged(&self) -> bool {
        self.records.iter().any(Option::is_none)
    }
}

/// The content of a file. A call may change a record while it is read.
fn read(path: &Path) -> Option<Book> {
    let mut before = None;
    for _ in 0..READINGS {
        let text = fs::read(path).ok()?;
        if before.as_ref() == Some(&text) {
            break;
        }
        before = Some(text);
    }
    let text = before?;
    if text.is_empty() {
        return Some(Book::default());
    }
    Book::parse(&text)
}

/// Whether another program has the file. Some file systems know no locks: then nobody can tell.
fn is_in_use(locked: Result<(), TryLockError>) -> bool {
    matches!(locked, Err(TryLockError::WouldBlock))
}

/// Opens a file of a run, and creates it if it does not exist. Returns `None` if another program is using it, or if its
/// header is damaged.
fn opened(path: &Path, run: Option<&String>) -> io::Result<Option<(File, Book)>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = private::open(&mut options, path)?;
    if is_in_use(file.try_lock()) {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    if let Some(book) = Book::parse(&text) {
        if book.is_damaged() {
            log::warn!(
                "{} has damaged records: the ledger lacks their calls",
                path.display()
            );
        }
        return Ok(Some((file, book)));
    }
    let header = header(run.cloned());
    // A program that was killed while it began has no records.
    if text.len() >= header.len() {
        log::warn!(
            "{} is damaged or not a book of a run: another file takes its place",
            path.display()
        );
        return Ok(None);
    }
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(header.as_bytes())?;
    let book = Book {
        start: header.len(),
        ..Book::default()
    };
    Ok(Some((file, book)))
}

impl State {
    /// Opens the file, or another one if another program is using it or its header is damaged.
    fn open(&mut self, book: &RunBook) -> io::Result<()> {
        let folder = book.path.parent().unwrap_or(Path::new("."));
        private::make_folder(folder)?;
        let run = book.run.as_ref();
        let mut found = match &self.other {
            None => opened(&book.path, run)?,
            Some(_) => None,
        };
        if found.is_none() {
            let new = || file_of(folder, &ProcessId::new().to_string());
            found = opened(self.other.get_or_insert_with(new), run)?;
        }
        let Some((file, Book { start, records, .. })) = found else {
            // Nobody else knows its name.
            return Err(IoErrorKind::ResourceBusy.into());
        };
        self.start = start as u64;
        let records = records.into_iter().map(|charge| charge.map(Entry::from));
        let unwritten = std::mem::replace(&mut self.records, records.collect());
        for entry in unwritten.into_iter().flatten() {
            self.add(entry.charge);
            self.is_behind = true;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Adds a charge to its record. Returns the number of the record.
    fn add(&mut self, charge: Charge) -> usize {
        // The latest record is most often the right one.
        let mut known = self.records.iter_mut().enumerate().rev();
        let same = known.find_map(|(at, entry)| {
            let known = &mut entry.as_mut()?.charge;
            known.is_same_payment(&charge).then_some((at, known))
        });
        if let Some((at, known)) = same {
            known.sum += charge.sum;
            return at;
        }
        self.records.push(Some(charge.into()));
        self.records.len() - 1
    }

    fn write(&mut self, changed: usize) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let all = 0..self.records.len();
        let wanted = if self.is_behind {
            all
        } else {
            changed..changed + 1
        };
        for at in wanted {
            if let Some(record) = &self.records[at] {
                record.write(&mut self.buffer);
                let place = self.start + (at * RECORD) as u64;
                write_at(file, self.buffer.as_bytes(), place)?;
            }
        }
        self.is_behind = false;
        Ok(())
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, place)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(place))?;
    file.write_all(bytes)
}

impl ChargeBook for RunBook {
    fn book(&self, charge: Charge) {
        let charge = charge.run(None).owner(None);
        let mut state = self.state.lock();
        let opened = match state.file {
            Some(_) => Ok(()),
            None => state.open(self),
        };
        let at = state.add(charge);
        let written = opened.and_then(|()| state.write(at));
        if let Err(error) = written {
            state.is_behind = true;
            if !std::mem::replace(&mut state.is_reported, true) {
                log::warn!(
                    "the ledger lacks calls of this run as long as {} cannot be written: {error}",
                    self.path.display()
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;
