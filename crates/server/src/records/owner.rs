//! This server, as other servers of the same folder see it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use batchwright::ProcessId;
use batchwright::unstable::open_private;

/// A kernel lock on a file by which other servers see that this one lives: it ends with its process.
pub(super) struct Owner {
    pub name: String,
    folder: PathBuf,
    path: PathBuf,
    _file: File,
}

impl Owner {
    pub fn new(folder: &Path) -> io::Result<Self> {
        remove_files_of_killed_servers(folder)?;
        loop {
            let name = ProcessId::new().to_string();
            let path = lock_of(folder, &name);
            let file = open_private(File::options().create_new(true).write(true), &path)?;
            file.lock()?;
            // Before it was locked, another server may have removed it as that of a killed one.
            if path.exists() {
                return Ok(Self {
                    name,
                    folder: folder.to_owned(),
                    path,
                    _file: file,
                });
            }
        }
    }

    pub fn is_dead(&self, name: &str) -> bool {
        if name == self.name {
            return false;
        }
        remove_if_free(&lock_of(&self.folder, name))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes the lock files of servers that were killed.
fn remove_files_of_killed_servers(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("server.") && name.ends_with(".lock") {
            remove_if_free(&path);
        }
    }
    Ok(())
}

/// Removes a lock file that no process holds. Returns whether it did, or another server that starts was first.
fn remove_if_free(path: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(path) else {
        return !path.exists();
    };
    let is_free = file.try_lock().is_ok();
    if is_free {
        let _ = std::fs::remove_file(path);
    }
    is_free
}

/// Locks a file that only one server of a folder holds at a time; `None` while another server holds it. The kernel
/// releases the lock when the process ends, also after a kill.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = File::options();
    let file = open_private(options.create(true).truncate(false).write(true), path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn lock_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("server.{name}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_killed_servers_go_and_those_of_starting_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let left = lock_of(folder.path(), "killed");
        std::fs::write(&left, "").unwrap();
        let start = || Owner::new(folder.path()).unwrap();
        let owners: Vec<Owner> = std::thread::scope(|scope| {
            let servers = [(); 16].map(|()| scope.spawn(start));
            servers.map(|server| server.join().unwrap()).into()
        });
        let files = std::fs::read_dir(folder.path()).unwrap();
        let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        let mut held: Vec<_> = owners.iter().map(|owner| owner.path.clone()).collect();
        files.sort();
        held.sort();
        assert_eq!(files, held);
        assert!(owners[0].is_dead("killed"));
        assert!(!owners[0].is_dead(&owners[1].name));
    }
}
