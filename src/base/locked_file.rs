//! A file lock that ends with its holder.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::{Deref, DerefMut};

/// A locked file. It is unlocked and not only closed: a process that this one starts has a copy of the open file until
/// its `exec`, and would keep the lock.
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// Locks the file; `None` if it is locked already.
    ///
    /// # Errors
    /// If the file system has no locks.
    pub fn try_lock(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The owner of a lock that this process holds already.
    pub fn held(file: File) -> Self {
        Self(file)
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for LockedFile {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_open_file_in_a_new_process_does_not_keep_the_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let held = LockedFile::try_lock(open()).unwrap().unwrap();
        assert!(LockedFile::try_lock(open()).unwrap().is_none());
        // Between fork and exec, a child has such a copy.
        let copy = held.try_clone().unwrap();
        drop(held);
        assert!(LockedFile::try_lock(open()).unwrap().is_some());
        drop(copy);
    }
}
