//! Checks whole files: each is read once, in chunks that end between records, and every record is parsed and hashed on
//! all cores while the next chunk is being read. Then records that repeat an id are found.

use std::io;
use std::ops::Range;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::PromptSettings;
use super::entry::Entry;
use super::fault::{self, Fault, Place};
use super::file::{InputFile, Part};
use super::id::{RecordId, id_hash, prefix};
use super::index::FileIndex;
use super::records::split;
use super::row::{TEMPLATE, Wanted, look_for};
use super::source::Source;
use super::template::Template;
use crate::base::{Error, ErrorKind};
use crate::llm::native::NativeFormat;
use crate::llm::request::Request;

/// Maximum number of shown faults.
const SHOWN: usize = 20;

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
    /// Whether its conversation ends with a message of the assistant.
    answered: bool,
    /// Whether not all its fields are kept because it is large.
    cut: bool,
}

impl InputFile {
    /// Checks every record and indexes the items.
    pub(crate) fn check(&self, hooks: Hooks<'_>) -> Result<FileIndex, Error> {
        let settings = self.settings();
        let mut found = Entries::default();
        let flagged = |flag| move |name: &str| (flag, name.to_owned());
        let kept = settings.keep.names.iter().map(String::as_str);
        let roles = settings.roles.optional().map(String::as_str);
        let template = settings.template.iter().flat_map(Template::variables);
        let named = kept
            .map(flagged("--keep"))
            .chain(roles.map(flagged("--column")));
        let named: Vec<Wanted> = named.chain(template.map(flagged(TEMPLATE))).collect();
        let missing = Mutex::new(named);
        for part in self.parts() {
            let one = FileCheck {
                part,
                missing: &missing,
                settings,
                hooks,
            };
            one.check(&mut found)?;
        }
        self.check_missing(&found, &missing.into_inner())?;
        let bytes = self.parts().last().map_or(0, Part::end);
        let mut index = FileIndex::new(found.all, bytes);
        (index.native, index.unnamed) = (found.native, found.unnamed);
        (index.answered, index.cut) = (found.answered, found.cut);
        if settings.skip_bad_rows && found.faults.is_empty() {
            let repeats = find(&index).into_iter().map(|(_, second)| second);
            index.set_aside(&repeats.collect());
        }
        let repeats = find(&index);
        // Where one id repeats, most do.
        if let Some(pair) = repeats.first().filter(|_| found.faults.len() < SHOWN) {
            let there = self.places_of(&[pair.0])?[0];
            let fault = repeated(self, *pair, there)?;
            let rows = match repeats.len() {
                1 => "1 row repeats an id".to_owned(),
                rows => format!("{rows} rows repeat ids"),
            };
            found.faults.push((pair.1, fault.with_flags(format!(
                "{rows}: --column id=NAME takes those of another column, --column id=none makes them from the requests"
            ))));
        }
        self.refuse(&found.faults, found.faulty + repeats.len().min(1))?;
        Ok(index)
    }

    /// Rejects an input with faults: these are the first ones, each at its offset.
    fn refuse(&self, first: &[(u64, Fault)], all: usize) -> Result<(), Error> {
        if first.is_empty() {
            return Ok(());
        }
        let offsets: Vec<u64> = first.iter().map(|(offset, _)| *offset).collect();
        let places = self.places_of(&offsets)?.into_iter();
        let mut lines: Vec<String> = places
            .zip(first)
            .map(|((part, place), (_, fault))| format!("{}: {fault}", place.of(&part.file.name)))
            .collect();
        if all > lines.len() {
            lines.push(format!("and {} more", all - lines.len()));
        }
        Err(Error::new(ErrorKind::Invalid, lines.join("\n")))
    }

    /// Rejects a field that a flag names and no line has.
    fn check_missing(&self, found: &Entries, missing: &[Wanted]) -> Result<(), Error> {
        let is_json = |part: &&Part| part.header.is_none() && !part.is_text();
        let lines = self.parts().iter().find(is_json);
        // The faults of lines come first: their fields may not have been read.
        let is_read = found.faults.is_empty() && found.all.iter().any(|entry| !entry.is_bad());
        let (true, Some(lines), Some((flag, name))) = (is_read, lines, missing.first()) else {
            return Ok(());
        };
        let expected = format!("a field named \"{name}\" for {flag} in one of the lines");
        let fault = Fault::new("no line with it", expected);
        Err(fault::of_file(&lines.file.name, fault))
    }
}

/// The entries found in the files of an input, in their order, without those of faulty records.
#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    unnamed: u64,
    answered: u64,
    cut: u64,
    native: Vec<NativeFormat>,
    /// The first faults, each with its offset, and the number of all.
    faults: Vec<(u64, Fault)>,
    faulty: usize,
}

impl Entries {
    /// Adds the item of a record.
    fn add(&mut self, checked: Checked) {
        let is_new = |format: &NativeFormat| !self.native.contains(format);
        let native = checked.native.filter(is_new);
        self.native.extend(native);
        self.unnamed += u64::from(checked.unnamed);
        self.answered += u64::from(checked.answered);
        self.cut += u64::from(checked.cut);
        self.all.push(checked.entry);
    }

    fn add_fault(&mut self, offset: u64, fault: Fault) {
        self.faulty += 1;
        if self.faults.len() < SHOWN {
            self.faults.push((offset, fault));
        }
    }
}

/// The check of one file.
struct FileCheck<'c> {
    part: &'c Part,
    settings: &'c PromptSettings,
    hooks: Hooks<'c>,
    /// Fields that flags name and no line of JSON had so far.
    missing: &'c Mutex<Vec<Wanted>>,
}

impl FileCheck<'_> {
    fn check(&self, found: &mut Entries) -> Result<(), Error> {
        let (part, source) = (self.part, &self.part.file.source);
        let failed = |error: io::Error| part.unreadable(&error);
        let mut offset = 0;
        let mut seen = 0;
        let (mut chunk, mut next) = (Chunk::default(), Chunk::default());
        chunk.read(source, offset).map_err(failed)?;
        let (mut records, mut outcomes) = (Vec::new(), Vec::new());
        loop {
            if (self.hooks.cancelled)() {
                return Err(Error::cancelled());
            }
            records.clear();
            let cut = split(part.is_text(), &chunk.bytes, chunk.last, &mut records);
            let base = part.base + offset;
            let used = *cut.as_ref().unwrap_or(&chunk.bytes.len());
            let more = cut.is_ok() && !chunk.last;
            let check = |record: &Range<usize>| {
                let at = base + record.start as u64;
                let checked = self.record(&chunk.bytes[record.clone()], at);
                checked.map_err(|fault| (at, fault))
            };
            let (read, ()) = rayon::join(
                || {
                    if more {
                        next.continue_from(&chunk.bytes[used..], source, offset + used as u64)
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
                    Err((at, fault)) => found.add_fault(at, fault),
                }
            }
            if let Err((at, fault)) = cut {
                found.add_fault(base + at as u64, fault);
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
            return Err(fault::of_file(&part.file.name, text));
        }
        if !is_empty {
            return Ok(());
        }
        let expected = match &part.header {
            Some(_) => "at least one row below the header",
            None if part.file.first.is_item() => "at least one object in the list",
            None => "at least one line that is not blank",
        };
        let fault = Fault::new("no prompts", expected);
        Err(fault::of_file(&part.file.name, fault))
    }

    /// The item of a record.
    fn record(&self, bytes: &[u8], offset: u64) -> Result<Checked, Fault> {
        let settings = self.settings;
        if self.part.header.is_none() && !self.part.is_text() {
            look_for(&mut self.missing.lock(), bytes);
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
        let native = request.as_ref().and_then(|request| request.native.as_ref());
        let kept = || self.part.kept(bytes, settings);
        let is_large = bytes.len() > settings.keep.of_rows_up_to;
        Ok(Checked {
            answered: request.as_ref().is_some_and(Request::ends_with_answer),
            cut: is_large && kept().is_some_and(|kept| kept.left_out > 0),
            entry: if request.is_some() {
                entry
            } else {
                entry.bad()
            },
            unnamed: request
                .as_ref()
                .is_some_and(|request| request.model.is_none()),
            native: native.map(|native| native.format()),
        })
    }
}

/// A buffer that grows only for records longer than it.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) last: bool,
}

impl Chunk {
    /// Begins with `rest`, which is at `offset` in the file, and reads the bytes after it.
    pub(super) fn continue_from(
        &mut self,
        rest: &[u8],
        source: &Source,
        offset: u64,
    ) -> io::Result<()> {
        self.bytes.clear();
        self.bytes.extend_from_slice(rest);
        self.read(source, offset)
    }

    pub(super) fn read(&mut self, source: &Source, offset: u64) -> io::Result<()> {
        let filled = self.bytes.len();
        let from = offset + filled as u64;
        let left = usize::try_from(source.len().saturating_sub(from)).unwrap_or(usize::MAX);
        // More for a long record, which would otherwise be copied and searched again for each chunk.
        let want = left.min(CHUNK_BYTES.max(filled / 2));
        self.bytes.resize(filled + want, 0);
        let n = source.fill(&mut self.bytes[filled..], from)?;
        self.bytes.truncate(filled + n);
        self.last = n < want || want == left;
        Ok(())
    }
}

/// The offsets of two records with one id; the second one repeats it.
type Pair = (u64, u64);

/// The fault of the second of two records with one id; the first one is there.
fn repeated(input: &InputFile, pair: Pair, (part, place): (&Part, Place)) -> Result<Fault, Error> {
    let there = if part.base == input.part_of(pair.1).base {
        place.to_string()
    } else {
        place.of(&part.file.name)
    };
    Ok(Fault::repeated(&id(input, pair)?, &there))
}

/// The records that repeat an id, in the order of the input.
fn find(index: &FileIndex) -> Vec<Pair> {
    let (own, made) = index.split_at(index.partition_point(|entry| !entry.is_auto()));
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
    found
}

/// The id that both records have. That of a record without one is made from its request.
fn id(input: &InputFile, (first, second): Pair) -> Result<String, Error> {
    for offset in [second, first] {
        let part = input.part_of(offset);
        let record = part.file.source.record(part.is_text(), offset - part.base);
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
    Err(fault::of_file(&part.file.name, text))
}
