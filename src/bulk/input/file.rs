//! A prompt file that stays open from its check to the last item that is read again.

use std::io;
use std::path::Path;

use super::check::{self, Hooks};
use super::duplicates;
use super::entry::LARGEST_FILE;
use super::fault::{Fault, InputError, InputErrors};
use super::id::{IdHash, auto_id, id_hash, prefix};
use super::index::{FileIndex, Matching};
use super::parse::parse_record;
use super::records::{Next, next_record};
use super::source::Source;
use super::table::CsvHeader;
use super::{Form, Settings};
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

/// An open file of prompts. Any thread may read from it.
#[derive(Debug)]
pub(crate) struct InputFile {
    name: String,
    form: Form,
    settings: Settings,
    source: Source,
    header: Option<CsvHeader>,
    body: (u64, u64),
}

impl InputFile {
    /// Opens the file and reads a table's header.
    #[cfg(test)]
    pub(crate) fn open(path: &Path, form: Form, settings: Settings) -> Result<Self, InputErrors> {
        Self::open_as(path, &path.display().to_string(), form, settings)
    }

    /// Opens a file that people know by that name, and reads a table's header.
    pub(crate) fn open_as(
        path: &Path,
        name: &str,
        form: Form,
        settings: Settings,
    ) -> Result<Self, InputErrors> {
        let name = name.to_owned();
        let source = Source::open(path).map_err(|error| unreadable(&name, &error))?;
        if source.len() >= LARGEST_FILE {
            let text = "the file is too large; expected less than 2 TiB";
            return Err(InputError::of_file(name, text).into());
        }
        if let Err(fault) = settings.check(form) {
            return Err(InputError::of_file(name, fault.to_string()).into());
        }
        let mut input = Self {
            name,
            form,
            settings,
            source,
            header: None,
            body: (0, 1),
        };
        input.find_body()?;
        Ok(input)
    }

    /// Where the records begin: behind a byte order mark and a table's header.
    fn find_body(&mut self) -> Result<(), InputError> {
        let failed = |error: io::Error| unreadable(&self.name, &error);
        let mut mark = [0; 3];
        let n = self.source.fill(&mut mark, 0).map_err(failed)?;
        let start = if mark[..n] == *b"\xef\xbb\xbf" { 3 } else { 0 };
        self.body = (start, 1);
        if self.form.delimiter().is_none() {
            return Ok(());
        }
        let header = self.source.record(self.form, start).map_err(failed)?;
        let Some((bytes, at, after)) = header else {
            let fault = Fault::new("no header", "a header row with the names of the columns");
            return Err(InputError::of_file(&self.name, fault.to_string()));
        };
        let lines = self.source.lines_of(&[at, after]).map_err(failed)?;
        let header = CsvHeader::parse(self.form, &bytes, self.settings.template.as_ref())
            .map_err(|fault| InputError::at(&self.name, lines[0], fault))?;
        self.header = Some(header);
        self.body = (after, lines[1]);
        Ok(())
    }

    /// Checks every record and indexes the items.
    pub(crate) fn check(&self, hooks: Hooks<'_>) -> Result<Matching, InputErrors> {
        self.check_with(id_hash, hooks)
    }

    pub(super) fn check_with(
        &self,
        hash: IdHash,
        hooks: Hooks<'_>,
    ) -> Result<Matching, InputErrors> {
        let (entries, totals) = check::entries(self, hash, hooks)?;
        let mut index = Matching::new(entries, hash, totals);
        let collisions = duplicates::check(self, &index)?;
        index.set_collisions(collisions);
        Ok(index)
    }

    /// Reads item `i` again. Any error means that the file is no longer what was checked, or cannot
    /// be read: nothing more of it must be sent.
    pub(crate) fn read(&self, i: usize, index: &FileIndex) -> Result<Item, InputError> {
        let bytes = match self.source.bytes(index.offset(i), index.end(i)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.changed(i, index));
            }
            Err(error) => return Err(self.unreadable(&error)),
        };
        let Next::Record { start, end, .. } = next_record(self.form, &bytes, true) else {
            return Err(self.changed(i, index));
        };
        let parsed = self.parse(&bytes[start..end]);
        let mut request = parsed.map_err(|_| self.changed(i, index))?;
        let digest = digest(&request);
        let fingerprint = prefix(&digest);
        let same_id = match (&request.id, index.ordinal(i)) {
            (Some(id), None) => index.has_own_id(i, id),
            (None, Some(ordinal)) => {
                request.id = Some(auto_id(fingerprint, ordinal));
                true
            }
            _ => false,
        };
        match same_id && fingerprint == index.request_prefix(i) {
            true => Ok(Item {
                request,
                request_hash: hex(&digest),
            }),
            false => Err(self.changed(i, index)),
        }
    }

    /// How the file differs from what was opened, as far as its size and time tell.
    pub(crate) fn change(&self) -> Option<String> {
        self.source.change()
    }

    fn changed(&self, i: usize, index: &FileIndex) -> InputError {
        let what = self
            .change()
            .map_or_else(String::new, |change| format!("; {change}"));
        let text = format!(
            "changed while the run was going on (item {} at byte {}{what}); nothing more is sent; \
             run the command again",
            i + 1,
            index.offset(i)
        );
        InputError::of_file(&self.name, text)
    }

    pub(super) fn parse(&self, bytes: &[u8]) -> Result<Request, Fault> {
        parse_record(self.form, self.header.as_ref(), bytes, &self.settings)
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> InputError {
        unreadable(&self.name, error)
    }

    /// The file as the user named it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The offset and the line of the first record.
    pub(super) fn body(&self) -> (u64, u64) {
        self.body
    }
}

fn unreadable(name: &str, error: &io::Error) -> InputError {
    InputError::of_file(name, format!("cannot be read: {error}"))
}
