//! Reads the kept fields of records again, by offset.

use super::fault::InputError;
use super::file::InputFile;
use super::records::next_record;
use super::rows::Next;
use crate::llm::reply_details::RawJson;

impl InputFile {
    /// True if fields of records are kept.
    pub(crate) fn keeps(&self) -> bool {
        self.settings().keep.is_on()
    }
}

/// Number of bytes that are read at once, because lines of results are roughly in the order of the input.
const WINDOW_BYTES: usize = 64 << 10;

/// Reads the kept fields of records again, by offset.
pub(crate) struct KeptReader<'i> {
    input: &'i InputFile,
    window: Vec<u8>,
    /// The offset of the window.
    at: u64,
}

impl<'i> KeptReader<'i> {
    pub(crate) fn new(input: &'i InputFile) -> Self {
        Self {
            input,
            window: Vec::new(),
            at: 0,
        }
    }

    /// The kept fields of the record at that offset.
    pub(crate) fn at(&mut self, offset: u64) -> Result<Option<RawJson>, InputError> {
        if !self.input.keeps() {
            return Ok(None);
        }
        let part = self.input.part_of(offset);
        let failed = |error| part.unreadable(&error);
        if let Some(change) = part.source.change() {
            let text = format!(
                "changed during the run ({change}); results without what is kept of their rows get \
                 it when the command is run again"
            );
            return Err(InputError::of_file(&part.name, text));
        }
        for reading in [false, true] {
            if reading {
                self.at = offset;
                self.window.resize(WINDOW_BYTES, 0);
                let filled = part.source.fill(&mut self.window, offset - part.base);
                self.window.truncate(filled.map_err(failed)?);
            }
            let behind = offset.checked_sub(self.at);
            let behind = behind.and_then(|skip| self.window.get(usize::try_from(skip).ok()?..));
            let Some(bytes) = behind.filter(|_| self.at >= part.base) else {
                continue;
            };
            let last = offset + bytes.len() as u64 == part.end();
            if let Next::Record { start, end, .. } = next_record(part.form, bytes, last) {
                return Ok(part.kept(&bytes[start..end], self.input.settings()));
            }
        }
        let record = part.source.record(part.form, offset - part.base);
        let record = record.map_err(failed)?;
        Ok(record.and_then(|(bytes, ..)| part.kept(&bytes, self.input.settings())))
    }
}
