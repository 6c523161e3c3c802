//! Workers: each locks a file of its own as long as its OS process exists, so a claim needs no lease and a suspended
//! process keeps its jobs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::params;
use uuid::Uuid;

use crate::base::host::host;
use crate::base::private;
use crate::base::{Error, ErrorKind, LockedFile, Timestamp};
use crate::queue::job::ProcessState;
use crate::queue::store::sql::workers::{Departure, give_back};
use crate::queue::store::sql::{claim, due, settle};
use crate::queue::store::{
    ClaimReply, ClaimRequest, ClaimStore, Settlement, StoreDatabase as _, WorkerId, Workers,
};

use super::SqliteStore;
use super::writer::Sync;

/// A worker of this store.
pub(super) struct RegisteredWorker {
    /// Holds the lock; `None` if no other process can check it.
    _file: Option<LockedFile>,
    path: PathBuf,
    /// Number of jobs that it has claimed.
    pub(super) given: u64,
    /// It has ended, but its row could not be deleted.
    left: bool,
}

/// A worker as its row describes it.
pub(super) struct ListedWorker {
    pub no: i64,
    pub name: String,
    pub pid: i64,
    pub host: String,
}

/// The result of checking a worker's lock.
pub(super) enum Pulse {
    Alive,
    /// The worker is dead. While this file is locked, no other process detects that.
    Dead(Option<LockedFile>),
}

impl SqliteStore {
    /// A file next to the database.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.beside(".workers").join(format!("{name}.lock"))
    }

    /// Unregisters workers of this process that have ended while that could not be written.
    fn unregister_ended(&self, now: Timestamp) -> Result<u64, Error> {
        let left: Vec<i64> = {
            let workers = self.workers.lock();
            let left = workers.iter().filter(|(_, registered)| registered.left);
            left.map(|(no, _)| *no).collect()
        };
        let mut affected = 0;
        for no in left {
            let back = self.write(Sync::AsSet, |conn| {
                give_back(&mut { conn }, no, Departure::Unsaved, now)
            })?;
            affected += back.unwrap_or(0);
            if let Some(registered) = self.workers.lock().remove(&no) {
                let _ = fs::remove_file(&registered.path);
            }
        }
        Ok(affected)
    }

    pub(super) fn listed(&self) -> Result<Vec<ListedWorker>, Error> {
        self.read(|conn| {
            let mut read =
                conn.prepare_cached("SELECT no, name, pid, host FROM workers ORDER BY no")?;
            let all = read.query_map([], |row| {
                Ok(ListedWorker {
                    no: row.get(0)?,
                    name: row.get(1)?,
                    pid: row.get(2)?,
                    host: row.get(3)?,
                })
            })?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }

    pub(super) fn pulse(&self, worker: &ListedWorker) -> Pulse {
        if self.workers.lock().contains_key(&worker.no) {
            return Pulse::Alive;
        }
        match try_lock(&self.lock_path(&worker.name)) {
            Ok(Some(file)) => Pulse::Dead(Some(file)),
            // The lock file was removed, which shows nothing about the worker; or the store was moved without it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && (self.is_movable || is_gone(worker.pid, &worker.host)) =>
            {
                Pulse::Dead(None)
            }
            Ok(None) | Err(_) => Pulse::Alive,
        }
    }

    /// Removes lock files that no process has locked and no row names: a process crashed between the two steps.
    fn sweep(&self, folder: &Path) -> Result<(), Error> {
        let known = self.listed()?;
        let Ok(files) = fs::read_dir(folder) else {
            return Ok(());
        };
        for path in files.flatten().map(|file| file.path()) {
            let name = path.file_stem().and_then(|name| name.to_str());
            let listed = known
                .iter()
                .any(|worker| Some(worker.name.as_str()) == name);
            if listed || path.extension().is_none_or(|extension| extension != "lock") {
                continue;
            }
            // If this locks the file, its creator has crashed or has not locked it yet, and then creates another.
            if let Ok(Some(_held)) = try_lock(&path)
                && !self
                    .listed()?
                    .iter()
                    .any(|worker| Some(worker.name.as_str()) == name)
            {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

impl ClaimStore for SqliteStore {
    fn register_worker(&self) -> Result<WorkerId, Error> {
        let folder = self.beside(".workers");
        let cannot = |error: io::Error| {
            let why = format!(
                "{}: no lock file can be made there ({error}). The folder must be writable for this user",
                folder.display()
            );
            Error::new(ErrorKind::Invalid, why)
        };
        let (name, path, file) = if self.file.is_none() {
            let name = Uuid::now_v7().to_string();
            let path = self.lock_path(&name);
            (name, path, None)
        } else {
            private::make_folder(&folder).map_err(cannot)?;
            self.sweep(&folder)?;
            let (name, path, file) = locked_file(|name| self.lock_path(name)).map_err(cannot)?;
            (name, path, Some(file))
        };
        // Locked before the row is visible: no process ever finds a living worker unlocked.
        let no = self.write(Sync::AsSet, |conn| {
            conn.prepare_cached("INSERT INTO workers (name, pid, host) VALUES (?1, ?2, ?3)")?
                .execute(params![name, std::process::id(), host()])?;
            Ok(conn.last_insert_rowid())
        })?;
        let registered = RegisteredWorker {
            _file: file,
            path,
            given: 0,
            left: false,
        };
        self.workers.lock().insert(no, registered);
        Ok(WorkerId(no))
    }

    fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error> {
        let given_back = self.write(Sync::AsSet, |conn| {
            give_back(&mut { conn }, worker.0, Departure::Retired, now)
                .map(|back| back.unwrap_or(0))
        });
        if given_back.is_err()
            && let Some(registered) = self.workers.lock().get_mut(&worker.0)
        {
            registered.left = true;
        }
        let given_back = given_back?;
        if let Some(registered) = self.workers.lock().remove(&worker.0) {
            let _ = fs::remove_file(&registered.path);
        }
        if given_back > 0 {
            self.wake();
        }
        Ok(())
    }

    fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        let given = self.workers.lock().get(&worker.0).map(|known| known.given);
        let given = given.ok_or_else(|| worker.unknown())?;
        let claimed = claim::claim(self, worker, given, wanted, now, &mut Vec::new())?;
        if let Some(registered) = self.workers.lock().get_mut(&worker.0) {
            registered.given += claimed.jobs.len() as u64;
        }
        Ok(claimed)
    }

    fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error> {
        settle::settle(self, ends, now)
    }

    fn workers(&self) -> Result<Workers, Error> {
        let mut workers = Workers {
            version: self.version()?,
            ..Workers::default()
        };
        for worker in self.listed()? {
            match self.pulse(&worker) {
                Pulse::Alive => workers.live.push((WorkerId(worker.no), Vec::new())),
                Pulse::Dead(_) => workers.any_dead = true,
            }
        }
        Ok(workers)
    }

    /// Workers on one machine share their limits in another way.
    fn list_quotas(&self, _: WorkerId, _: &[u64]) -> Result<(), Error> {
        Ok(())
    }

    fn dead_workers(&self) -> Result<Vec<WorkerId>, Error> {
        let listed = self.listed()?.into_iter();
        let dead = listed.filter(|worker| matches!(self.pulse(worker), Pulse::Dead(_)));
        Ok(dead.map(|worker| WorkerId(worker.no)).collect())
    }

    fn reclaim(&self, now: Timestamp) -> Result<u64, Error> {
        let mut affected = self.unregister_ended(now)?;
        for worker in self.listed()? {
            let Pulse::Dead(held) = self.pulse(&worker) else {
                continue;
            };
            let back = self.write(Sync::AsSet, |conn| {
                give_back(&mut { conn }, worker.no, Departure::Died, now)
            })?;
            if held.is_some() {
                let _ = fs::remove_file(self.lock_path(&worker.name));
            }
            if let Some(jobs) = back {
                log::info!(
                    "a worker died (process {}): {jobs} of its jobs returned to the queue",
                    worker.pid
                );
                affected += jobs;
            }
        }
        if affected > 0 {
            self.wake();
        }
        Ok(affected)
    }

    fn make_due(&self, longest: Duration, now: Timestamp) -> Result<u64, Error> {
        due::make_due(self, longest, now)
    }
}

/// A new file under a new name, and its lock.
fn locked_file(path: impl Fn(&str) -> PathBuf) -> io::Result<(String, PathBuf, LockedFile)> {
    loop {
        let name = Uuid::now_v7().to_string();
        let path = path(&name);
        let file = private::open(
            File::options().read(true).write(true).create_new(true),
            &path,
        )?;
        // Another process's sweep may have locked it for a moment, and removed it.
        if let Some(file) = LockedFile::try_lock(file)?
            && path.exists()
        {
            return Ok((name, path, file));
        }
    }
}

/// The lock of an existing file, if no process has locked it.
fn try_lock(path: &Path) -> io::Result<Option<LockedFile>> {
    LockedFile::try_lock(File::options().read(true).write(true).open(path)?)
}

/// Whether an OS process has ended. A process of another machine came here with a copy of its database.
pub(super) fn is_gone(pid: i64, of: &str) -> bool {
    let processes = Path::new("/proc");
    of != host() || processes.join("self").exists() && !processes.join(pid.to_string()).exists()
}
