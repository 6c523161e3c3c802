//! Finds the line in the format of a provider that is not asked, among those to send.

use super::attached::NativeLines;
use super::fault::InputError;
use super::file::{InputFile, Unread};
use super::index::FileIndex;

impl InputFile {
    /// The first of these items that none of the providers gets, with its place.
    pub(crate) fn first_refused(
        &self,
        items: impl Iterator<Item = usize>,
        index: &FileIndex,
        providers: &[String],
    ) -> Result<Option<InputError>, Unread> {
        for i in items {
            let mut lines = NativeLines::default();
            let native = self.read(i, index)?.request.native;
            native.iter().for_each(|native| lines.add(native.format()));
            if let Some(why) = lines.refused(providers) {
                let (part, place) = self.place_of(index.offset(i))?;
                return Ok(Some(InputError::at(&part.name, place, why)));
            }
        }
        Ok(None)
    }
}
