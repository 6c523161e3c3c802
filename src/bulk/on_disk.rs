//! Inputs that can be read only once, such as standard input: stored on the disk, and then checked like a file.

use std::io::Read;

use crate::base::{Context, Error};

use super::convert::{list, made_from, plain_text};
use super::input::{Form, NamedFile};
use super::prompts::{PromptSettings, Prompts};
use super::spool::{SpoolFile, copy};

/// The name of standard input in messages.
const STDIN: &str = "(standard input)";

/// Maximum length of a first line that shows the format of the rest.
const FIRST_LINE: usize = 1 << 16;

impl Prompts {
    /// Reads a stream such as standard input to its end, and checks all of it like [`open`](Self::open). The stream is
    /// stored in a file in the [spool folder](PromptSettings::spool_folder), or if that is not writable in the system's
    /// folder for temporary files. The file is deleted when the program ends. A read that blocks is not interrupted;
    /// `ctx` is checked between two reads.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the stream cannot be read or the file cannot be written.
    pub fn from_reader(
        reader: impl Read,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        Self::from_named(STDIN, reader, settings, ctx)
    }

    /// The same for a stream with this name in messages, such as a pipe's path.
    ///
    /// # Errors
    /// As [`from_reader`](Self::from_reader).
    pub fn from_named(
        name: &str,
        reader: impl Read,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        let most = settings.most_unpacked(u64::MAX);
        let folder = settings.spool_folder_or_default();
        // A run may have no writable folder.
        let mut spool = SpoolFile::anywhere(&folder, name, most)?;
        let mut start = Vec::new();
        let text = plain_text(name, reader, settings.encoding)?;
        copy(text, &mut spool, name, ctx, &mut |piece| {
            if start.trim_ascii_start().is_empty() {
                start.clear();
            }
            if start.len() < FIRST_LINE {
                start.extend_from_slice(piece);
            }
        })?;
        let form = settings.form_of_stream(name, &start)?;
        let source = spool.into_source()?;
        let file = if form == Form::Json {
            let mut lines = SpoolFile::anywhere(&folder, name, most)?;
            list::write(source.reader(), &mut lines, name, ctx)?;
            made_from(source, name.to_owned(), form, lines)?
        } else {
            NamedFile::new(name.to_owned(), form, source)
        };
        // Its first line has shown the format.
        let mut known = settings.clone();
        known.form = Some(form);
        Self::check(vec![file], &known, ctx, &|_, _| {})
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn spooled(text: &str, folder: &Path) -> Result<Prompts, Error> {
        let settings = PromptSettings::new().spool_folder(folder);
        Prompts::from_reader(text.as_bytes(), &settings, &Context::new())
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
        assert_eq!(prompts.unwrap().items(), 2);
        let bad = spooled("{\"prompt\": \"a\"}\n{\n", folder.path())
            .err()
            .unwrap();
        assert!(bad.message().starts_with("(standard input):2: "), "{bad}");
        let text = spooled("\u{feff}one\ntwo\nthree", folder.path()).unwrap();
        assert_eq!(text.into_requests().count(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
