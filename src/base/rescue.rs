//! Rescues the contents of an open file that another program has removed or replaced.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::disk::sync_folder;
use super::private;

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
