//! A file that appears under its name only when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
use rustix::fs::{CWD, RenameFlags, renameat_with};
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
use rustix::io::Errno;
use uuid::Uuid;

use super::disk::{folder_of, sync_folder};
use super::private;

/// Prefix of the temporary names.
const PREFIX: &str = ".batchwright-";
const SUFFIX: &str = ".tmp";

/// A new file in the folder of its target. It is deleted if it is dropped before it replaces the target.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    path: PathBuf,
    file: File,
}

impl AtomicFile {
    /// Creates the file, empty and locked, with these options. Deletes leftovers of killed programs in the folder.
    ///
    /// # Errors
    /// If it cannot be created or locked.
    pub fn create(target: &Path, options: &mut OpenOptions) -> io::Result<Self> {
        // The target of a link is replaced, not the link.
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        sweep(folder_of(&target));
        options.create_new(true);
        loop {
            let path = target.with_file_name(format!("{PREFIX}{}{SUFFIX}", Uuid::now_v7()));
            // The file gets the permissions of the target; nobody else can open it before that.
            let file = if target.exists() {
                private::open(options, &path)?
            } else {
                options.open(&path)?
            };
            let made = Self {
                target: target.clone(),
                path,
                file,
            };
            made.file.lock()?;
            // Another program may have deleted it before it was locked.
            if made.path.exists() {
                return Ok(made);
            }
        }
    }

    /// The file, for writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its temporary path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs it and replaces the target, keeping the target's permissions.
    ///
    /// # Errors
    /// If it cannot be synced or renamed.
    pub fn replace(self) -> io::Result<File> {
        if let Ok(metadata) = fs::metadata(&self.target) {
            self.file.set_permissions(metadata.permissions())?;
        }
        self.place_by(|path, target| fs::rename(path, target))
    }

    /// Syncs it and gives it its name.
    ///
    /// # Errors
    /// Of the kind `AlreadyExists` if another file has this name now.
    pub fn place(self) -> io::Result<File> {
        self.place_by(place_new)
    }

    fn place_by(self, place: impl Fn(&Path, &Path) -> io::Result<()>) -> io::Result<File> {
        let file = self.file.try_clone()?;
        file.sync_all()?;
        place(&self.path, &self.target)?;
        let _ = sync_folder(&self.target);
        Ok(file)
    }
}

/// Gives a file another name; the old one may stay.
///
/// # Errors
/// Of the kind `AlreadyExists` if another file has that name.
pub(crate) fn place_new(path: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(path, target) {
        // Some file systems have no hard links,
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => rename_new(path, target),
        linked => linked,
    }
}

fn rename_new(path: &Path, target: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    match renameat_with(CWD, path, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        renamed => return Ok(renamed?),
    }
    // and some cannot tell whether there is a file.
    File::create_new(target)?;
    fs::rename(path, target).inspect_err(|_| drop(fs::remove_file(target)))
}

/// Removes the temporary name, if it still exists.
impl Drop for AtomicFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Deletes leftovers of killed programs.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let id = name.and_then(|name| name.strip_suffix(SUFFIX));
        let is_ours = id.is_some_and(|id| Uuid::parse_str(id).is_ok());
        // Opening a pipe would wait for its writer.
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        }

        fn written(&self, text: &str) -> AtomicFile {
            let made = AtomicFile::create(&self.path("out"), File::options().write(true)).unwrap();
            made.file().write_all(text.as_bytes()).unwrap();
            made
        }

        fn read(&self) -> String {
            fs::read_to_string(self.path("out")).unwrap()
        }
    }

    #[test]
    fn a_file_appears_completely_or_not_at_all() {
        let place = Place::new();
        drop(place.written("never"));
        assert!(place.names().is_empty());
        place.written("one").place().unwrap();
        assert_eq!((place.read().as_str(), place.names().len()), ("one", 1));
        place.written("two").replace().unwrap();
        assert_eq!((place.read().as_str(), place.names().len()), ("two", 1));
    }

    #[test]
    fn a_file_created_under_the_name_meanwhile_is_kept() {
        let place = Place::new();
        let (first, second) = (place.written("first"), place.written("second"));
        second.place().unwrap();
        let error = first.place().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((place.read().as_str(), place.names().len()), ("second", 1));
        // Where there are no hard links.
        fs::write(place.path("other"), "other").unwrap();
        let error = rename_new(&place.path("other"), &place.path("out")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(place.read(), "second");
        rename_new(&place.path("other"), &place.path("new")).unwrap();
        assert_eq!(place.names(), ["new", "out"]);
    }

    #[test]
    fn leftovers_are_deleted_and_files_in_use_are_kept() {
        let place = Place::new();
        let left = format!("{PREFIX}{}{SUFFIX}", Uuid::now_v7());
        let others = [format!("{PREFIX}mine{SUFFIX}"), "mine.tmp".to_owned()];
        for name in others.iter().chain([&left]) {
            fs::write(place.path(name), "x").unwrap();
        }
        let busy = place.written("one");
        let other = place.written("two");
        assert!(!place.path(&left).exists());
        assert!(others.iter().all(|name| place.path(name).exists()));
        busy.replace().unwrap();
        other.replace().unwrap();
        assert_eq!(place.read(), "two");
    }

    #[cfg(unix)]
    #[test]
    fn permissions_and_links_of_a_replaced_file_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let place = Place::new();
        let rights = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::write(place.path("real"), "old").unwrap();
        fs::set_permissions(place.path("real"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", place.path("out")).unwrap();
        let made = place.written("new");
        assert_eq!(rights(made.path()), 0o600);
        made.replace().unwrap();
        assert_eq!(fs::read_to_string(place.path("real")).unwrap(), "new");
        assert_eq!(rights(&place.path("real")), 0o640);
        assert!(place.path("out").is_symlink());
    }
}
