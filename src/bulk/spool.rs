//! A stream that is kept on the disk, so that it can be checked whole and read twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::private;

use super::input::{Form, NamedFile};
use super::prompts::{PromptSettings, PromptSource, Prompts, STDIN};

/// What is read at a time.
const CHUNK_BYTES: usize = 1 << 16;
const PREFIX: &str = "stdin-";
/// What a first line must fit in to tell what the rest is.
const FIRST_LINE: usize = 1 << 16;

impl Prompts {
    /// Reads JSON lines, or one prompt a line, from a stream to its end, and checks all of it as
    /// [`open`](Self::open) does. Meanwhile it is kept in a file of this folder, which lasts until the
    /// program ends. A read that blocks is not interrupted; `ctx` is looked at between two.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the stream cannot be read or the file not be written.
    pub fn spool(
        reader: impl Read,
        folder: &Path,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        Self::spool_named(STDIN, reader, folder, settings, ctx)
    }

    /// Reads a stream to its end and keeps it as [`spool`](Self::spool) does; a file stays as it is.
    ///
    /// # Errors
    /// As [`spool`](Self::spool).
    pub fn on_disk(self, folder: &Path, ctx: &Context) -> Result<Self, Error> {
        match self.source {
            PromptSource::Stream { name, reader } => {
                Self::spool_named(&name, reader, folder, &self.settings, ctx)
            }
            PromptSource::File(_) => Ok(self),
        }
    }

    /// True for a stream of which nothing can be taken before all of it was read: a table, a list, or
    /// one with rows to be skipped. It must be put [on the disk](Self::on_disk) first.
    pub fn needs_disk(&self) -> bool {
        let settings = &self.settings.0;
        let whole = settings.skip_bad_rows
            || settings.delimiter.is_some()
            || settings.form.is_some_and(Form::needs_all);
        whole && matches!(self.source, PromptSource::Stream { .. })
    }

    fn spool_named(
        name: &str,
        mut reader: impl Read,
        folder: &Path,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        let failed = |what: &str, error: io::Error| {
            let why = format!("{what}: {error}");
            Error::new(ErrorKind::Invalid, why)
        };
        let unwritable = |error| failed(&format!("cannot write to {}", folder.display()), error);
        private::make_folder(folder).map_err(unwritable)?;
        sweep(folder);
        let path = folder.join(format!("{PREFIX}{}", uuid::Uuid::now_v7()));
        let mut options = OpenOptions::new();
        let file = private::open(options.write(true).create_new(true), &path);
        let file = file.map_err(unwritable)?;
        let _gone = RemoveOnDrop(&path);
        // Whoever sweeps leaves alone what somebody has locked.
        let _ = file.try_lock();
        let mut file = BufWriter::new(file);
        let mut start = Vec::new();
        let mut piece = vec![0; CHUNK_BYTES];
        loop {
            ctx.check()?;
            let n = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(&format!("{name}: cannot be read"), error)),
            };
            file.write_all(&piece[..n]).map_err(unwritable)?;
            if start.trim_ascii_start().is_empty() {
                start.clear();
            }
            if start.len() < FIRST_LINE {
                start.extend_from_slice(&piece[..n]);
            }
        }
        let file = file.into_inner().map_err(|e| unwritable(e.into_error()))?;
        let form = settings.0.form_of_stream(name, &start)?;
        let files = vec![NamedFile {
            path: &path,
            name: name.to_owned(),
            form,
        }];
        // What it is has been told by its first line.
        let mut known = settings.clone();
        known.0.form = Some(form);
        let prompts = Self::check(files, &known, ctx, &|_, _| {});
        drop(file);
        prompts
    }
}

/// Takes the name away; what is open stays readable.
struct RemoveOnDrop<'p>(&'p Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Deletes what killed programs left behind.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let free = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if free {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn a_stream_is_checked_whole_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stdin-old"), "left behind").unwrap();
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
