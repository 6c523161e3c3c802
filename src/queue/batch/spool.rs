//! Files beside the database: inputs of batches before they are sent, and results before they are stored.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, private};
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

    /// The results of a batch, file by file.
    pub(crate) fn results(&self, label: &str, file: usize) -> PathBuf {
        self.0.join(format!("{label}.{file}.results"))
    }

    /// An incomplete download of results.
    pub(crate) fn partial(&self, label: &str, file: usize) -> PathBuf {
        self.0.join(format!("{label}.{file}.results.partial"))
    }

    /// Starts a file, which appears under its name once it is [kept](Draft::keep).
    pub(crate) fn draft(&self, path: PathBuf) -> Result<Draft, Error> {
        let begin = || {
            private::make_folder(&self.0)?;
            let mut part = path.clone().into_os_string();
            part.push(".part");
            let part = PathBuf::from(part);
            let file = BufWriter::with_capacity(1 << 18, private::make_file(&part)?);
            Ok((part, file))
        };
        let (part, file) = begin().map_err(|error| unwritable(&path, error))?;
        Ok(Draft {
            path,
            part,
            file,
            left: u64::MAX,
            stopped: None,
        })
    }

    /// Removes the input of a batch.
    pub(crate) fn drop_input(&self, label: &str) {
        let _ = fs::remove_file(self.input(label));
    }

    /// Removes the results of a batch.
    pub(crate) fn drop_results(&self, label: &str, files: usize) {
        for file in 0..files {
            let _ = fs::remove_file(self.results(label, file));
            let _ = fs::remove_file(self.partial(label, file));
        }
    }

    /// All files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        files.map(|file| file.path()).collect()
    }

    /// Removes the files that belong to none of these batches.
    pub(crate) fn sweep(&self, files: Vec<PathBuf>, labels: &HashSet<String>) {
        for path in files {
            let name = path.file_name().and_then(|name| name.to_str());
            let label = name.and_then(|name| name.split('.').next());
            if label.is_some_and(|label| label.starts_with("bw-") && !labels.contains(label)) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A file that is being written. If it is dropped before it is [kept](Self::keep), it is deleted: on a full disk its
/// space is needed.
pub(crate) struct Draft {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    /// How many bytes of a download it takes yet.
    pub left: u64,
    /// Why it takes no more of a download.
    pub stopped: Option<Stopped>,
}

/// Why a download was stopped.
pub(crate) enum Stopped {
    /// It exceeds its limit; the part before that is kept.
    TooLong,
    /// The disk is full, for example.
    NoRoom(Error),
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part);
    }
}

impl Draft {
    /// Makes it durable under its name.
    pub(crate) fn keep(mut self) -> Result<(), Error> {
        let mut keep = || {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.part, &self.path)
        };
        keep().map_err(|error| unwritable(&self.path, error))
    }

    /// Makes an incomplete download durable under that name, unless a longer one exists: its answers are paid for.
    pub(crate) fn keep_partial(mut self, path: PathBuf) -> Result<(), Error> {
        let flushed = self.file.flush();
        let length = flushed.and_then(|()| Ok(self.file.get_ref().metadata()?.len()));
        let length = length.map_err(|error| unwritable(&path, error))?;
        if fs::metadata(&path).is_ok_and(|known| known.len() > length) {
            return Ok(());
        }
        self.path = path;
        self.keep()
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| unwritable(&self.path, error))
    }
}

/// Receives a download.
impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stop = || io::Error::other("the download exceeds its limit");
        if self.stopped.is_some() {
            return Err(stop());
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let fitting = bytes.len().min(left);
        if let Err(error) = self.file.write_all(&bytes[..fitting]) {
            let full = unwritable(&self.path, error);
            self.stopped = Some(Stopped::NoRoom(full));
            return Err(stop());
        }
        self.left -= fitting as u64;
        if fitting < bytes.len() {
            self.stopped = Some(Stopped::TooLong);
            return Err(stop());
        }
        Ok(fitting)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A full disk is temporary; nothing is lost until then.
fn unwritable(path: &Path, error: io::Error) -> Error {
    let why = format!("cannot write {}: {error}", path.display());
    Error::new(ErrorKind::Transient, why).with_sent(crate::base::error::Sent::No)
}

/// The input of a batch, read from its file.
pub(crate) struct InputFile(pub PathBuf);

impl BatchInput for InputFile {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        let file = File::open(&self.0).map_err(|error| {
            let why = format!("cannot read {}: {error}", self.0.display());
            Error::new(ErrorKind::Transient, why).with_sent(crate::base::error::Sent::No)
        })?;
        Ok(Box::new(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_part_of_results_never_replaces_a_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().to_owned());
        let partial = spool.partial("bw-1", 0);
        for (arrives, kept) in [("ab", "ab"), ("a", "ab"), ("abc", "abc")] {
            let mut draft = spool.draft(spool.results("bw-1", 0)).unwrap();
            draft.add(arrives.as_bytes()).unwrap();
            draft.keep_partial(partial.clone()).unwrap();
            assert_eq!(fs::read_to_string(&partial).unwrap(), kept);
        }
    }
}
