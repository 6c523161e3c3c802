//! Removes the folder for temporary files, whatever commands have left in it.

use std::ffi::CStr;
use std::fs::{Permissions, set_permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        match remove_folder(&self.0) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => log::warn!("cannot remove {}: {why}", self.0.display()),
        }
    }
}

/// Removes a folder and all that is in it. A folder in it is first moved to the top, so that any depth takes neither more
/// open files nor a longer path. No link is followed.
fn remove_folder(folder: &Path) -> Result<()> {
    let top = open(CWD, folder)?;
    let mut next = 0;
    let mut rest = empty(&top, &top, &mut next)?;
    while let Some(name) = rest.pop() {
        let inner = open(&top, &name)?;
        rest.extend(empty(&inner, &top, &mut next)?);
        unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
    }
    unlinkat(CWD, folder, AtFlags::REMOVEDIR)
}

/// Opens a folder that this user may then read and change, whatever its mode was.
fn open(at: impl std::os::fd::AsFd, name: impl Arg) -> Result<OwnedFd> {
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = openat(at, name, flags | OFlags::PATH, Mode::empty())?;
    // A way to its mode that follows no link.
    let own = format!("/proc/self/fd/{}", found.as_raw_fd());
    set_permissions(own, Permissions::from_mode(0o700))
        .map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::PERM))?;
    openat(&found, c".", flags, Mode::empty())
}

/// Removes the files of a folder, and moves its folders to the top. Returns their names there.
fn empty(folder: &OwnedFd, top: &OwnedFd, next: &mut u64) -> Result<Vec<String>> {
    let mut moved = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => moved.extend(rise(folder, name, top, next)?),
            Err(why) => return Err(why),
        }
    }
    Ok(moved)
}

/// Moves a folder to the top, under a name that is free there.
fn rise(folder: &OwnedFd, name: &CStr, top: &OwnedFd, next: &mut u64) -> Result<Option<String>> {
    // Only a folder that may be changed can be moved.
    open(folder, name)?;
    loop {
        let free = format!("batchwright-{next}");
        *next += 1;
        match renameat(folder, name, top, &free) {
            Ok(()) => return Ok(Some(free)),
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(why) => return Err(why),
        }
    }
}
