//! What a command prints: its beginning in memory, the rest dropped or in a file, never without a bound.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where goes what is beyond the part of an output that is kept in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Nowhere: it is read, counted and dropped.
    #[default]
    Drop,
    /// The whole output goes into a temporary file, which has no name and goes with its [`Output`].
    Temporary,
    /// The whole output goes into a file of this folder, `NUMBER.stdout` or `NUMBER.stderr`. The folder is
    /// made when the first file is.
    Folder(PathBuf),
}

/// How much of an output is kept, and where.
#[derive(Debug, Clone)]
pub(super) struct OutputSettings {
    pub in_memory: usize,
    pub overflow: Overflow,
    pub most: u64,
}

/// What a command printed to one of its streams.
#[derive(Debug, Clone, Default)]
pub struct Output {
    head: Vec<u8>,
    total: u64,
    stored: u64,
    file: Option<Arc<File>>,
    path: Option<PathBuf>,
}

impl Output {
    /// Its beginning, as far as it is kept in memory.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The same as text; what is not UTF-8 is replaced by U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    /// How many bytes the command printed.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// True when [`head`](Self::head) is not all of it.
    pub fn is_truncated(&self) -> bool {
        self.total > self.head.len() as u64
    }

    /// How many bytes nothing has: they were beyond the bound.
    pub fn lost(&self) -> u64 {
        self.total - self.stored.max(self.head.len() as u64)
    }

    /// The file that has more than its head.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Writes all that is kept of it, in memory or in a file.
    ///
    /// # Errors
    /// Those of the reader and of the writer.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        match &self.file {
            Some(file) => {
                let mut file = &**file;
                file.rewind()?;
                io::copy(&mut file.take(self.stored), to).map(drop)
            }
            None => to.write_all(&self.head),
        }
    }

    /// Bytes of memory that it takes, a file counted as some.
    pub(super) fn weight(&self) -> usize {
        let file = if self.file.is_some() { 256 * 1024 } else { 0 };
        self.head.len() + file
    }
}

/// An output that is being read.
pub(super) struct Capture<'a> {
    output: Output,
    settings: &'a OutputSettings,
    /// The name of its file, where that has one.
    name: String,
    pub failed: Option<io::Error>,
}

impl<'a> Capture<'a> {
    pub fn new(settings: &'a OutputSettings, seq: u64, stream: &str) -> Self {
        Self {
            output: Output::default(),
            settings,
            name: format!("{seq}.{stream}"),
            failed: None,
        }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        let output = &mut self.output;
        output.total += bytes.len() as u64;
        let room = self.settings.in_memory - output.head.len();
        let (head, rest) = bytes.split_at(bytes.len().min(room));
        output.head.extend_from_slice(head);
        if rest.is_empty() || self.failed.is_some() {
            return;
        }
        if let Err(error) = self.store(rest) {
            self.failed = Some(error);
            self.discard();
        }
    }

    fn store(&mut self, rest: &[u8]) -> io::Result<()> {
        let output = &mut self.output;
        let file = match &output.file {
            Some(file) => file.clone(),
            None => {
                let (file, path) = match &self.settings.overflow {
                    Overflow::Drop => return Ok(()),
                    Overflow::Temporary => (tempfile::tempfile()?, None),
                    Overflow::Folder(folder) => {
                        std::fs::create_dir_all(folder)?;
                        let path = folder.join(&self.name);
                        let options = File::options();
                        let file = { options }
                            .read(true)
                            .write(true)
                            .create(true)
                            .truncate(true)
                            .open(&path)?;
                        (file, Some(path))
                    }
                };
                output.path = path;
                (&file).write_all(&output.head)?;
                output.stored = output.head.len() as u64;
                output.file.insert(Arc::new(file)).clone()
            }
        };
        let room = self.settings.most.saturating_sub(output.stored);
        let most = usize::try_from(room).unwrap_or(usize::MAX);
        let rest = &rest[..rest.len().min(most)];
        (&*file).write_all(rest)?;
        output.stored += rest.len() as u64;
        Ok(())
    }

    /// Half an output is of no use, and its room is needed.
    fn discard(&mut self) {
        let output = &mut self.output;
        (output.file, output.stored) = (None, 0);
        if let Some(path) = output.path.take() {
            let _ = std::fs::remove_file(path);
        }
    }

    pub fn end(mut self) -> Output {
        // A file that has a name is read by it; one without is all there is.
        if self.output.path.is_some() {
            self.output.file = None;
        }
        self.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(overflow: Overflow, most: u64, pieces: &[&[u8]]) -> Output {
        let settings = OutputSettings {
            in_memory: 4,
            overflow,
            most,
        };
        let mut capture = Capture::new(&settings, 3, "stdout");
        pieces.iter().for_each(|piece| capture.take(piece));
        assert!(capture.failed.is_none());
        capture.end()
    }

    fn written(output: &Output) -> Vec<u8> {
        let mut bytes = Vec::new();
        output.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn an_output_is_bounded_in_memory_and_on_the_disk() {
        let pieces: [&[u8]; 3] = [b"ab", b"cde", b"fgh"];
        let dropped = captured(Overflow::Drop, 100, &pieces);
        assert_eq!(
            (dropped.head(), dropped.total(), dropped.lost()),
            (&b"abcd"[..], 8, 4)
        );
        assert!(dropped.is_truncated());
        let whole = captured(Overflow::Temporary, 100, &pieces);
        assert_eq!((written(&whole), whole.lost()), (b"abcdefgh".to_vec(), 0));
        assert_eq!(written(&whole), b"abcdefgh");
        let cut = captured(Overflow::Temporary, 6, &pieces);
        assert_eq!(
            (written(&cut), cut.lost(), cut.total()),
            (b"abcdef".to_vec(), 2, 8)
        );
        let short = captured(Overflow::Temporary, 100, &[b"ab"]);
        assert!(!short.is_truncated() && short.file.is_none());
    }

    #[test]
    fn a_long_output_is_whole_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let outputs = folder.path().join("outputs");
        let short = captured(Overflow::Folder(outputs.clone()), 100, &[b"abcd"]);
        assert_eq!(short.path(), None);
        assert!(!outputs.exists());
        let long = captured(Overflow::Folder(outputs.clone()), 100, &[b"abcd", b"ef"]);
        assert_eq!(long.path(), Some(&*outputs.join("3.stdout")));
        assert_eq!(std::fs::read(outputs.join("3.stdout")).unwrap(), b"abcdef");
    }
}
