//! Files that only their user reads, whatever folder they are in: prompts and answers are nobody else's.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Options for a file that nobody else may read, should it be made.
pub(crate) fn options() -> OpenOptions {
    #[allow(unused_mut, reason = "there is a mode to be set on Unix alone")]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder that nobody else may look into, unless it is there.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Takes a lock that one server of a folder has at a time; `None` while another one has it. The kernel gives it back
/// when a process ends, however it does.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn others_see_nothing() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("files");
        create_folder(&folder).unwrap();
        let file = folder.join("file");
        options().create(true).append(true).open(&file).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    }
}
