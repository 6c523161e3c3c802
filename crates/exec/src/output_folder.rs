//! The folder for long outputs. Commands may write to it too, so it is opened once, before the first command, and
//! its entries are not trusted.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use rustix::fd::OwnedFd;

/// Maximum number of names that are tried for a file.
const MOST_NAMES: u32 = 10_000;

#[derive(Debug)]
pub(super) struct OutputFolder {
    path: PathBuf,
    #[cfg(unix)]
    folder: OwnedFd,
}

impl OutputFolder {
    /// Creates or opens it. A link is not followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self {
            path: path.to_owned(),
            #[cfg(unix)]
            folder: {
                use rustix::fs::{CWD, Mode, OFlags, openat};
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(CWD, path, flags, Mode::empty())?
            },
        })
    }

    /// Creates a new file: `NUMBER.STREAM`, or if an earlier run has used that name, `NUMBER-2.STREAM` and so on.
    pub fn create(&self, number: u64, stream: &str) -> io::Result<(File, String)> {
        for copy in 1..=MOST_NAMES {
            let name = match copy {
                1 => format!("{number}.{stream}"),
                _ => format!("{number}-{copy}.{stream}"),
            };
            match self.create_new(&name) {
                Ok(file) => return Ok((file, name)),
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                Err(why) => return Err(why),
            }
        }
        Err(io::Error::other(format!(
            "{} has {MOST_NAMES} outputs of command {number} already",
            self.path.display()
        )))
    }

    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the folder if it is empty.
    pub fn leave(&self) {
        let _ = std::fs::remove_dir(&self.path);
    }

    #[cfg(unix)]
    fn create_new(&self, name: &str) -> io::Result<File> {
        use rustix::fs::{Mode, OFlags, openat};
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, name, flags, Mode::from_raw_mode(0o666))?;
        Ok(File::from(file))
    }

    #[cfg(unix)]
    pub fn remove(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.folder, name, rustix::fs::AtFlags::empty());
    }

    #[cfg(not(unix))]
    fn create_new(&self, name: &str) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        options.open(self.path.join(name))
    }

    #[cfg(not(unix))]
    pub fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.path.join(name));
    }
}
