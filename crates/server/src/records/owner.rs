//! This server, as other servers of the same folder see it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use batchwright::ProcessId;

/// This server, as others see it: a kernel lock on a file, which ends with its process.
pub(super) struct Owner {
    pub name: String,
    folder: PathBuf,
    path: PathBuf,
    _file: File,
}

impl Owner {
    pub fn new(folder: &Path) -> io::Result<Self> {
        forget_the_dead(folder)?;
        let name = ProcessId::new().to_string();
        let path = lock_of(folder, &name);
        // By its own name only once it is locked: until then nobody must take it for that of a dead one.
        let early = path.with_extension("starting");
        let file = crate::private::options()
            .create_new(true)
            .write(true)
            .open(&early)?;
        file.lock()?;
        std::fs::rename(&early, &path)?;
        Ok(Self {
            name,
            folder: folder.to_owned(),
            path,
            _file: file,
        })
    }

    pub fn is_dead(&self, name: &str) -> bool {
        if name == self.name {
            return false;
        }
        let path = lock_of(&self.folder, name);
        let Ok(file) = File::options().write(true).open(&path) else {
            return !path.exists();
        };
        match file.try_lock() {
            Ok(()) => {
                let _ = std::fs::remove_file(&path);
                true
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes what servers have left that were killed.
fn forget_the_dead(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("server.") && name.ends_with(".lock") {
            let is_dead = File::options()
                .write(true)
                .open(&path)
                .is_ok_and(|file| file.try_lock().is_ok());
            if is_dead {
                // Another one that starts may have been first.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    Ok(())
}

fn lock_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("server.{name}.lock"))
}
