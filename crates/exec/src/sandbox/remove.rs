//! Removes the folder for temporary files, whatever commands have left in it.

use std::ffi::{CStr, CString};
use std::fs::{Permissions, set_permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
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

/// Removes a folder and all that is in it. Folders in its folders are first moved to the top, so that any depth takes
/// neither more open files nor a longer path. No link is followed.
fn remove_folder(folder: &Path) -> Result<()> {
    let top = match open(CWD, folder) {
        // A command may have put a link in its place.
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(CWD, folder, AtFlags::empty()),
        top => top?,
    };
    let mut rest = empty(&top)?;
    let mut next = 0;
    while let Some(name) = rest.pop() {
        let inner = open(&top, &*name)?;
        for name in empty(&inner)? {
            // Only a folder that may be changed can be moved.
            open(&inner, &*name)?;
            rest.push(rise(&inner, &name, &top, &mut next)?);
        }
        unlinkat(&top, &*name, AtFlags::REMOVEDIR)?;
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

/// Removes the files of a folder. Returns the names of its folders.
fn empty(folder: &OwnedFd) -> Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => folders.push(name.to_owned()),
            Err(why) => return Err(why),
        }
    }
    Ok(folders)
}

/// Moves a folder to the top, under a name that is free there.
fn rise(folder: &OwnedFd, name: &CStr, top: &OwnedFd, next: &mut u64) -> Result<CString> {
    loop {
        let free = CString::new(format!("batchwright-{next}")).unwrap_or_default();
        *next += 1;
        match renameat_with(folder, name, top, &*free, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(free),
            Err(Errno::EXIST) => {}
            Err(why) => return Err(why),
        }
    }
}
