//! What files and folders lie on: the room on a disk, and what makes a change of names last.

use std::fs;
use std::io;
use std::path::Path;

/// True for a file, or for a path where one can be made; a pipe or device cannot be resumed from.
pub(crate) fn is_regular(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

/// Makes a rename or a new name durable, where folders can be synced.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        fs::File::open(folder_of(path))?.sync_all()
    } else {
        Ok(())
    }
}

/// The folder that a path is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Bytes that this user may still write to the disk of this folder, and bytes that the disk has. None
/// where the system does not tell.
#[cfg(all(unix, feature = "queue"))]
pub fn room(folder: &Path) -> Option<(u64, u64)> {
    let room = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    (room.f_blocks > 0).then(|| (bytes(room.f_bavail), bytes(room.f_blocks)))
}

/// The same where it cannot be told: always `None`.
#[cfg(not(all(unix, feature = "queue")))]
pub fn room(_: &Path) -> Option<(u64, u64)> {
    None
}
