//! Checks standard input line by line, because it cannot be read twice. It stores a 128-bit hash of each item's id, and
//! its line.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::entry::{Entry, LARGEST_FILE};
use super::fault::{Fault, InputError, utf8};
use super::file::Item;
use super::id::{RecordId, id_hash, prefix};
use super::keep::{self, MissingFields};
use super::parse::parse_record;
use super::records::next_record;
use super::rows::{MAX_RECORD_BYTES, Next, is_blank};
use super::{Form, PromptSettings};
use crate::base::bom::without_bom;
use crate::base::{Error, ErrorKind};
use crate::llm::attachment::Root;
use crate::llm::hash::{digest, hex};

/// Number of maps that grow separately, because a growing map temporarily needs half as much memory again.
const SHARDS: usize = 64;

/// Marks the line of an item without an own id.
const AUTO: u32 = 1 << 31;

type Key = [u32; 4];

/// Checks the lines of standard input, in order.
#[derive(Debug)]
pub(crate) struct StreamChecker {
    /// The name of the stream in messages.
    name: String,
    form: Form,
    settings: PromptSettings,
    root: Root,
    seen: Vec<HashMap<Key, u32>>,
    /// Whether the fields to keep were checked.
    has_kept: bool,
}

impl StreamChecker {
    /// For JSON lines or text; a table must be a file.
    pub(crate) fn new(
        name: &str,
        form: Form,
        settings: PromptSettings,
    ) -> Result<Self, InputError> {
        settings
            .check(form)
            .and_then(|()| {
                if !form.needs_all() {
                    Ok(())
                } else {
                    Err(Fault::new(
                        "a table or a list",
                        "JSON lines or text; save other formats as a file first",
                    ))
                }
            })
            .map_err(|fault| InputError::of_file(name, fault.to_string()))?;
        Ok(Self {
            name: name.to_owned(),
            form,
            root: settings.files.root(Path::new("")),
            settings,
            seen: vec![HashMap::new(); SHARDS],
            has_kept: false,
        })
    }

    /// The item on a line, counted from 1; `None` if the line is blank.
    pub(crate) fn check(
        &mut self,
        line: u64,
        bytes: &[u8],
    ) -> Result<Option<StreamedItem>, InputError> {
        let bytes = if line == 1 { without_bom(bytes) } else { bytes };
        if is_blank(bytes) {
            return Ok(None);
        }
        let bytes = match next_record(self.form, bytes, true) {
            Next::Record { start, end, .. } => &bytes[start..end],
            Next::Partial(_) | Next::Unclosed(_) => bytes,
        };
        let item = self.item(line, bytes);
        item.map(Some)
            .map_err(|fault| InputError::at(&self.name, line, fault))
    }

    fn item(&mut self, line: u64, bytes: &[u8]) -> Result<StreamedItem, Fault> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(Fault::new("a line of more than 64 MiB", "at most 64 MiB"));
        }
        let mut request = parse_record(self.form, None, bytes, &self.settings, &self.root)?;
        let digest = digest(&request);
        if self.settings.keep.is_on() {
            // The end of a stream may never come, so the first line shows whether a name is misspelled.
            if !std::mem::replace(&mut self.has_kept, true) {
                let mut missing = MissingFields::new(&self.settings.keep);
                missing.look(bytes);
                missing.fault().map_or(Ok(()), Err)?;
            }
            let text = utf8(without_bom(bytes))?;
            request.input = keep::bounded(keep::of_line(text, &self.settings))?;
        } else if self.settings.keep.takes_row(bytes.len()) && self.settings.has_columns(self.form)
        {
            request.input = keep::of_line(utf8(without_bom(bytes))?, &self.settings);
        }
        let line = u32::try_from(line).unwrap_or(u32::MAX).min(!AUTO);
        let hash = prefix(&digest);
        let (id, match_line, entry) = match request.id.take() {
            Some(id) => {
                let entry = Entry::new(id_hash(&id), hash, 0, 0);
                (id, line, entry)
            }
            None => {
                let ordinal = self.next_ordinal(hash);
                let record = RecordId::Auto {
                    request: hash,
                    ordinal,
                };
                let mut entry = Entry::automatic(hash, 0, 0);
                entry.set_ordinal(ordinal);
                (record.to_string(), line | AUTO, entry)
            }
        };
        self.take_id(&id, match_line)?;
        request.id = Some(id);
        Ok(StreamedItem {
            item: Item {
                request,
                request_hash: hex(&digest),
            },
            entry,
            end: 0,
        })
    }

    fn take_id(&mut self, id: &str, match_line: u32) -> Result<(), Fault> {
        let key = key(id);
        match self.shard(&key).insert(key, match_line) {
            None => Ok(()),
            Some(earlier) => Err(Fault::new(
                format!("the id {id:?}, which line {} has already", earlier & !AUTO),
                "a different id for every item",
            )),
        }
    }

    /// The existing ordinals have no gaps, so bisection finds the next one without a counter.
    fn next_ordinal(&mut self, request: u64) -> u32 {
        let record = |ordinal| RecordId::Auto { request, ordinal };
        let mut given = |ordinal: u32| {
            let key = key(&record(ordinal).to_string());
            self.shard(&key)
                .get(&key)
                .is_some_and(|match_line| match_line & AUTO != 0)
        };
        let mut free = 1;
        while given(free) {
            free *= 2;
        }
        let mut taken = free / 2;
        while free - taken > 1 {
            let middle = taken + (free - taken) / 2;
            if given(middle) {
                taken = middle
            } else {
                free = middle
            }
        }
        free
    }

    fn shard(&mut self, key: &Key) -> &mut HashMap<Key, u32> {
        &mut self.seen[key[0] as usize % SHARDS]
    }
}

/// An item of a stream.
#[derive(Debug)]
pub(crate) struct StreamedItem {
    pub(crate) item: Item,
    /// Its entry in an index.
    pub(super) entry: Entry,
    /// The end of its line.
    pub(super) end: u64,
}

/// Slightly more than the checker accepts.
const LONGEST_LINE: u64 = MAX_RECORD_BYTES as u64 + 2;

/// Reads a stream up to its first prompt and checks that; returns the whole stream again.
pub(crate) fn first_checked(
    name: &str,
    reader: Box<dyn Read + Send>,
    settings: &PromptSettings,
) -> Result<Box<dyn Read + Send>, Error> {
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    let mut start = Vec::new();
    loop {
        let before = start.len();
        let mut bounded = (&mut reader).take(LONGEST_LINE);
        let read = bounded.read_until(b'\n', &mut start);
        let read = read.map_err(|error| unreadable(name, &error))?;
        if read == 0 || !is_blank(&start[before..]) {
            break;
        }
    }
    StreamLines::new(name.to_owned(), &start[..], settings.clone()).next()?;
    Ok(Box::new(io::Cursor::new(start).chain(reader)))
}

fn unreadable(name: &str, error: &io::Error) -> Error {
    // It was read, but could not be stored.
    let kept = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    if let Some(error) = kept {
        return error.clone();
    }
    Error::new(
        ErrorKind::Invalid,
        format!("{name}: cannot be read: {error}"),
    )
}

/// The items of standard input, read and checked one by one.
pub(crate) struct StreamLines<R> {
    name: String,
    reader: BufReader<R>,
    settings: PromptSettings,
    checker: Option<StreamChecker>,
    number: u64,
    /// The offset of the next line.
    offset: u64,
}

impl<R: Read> StreamLines<R> {
    pub(crate) fn new(name: String, reader: R, settings: PromptSettings) -> Self {
        Self {
            name,
            reader: BufReader::with_capacity(1 << 16, reader),
            settings,
            checker: None,
            number: 0,
            offset: 0,
        }
    }

    /// The name of the stream in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The format of its text, which its first line shows.
    pub(crate) fn form(&self) -> Form {
        self.checker
            .as_ref()
            .map_or(Form::Text, |checker| checker.form)
    }

    /// Number of bytes read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next item; `None` at the end. Must not be called after an error.
    pub(crate) fn next(&mut self) -> Result<Option<StreamedItem>, Error> {
        let mut line = Vec::new();
        loop {
            line.clear();
            // The checker rejects a line that is too long, so it is not read to its end.
            let mut bounded = (&mut self.reader).take(LONGEST_LINE);
            let read = bounded.read_until(b'\n', &mut line);
            let read = read.map_err(|error| unreadable(&self.name, &error))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let begins = self.offset;
            self.offset += read as u64;
            if self.checker.is_none() && is_blank(&line) {
                continue;
            }
            let checker = match &mut self.checker {
                Some(checker) => checker,
                none => {
                    let form = self.settings.form_of_stream(&self.name, &line)?;
                    none.insert(StreamChecker::new(&self.name, form, self.settings.clone())?)
                }
            };
            if let Some(mut item) = checker.check(self.number, &line)? {
                if self.offset >= LARGEST_FILE {
                    let text = "the input is too large; expected less than 1 TiB";
                    return Err(InputError::of_file(&self.name, text).into());
                }
                let bom = if self.number == 1 {
                    line.len() - without_bom(&line).len()
                } else {
                    0
                };
                item.entry = item.entry.at(begins + bom as u64);
                item.end = self.offset;
                return Ok(Some(item));
            }
        }
    }
}

fn key(id: &str) -> Key {
    let digest = Sha256::digest(id.as_bytes());
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| digest[4 * i + j]));
    [word(0), word(1), word(2), word(3)]
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
