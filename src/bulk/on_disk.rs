//! A stream that is stored on the disk, so that it can be checked completely and read twice.

use std::io::Read;
use std::path::Path;

use crate::base::{Context, Error};

use super::convert::plain_text;
use super::input::{Form, NamedFile};
use super::prompts::{PromptSettings, PromptSource, Prompts, STDIN};
use super::spool::{SpoolFile, copy};

/// Maximum length of a first line that shows the format of the rest.
const FIRST_LINE: usize = 1 << 16;

impl Prompts {
    /// Reads JSON lines, or one prompt per line, from a stream to its end, and checks all of it like
    /// [`open`](Self::open). The stream is stored in a file in this folder, which is deleted when the program ends. A
    /// read that blocks is not interrupted; `ctx` is checked between two reads.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the stream cannot be read or the file cannot be written.
    pub fn spool(
        reader: impl Read,
        folder: impl AsRef<Path>,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let text = plain_text(reader, settings.encoding);
        Self::spool_text(STDIN, text, folder, settings, ctx)
    }

    /// Reads a stream to its end and stores it like [`spool`](Self::spool); a file is unchanged.
    ///
    /// # Errors
    /// As [`spool`](Self::spool).
    pub fn on_disk(self, folder: impl AsRef<Path>, ctx: &Context) -> Result<Self, Error> {
        let folder = folder.as_ref();
        match self.source {
            PromptSource::Stream { name, reader } => {
                Self::spool_text(&name, reader, folder, &self.settings, ctx)
            }
            PromptSource::File(_) => Ok(self),
        }
    }

    /// True for a stream that must be read to its end first: a table, a list, or one with rows to skip. Put it [on the
    /// disk](Self::on_disk) before the run.
    pub fn needs_disk(&self) -> bool {
        let settings = &self.settings;
        let whole = settings.skip_bad_rows
            || settings.delimiter.is_some()
            || settings.form.is_some_and(Form::needs_all);
        whole && matches!(self.source, PromptSource::Stream { .. })
    }

    fn spool_text(
        name: &str,
        text: impl Read,
        folder: &Path,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        let mut spool = SpoolFile::new(folder, name, settings.most_unpacked(u64::MAX))?;
        let mut start = Vec::new();
        copy(text, &mut spool, name, ctx, &mut |piece| {
            if start.trim_ascii_start().is_empty() {
                start.clear();
            }
            if start.len() < FIRST_LINE {
                start.extend_from_slice(piece);
            }
        })?;
        let form = settings.form_of_stream(name, &start)?;
        let files = vec![NamedFile::new(name.to_owned(), form, spool.into_source()?)];
        // Its first line has shown the format.
        let mut known = settings.clone();
        known.form = Some(form);
        Self::check(files, &known, ctx, &|_, _| {})
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn spooled(text: &str, folder: &Path) -> Result<Prompts, Error> {
        Prompts::spool(
            text.as_bytes(),
            folder,
            &PromptSettings::new(),
            &Context::new(),
        )
    }

    #[test]
    fn a_stream_is_checked_completely_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let old = format!("batchwright-input-{}", uuid::Uuid::now_v7());
        fs::write(folder.path().join(old), "left behind").unwrap();
        let prompts = spooled(
            "\n \n{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n",
            folder.path(),
        );
        assert_eq!(prompts.unwrap().items(), Some(2));
        let bad = spooled("{\"prompt\": \"a\"}\n{\n", folder.path())
            .err()
            .unwrap();
        assert!(bad.message().starts_with("(standard input):2: "), "{bad}");
        let text = spooled("\u{feff}one\ntwo\nthree", folder.path()).unwrap();
        assert_eq!(text.into_requests().count(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
