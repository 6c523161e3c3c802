//! What result lines say of the rows of their items: the fields and the ids that the input has now. The ids of first
//! samples differ from those of items without samples.

use crate::base::error::Error;

use super::input::{InputFile, KeptReader, Matching};
use super::results::PreviousLine;
use super::results::kept_fields::with_row;

/// What is kept of rows, by their items.
pub(super) struct KeptRows<'i>(KeptReader<'i>);

impl<'i> KeptRows<'i> {
    pub(super) fn new(input: &'i InputFile) -> Self {
        Self(KeptReader::new(input))
    }

    /// A result line with what is kept of its row; `None` if it stays as it is.
    pub(super) fn updated(
        &mut self,
        index: &Matching,
        line: &PreviousLine,
        text: &str,
    ) -> Result<Option<String>, Error> {
        let Some((offset, id)) = index.offset_of(&line.id, line.prefix(false)) else {
            return Ok(None);
        };
        Ok(with_row(text, id.as_deref(), self.0.at(offset)?.as_ref()))
    }

    /// The same in place, for a line with its end.
    pub(super) fn update(
        &mut self,
        index: &Matching,
        known: &PreviousLine,
        line: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let text = std::str::from_utf8(line.trim_ascii()).unwrap_or_default();
        if let Some(updated) = self.updated(index, known, text)? {
            *line = updated.into_bytes();
            line.push(b'\n');
        }
        Ok(())
    }
}
