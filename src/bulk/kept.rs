//! What an output says of the rows of its items, once they are all there: their fields and their ids, as the input
//! has them now and as they are asked for now.

use crate::base::error::Error;

use super::input::{FileIndex, InputFile, KeptReader, Matching};
use super::results::kept_fields::with_row;
use super::results::{PreviousLine, ResultsFile};

/// Has the lines of items of this input say what is kept of their rows now, and their ids: those of first samples
/// differ from those of items without samples. Lines of other items, and answers to
/// what an item asked before, stay as they are.
pub(super) fn update(
    file: &mut ResultsFile,
    input: &InputFile,
    index: FileIndex,
) -> Result<FileIndex, Error> {
    let index = index.into_matching();
    let mut rows = KeptRows::new(input);
    file.change_lines(&mut |line| rows.line(&index, line))?;
    Ok(index.finish())
}

/// What is kept of rows, by their items.
pub(super) struct KeptRows<'i>(KeptReader<'i>);

impl<'i> KeptRows<'i> {
    pub(super) fn new(input: &'i InputFile) -> Self {
        Self(KeptReader::new(input))
    }

    /// A result line with what is kept of its row; none where nothing is to be changed.
    pub(super) fn line(&mut self, index: &Matching, line: &str) -> Result<Option<String>, Error> {
        let Ok(known) = serde_json::from_str::<PreviousLine>(line) else {
            return Ok(None);
        };
        let Some((offset, id)) = index.offset_of(&known.id, known.prefix(false)) else {
            return Ok(None);
        };
        Ok(with_row(line, id.as_deref(), self.0.at(offset)?.as_ref()))
    }
}
