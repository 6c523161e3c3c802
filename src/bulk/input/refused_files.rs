//! Finds the item whose files no provider supports, among those to send.

use super::attached::{AttachedFiles, OfRecord};
use super::fault::InputError;
use super::file::{InputFile, Unread};
use super::index::FileIndex;

impl InputFile {
    /// The first of these items whose files `refused` rejects, with its place.
    pub(crate) fn first_refused(
        &self,
        items: impl Iterator<Item = usize>,
        index: &FileIndex,
        refused: &dyn Fn(&AttachedFiles) -> Option<String>,
    ) -> Result<Option<InputError>, Unread> {
        for i in items {
            let Some(record) = OfRecord::of(&self.read(i, index)?.request) else {
                continue;
            };
            let mut files = AttachedFiles::default();
            files.add(&record);
            if let Some(why) = refused(&files) {
                let (part, place) = self.place_of(index.offset(i))?;
                return Ok(Some(InputError::at(&part.name, place, why)));
            }
        }
        Ok(None)
    }
}
