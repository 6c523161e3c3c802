//! Files beside the database: inputs of batches before they are sent, and results before they are stored.

use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::base::atomic_file::AtomicFile;
use crate::base::{Error, ErrorKind, Sent, private};
use crate::llm::batch::BatchInput;

/// The folder of these files.
#[derive(Debug, Clone)]
pub(crate) struct Spool(PathBuf);

impl Spool {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The input of a batch.
    pub(crate) fn input(&self, label: &str) -> PathBuf {
        self.0.join(format!("{label}.jsonl"))
    }

    /// The results of a batch.
    pub(crate) fn results(&self, label: &str) -> PathBuf {
        self.0.join(format!("{label}.results"))
    }

    /// Starts a file, which appears under its name once it is [kept](Draft::keep).
    pub(crate) fn draft(&self, path: PathBuf) -> Result<Draft, Error> {
        let begin = || {
            private::make_folder(&self.0)?;
            let part = AtomicFile::create(&path, private::restrict(File::options().write(true)))?;
            let file = BufWriter::with_capacity(1 << 18, part.file().try_clone()?);
            Ok((part, file))
        };
        let (part, file) = begin().map_err(|error| unwritable(&path, error))?;
        Ok(Draft {
            path,
            part,
            file,
            most: u64::MAX,
            received: 0,
            stopped: None,
        })
    }

    /// Removes the input of a batch.
    pub(crate) fn drop_input(&self, label: &str) {
        let _ = fs::remove_file(self.input(label));
    }

    /// Removes the files of other batches than those with these labels, which are read after the files: a batch is
    /// recorded before its first file is created.
    pub(crate) fn sweep(&self, labels: impl FnOnce() -> Result<HashSet<String>, Error>) {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let files: Vec<DirEntry> = files.collect();
        let Ok(labels) = labels() else {
            return;
        };
        for file in files {
            let name = file.file_name();
            let label = name.to_str().and_then(|name| name.split('.').next());
            if label.is_some_and(|label| label.starts_with("bw-") && !labels.contains(label)) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

/// A file that is being written. If it is dropped before it is [kept](Self::keep), it is deleted: on a full disk its
/// space is needed.
pub(crate) struct Draft {
    path: PathBuf,
    part: AtomicFile,
    file: BufWriter<File>,
    /// The most bytes of a download that it takes.
    pub most: u64,
    received: u64,
    /// Why it takes no more of a download: it exceeds its limit, or the disk is full, for example.
    pub stopped: Option<Error>,
}

impl Draft {
    /// Makes it durable under its name.
    pub(crate) fn keep(mut self) -> Result<(), Error> {
        let kept = self.file.flush().and_then(|()| self.part.replace());
        kept.map(drop)
            .map_err(|error| unwritable(&self.path, error))
    }

    /// The file of what was written so far, which is deleted with the draft.
    pub(crate) fn written(&mut self) -> Result<PathBuf, Error> {
        let flushed = self.file.flush();
        flushed.map_err(|error| unwritable(&self.path, error))?;
        Ok(self.part.path().to_owned())
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| unwritable(&self.path, error))
    }
}

/// Receives a download.
impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.most - self.received;
        let fitting = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let error = match self.add(&bytes[..fitting]) {
            Ok(()) if fitting == bytes.len() && self.stopped.is_none() => {
                self.received += fitting as u64;
                return Ok(fitting);
            }
            Ok(()) => too_long(self.most),
            Err(error) => error,
        };
        self.received = self.most;
        self.stopped.get_or_insert(error);
        Err(io::Error::other("the download is stopped"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn too_long(most: u64) -> Error {
    let why = format!(
        "they are larger than {:.1} MiB, the limit for its requests",
        most as f64 / 1_048_576.0
    );
    Error::new(ErrorKind::Malformed, why).with_sent(Sent::Answered)
}

/// A full disk is temporary; nothing is lost until then.
fn unwritable(path: &Path, error: io::Error) -> Error {
    let why = format!("cannot write {}: {error}", path.display());
    Error::new(ErrorKind::Transient, why).with_sent(Sent::No)
}

/// A file that cannot be read now; nothing of it was sent.
pub(crate) fn unreadable(path: &Path, error: io::Error) -> Error {
    let why = format!("cannot read {}: {error}", path.display());
    Error::new(ErrorKind::Transient, why).with_sent(Sent::No)
}

/// The input of a batch, read from its file.
impl BatchInput for PathBuf {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        match File::open(&*self) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(unreadable(self, error)),
        }
    }
}
