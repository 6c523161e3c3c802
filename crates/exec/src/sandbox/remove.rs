//! Removes a folder with everything that commands left in it, at any depth and with any permissions.
//!
//! Unlike `remove_dir_all`, it holds only two folders open at a time and does not recurse, because commands can
//! create a tree that is deeper than the limits of open files and path lengths.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmod, fchmod, fstat, openat, unlinkat,
};
use rustix::io::{self, Errno};

/// The entries that could not be removed.
#[derive(Debug)]
pub struct Left {
    /// Number of files and folders that could not be removed, without their parent folders.
    count: u64,
    first: PathBuf,
    why: Errno,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted, because a name may contain line ends.
        write!(f, "cannot remove {:?}: {}", self.first, self.why)?;
        match self.count {
            1 => Ok(()),
            more => write!(f, ", nor {} more files", more - 1),
        }
    }
}

/// A folder on the way down.
struct Level {
    name: CString,
    /// Identifies the folder on the way back up.
    place: (u64, u64),
    /// Its folders that were not entered yet.
    folders: Vec<CString>,
}

/// Removes the folder, and as much of its contents as possible.
pub fn tree(path: &Path) -> Result<(), Left> {
    let mut left = None;
    match remove(path, &mut left) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(why) => add(&mut left, path.to_owned(), why),
    }
    left.map_or(Ok(()), Err)
}

fn add(left: &mut Option<Left>, path: PathBuf, why: Errno) {
    match left {
        Some(left) => left.count += 1,
        None => {
            *left = Some(Left {
                count: 1,
                first: path,
                why,
            });
        }
    }
}

fn remove(path: &Path, left: &mut Option<Left>) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let mut folder = open(CWD, &name)?;
    let mut levels = vec![level(&folder, name)?];
    // The error gives the full path, from the name of the first level on.
    let place = |levels: &[Level], name: &CString| {
        let names = levels.iter().map(|level| &level.name).chain([name]);
        names
            .map(|name| OsStr::from_bytes(name.to_bytes()))
            .collect::<PathBuf>()
    };
    clear(&folder, &mut levels, left, place);
    while let Some(deepest) = levels.last_mut() {
        if let Some(name) = deepest.folders.pop() {
            let entered = open(folder.as_fd(), &name)
                .and_then(|inner| Ok((level(&inner, name.clone())?, inner)));
            match entered {
                Ok((level, inner)) => {
                    folder = inner;
                    levels.push(level);
                    clear(&folder, &mut levels, left, place);
                }
                Err(why) => add(left, place(&levels, &name), why),
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let Some(above) = levels.last() else {
            drop(folder);
            return unlinkat(CWD, &done.name, AtFlags::REMOVEDIR)
                .or_else(|why| held_back(why, left));
        };
        let up = openat(&folder, c"..", FOLDER, Mode::empty())?;
        let about = fstat(&up)?;
        if (about.st_dev, about.st_ino) != above.place {
            // The folder was moved meanwhile: the one at this path is another one.
            return Err(Errno::STALE);
        }
        folder = up;
        match unlinkat(&folder, &done.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => {
                if let Err(why) = held_back(why, left) {
                    add(left, place(&levels, &done.name), why);
                }
            }
        }
    }
    Ok(())
}

/// A non-empty folder needs no separate message if its contents were reported.
fn held_back(why: Errno, left: &Option<Left>) -> io::Result<()> {
    match (why, left) {
        (Errno::NOTEMPTY | Errno::EXIST, Some(_)) => Ok(()),
        _ => Err(why),
    }
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a folder; if it is ours and not readable, makes it readable first.
fn open(above: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    match openat(above, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let found = openat(above, name, FOLDER | OFlags::PATH, Mode::empty())?;
            chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
            openat(above, name, FOLDER, Mode::empty())
        }
        opened => opened,
    }
}

fn level(folder: &OwnedFd, name: CString) -> io::Result<Level> {
    let about = fstat(folder)?;
    Ok(Level {
        name,
        place: (about.st_dev, about.st_ino),
        folders: Vec::new(),
    })
}

/// Removes all files of the deepest folder, and records its folders.
fn clear(
    folder: &OwnedFd,
    levels: &mut [Level],
    left: &mut Option<Left>,
    place: impl Fn(&[Level], &CString) -> PathBuf,
) {
    // Some file systems omit entries while others are removed, so the folder is read until nothing more can be
    // removed.
    loop {
        let (mut gone, mut folders, mut refused) = (false, Vec::new(), Vec::new());
        let Ok(entries) = Dir::read_from(folder) else {
            return;
        };
        for entry in entries.map_while(Result::ok) {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                folders.push(name.to_owned());
                continue;
            }
            match unlink(folder, name) {
                Ok(()) => gone = true,
                Err(Errno::NOENT) => {}
                // The file system did not report the type.
                Err(Errno::ISDIR) => folders.push(name.to_owned()),
                Err(why) => refused.push((name.to_owned(), why)),
            }
        }
        if gone {
            continue;
        }
        for (name, why) in refused {
            add(left, place(levels, &name), why);
        }
        if !folders.is_empty() {
            // Its contents can be removed only with write permission for it.
            let _ = fchmod(folder, Mode::RWXU);
        }
        if let Some(level) = levels.last_mut() {
            level.folders = folders;
        }
        return;
    }
}

fn unlink(folder: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ACCESS) => {
            fchmod(folder, Mode::RWXU)?;
            unlinkat(folder, name, AtFlags::empty())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_of_any_depth_is_removed_without_following_links() {
        let site = tempfile::tempdir().unwrap();
        fs::write(site.path().join("kept"), "kept").unwrap();
        let root = site.path().join("root");
        fs::create_dir_all(root.join("wide/a")).unwrap();
        fs::create_dir_all(root.join("wide/b/c")).unwrap();
        symlink(site.path(), root.join("wide/b/link")).unwrap();
        fs::write(root.join("wide/odd\n name"), "").unwrap();
        // Deeper than the limits of open files and path lengths.
        let mut folder = openat(CWD, &root, FOLDER, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&folder, c"down", Mode::RWXU).unwrap();
            folder = openat(&folder, c"down", FOLDER, Mode::empty()).unwrap();
        }
        drop(folder);
        assert!(tree(&root).is_ok());
        assert!(!root.exists());
        assert!(site.path().join("kept").exists());
        assert!(tree(&root).is_ok(), "nothing is left to do");
    }

    /// The kernel does not check permissions for root.
    #[test]
    fn missing_permissions_are_added() {
        let site = tempfile::tempdir().unwrap();
        let root = site.path().join("root");
        fs::create_dir_all(root.join("none/inner")).unwrap();
        fs::create_dir_all(root.join("fixed/inner")).unwrap();
        fs::write(root.join("fixed/file"), "").unwrap();
        fs::write(root.join("none/inner/file"), "").unwrap();
        for (name, mode) in [("none/inner", 0), ("none", 0), ("fixed", 0o500)] {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        assert!(tree(&root).is_ok());
        assert!(!root.exists());
    }

    #[test]
    fn remaining_files_are_reported_once() {
        let left = |count| Left {
            count,
            first: "/tmp/a\nb".into(),
            why: Errno::PERM,
        };
        let said = left(1).to_string();
        assert_eq!(
            said,
            "cannot remove \"/tmp/a\\nb\": Operation not permitted (os error 1)"
        );
        assert!(left(3).to_string().ends_with(", nor 2 more files"));
        let missing = tree(Path::new("/proc/self/root/proc/version")).unwrap_err();
        assert!(missing.to_string().contains("Not a directory"), "{missing}");
    }
}
