//! The check of a whole file: it is read once, in chunks that end between records, and every
//! record is parsed and hashed on all cores while the next chunk is being read.

use std::io;

use rayon::prelude::*;

use super::Form;
use super::entry::Entry;
use super::fault::{Fault, InputError, InputErrors, SHOWN};
use super::file::InputFile;
use super::id::{IdHash, auto_id, parse_auto, prefix};
use super::index::Totals;
use super::records::{Record, Splitter};
use super::source::Source;
use crate::llm::hash::digest;
use crate::llm::request::Request;

/// How much is read at a time.
const CHUNK: usize = 2 << 20;

/// What the caller hangs into the check; all three are called from any thread.
#[derive(Clone, Copy)]
pub(crate) struct Hooks<'a> {
    /// The class of a request, kept with its entry.
    pub(crate) classify: &'a (dyn Fn(&Request) -> u16 + Sync),
    /// True ends the check.
    pub(crate) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Is told how many bytes have been checked so far.
    pub(crate) progress: &'a (dyn Fn(u64) + Sync),
}

struct Checked {
    entry: Entry,
    tokens: u32,
    unnamed: bool,
}

/// Reads everything; the entries come in input order.
pub(super) fn entries(
    input: &InputFile,
    hash: IdHash,
    hooks: Hooks<'_>,
) -> Result<(Vec<Entry>, Totals), InputErrors> {
    let source = input.source();
    let failed = |error: io::Error| InputErrors::from(input.unreadable(&error));
    let (mut offset, line) = input.body();
    let mut splitter = Splitter::new(input.form(), line);
    let mut totals = Totals {
        bytes: source.len(),
        ..Totals::default()
    };
    let mut entries = Vec::new();
    let mut errors = Vec::new();
    let (mut chunk, mut next) = (Chunk::default(), Chunk::default());
    chunk.read(source, offset).map_err(failed)?;
    let (mut records, mut outcomes) = (Vec::new(), Vec::new());
    loop {
        if (hooks.cancelled)() {
            return Err(InputErrors::cancelled());
        }
        records.clear();
        let cut = splitter.split(chunk.bytes(), chunk.last, &mut records);
        let used = *cut.as_ref().unwrap_or(&chunk.filled);
        let more = cut.is_ok() && !chunk.last;
        let check = |record: &Record| {
            let bytes = &chunk.bytes()[record.start..record.end];
            check(input, bytes, offset + record.start as u64, hash, hooks)
                .map_err(|fault| (record.line, fault))
        };
        let (read, ()) = rayon::join(
            || match more {
                true => next.continue_from(&chunk.bytes()[used..], source, offset + used as u64),
                false => Ok(()),
            },
            || {
                records
                    .par_iter()
                    .with_min_len(8)
                    .map(check)
                    .collect_into_vec(&mut outcomes)
            },
        );
        for outcome in outcomes.drain(..) {
            match outcome {
                Ok(checked) => {
                    totals.items += 1;
                    totals.tokens += u64::from(checked.tokens);
                    totals.unnamed += u64::from(checked.unnamed);
                    entries.push(checked.entry);
                }
                Err((line, fault)) => errors.push(InputError::at(input.name(), line, fault)),
            }
        }
        if let Err(fault) = cut {
            errors.push(InputError::at(input.name(), splitter.line(), fault));
        }
        read.map_err(failed)?;
        offset += used as u64;
        (hooks.progress)(offset);
        if errors.len() >= SHOWN || !more {
            if errors.is_empty() {
                break;
            }
            return Err(InputErrors::new(errors, !chunk.last));
        }
        std::mem::swap(&mut chunk, &mut next);
    }
    if let Some(change) = source.change() {
        let text = format!("changed while it was being checked ({change})");
        return Err(InputError::of_file(input.name(), text).into());
    }
    if entries.is_empty() {
        let expected = match input.form() {
            Form::Csv | Form::Tsv => "at least one row below the header",
            _ => "at least one line that is not blank",
        };
        let fault = Fault::new("no prompts", expected);
        return Err(InputError::of_file(input.name(), fault.to_string()).into());
    }
    Ok((entries, totals))
}

fn check(
    input: &InputFile,
    bytes: &[u8],
    offset: u64,
    hash: IdHash,
    hooks: Hooks<'_>,
) -> Result<Checked, Fault> {
    let request = input.parse(bytes)?;
    let fingerprint = prefix(&digest(&request));
    let class = (hooks.classify)(&request);
    let entry = |id: &str| Entry::new(hash(id), fingerprint, offset, class);
    let entry = match &request.id {
        None => entry(&auto_id(fingerprint, 1)).automatic(),
        Some(id) if parse_auto(id).is_some() => entry(id).like_automatic(),
        Some(id) => entry(id),
    };
    Ok(Checked {
        entry,
        tokens: request.estimated_tokens(),
        unnamed: request.model.is_none(),
    })
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

    /// Begins with `rest`, which stands at `offset`, and reads on behind it.
    fn continue_from(&mut self, rest: &[u8], source: &Source, offset: u64) -> io::Result<()> {
        self.make_room(rest.len());
        self.buffer[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
        self.read(source, offset)
    }

    fn read(&mut self, source: &Source, offset: u64) -> io::Result<()> {
        self.make_room(self.filled + CHUNK);
        let from = offset + self.filled as u64;
        let left = usize::try_from(source.len().saturating_sub(from)).unwrap_or(usize::MAX);
        let want = left.min(CHUNK);
        let room = &mut self.buffer[self.filled..self.filled + want];
        let n = source.fill(room, from)?;
        self.filled += n;
        self.last = n < want || want == left;
        Ok(())
    }

    fn make_room(&mut self, len: usize) {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
    }
}
