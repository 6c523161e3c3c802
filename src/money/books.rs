//! What runs without a queue were billed, in a file for each output.
//!
//! A file has a record for each day, provider, model, tier and key. Each call updates its record in place, in one write
//! before the result of the call is recorded. A record does not cross a page, so a killed program leaves the old or the
//! new one.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as IoErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::base::atomic_file::AtomicFile;
use crate::base::brief::beginning;
use crate::base::charge::{Charge, ChargeSum};
use crate::base::day::Day;
use crate::base::id::ProcessId;
use crate::base::private;
use crate::base::store_path::resolved;
use crate::base::usd::Usd;

use super::ledger::{ChargeBook, Ledger};

/// Bytes of a record: a JSON line, filled up with blanks. A page has a whole number of them.
const RECORD: usize = 1_024;

/// Longer names are cut, so that they fit into a record.
const MAX_NAME: usize = 120;

const FORMAT: &str = "batchwright ledger 1";

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
    /// Where the first record begins.
    start: u64,
    records: Vec<Charge>,
    /// Whether some records are not written.
    is_behind: bool,
    is_reported: bool,
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

    /// What all files of a folder contain, except those of these names. Also returns the files that cannot be read.
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
            match read(&path) {
                Some(found) => ledger.extend(found),
                None => unreadable.push(path),
            }
        }
        unreadable.sort();
        Ok((ledger, unreadable))
    }
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.jsonl"))
}

/// A text with blanks up to a whole number of records.
fn filled(mut text: String) -> String {
    let bytes = (text.len() + 1).next_multiple_of(RECORD);
    text.extend(std::iter::repeat_n(' ', bytes - 1 - text.len()));
    text.push('\n');
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

/// The run and the charges of a file, and where its first record begins. `None` if it is something else.
fn parsed(text: &str) -> Option<(Option<String>, Vec<Charge>, u64)> {
    let mut lines = text.split_inclusive('\n');
    let first = lines.next()?;
    let header: Header = serde_json::from_str(first).ok()?;
    if header.format != FORMAT || !first.ends_with('\n') {
        return None;
    }
    let records = lines.map(|line| serde_json::from_str::<Record>(line).map(Charge::from));
    let records = records.collect::<Result<_, _>>().ok()?;
    Some((header.run, records, first.len() as u64))
}

/// The charges of a file. A call may change a record while it is read.
fn read(path: &Path) -> Option<Vec<Charge>> {
    let mut before = None;
    for _ in 0..READINGS {
        let text = fs::read_to_string(path).ok()?;
        if before.as_ref() == Some(&text) {
            break;
        }
        before = Some(text);
    }
    let text = before?;
    if text.is_empty() {
        return Some(Vec::new());
    }
    let (run, charges, _) = parsed(&text)?;
    Some(
        charges
            .into_iter()
            .map(|charge| charge.run(run.clone()))
            .collect(),
    )
}

impl State {
    /// Opens the file, or another one if another program is using it.
    fn open(&mut self, book: &RunBook) -> io::Result<()> {
        let folder = book.path.parent().unwrap_or(Path::new("."));
        private::make_folder(folder)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = private::open(&mut options, &book.path)?;
        if file.try_lock().is_err() {
            let other = file_of(folder, &ProcessId::new().to_string());
            file = private::open(&mut options, &other)?;
            file.lock()?;
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut known = Vec::new();
        (known, self.start) = match parsed(&text) {
            Some((_, records, start)) => (records, start),
            // A program that was killed while it began has no records.
            None if text.len() < header(book.run.clone()).len() => {
                let header = header(book.run.clone());
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                file.write_all(header.as_bytes())?;
                (known, header.len() as u64)
            }
            None => {
                let why = format!("{} is not a book of a run", book.path.display());
                return Err(io::Error::new(IoErrorKind::InvalidData, why));
            }
        };
        for charge in std::mem::replace(&mut self.records, known) {
            self.add(charge);
            self.is_behind = true;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Adds a charge to its record. Returns the number of the record.
    fn add(&mut self, charge: Charge) -> usize {
        let sum = charge.sum;
        let is_same = |known: &Charge| {
            Charge {
                sum,
                ..known.clone()
            } == charge
        };
        match self.records.iter().position(is_same) {
            Some(at) => {
                self.records[at].sum += sum;
                at
            }
            None => {
                self.records.push(charge);
                self.records.len() - 1
            }
        }
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
            file.seek(SeekFrom::Start(self.start + (at * RECORD) as u64))?;
            file.write_all(line(&self.records[at]).as_bytes())?;
        }
        self.is_behind = false;
        Ok(())
    }
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
