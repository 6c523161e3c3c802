//! Signs of life: each worker locks a file of its own as long as its OS process exists, so a claim needs no lease and a
//! suspended process keeps its jobs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::base::host::host;
use crate::base::{Error, ErrorKind, LockedFile, ProcessId, private};
use crate::queue::store::claims::{DeadWorker, Sign};
use crate::queue::store::statements::{Queries as _, by};
use crate::queue::store::workers::Registry;
use crate::queue::store::{Mode, Workers};

use super::Sqlite;
use super::open::identity;

fn no_lock(folder: &Path, error: &io::Error) -> Error {
    let why = format!(
        "{}: no lock file can be made there ({error}). The folder must be writable for this user",
        folder.display()
    );
    Error::new(ErrorKind::Invalid, why)
}

impl Sqlite {
    fn lock_path(&self, name: &str) -> PathBuf {
        self.beside(".workers").join(format!("{name}.lock"))
    }

    /// A name for a worker, and its locked file, if other processes can look at it.
    pub(in crate::queue::store) fn make_sign(&self) -> Result<(String, Option<Sign>), Error> {
        if self.place.file.is_none() {
            return Ok((Uuid::now_v7().to_string(), None));
        }
        let folder = self.beside(".workers");
        let cannot = |error| no_lock(&folder, &error);
        private::make_folder(&folder).map_err(cannot)?;
        let name = Uuid::now_v7().to_string();
        let path = self.lock_path(&name);
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        let file = private::open(options, &path).and_then(LockedFile::try_lock);
        Ok((name, file.map_err(cannot)?.map(|file| (file, path))))
    }

    /// All workers. `own`: those of this OS process.
    pub(in crate::queue::store) fn look(&self, own: &Registry) -> Result<Workers, Error> {
        let find = "SELECT no, pid, host, name FROM #workers ORDER BY no";
        let (listed, schema): (Vec<(DeadWorker, String)>, _) = self.run(Mode::Read, |tx| {
            let schema = tx.one("PRAGMA user_version", by![])?;
            Ok((tx.many(find, by![])?, schema))
        })?;
        let mut found = Workers {
            version: self.version()?,
            schema: schema.unwrap_or(0),
            ..Workers::default()
        };
        for (worker, name) in listed {
            let dead = if own.has(worker.no.0) {
                None
            } else {
                self.dead(&worker, &name)
            };
            match dead {
                Some(sign) => found.dead.push((worker, sign)),
                None => found.live.push((worker.no, Vec::new())),
            }
        }
        Ok(found)
    }

    /// The locked file of a worker that is dead, if it has one.
    fn dead(&self, worker: &DeadWorker, name: &str) -> Option<Option<Sign>> {
        let path = self.lock_path(name);
        match try_lock(&path) {
            Ok(file) => file.map(|file| Some((file, path))),
            // The lock file was removed, which shows nothing about the worker; or the store was moved without it. In memory
            // there are no others.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_alone = self.place.is_movable || self.place.file.is_none();
                (is_alone || is_gone(worker.pid, &worker.host)).then_some(None)
            }
            Err(_) => None,
        }
    }
}

/// The lock of an existing file, if no process has locked it.
fn try_lock(path: &Path) -> io::Result<Option<LockedFile>> {
    LockedFile::try_lock(File::options().read(true).write(true).open(path)?)
}

/// Whether an OS process has ended. A process of another machine came here with a copy of its database.
fn is_gone(pid: i64, of: &str) -> bool {
    let processes = Path::new("/proc");
    of != host() || processes.join("self").exists() && !processes.join(pid.to_string()).exists()
}

// The lock of a consumer of results: a file lock, so that no two consumers save the same results, and a crash leaves
// nothing to undo.

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
    ) -> Result<ConsumerLock, Error> {
        let folder = self.beside(".workers");
        let path = folder.join(format!("{process}.results"));
        let cannot = |error| no_lock(&folder, &error);
        private::make_folder(&folder).map_err(cannot)?;
        loop {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = private::open(options, &path).and_then(LockedFile::try_lock);
            let Some(file) = file.map_err(cannot)? else {
                let why = format!(
                    "another program is fetching the results of process {process}; when it has ended, run \
                     the same command to fetch the rest"
                );
                return Err(Error::new(ErrorKind::Transient, why));
            };
            // The former owner may have removed it in between.
            let own = file.metadata().map_err(cannot)?;
            if fs::metadata(&path).is_ok_and(|there| identity(&there) == identity(&own)) {
                return Ok(ConsumerLock { _file: file, path });
            }
        }
    }
}
