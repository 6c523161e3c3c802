//! Finds the item whose files nobody takes, among those that are still to be sent.

use super::attached::{AttachedFiles, OfRecord};
use super::fault::{InputError, Place};
use super::file::{InputFile, Unread};
use super::index::FileIndex;

impl InputFile {
    /// The first of these items whose files `refused` refuses.
    pub(crate) fn first_refused(
        &self,
        items: impl Iterator<Item = usize>,
        index: &FileIndex,
        refused: &dyn Fn(&AttachedFiles) -> Option<InputError>,
    ) -> Result<Option<InputError>, Unread> {
        for i in items {
            let Some(record) = OfRecord::of(&self.read(i, index)?.request) else {
                continue;
            };
            let of_item = |file: &str, place| {
                let mut files = AttachedFiles::default();
                files.add(&record, file, place);
                refused(&files)
            };
            if of_item("", Place::Line(0)).is_some() {
                let (part, place) = self.place_of(index.offset(i))?;
                return Ok(of_item(&part.name, place));
            }
        }
        Ok(None)
    }
}
