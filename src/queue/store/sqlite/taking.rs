//! The lock of a consumer of results: a file lock, so that no two consumers save the same results, and a crash leaves
//! nothing to undo.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use uuid::Uuid;

use super::Sqlite;
use crate::base::private;
use crate::base::{Error, ErrorKind, LockedFile, ProcessId};

/// While it is held, no other program on this machine consumes the outcomes of a process.
pub(crate) struct ConsumerLock {
    _file: LockedFile,
    path: PathBuf,
}

impl Drop for ConsumerLock {
    fn drop(&mut self) {
        // Removed while it is locked: no other program has begun to use it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Sqlite {
    pub(in crate::queue::store) fn lock_results(
        &self,
        process: ProcessId,
        who: &str,
    ) -> Result<ConsumerLock, Error> {
        let folder = self.beside(".workers");
        let path = folder.join(format!("{process}.results"));
        let cannot = |error: io::Error| {
            let why = format!(
                "{}: no lock file can be made there ({error}). The folder must be writable for this user",
                folder.display()
            );
            Error::new(ErrorKind::Invalid, why)
        };
        private::make_folder(&folder).map_err(cannot)?;
        // Identifies this file among others that may replace it.
        let mark = format!("process {}{who}\n{}\n", std::process::id(), Uuid::now_v7());
        loop {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = private::open(options, &path).and_then(LockedFile::try_lock);
            let Some(mut file) = file.map_err(cannot)? else {
                let said = fs::read_to_string(&path).unwrap_or_default();
                let by = said.lines().next().filter(|line| !line.is_empty());
                let by = by.unwrap_or("another process");
                let why = format!(
                    "{by} is fetching the results of process {process}; when it has ended, run \
                     the same command to fetch the rest"
                );
                return Err(Error::new(ErrorKind::Transient, why));
            };
            file.set_len(0).map_err(cannot)?;
            file.write_all(mark.as_bytes()).map_err(cannot)?;
            // The former owner may have removed it in between.
            if fs::read_to_string(&path).is_ok_and(|found| found == mark) {
                return Ok(ConsumerLock { _file: file, path });
            }
        }
    }
}
