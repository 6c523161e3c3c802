//! Prompt files that stay open from their check until the last item is read again. Several files count as concatenated:
//! the position of an item is its offset in all of them together.

use std::io;
use std::path::PathBuf;

use super::columns::Columns;
use super::entry::LARGEST_FILE;
use super::fault::{self, Fault, Place, utf8};
use super::id::prefix;
use super::index::{FileIndex, refused};
use super::json;
use super::keep::Kept;
use super::parse::{bad_row, parse_record};
use super::records::{Next, next_record};
use super::source::Source;
use super::table::Header;
use super::{Form, PromptSettings, detect, keep};
use crate::base::json_read::{JsonObject, without_bom};
use crate::base::json_text::hex;
use crate::base::{Error, ErrorKind, Sent};
use crate::llm::attachment::Root;
use crate::llm::hash::digest;
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
    pub(crate) input: Option<Kept>,
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

    /// The failure of an item whose file has changed.
    pub(crate) fn error(&self) -> Error {
        Error::new(ErrorKind::Invalid, &*self.why).with_sent(Sent::No)
    }
}

/// A parsed record: a request, or why it makes none.
pub(super) struct ReadRecord {
    pub(super) id: Option<String>,
    pub(super) digest: [u8; 32],
    pub(super) request: Result<Request, Fault>,
    /// Its kept fields, if they were read.
    pub(super) input: Option<Kept>,
}

/// Why an item was not read again.
#[derive(Debug, derive_more::From)]
pub(crate) enum Unread {
    /// The input has changed since it was checked, or cannot be read: nothing more of it may be sent.
    #[from]
    Changed(Error),
    /// A file that the item names has changed. The item fails.
    File(Box<BadRow>),
}

impl From<Unread> for Error {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Changed(error) => error,
            Unread::File(row) => {
                let why = format!("item {}: {}", row.named.id, row.why);
                row.error().reworded(why)
            }
        }
    }
}

/// A file of prompts with its name in messages.
#[derive(Debug)]
pub(crate) struct NamedFile {
    pub(crate) name: String,
    pub(crate) form: Form,
    pub(crate) source: Source,
    /// The file that it was made from, if the name refers to that one.
    pub(crate) origin: Option<Source>,
    /// How messages count its records. Default: from line 1.
    pub(crate) first: Place,
    /// The folder of the files that its records name, if no other is set. Default: the working folder.
    pub(crate) folder: PathBuf,
    /// The columns of a table, whose records are JSON lists.
    pub(crate) columns: Option<Columns>,
    /// The files of a folder that were skipped.
    #[cfg(feature = "files")]
    pub(crate) left_out: LeftOut,
}

impl NamedFile {
    pub(crate) fn new(name: String, form: Form, source: Source) -> Self {
        Self {
            name,
            form,
            source,
            origin: None,
            first: Place::line(1),
            folder: PathBuf::new(),
            columns: None,
            #[cfg(feature = "files")]
            left_out: LeftOut::default(),
        }
    }

    fn header(&self, columns: &Columns, settings: &PromptSettings) -> Result<Header, Error> {
        let first = self.source.record(false, 0);
        let row = first.map_err(|error| fault::unreadable(&self.name, &error))?;
        let row = row.unwrap_or_default();
        let header = Header::new(columns, &row, settings);
        header.map_err(|fault| {
            if self.first.is_line() {
                let fault = if settings.without_header {
                    fault
                } else {
                    detect::for_data(fault, &columns.names)
                };
                return fault::at(&self.name, Place::line(columns.line), fault);
            }
            fault::of_file(&self.name, fault)
        })
    }

    /// Rejects a file that begins like one of another format.
    fn check_text(&self, settings: &PromptSettings) -> Result<(), Error> {
        let mut start = vec![0; FIRST_LOOK];
        let n = self.source.fill(&mut start, 0);
        start.truncate(n.map_err(|error| fault::unreadable(&self.name, &error))?);
        let checked = match self.form {
            Form::Text if settings.form.is_none() => {
                detect::check_encoding(&start).and_then(|()| detect::check_text(&start))
            }
            _ => detect::check_encoding(&start),
        };
        checked.map_err(|fault| fault::of_file(&self.name, fault))
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
    pub(super) file: NamedFile,
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
    ) -> Result<Self, Error> {
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
                if let Some(kept) = parsed.input {
                    (request.input, request.input_left_out) = (Some(kept.fields), kept.left_out);
                }
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
        let why = why.filter(|_| part.file.source.change().is_none());
        match why.zip(index.item_id(i, parsed.id.as_deref())) {
            None => Err(Unread::Changed(self.changed(i, index))),
            Some((why, id)) => {
                let (why, id) = (format!("{why}; nothing was sent"), id.to_string());
                Err(Unread::File(Box::new(BadRow::new(id, parsed, why))))
            }
        }
    }

    /// Reads item `i`, which makes no prompt, again.
    pub(crate) fn read_bad(&self, i: usize, index: &FileIndex) -> Result<BadRow, Error> {
        let (_, parsed) = self.reparsed(i, index)?;
        let changed = || self.changed(i, index);
        let id = identified(i, index, &parsed).ok_or_else(changed)?;
        let why = match (&parsed.request, &parsed.id) {
            (Err(fault), _) => fault.to_string(),
            (Ok(_), Some(id)) if index[i].may_repeat() => {
                Fault::repeated(id, "an earlier record").to_string()
            }
            (Ok(_), _) => return Err(changed()),
        };
        Ok(BadRow::new(id, parsed, why))
    }

    /// The places of these items, each with its file.
    pub(crate) fn places(&self, items: &[usize], index: &FileIndex) -> Result<Vec<String>, Error> {
        let offsets: Vec<u64> = items.iter().map(|item| index[*item].offset()).collect();
        let places = self.places_of(&offsets)?.into_iter();
        let shown = places.map(|(part, place)| place.of(&part.file.name));
        Ok(shown.collect())
    }

    /// The files and the places of the records at these offsets, found in one pass over each file.
    pub(super) fn places_of(&self, offsets: &[u64]) -> Result<Vec<(&Part, Place)>, Error> {
        let Some(first) = self.parts.first() else {
            return Ok(Vec::new());
        };
        let mut places = vec![(first, Place::line(0)); offsets.len()];
        for part in &self.parts {
            let is_inside = |i: &usize| (part.base..part.end()).contains(&offsets[*i]);
            let own: Vec<usize> = (0..offsets.len()).filter(is_inside).collect();
            let inside: Vec<u64> = own.iter().map(|i| offsets[*i] - part.base).collect();
            let lines = part.file.source.lines_of(&inside);
            let lines = lines.map_err(|error| part.unreadable(&error))?;
            for (i, line) in own.into_iter().zip(lines) {
                places[i] = (part, part.file.first.at(line));
            }
        }
        Ok(places)
    }

    /// The length of the record of item `i`, including blank lines after it.
    pub(crate) fn record_bytes(&self, i: usize, index: &FileIndex) -> u64 {
        let offset = index[i].offset();
        index.end(i).min(self.part_of(offset).end()) - offset
    }

    /// Which texts of rows with a template, of those that no flag names, earlier versions took as the model and as the system
    /// text. They did so in lines of JSON.
    pub(crate) fn taken(
        &self,
        items: impl Iterator<Item = usize>,
        index: &FileIndex,
    ) -> Result<Vec<&'static str>, Error> {
        let roles = &self.settings.roles;
        let mut left = vec![("model", &roles.model), ("system", &roles.system)];
        left.retain(|(_, named)| self.settings.template.is_some() && named.is_none());
        let mut taken = Vec::new();
        for i in items {
            if left.is_empty() {
                break;
            }
            let (part, record) = self.record(i, index)?;
            let line = utf8(&record).ok().filter(|_| part.header.is_none());
            let Some(fields) = line.and_then(JsonObject::parse) else {
                continue;
            };
            left.retain(|(name, _)| {
                let is_text = fields
                    .get(name, 0)
                    .is_some_and(|text| text.get().starts_with('"'));
                taken.extend(is_text.then_some(*name));
                !is_text
            });
        }
        Ok(taken)
    }

    fn reparsed(&self, i: usize, index: &FileIndex) -> Result<(&Part, ReadRecord), Error> {
        let (part, record) = self.record(i, index)?;
        let mut parsed = part.parse(&record, &self.settings);
        parsed.input = part.kept(&record, &self.settings);
        Ok((part, parsed))
    }

    /// The bytes of item `i`, with its file.
    fn record(&self, i: usize, index: &FileIndex) -> Result<(&Part, Vec<u8>), Error> {
        let offset = index[i].offset();
        let part = self.part_of(offset);
        let end = index.end(i).min(part.end()) - part.base;
        let mut bytes = match part.file.source.bytes(offset - part.base, end) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.changed(i, index));
            }
            Err(error) => return Err(part.unreadable(&error)),
        };
        let Next::Record { start, end, .. } = next_record(part.is_text(), &bytes, true) else {
            return Err(self.changed(i, index));
        };
        bytes.truncate(end);
        bytes.drain(..start);
        Ok((part, bytes))
    }

    fn changed(&self, i: usize, index: &FileIndex) -> Error {
        let part = self.part_of(index[i].offset());
        let what = part
            .change()
            .map_or_else(String::new, |change| format!("; {change}"));
        let text = format!(
            "changed during the run (item {} at byte {}{what}); sending stopped; \
             run the command again",
            i + 1,
            index[i].offset() - part.base
        );
        fault::of_file(&part.file.name, text)
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

    /// Rejects the first of these items that no provider gets.
    pub(crate) fn refuse_native(
        &self,
        items: impl Iterator<Item = usize>,
        index: &FileIndex,
        providers: &[String],
    ) -> Result<(), Error> {
        for i in items {
            let native = self.read(i, index)?.request.native;
            if let Some(why) = native.and_then(|native| refused(native.format(), providers)) {
                let (part, place) = self.places_of(&[index[i].offset()])?[0];
                return Err(fault::at(&part.file.name, place, why));
            }
        }
        Ok(())
    }

    pub(crate) fn settings(&self) -> &PromptSettings {
        &self.settings
    }

    /// The files as the user named them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts().iter().map(|part| part.file.name.as_str())
    }
}

/// The id of item `i`, if the record is the one that was checked.
fn identified(i: usize, index: &FileIndex, parsed: &ReadRecord) -> Option<String> {
    let own = parsed.id.as_deref().filter(|_| !index[i].may_repeat());
    let id = index.item_id(i, own)?;
    (prefix(&parsed.digest) == index[i].request).then(|| id.to_string())
}

impl Part {
    fn open(file: NamedFile, base: u64, settings: &PromptSettings) -> Result<Self, Error> {
        if base.saturating_add(file.source.len()) >= LARGEST_FILE {
            let text = "the input is too large; expected less than 1 TiB";
            return Err(fault::of_file(file.name, text));
        }
        let checked = settings.check(file.form);
        checked.map_err(|fault| fault::of_file(&file.name, fault))?;
        let header = match &file.columns {
            Some(columns) => Some(file.header(columns, settings)?),
            None => {
                file.check_text(settings)?;
                None
            }
        };
        let root = settings.root.as_deref().unwrap_or(&file.folder);
        Ok(Self {
            root: Root::new(root),
            file,
            header,
            base,
        })
    }

    /// Whether its records are lines of text, not of JSON.
    pub(super) fn is_text(&self) -> bool {
        self.file.form == Form::Text
    }

    /// Parses a record; returns a fault if it makes no prompt and that ends the check.
    pub(super) fn parse(&self, bytes: &[u8], settings: &PromptSettings) -> ReadRecord {
        // A file that was appended to another one keeps its byte order mark.
        let bytes = without_bom(bytes);
        let header = self.header.as_ref();
        let record = parse_record(self.file.form, header, bytes, settings, &self.root);
        let (id, digest, request) = match keep::check_size(bytes.len(), settings).and(record) {
            Ok(mut request) => (request.id.take(), digest(&request), Ok(request)),
            Err(fault) => {
                let (id, digest) = bad_row(self.file.form, header, bytes, settings);
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
    pub(super) fn kept(&self, bytes: &[u8], settings: &PromptSettings) -> Option<Kept> {
        let keep = &settings.keep;
        let has_none = match self.header {
            _ if keep.is_on() => bytes.len() > keep::MOST_BYTES,
            None if !settings.is_data() => true,
            _ => keep.of_rows_up_to == 0,
        };
        if has_none || self.is_text() {
            return None;
        }
        let is_large = !keep.is_on() && bytes.len() > keep.of_rows_up_to;
        let most = is_large.then_some(keep.of_rows_up_to);
        let text = utf8(without_bom(bytes)).ok()?;
        match &self.header {
            Some(header) => header.kept(text, settings, most),
            None => json::kept(text, settings, most),
        }
    }

    /// The offset after the end of this file.
    pub(super) fn end(&self) -> u64 {
        self.base + self.file.source.len()
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> Error {
        fault::unreadable(&self.file.name, error)
    }

    /// How the file, or the file it was made from, differs from what was opened.
    pub(super) fn change(&self) -> Option<String> {
        let origin = self.file.origin.as_ref().and_then(Source::change);
        origin.or_else(|| self.file.source.change())
    }
}
