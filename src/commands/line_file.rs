//! A file to which whole lines are added, by one run at a time, and which is mended when it is opened again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::base::error::{Error, ErrorKind};

pub(super) struct LineFile {
    path: PathBuf,
    file: File,
    /// Up to here it has whole lines; `None` for a pipe or a device.
    whole: Option<u64>,
}

impl LineFile {
    /// Opens or makes it, locked as long as this lives, and cuts off a line that a killed run left unfinished.
    /// `line` sees each whole line that is there, without its end.
    pub fn open(
        path: &Path,
        mut line: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let trouble = |why: io::Error| trouble(path, "cannot open", &why);
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        // A pipe opened for reading too would keep itself open.
        let regular = path.metadata().map_or(true, |metadata| metadata.is_file());
        let mut file = options.read(regular).open(path).map_err(trouble)?;
        if !regular {
            return Ok(Self {
                path: path.to_owned(),
                file,
                whole: None,
            });
        }
        file.try_lock().map_err(|_| {
            let why = format!("{} is being written by another run", path.display());
            Error::new(ErrorKind::Invalid, why)
        })?;
        file.seek(SeekFrom::Start(0)).map_err(trouble)?;
        let mut whole = 0;
        let mut reader = BufReader::with_capacity(64 * 1024, &file);
        let mut text = Vec::new();
        loop {
            text.clear();
            let read = reader
                .by_ref()
                .read_until(b'\n', &mut text)
                .map_err(trouble)?;
            if text.pop() != Some(b'\n') {
                break;
            }
            line(&text)?;
            whole += read as u64;
        }
        let length = file.metadata().map_err(trouble)?.len();
        if length > whole {
            log::info!(
                "{}: cut off {} bytes of a line that was not finished",
                path.display(),
                length - whole
            );
            file.set_len(whole).map_err(trouble)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            whole: Some(whole),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.whole == Some(0)
    }

    /// Adds a line, which ends with a line end: all of it or nothing.
    pub fn append(&mut self, line: &[u8]) -> Result<(), Error> {
        if let Err(why) = self.file.write_all(line) {
            if let Some(whole) = self.whole {
                let _ = self.file.set_len(whole);
            }
            return Err(trouble(&self.path, "cannot write", &why));
        }
        self.whole = self.whole.map(|whole| whole + line.len() as u64);
        Ok(())
    }
}

fn trouble(path: &Path, what: &str, why: &io::Error) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("{what} {}: {why}", path.display()),
    )
}
