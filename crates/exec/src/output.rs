//! The output of a command: its beginning in memory, the rest dropped or in a file, with a limit in all cases.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use batchwright::{Error, ErrorKind};

use super::output_folder::OutputFolder;

/// Time to read the output of processes that outlive their command.
pub(crate) const STRAGGLERS: Duration = Duration::from_millis(200);

/// What happens to the part of an output that exceeds the limit in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// It is read, counted and dropped.
    #[default]
    Drop,
    /// The complete output goes to a temporary file without a name, which is deleted with its [`Output`].
    Temporary,
    /// The complete output goes to a file in this folder, `NUMBER.stdout` or `NUMBER.stderr`; if an earlier run has
    /// used that name, to `NUMBER-2.stdout` and so on. The folder is created before the first command is run, and
    /// removed after the last one if it is empty. It must not be a link, because commands may have created the link.
    Folder(PathBuf),
}

/// How much of an output is kept, and where.
#[derive(Debug)]
pub(super) struct OutputSettings {
    in_memory: usize,
    most: u64,
    beyond: Beyond,
}

/// An [`Overflow`] that is ready for writing.
#[derive(Debug)]
enum Beyond {
    Nowhere,
    Temporary,
    Folder(Arc<OutputFolder>),
}

impl OutputSettings {
    /// Prepares the place for long outputs before the first command runs, because a command could interfere.
    pub fn new(in_memory: usize, most: u64, overflow: &Overflow) -> Result<Self, Error> {
        let beyond = match overflow {
            Overflow::Drop => Beyond::Nowhere,
            Overflow::Temporary => Beyond::Temporary,
            Overflow::Folder(path) => {
                let folder = OutputFolder::open(path).map_err(|why| {
                    let why = format!(
                        "cannot keep outputs in {}: {why}; it must be a folder, and no link to one",
                        path.display()
                    );
                    Error::new(ErrorKind::Invalid, why)
                })?;
                Beyond::Folder(Arc::new(folder))
            }
        };
        Ok(Self {
            in_memory: in_memory.min(usize::try_from(most).unwrap_or(usize::MAX)),
            most,
            beyond,
        })
    }

    /// Cleans up after the last command.
    pub fn leave(&self) {
        if let Beyond::Folder(folder) = &self.beyond {
            folder.leave();
        }
    }
}

/// The output of a command to one of its streams.
#[derive(Debug, Clone, Default)]
pub struct Output {
    head: Vec<u8>,
    total: u64,
    stored: u64,
    file: Option<Arc<File>>,
    /// The file, if it has a name.
    named: Option<Named>,
}

#[derive(Debug, Clone)]
struct Named {
    folder: Arc<OutputFolder>,
    name: String,
    path: PathBuf,
}

impl Output {
    /// The beginning that is kept in memory.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The beginning as text: invalid UTF-8 is replaced by U+FFFD, and a truncated last character is omitted.
    pub fn text(&self) -> String {
        match self.utf8() {
            Some(text) => text.to_owned(),
            None => String::from_utf8_lossy(&self.head).into_owned(),
        }
    }

    /// The beginning without a truncated last character, if it is UTF-8.
    pub(super) fn utf8(&self) -> Option<&str> {
        match std::str::from_utf8(&self.head) {
            Ok(text) => Some(text),
            Err(why) if self.is_truncated() && why.error_len().is_none() => {
                std::str::from_utf8(&self.head[..why.valid_up_to()]).ok()
            }
            Err(_) => None,
        }
    }

    /// Number of bytes that the command printed.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// True if [`head`](Self::head) is not the complete output.
    pub fn is_truncated(&self) -> bool {
        self.total > self.head.len() as u64
    }

    /// Number of bytes that were dropped, because they exceeded the limit.
    pub fn lost(&self) -> u64 {
        self.total - self.stored.max(self.head.len() as u64)
    }

    /// The file that contains more than the head.
    pub fn path(&self) -> Option<&Path> {
        self.named.as_ref().map(|named| &*named.path)
    }

    /// Removes the file that contains more than the head.
    pub(super) fn remove(&mut self) {
        (self.file, self.stored) = (None, 0);
        if let Some(Named { folder, name, .. }) = self.named.take() {
            folder.remove(&name);
        }
    }

    /// Writes everything that is kept, from memory or from the file.
    ///
    /// # Errors
    /// Errors of reading the file and of writing.
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

    /// Memory that it uses in bytes, with a fixed amount for a file.
    pub(super) fn weight(&self) -> usize {
        let file = if self.file.is_some() { 1024 * 1024 } else { 0 };
        self.head.len() + file
    }
}

/// An output while it is read.
pub(super) struct Capture<'a> {
    output: Output,
    settings: &'a OutputSettings,
    /// The command's number and the stream, which determine the name of the file if it has one.
    name: (u64, String),
    failed: Option<io::Error>,
}

impl<'a> Capture<'a> {
    pub fn new(settings: &'a OutputSettings, seq: u64, stream: &str) -> Self {
        Self {
            output: Output::default(),
            settings,
            name: (seq, stream.to_owned()),
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
            // A partial output is useless, and its disk space is needed.
            self.output.remove();
        }
    }

    fn store(&mut self, rest: &[u8]) -> io::Result<()> {
        let output = &mut self.output;
        let stored = output.stored.max(output.head.len() as u64);
        let room = self.settings.most.saturating_sub(stored);
        let rest = &rest[..rest.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if rest.is_empty() {
            return Ok(());
        }
        let file = match &output.file {
            Some(file) => file.clone(),
            None => {
                let file = match &self.settings.beyond {
                    Beyond::Nowhere => return Ok(()),
                    Beyond::Temporary => tempfile::tempfile()?,
                    Beyond::Folder(folder) => {
                        let (seq, stream) = &self.name;
                        let (file, name) = folder.create(*seq, stream)?;
                        output.named = Some(Named {
                            path: folder.path_of(&name),
                            folder: folder.clone(),
                            name,
                        });
                        file
                    }
                };
                (&file).write_all(&output.head)?;
                output.stored = output.head.len() as u64;
                output.file.insert(Arc::new(file)).clone()
            }
        };
        (&*file).write_all(rest)?;
        output.stored += rest.len() as u64;
        Ok(())
    }

    /// The output, and the reason if a part of it is missing.
    pub fn end(mut self) -> (Output, Option<io::Error>) {
        // A file with a name is reopened for reading; a file without one can only be read through its descriptor.
        if self.output.named.is_some() {
            self.output.file = None;
        }
        (self.output, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(overflow: Overflow, most: u64, pieces: &[&[u8]]) -> Output {
        let settings = OutputSettings::new(4, most, &overflow).unwrap();
        let mut capture = Capture::new(&settings, 3, "stdout");
        pieces.iter().for_each(|piece| capture.take(piece));
        assert!(capture.failed.is_none());
        settings.leave();
        capture.end().0
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
    fn a_long_output_is_complete_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let outputs = folder.path().join("outputs");
        let short = captured(Overflow::Folder(outputs.clone()), 100, &[b"abcd"]);
        assert_eq!(short.path(), None);
        assert!(!outputs.exists());
        let long = captured(Overflow::Folder(outputs.clone()), 100, &[b"abcd", b"ef"]);
        assert_eq!(long.path(), Some(&*outputs.join("3.stdout")));
        assert_eq!(std::fs::read(outputs.join("3.stdout")).unwrap(), b"abcdef");
        // An existing file is not overwritten, because it belongs to another attempt.
        let mut next = captured(Overflow::Folder(outputs.clone()), 100, &[b"ABCD", b"EF"]);
        assert_eq!(next.path(), Some(&*outputs.join("3-2.stdout")));
        next.remove();
        let names = std::fs::read_dir(&outputs).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["3.stdout"]);
        assert_eq!(std::fs::read(outputs.join("3.stdout")).unwrap(), b"abcdef");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_or_folder_that_is_a_link_is_not_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let (victim, outputs) = (folder.path().join("victim"), folder.path().join("outputs"));
        std::fs::write(&victim, "precious").unwrap();
        std::fs::create_dir(&outputs).unwrap();
        symlink(&victim, outputs.join("3.stdout")).unwrap();
        symlink(folder.path().join("new"), outputs.join("3-2.stdout")).unwrap();
        let long = captured(Overflow::Folder(outputs.clone()), 100, &[b"abcdef"]);
        assert_eq!(long.path(), Some(&*outputs.join("3-3.stdout")));
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert!(!folder.path().join("new").exists());
        let link = folder.path().join("link");
        symlink(&outputs, &link).unwrap();
        let refused = OutputSettings::new(4, 100, &Overflow::Folder(link)).unwrap_err();
        assert!(refused.message().contains("no link to one"), "{refused}");
    }

    #[test]
    fn small_limits_of_outputs_are_exact() {
        let small = captured(Overflow::Temporary, 2, &[b"ab", b"cd"]);
        assert_eq!((small.head(), small.lost()), (&b"ab"[..], 2));
        assert!(small.file.is_none());
    }

    #[test]
    fn a_truncated_character_is_not_an_error() {
        let cut = captured(Overflow::Drop, 100, &["abc\u{e9}".as_bytes()]);
        assert_eq!((cut.utf8(), cut.text()), (Some("abc"), "abc".to_owned()));
        let faulty = captured(Overflow::Drop, 100, &[b"ab\xc3"]);
        assert_eq!(
            (faulty.utf8(), faulty.text()),
            (None, "ab\u{fffd}".to_owned())
        );
    }
}
