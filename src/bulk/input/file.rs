//! Prompt files that stay open from their check to the last item that is read again. Several count as
//! one behind the other: an item's place is its offset in all of them together.

use std::io;
use std::path::Path;

use super::entry::LARGEST_FILE;
use super::fault::{Fault, InputError, InputErrors};
use super::id::{auto_id, prefix};
use super::index::FileIndex;
use super::parse::{bad_row, parse_record};
use super::records::next_record;
use super::rows::Next;
use super::source::Source;
use super::table::CsvHeader;
use super::{Form, Settings, delimiter, detect};
use crate::llm::hash::{digest, hex};
use crate::llm::request::Request;

/// An item as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// The request; its id is always set.
    pub(crate) request: Request,
    /// Its fingerprint, in hexadecimal.
    pub(crate) request_hash: String,
}

/// An item that makes no prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BadRow {
    pub(crate) id: String,
    /// The fingerprint of its bytes, in hexadecimal.
    pub(crate) request_hash: String,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// What a record says: a request, or why it makes none.
pub(super) struct Parsed {
    pub(super) id: Option<String>,
    pub(super) digest: [u8; 32],
    pub(super) request: Result<Request, Fault>,
}

/// A file of prompts, by the name that people know it by.
pub(crate) struct NamedFile<'p> {
    pub(crate) path: &'p Path,
    pub(crate) name: String,
    pub(crate) form: Form,
}

/// Open files of prompts. Any thread may read from them.
#[derive(Debug)]
pub(crate) struct InputFile {
    parts: Vec<Part>,
    settings: Settings,
}

/// One of the files.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) form: Form,
    pub(super) source: Source,
    header: Option<CsvHeader>,
    /// The offset and the line of the first record.
    pub(super) body: (u64, u64),
    /// Bytes in the files before this one.
    pub(super) base: u64,
}

/// How much of a text is looked at before it is taken for one.
const FIRST_LOOK: usize = 16 << 10;

impl InputFile {
    /// Opens the file and reads a table's header.
    #[cfg(test)]
    pub(crate) fn open(path: &Path, form: Form, settings: Settings) -> Result<Self, InputErrors> {
        let name = path.display().to_string();
        Self::open_all([NamedFile { path, name, form }], settings)
    }

    /// Opens files and reads the headers of tables.
    pub(crate) fn open_all<'p>(
        files: impl IntoIterator<Item = NamedFile<'p>>,
        settings: Settings,
    ) -> Result<Self, InputErrors> {
        let mut parts: Vec<Part> = Vec::new();
        for file in files {
            let base = parts.last().map_or(0, Part::end);
            parts.push(Part::open(file, base, &settings)?);
        }
        if let (Some(_), Some(first)) = (settings.delimiter, parts.first())
            && !parts.iter().any(|part| part.form.is_table())
        {
            let fault = Fault::new("--delimiter", "a table: other inputs have no columns");
            return Err(InputError::of_file(&first.name, fault.to_string()).into());
        }
        Ok(Self { parts, settings })
    }

    /// Reads item `i` again. Any error means that the file is no longer what was checked, or cannot
    /// be read: nothing more of it must be sent.
    pub(crate) fn read(&self, i: usize, index: &FileIndex) -> Result<Item, InputError> {
        let (id, parsed) = self.read_record(i, index)?;
        match parsed.request {
            Ok(mut request) => {
                request.id = Some(id);
                let request_hash = hex(&parsed.digest);
                Ok(Item {
                    request,
                    request_hash,
                })
            }
            Err(_) => Err(self.changed(i, index)),
        }
    }

    /// Reads item `i`, which makes no prompt, again.
    pub(crate) fn read_bad(&self, i: usize, index: &FileIndex) -> Result<BadRow, InputError> {
        let (id, parsed) = self.read_record(i, index)?;
        match parsed.request {
            Err(fault) => Ok(BadRow {
                id,
                request_hash: hex(&parsed.digest),
                why: fault.to_string(),
            }),
            Ok(_) => Err(self.changed(i, index)),
        }
    }

    fn read_record(&self, i: usize, index: &FileIndex) -> Result<(String, Parsed), InputError> {
        let offset = index.offset(i);
        let part = self.part_of(offset);
        let end = index.end(i).min(part.end()) - part.base;
        let bytes = match part.source.bytes(offset - part.base, end) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.changed(i, index));
            }
            Err(error) => return Err(part.unreadable(&error)),
        };
        let Next::Record { start, end, .. } = next_record(part.form, &bytes, true) else {
            return Err(self.changed(i, index));
        };
        let parsed = part.parse(&bytes[start..end], &self.settings);
        let fingerprint = prefix(&parsed.digest);
        let id = match (&parsed.id, index.ordinal(i)) {
            (Some(id), None) if index.has_own_id(i, id) => Some(id.clone()),
            (None, Some(ordinal)) => Some(auto_id(fingerprint, ordinal)),
            _ => None,
        };
        match id.filter(|_| fingerprint == index.request_prefix(i)) {
            Some(id) => Ok((id, parsed)),
            None => Err(self.changed(i, index)),
        }
    }

    fn changed(&self, i: usize, index: &FileIndex) -> InputError {
        let part = self.part_of(index.offset(i));
        let what = part
            .source
            .change()
            .map_or_else(String::new, |change| format!("; {change}"));
        let text = format!(
            "changed while the run was going on (item {} at byte {}{what}); nothing more is sent; \
             run the command again",
            i + 1,
            index.offset(i) - part.base
        );
        InputError::of_file(&part.name, text)
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The file that an offset is in.
    pub(super) fn part_of(&self, offset: u64) -> &Part {
        let at = self.parts.partition_point(|part| part.base <= offset);
        &self.parts[at.saturating_sub(1)]
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The files as the user named them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.name.as_str())
    }

    /// How a file differs from what was opened, as far as its size and time tell.
    #[cfg(test)]
    pub(crate) fn change(&self) -> Option<String> {
        self.parts.iter().find_map(|part| part.source.change())
    }
}

impl Part {
    fn open(file: NamedFile<'_>, base: u64, settings: &Settings) -> Result<Self, InputErrors> {
        let NamedFile { path, name, form } = file;
        let source = Source::open(path).map_err(|error| unreadable(&name, &error))?;
        if base.saturating_add(source.len()) >= LARGEST_FILE {
            let text = "the input is too large; expected less than 1 TiB";
            return Err(InputError::of_file(name, text).into());
        }
        if let Err(fault) = settings.check(form) {
            return Err(InputError::of_file(name, fault.to_string()).into());
        }
        let mut part = Self {
            name,
            form,
            source,
            header: None,
            body: (0, 1),
            base,
        };
        part.find_body(settings)?;
        Ok(part)
    }

    /// Where the records begin: behind a byte order mark, a table's header and a list's bracket.
    fn find_body(&mut self, settings: &Settings) -> Result<(), InputError> {
        let failed = |error: io::Error| unreadable(&self.name, &error);
        let mut start = vec![0; FIRST_LOOK];
        let n = self.source.fill(&mut start, 0).map_err(failed)?;
        start.truncate(n);
        let of_file = |fault: Fault| InputError::of_file(&self.name, fault.to_string());
        detect::check_encoding(&start).map_err(of_file)?;
        let match_line = if start.starts_with(b"\xef\xbb\xbf") {
            3
        } else {
            0
        };
        self.body = (match_line as u64, 1);
        match self.form {
            Form::Csv | Form::Tsv | Form::Delimited(_) => {}
            Form::Json => return self.find_list(&start[match_line..]),
            Form::Text if settings.form.is_none() => {
                return detect::check_text(&start).map_err(of_file);
            }
            Form::Text | Form::Jsonl => return Ok(()),
        }
        let named = delimiter::named(&start[match_line..]);
        let from = match_line + named.map_or(0, |(_, len)| len);
        let by = match (settings.delimiter, named, self.form.delimiter()) {
            (Some(by), ..) | (None, Some((by, _)), _) => by,
            (None, None, Some(by)) if self.form != Form::Csv => by,
            _ => delimiter::find(&start[from..], n < FIRST_LOOK).map_err(of_file)?,
        };
        self.form = Form::Delimited(by);
        let header = self.source.record(self.form, from as u64).map_err(failed)?;
        let Some((bytes, at, after)) = header else {
            let fault = Fault::new("no header", "a header row with the names of the columns");
            return Err(InputError::of_file(&self.name, fault.to_string()));
        };
        let lines = self.source.lines_of(&[at, after]).map_err(failed)?;
        let row = self.source.record(self.form, after).map_err(failed)?;
        let row = row.map_or_else(Vec::new, |(row, ..)| row);
        let header = CsvHeader::parse(self.form, &bytes, &row, settings)
            .map_err(|fault| InputError::at(&self.name, lines[0], fault))?;
        self.header = Some(header);
        self.body = (after, lines[1]);
        Ok(())
    }

    fn find_list(&mut self, start: &[u8]) -> Result<(), InputError> {
        let blank = start
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
        let found = match start.get(blank) {
            Some(b'[') => {
                let lines = start[..blank].iter().filter(|byte| **byte == b'\n').count();
                self.body = (self.body.0 + blank as u64 + 1, 1 + lines as u64);
                return Ok(());
            }
            Some(b'{') => "an object",
            Some(_) => "something else than JSON",
            None => "no list",
        };
        let fault = Fault::new(
            found,
            "one list of objects: [{…}, {…}]; for one object a line name it .jsonl, or say --format \
             jsonl",
        );
        Err(InputError::of_file(&self.name, fault.to_string()))
    }

    /// What a record says; a fault where it makes no prompt and that ends the check.
    pub(super) fn parse(&self, bytes: &[u8], settings: &Settings) -> Parsed {
        let header = self.header.as_ref();
        match parse_record(self.form, header, bytes, settings) {
            Ok(mut request) => Parsed {
                digest: digest(&request),
                id: request.id.take(),
                request: Ok(request),
            },
            Err(fault) => {
                let (id, digest) = bad_row(self.form, header, bytes, settings);
                let request = Err(fault);
                Parsed {
                    id,
                    digest,
                    request,
                }
            }
        }
    }

    /// Where the next file would begin.
    pub(super) fn end(&self) -> u64 {
        self.base + self.source.len()
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> InputError {
        unreadable(&self.name, error)
    }
}

fn unreadable(name: &str, error: &io::Error) -> InputError {
    InputError::of_file(name, format!("cannot be read: {error}"))
}
