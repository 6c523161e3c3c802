//! Prompt files that stay open from their check until the last item is read again. Several files count as concatenated:
//! the position of an item is its offset in all of them together.

use std::io;
use std::path::PathBuf;

use super::entry::LARGEST_FILE;
use super::fault::{Fault, InputError, Place, utf8};
use super::id::prefix;
use super::index::{FileIndex, refused};
use super::parse::{bad_row, parse_record};
use super::records::{Next, next_record};
use super::source::Source;
use super::table::Header;
use super::{Form, PromptSettings, detect, keep};
use crate::base::json_read::without_bom;
use crate::base::json_text::hex;
use crate::base::{Error, ErrorKind, Sent};
use crate::llm::attachment::Root;
use crate::llm::hash::digest;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
#[cfg(feature = "files")]
use crate::sources::LeftOut;

/// An item to send.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// The request; its id is always set.
    pub(crate) request: Request,
    /// Its request hash, in hexadecimal.
    pub(crate) request_hash: String,
}

/// The fields of a result line that describe its item.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    pub(crate) id: String,
    /// In hexadecimal; of an item that makes no prompt that of its bytes.
    pub(crate) request_hash: String,
    pub(crate) model: Option<String>,
    /// The kept fields of its row.
    pub(crate) input: Option<RawJson>,
}

/// An item that makes no prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BadRow {
    pub(crate) named: Named,
    /// Its fault.
    pub(crate) why: String,
}

impl BadRow {
    fn new(id: String, parsed: ReadRecord, why: String) -> Self {
        let named = Named {
            id,
            request_hash: hex(&parsed.digest),
            model: None,
            input: parsed.input,
        };
        Self { named, why }
    }
}

/// A parsed record: a request, or why it makes none.
pub(super) struct ReadRecord {
    pub(super) id: Option<String>,
    pub(super) digest: [u8; 32],
    pub(super) request: Result<Request, Fault>,
    /// Its kept fields, if they were read.
    pub(super) input: Option<RawJson>,
}

/// Why an item was not read again.
#[derive(Debug, derive_more::From)]
pub(crate) enum Unread {
    /// The input has changed since it was checked, or cannot be read: nothing more of it may be sent.
    #[from]
    Changed(InputError),
    /// A file that the item names has changed. The item fails.
    Files { row: Box<BadRow>, error: Error },
}

impl From<Unread> for Error {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Changed(error) => error.into(),
            Unread::Files { row, error } => {
                let why = format!("item {}: {}", row.named.id, error.message());
                error.reworded(why)
            }
        }
    }
}

/// A file of prompts with its name in messages.
pub(crate) struct NamedFile {
    pub(crate) name: String,
    pub(crate) form: Form,
    pub(crate) source: Source,
    /// The file that it was made from, if the name refers to that one.
    pub(crate) origin: Option<Source>,
    /// How messages count its records. Default: by lines.
    pub(crate) numbers: Numbers,
    /// The folder of the files that its records name, if no other is set. Default: the working folder.
    pub(crate) folder: PathBuf,
    /// The columns of a table, whose records are JSON lists.
    pub(crate) columns: Option<Columns>,
    /// The files of a folder that were skipped.
    #[cfg(feature = "files")]
    pub(crate) left_out: LeftOut,
}

/// How messages count the records of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// By its lines.
    Lines,
    /// By the rows of a table; the first line has this number.
    #[cfg_attr(not(any(feature = "files", feature = "tables")), expect(dead_code))]
    Rows(u64),
    /// By the elements of a list.
    Items,
}

impl Numbers {
    /// The place, for messages, of the record that begins at that line.
    pub(crate) fn place(self, line: u64) -> Place {
        match self {
            Self::Lines => Place::Line(line),
            Self::Rows(first) => Place::Row((first + line).saturating_sub(1)),
            Self::Items => Place::Item(line),
        }
    }
}

/// The columns of a table.
pub(crate) struct Columns {
    pub(crate) names: Vec<String>,
    /// The line with their names.
    pub(crate) line: u64,
    /// The one that is the prompt if there is no template.
    pub(crate) prompt: &'static str,
}

impl Columns {
    pub(crate) fn new(names: Vec<String>, line: u64) -> Self {
        Self {
            names,
            line,
            prompt: "prompt",
        }
    }
}

impl NamedFile {
    pub(crate) fn new(name: String, form: Form, source: Source) -> Self {
        Self {
            name,
            form,
            source,
            origin: None,
            numbers: Numbers::Lines,
            folder: PathBuf::new(),
            columns: None,
            #[cfg(feature = "files")]
            left_out: LeftOut::default(),
        }
    }
}

impl NamedFile {
    fn header(&self, columns: &Columns, settings: &PromptSettings) -> Result<Header, InputError> {
        let first = self.source.record(false, 0);
        let first = first.map_err(|error| InputError::unreadable(&self.name, &error))?;
        let row = first.unwrap_or_default();
        Header::new(&columns.names, &row, columns.prompt, settings).map_err(|fault| {
            match self.numbers {
                Numbers::Lines => InputError::at(&self.name, columns.line, fault),
                _ => InputError::of_file(&self.name, fault.to_string()),
            }
        })
    }

    /// Rejects a file that begins like one of another format.
    fn check_text(&self, settings: &PromptSettings) -> Result<(), InputError> {
        let mut start = vec![0; FIRST_LOOK];
        let n = self.source.fill(&mut start, 0);
        start.truncate(n.map_err(|error| InputError::unreadable(&self.name, &error))?);
        let checked = match self.form {
            Form::Text if settings.form.is_none() => {
                detect::check_encoding(&start).and_then(|()| detect::check_text(&start))
            }
            _ => detect::check_encoding(&start),
        };
        checked.map_err(|fault| InputError::of_file(&self.name, fault.to_string()))
    }
}

/// Open files of prompts. Any thread may read from them.
#[derive(Debug)]
pub(crate) struct InputFile {
    parts: Vec<Part>,
    settings: PromptSettings,
}

/// One of the files.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) form: Form,
    pub(super) source: Source,
    origin: Option<Source>,
    pub(super) numbers: Numbers,
    /// The columns of a table.
    pub(super) header: Option<Header>,
    /// The folder of the files that its records name.
    root: Root,
    /// Number of bytes in the files before this one.
    pub(super) base: u64,
}

/// Number of bytes that are checked to detect the format of a text.
const FIRST_LOOK: usize = 16 << 10;

impl InputFile {
    /// Opens files.
    pub(crate) fn open_all(
        files: impl IntoIterator<Item = NamedFile>,
        settings: PromptSettings,
    ) -> Result<Self, InputError> {
        let mut parts: Vec<Part> = Vec::new();
        for file in files {
            let base = parts.last().map_or(0, Part::end);
            parts.push(Part::open(file, base, &settings)?);
        }
        Ok(Self { parts, settings })
    }

    /// Reads item `i` again.
    pub(crate) fn read(&self, i: usize, index: &FileIndex) -> Result<Item, Unread> {
        let (part, mut parsed) = self.reparsed(i, index)?;
        let id = identified(i, index, &parsed);
        // A change of a file that it names is not a change of the input itself.
        let why = match (id, &mut parsed.request) {
            (Some(id), Ok(request)) => {
                let mut request = std::mem::take(request);
                request.id = Some(id);
                request.input = parsed.input;
                return Ok(Item {
                    request,
                    request_hash: hex(&parsed.digest),
                });
            }
            (_, Ok(request)) => request.files().next().map(|_| {
                "a file that the prompt names has changed since it was checked".to_owned()
            }),
            (_, Err(fault)) => fault.of_file.then(|| fault.to_string()),
        };
        let why = why.filter(|_| part.source.change().is_none());
        match why.zip(index.item_id(i, parsed.id.as_deref())) {
            None => Err(Unread::Changed(self.changed(i, index))),
            Some((why, id)) => {
                let (why, id) = (format!("{why}; nothing was sent"), id.to_string());
                Err(Unread::Files {
                    error: Error::new(ErrorKind::Invalid, &*why).with_sent(Sent::No),
                    row: Box::new(BadRow::new(id, parsed, why)),
                })
            }
        }
    }

    /// Reads item `i`, which makes no prompt, again.
    pub(crate) fn read_bad(&self, i: usize, index: &FileIndex) -> Result<BadRow, InputError> {
        let (_, parsed) = self.reparsed(i, index)?;
        let changed = || self.changed(i, index);
        let id = identified(i, index, &parsed).ok_or_else(changed)?;
        let why = match (&parsed.request, &parsed.id) {
            (Err(fault), _) => fault.to_string(),
            (Ok(_), Some(id)) if index.may_repeat(i) => {
                Fault::repeated(id, "an earlier record").to_string()
            }
            (Ok(_), _) => return Err(changed()),
        };
        Ok(BadRow::new(id, parsed, why))
    }

    /// The places of these items, each with its file.
    pub(crate) fn places(
        &self,
        items: &[usize],
        index: &FileIndex,
    ) -> Result<Vec<String>, InputError> {
        let offsets: Vec<u64> = items.iter().map(|item| index.offset(*item)).collect();
        let places = self.places_of(&offsets)?.into_iter();
        Ok(places.map(|(part, place)| place.of(&part.name)).collect())
    }

    /// The files and the places of the records at these offsets, found in one pass over each file.
    pub(super) fn places_of(&self, offsets: &[u64]) -> Result<Vec<(&Part, Place)>, InputError> {
        let Some(first) = self.parts.first() else {
            return Ok(Vec::new());
        };
        let mut places = vec![(first, Place::Line(0)); offsets.len()];
        for part in &self.parts {
            let is_inside = |i: &usize| (part.base..part.end()).contains(&offsets[*i]);
            let own: Vec<usize> = (0..offsets.len()).filter(is_inside).collect();
            let inside: Vec<u64> = own.iter().map(|i| offsets[*i] - part.base).collect();
            let lines = part.source.lines_of(&inside);
            let lines = lines.map_err(|error| part.unreadable(&error))?;
            for (i, line) in own.into_iter().zip(lines) {
                places[i] = (part, part.place(line));
            }
        }
        Ok(places)
    }

    /// The length of the record of item `i`, including blank lines after it.
    pub(crate) fn record_bytes(&self, i: usize, index: &FileIndex) -> u64 {
        let offset = index.offset(i);
        index.end(i).min(self.part_of(offset).end()) - offset
    }

    fn reparsed(&self, i: usize, index: &FileIndex) -> Result<(&Part, ReadRecord), InputError> {
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
        let Next::Record { start, end, .. } = next_record(part.is_text(), &bytes, true) else {
            return Err(self.changed(i, index));
        };
        let record = &bytes[start..end];
        let mut parsed = part.parse(record, &self.settings);
        parsed.input = part.kept(record, &self.settings);
        Ok((part, parsed))
    }

    fn changed(&self, i: usize, index: &FileIndex) -> InputError {
        let part = self.part_of(index.offset(i));
        let what = part
            .change()
            .map_or_else(String::new, |change| format!("; {change}"));
        let text = format!(
            "changed during the run (item {} at byte {}{what}); sending stopped; \
             run the command again",
            i + 1,
            index.offset(i) - part.base
        );
        InputError::of_file(&part.name, text)
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The file of an offset.
    pub(super) fn part_of(&self, offset: u64) -> &Part {
        let parts = self.parts();
        let at = parts.partition_point(|part| part.base <= offset);
        &parts[at.saturating_sub(1)]
    }

    pub(crate) fn skips_bad_rows(&self) -> bool {
        self.settings.skip_bad_rows
    }

    pub(super) fn settings(&self) -> &PromptSettings {
        &self.settings
    }

    /// The files as the user named them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts().iter().map(|part| part.name.as_str())
    }
}

/// The id of item `i`, if the record is the one that was checked.
fn identified(i: usize, index: &FileIndex, parsed: &ReadRecord) -> Option<String> {
    let own = parsed.id.as_deref().filter(|_| !index.may_repeat(i));
    let id = index.item_id(i, own)?;
    (prefix(&parsed.digest) == index.request_prefix(i)).then(|| id.to_string())
}

impl Part {
    fn open(file: NamedFile, base: u64, settings: &PromptSettings) -> Result<Self, InputError> {
        if base.saturating_add(file.source.len()) >= LARGEST_FILE {
            let text = "the input is too large; expected less than 1 TiB";
            return Err(InputError::of_file(file.name, text));
        }
        if let Err(fault) = settings.check(file.form) {
            return Err(InputError::of_file(file.name, fault.to_string()));
        }
        let header = match &file.columns {
            Some(columns) => Some(file.header(columns, settings)?),
            None => {
                file.check_text(settings)?;
                None
            }
        };
        Ok(Self {
            root: settings.files.root(&file.folder),
            name: file.name,
            form: file.form,
            source: file.source,
            origin: file.origin,
            numbers: file.numbers,
            header,
            base,
        })
    }

    /// Whether its records are lines of text, not of JSON.
    pub(super) fn is_text(&self) -> bool {
        self.form == Form::Text
    }

    /// Parses a record; returns a fault if it makes no prompt and that ends the check.
    pub(super) fn parse(&self, bytes: &[u8], settings: &PromptSettings) -> ReadRecord {
        // A file that was appended to another one keeps its byte order mark.
        let bytes = without_bom(bytes);
        let header = self.header.as_ref();
        let record = parse_record(self.form, header, bytes, settings, &self.root);
        let (id, digest, request) = match keep::check_size(bytes.len(), settings).and(record) {
            Ok(mut request) => (request.id.take(), digest(&request), Ok(request)),
            Err(fault) => {
                let (id, digest) = bad_row(self.form, header, bytes, settings);
                (id, digest, Err(fault))
            }
        };
        ReadRecord {
            id,
            digest,
            request,
            input: None,
        }
    }

    /// The kept fields of a record; `None` if no fields are kept, or if the record cannot be read.
    pub(super) fn kept(&self, bytes: &[u8], settings: &PromptSettings) -> Option<RawJson> {
        let small = settings.keep.takes_row(bytes.len());
        if !small && !settings.keep.is_on() || bytes.len() > keep::MOST_BYTES {
            return None;
        }
        let text = utf8(without_bom(bytes)).ok()?;
        match &self.header {
            Some(header) => header.kept(text, small),
            None if small && settings.template.is_none() || self.is_text() => None,
            None => keep::of_line(text, settings),
        }
    }

    /// The offset after the end of this file.
    pub(super) fn end(&self) -> u64 {
        self.base + self.source.len()
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> InputError {
        InputError::unreadable(&self.name, error)
    }

    /// The place, for messages, of the record that begins at that line.
    pub(super) fn place(&self, line: u64) -> Place {
        self.numbers.place(line)
    }

    /// How the file, or the file it was made from, differs from what was opened.
    pub(super) fn change(&self) -> Option<String> {
        let origin = self.origin.as_ref().and_then(Source::change);
        origin.or_else(|| self.source.change())
    }
}

impl InputFile {
    /// The first of these items that none of the providers gets, with its place.
    pub(crate) fn first_refused(
        &self,
        items: impl Iterator<Item = usize>,
        index: &FileIndex,
        providers: &[String],
    ) -> Result<Option<InputError>, Unread> {
        for i in items {
            let native = self.read(i, index)?.request.native;
            if let Some(why) = native.and_then(|native| refused(native.format(), providers)) {
                let (part, place) = self.places_of(&[index.offset(i)])?[0];
                return Ok(Some(InputError::at(&part.name, place, why)));
            }
        }
        Ok(None)
    }
}
