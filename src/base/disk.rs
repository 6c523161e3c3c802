//! The room on a disk.

use std::path::Path;

/// Bytes that this user may still write to the disk of this folder, and bytes that the disk has. None
/// where the system does not tell.
#[cfg(unix)]
pub(crate) fn room(folder: &Path) -> Option<(u64, u64)> {
    let room = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    (room.f_blocks > 0).then(|| (bytes(room.f_bavail), bytes(room.f_blocks)))
}

#[cfg(not(unix))]
pub(crate) fn room(_: &Path) -> Option<(u64, u64)> {
    None
}
