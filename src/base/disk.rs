//! Properties of disks: free space, and durable renames.

use std::fs;
use std::io;
use std::path::Path;

/// Whether the path is a file, or one can be created there. A run cannot be resumed from a pipe or device.
pub(crate) fn is_regular(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

/// Makes a rename or a new name durable, if the system can sync folders.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        fs::File::open(folder_of(path))?.sync_all()
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
