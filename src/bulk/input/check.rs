//! Checks whole files: each is read once, in chunks that end between records, and every record is parsed and hashed on
//! all cores while the next chunk is being read. Then records that repeat an id are found.

use std::collections::HashSet;
use std::io;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::entry::Entry;
use super::fault::{Fault, InputError, InputErrors, Place, SHOWN};
use super::file::{InputFile, Numbers, Part};
use super::id::{RecordId, id_hash, prefix};
use super::index::FileIndex;
use super::records::{Record, Splitter};
use super::source::Source;
use super::{PromptSettings, keep};
use crate::base::Error;
use crate::llm::native::NativeFormat;
use crate::llm::request::Request;

/// Number of bytes that are read at once.
const CHUNK_BYTES: usize = 2 << 20;

/// Callbacks of the caller; all three are called from any thread.
#[derive(Clone, Copy)]
pub(crate) struct Hooks<'a> {
    /// The class of a request, stored with its entry.
    pub(crate) classify: &'a (dyn Fn(&Request) -> u16 + Sync),
    /// Returns true to end the check.
    pub(crate) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Receives the number of bytes that have been checked so far.
    pub(crate) progress: &'a (dyn Fn(u64) + Sync),
}

struct Checked {
    entry: Entry,
    unnamed: bool,
    native: Option<NativeFormat>,
}

impl InputFile {
    /// Checks every record and indexes the items.
    pub(crate) fn check(&self, hooks: Hooks<'_>) -> Result<FileIndex, Error> {
        let settings = self.settings();
        let Entries {
            all,
            unnamed,
            native,
            faults,
        } = entries(self, settings, hooks)?;
        let bytes = self.parts().last().map_or(0, Part::end);
        let mut index = FileIndex::new(all, bytes);
        (index.native, index.unnamed) = (native, unnamed);
        if settings.skip_bad_rows && faults.is_empty() {
            index.set_aside(&repeats(&index));
        }
        let faults = faults.with(duplicates(self, &index)?);
        if faults.is_empty() {
            Ok(index)
        } else {
            Err(faults.into())
        }
    }
}

/// The entries found in the files of an input.
#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    unnamed: u64,
    native: Vec<NativeFormat>,
    faults: InputErrors,
}

impl Entries {
    /// Adds the item of a record.
    fn add(&mut self, checked: Checked) {
        if let Some(format) = checked
            .native
            .filter(|format| !self.native.contains(format))
        {
            self.native.push(format);
        }
        self.unnamed += u64::from(checked.unnamed);
        self.all.push(checked.entry);
    }
}

/// Reads everything; the entries are in input order, without those of faulty records.
fn entries(
    input: &InputFile,
    settings: &PromptSettings,
    hooks: Hooks<'_>,
) -> Result<Entries, Error> {
    let mut found = Entries::default();
    let missing = Mutex::new(settings.keep.names.clone());
    for part in input.parts() {
        let one = FileCheck {
            part,
            missing: &missing,
            settings,
            hooks,
        };
        one.check(&mut found)?;
    }
    let lines = input.parts().iter().find(|part| part.header.is_none());
    // The faults of lines come first: their fields may not have been read.
    let is_read = found.faults.is_empty() && found.all.iter().any(|entry| !entry.is_bad());
    if let (true, Some(lines), Some(name)) = (is_read, lines, missing.lock().first()) {
        let fault = Fault::new(
            "no line with it",
            format!("a field named \"{name}\" for --keep in one of the lines"),
        );
        return Err(InputError::of_file(&lines.name, fault.to_string()).into());
    }
    Ok(found)
}

/// The check of one file.
struct FileCheck<'c> {
    part: &'c Part,
    settings: &'c PromptSettings,
    hooks: Hooks<'c>,
    /// Fields to keep that no line of JSON had so far.
    missing: &'c Mutex<Vec<String>>,
}

impl FileCheck<'_> {
    fn check(&self, found: &mut Entries) -> Result<(), Error> {
        let (part, source) = (self.part, &self.part.source);
        let failed = |error: io::Error| Error::from(part.unreadable(&error));
        let mut offset = 0;
        let mut splitter = Splitter::new(part.is_text());
        let mut seen = 0;
        let (mut chunk, mut next) = (Chunk::default(), Chunk::default());
        chunk.read(source, offset).map_err(failed)?;
        let (mut records, mut outcomes) = (Vec::new(), Vec::new());
        loop {
            if (self.hooks.cancelled)() {
                return Err(Error::cancelled());
            }
            records.clear();
            let cut = splitter.split(chunk.bytes(), chunk.last, &mut records);
            let used = *cut.as_ref().unwrap_or(&chunk.filled);
            let more = cut.is_ok() && !chunk.last;
            let check = |record: &Record| {
                let bytes = &chunk.bytes()[record.start..record.end];
                self.record(bytes, part.base + offset + record.start as u64)
                    .map_err(|fault| (record.line, fault))
            };
            let (read, ()) = rayon::join(
                || {
                    if more {
                        next.continue_from(&chunk.bytes()[used..], source, offset + used as u64)
                    } else {
                        Ok(())
                    }
                },
                || {
                    let records = records.par_iter().with_min_len(8);
                    records.map(check).collect_into_vec(&mut outcomes)
                },
            );
            seen += records.len();
            for outcome in outcomes.drain(..) {
                match outcome {
                    Ok(record) => found.add(record),
                    Err((line, fault)) => found.faults.add(|| self.at(line, &fault)),
                }
            }
            if let Err(fault) = cut {
                let line = splitter.line();
                found.faults.add(|| self.at(line, &fault));
            }
            read.map_err(failed)?;
            offset += used as u64;
            (self.hooks.progress)(part.base + offset);
            if !more {
                break;
            }
            std::mem::swap(&mut chunk, &mut next);
        }
        self.check_end(seen == 0 && found.faults.is_empty())
    }

    /// Rejects a file that changed during the check, or that is empty.
    fn check_end(&self, is_empty: bool) -> Result<(), Error> {
        let part = self.part;
        if let Some(change) = part.change() {
            let text = format!("changed while it was being checked ({change})");
            return Err(InputError::of_file(&part.name, text).into());
        }
        if !is_empty {
            return Ok(());
        }
        let expected = match part.numbers {
            _ if part.header.is_some() => "at least one row below the header",
            Numbers::Items => "at least one object in the list",
            _ => "at least one line that is not blank",
        };
        let fault = Fault::new("no prompts", expected);
        Err(InputError::of_file(&part.name, fault.to_string()).into())
    }

    fn at(&self, line: u64, fault: &Fault) -> InputError {
        InputError::at(&self.part.name, self.part.place(line), fault)
    }

    /// The item of a record.
    fn record(&self, bytes: &[u8], offset: u64) -> Result<Checked, Fault> {
        if self.part.header.is_none() && !self.settings.keep.names.is_empty() {
            keep::look_for(&mut self.missing.lock(), bytes);
        }
        let parsed = self.part.parse(bytes, self.settings);
        let fingerprint = prefix(&parsed.digest);
        let request = match parsed.request {
            Ok(request) => Some(request),
            Err(_) if self.settings.skip_bad_rows => None,
            Err(fault) => return Err(fault),
        };
        let class = request.as_ref().map_or(0, self.hooks.classify);
        let entry = match &parsed.id {
            None => Entry::automatic(fingerprint, offset, class),
            Some(id) => Entry::new(id_hash(id), fingerprint, offset, class),
        };
        Ok(match request {
            Some(request) => Checked {
                entry,
                unnamed: request.model.is_none(),
                native: request.native.as_ref().map(|native| native.format()),
            },
            None => Checked {
                entry: entry.bad(),
                unnamed: false,
                native: None,
            },
        })
    }
}

/// A buffer that grows only for records longer than it.
#[derive(Default)]
struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
    last: bool,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Begins with `rest`, which is at `offset` in the file, and reads the bytes after it.
    fn continue_from(&mut self, rest: &[u8], source: &Source, offset: u64) -> io::Result<()> {
        self.make_room(rest.len());
        self.buffer[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
        self.read(source, offset)
    }

    fn read(&mut self, source: &Source, offset: u64) -> io::Result<()> {
        let from = offset + self.filled as u64;
        let left = usize::try_from(source.len().saturating_sub(from)).unwrap_or(usize::MAX);
        let want = left.min(CHUNK_BYTES);
        self.make_room(self.filled + want);
        let room = &mut self.buffer[self.filled..self.filled + want];
        let n = source.fill(room, from)?;
        self.filled += n;
        self.last = n < want || want == left;
        Ok(())
    }

    fn make_room(&mut self, len: usize) {
        if self.buffer.is_empty() {
            // Zeroed by the system, page by page, when it is written to.
            self.buffer = vec![0; len];
        } else if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
    }
}

/// The offsets of two records with one id; the second one repeats it.
type Pair = (u64, u64);

/// The first duplicates.
fn duplicates(input: &InputFile, index: &FileIndex) -> Result<InputErrors, InputError> {
    let found = find(index, SHOWN);
    let offsets: Vec<u64> = found
        .iter()
        .flat_map(|(first, second)| [*first, *second])
        .collect();
    let places = input.places_of(&offsets)?;
    let fault = |(pair, places): (&Pair, &[(&Part, Place)])| {
        let ((before, there), (part, here)) = (places[0], places[1]);
        let there = if before.base == part.base {
            there.to_string()
        } else {
            there.of(&before.name)
        };
        let fault = Fault::repeated(&id(input, *pair)?, &there);
        Ok(InputError::at(&part.name, here, fault))
    };
    let errors = found.iter().zip(places.chunks(2)).map(fault);
    let errors = errors.collect::<Result<_, _>>()?;
    Ok(InputErrors::new(errors, found.len() >= SHOWN))
}

/// The offsets of the records that repeat an id.
fn repeats(index: &FileIndex) -> HashSet<u64> {
    let pairs = find(index, usize::MAX).into_iter();
    pairs.map(|(_, second)| second).collect()
}

/// At most this number of records that repeat an id, in the order of the input.
fn find(index: &FileIndex, most: usize) -> Vec<Pair> {
    let entries = index.entries();
    let (own, made) = entries.split_at(entries.partition_point(|entry| !entry.is_auto()));
    let groups = own.chunk_by(|a, b| a.id == b.id);
    let mut found: Vec<Pair> = groups
        .flat_map(|group| {
            let again = group[1..].iter();
            again.map(|entry| (group[0].offset(), entry.offset()))
        })
        .collect();
    // An own id may equal one that is made from a request.
    if !own.is_empty() {
        let imitated = made.par_iter().filter_map(|entry| {
            let id = RecordId::Auto {
                request: entry.request,
                ordinal: entry.ordinal(),
            };
            let (a, b) = (
                own[index.at(RecordId::Own(&id.to_string()))?].offset(),
                entry.offset(),
            );
            Some((a.min(b), a.max(b)))
        });
        found.extend(imitated.collect::<Vec<_>>());
    }
    found.sort_unstable_by_key(|(_, second)| *second);
    found.truncate(most);
    found
}

/// The id that both records have. That of a record without one is made from its request.
fn id(input: &InputFile, (first, second): Pair) -> Result<String, InputError> {
    for offset in [second, first] {
        let part = input.part_of(offset);
        let record = part.source.record(part.is_text(), offset - part.base);
        let record = record.map_err(|error| part.unreadable(&error))?;
        let bytes = record.unwrap_or_default();
        if let Some(id) = part.parse(&bytes, input.settings()).id {
            return Ok(id);
        }
    }
    let part = input.part_of(second);
    let text = format!(
        "changed while it was being checked (at byte {})",
        second - part.base
    );
    Err(InputError::of_file(&part.name, text))
}
