//! Files and folders on the disk: what is one, where it is, who holds it, and how much room there is.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use super::private;

/// Whether the path is a file, or one can be created there. A run cannot be resumed from a pipe or device.
pub(crate) fn is_regular(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

/// Makes a rename or a new name durable, if the system can sync folders.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder_of(path))?.sync_all()
    } else {
        Ok(())
    }
}

/// The parent folder of a path.
pub(crate) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Bytes that this user can still write to the disk of this folder, and the size of the disk. `None` if the system
/// does not report them.
#[cfg(all(unix, feature = "queue"))]
pub fn room(folder: &Path) -> Option<(u64, u64)> {
    let room = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    (room.f_blocks > 0).then(|| (bytes(room.f_bavail), bytes(room.f_blocks)))
}

/// Unknown on this system: always `None`.
#[cfg(not(all(unix, feature = "queue")))]
pub fn room(_: &Path) -> Option<(u64, u64)> {
    None
}

/// The path of the store of a run with this output: the output's path after resolving links, with `.batchwright`
/// appended. An earlier run has left something if and only if that file exists.
///
/// # Errors
/// If the output's folder does not exist.
pub fn store_path(output: impl AsRef<Path>) -> io::Result<PathBuf> {
    let output = output.as_ref();
    let mut name = resolved(output, 0)?.into_os_string();
    name.push(".batchwright");
    Ok(name.into())
}

/// Maximum number of links in a chain, in case they form a cycle.
const MOST_LINKS: u32 = 40;

/// The path of a file after resolving links; the file need not exist.
pub(crate) fn resolved(path: &Path, links: u32) -> io::Result<PathBuf> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound || links > MOST_LINKS => {
            return Err(error);
        }
        Err(_) => {}
    }
    // A link to a file that does not exist yet.
    if let Ok(target) = path.read_link() {
        return resolved(&parent.join(target), links + 1);
    }
    let name: OsString = path.file_name().unwrap_or_default().to_owned();
    Ok(parent.canonicalize()?.join(name))
}

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

/// Copies the first `len` bytes of an open file into a new, locked file next to its former path. The old file
/// cannot be used, because another program may still write to it. If its folder is gone too, the copy is in the
/// folder for temporary files.
///
/// # Errors
/// If the copy cannot be created, written or locked.
pub fn copy_beside(path: &Path, file: &File, len: u64) -> io::Result<(PathBuf, File)> {
    let (path, copy) = rescue_file(path)?;
    let copied = copy.try_lock().map_err(io::Error::from).and_then(|()| {
        let mut held = file.take(len);
        held.get_mut().seek(SeekFrom::Start(0))?;
        io::copy(&mut held, &mut &copy)?;
        copy.set_permissions(file.metadata()?.permissions())?;
        copy.sync_all()
    });
    if let Err(error) = copied {
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    let _ = sync_folder(&path);
    Ok((path, copy))
}

/// A new file beside the path, or in the folder for temporary files if the path's folder is gone.
fn rescue_file(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut number = 1;
    loop {
        let beside = folder.join(format!("{name}.rescued-{number}"));
        let mut options = OpenOptions::new();
        options.create_new(true).append(true).read(true);
        match private::open(&mut options, &beside) {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let instead = std::env::temp_dir();
                if folder == instead {
                    return Err(error);
                }
                folder = instead;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether this path still leads to this file; true if that is unknown.
#[cfg(unix)]
pub fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

/// Unknown on this system: always true.
#[cfg(not(unix))]
pub fn same_file(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_leads_to_the_store_of_its_future_target() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link.jsonl");
        std::os::unix::fs::symlink("out.jsonl", &link).unwrap();
        let beside = folder.path().canonicalize().unwrap();
        let beside = beside.join("out.jsonl.batchwright");
        assert_eq!(store_path(&link).unwrap(), beside);
    }
}

#[cfg(test)]
mod locked_file_tests {
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
