//! Private files and folders: they contain prompts and answers.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// Creates a folder that only this user may read, and missing parents. An existing folder is not changed.
///
/// # Errors
/// Those of [`DirBuilder::create`].
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let mut make = DirBuilder::new();
    make.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut make, 0o700);
    make.create(folder)
}

/// Opens a file with these options. A file that is created is private; an existing one stays as it is.
///
/// # Errors
/// Those of [`OpenOptions::open`].
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    restrict(options).open(path)
}

/// Changes the options so that a file that is created is private.
pub(crate) fn restrict(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Not for the other side of a pipe either that has the name of a lock, for example.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        options.mode(0o600).custom_flags(flags);
    }
    options
}

/// Makes a database that SQLite is about to create private; its log and other files next to it get the same
/// permissions. Errors are left to SQLite, which will report them.
///
/// This function never opens an existing database, and does not create the database under its own name. Closing a
/// file releases all locks of this OS process on it, including those of other connections
/// (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).
pub(crate) fn before_sqlite(path: &Path) {
    static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    if path.exists() {
        return;
    }
    let made = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}-{made}.new", std::process::id()));
    let draft = Path::new(&draft);
    if open(File::options().write(true).create_new(true), draft).is_ok() {
        // Fails if another program has created the database in the meantime.
        let _ = std::fs::hard_link(draft, path);
        let _ = std::fs::remove_file(draft);
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn rights(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// The locks of this OS process on a file. A list of all processes' locks would change while it is read.
    #[cfg(all(feature = "queue", target_os = "linux"))]
    fn locks_on(path: &Path) -> std::collections::BTreeSet<String> {
        use std::os::unix::fs::MetadataExt;
        let file = format!(":{} ", std::fs::metadata(path).unwrap().ino());
        let mut locks = std::collections::BTreeSet::new();
        for open in std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
            // Other tests close their files meanwhile.
            let info = std::fs::read_to_string(open.path()).unwrap_or_default();
            let of_file = |line: &&str| line.starts_with("lock:") && line.contains(&file);
            let of_file = info.lines().filter(of_file);
            locks.extend(of_file.map(|line| line.split_once(": ").unwrap().1.to_owned()));
        }
        locks
    }

    #[test]
    fn new_files_are_private_and_existing_ones_unchanged() {
        let place = tempfile::tempdir().unwrap();
        let wide = place.path().join("wide");
        fs::create_dir(&wide).unwrap();
        fs::set_permissions(&wide, fs::Permissions::from_mode(0o755)).unwrap();
        let folder = wide.join("a/b");
        make_folder(&folder).unwrap();
        assert_eq!(rights(&wide), 0o755);
        assert_eq!(rights(&wide.join("a")), 0o700);
        assert_eq!(rights(&folder), 0o700);
        let file = folder.join("f");
        open(File::options().append(true).create(true), &file).unwrap();
        assert_eq!(rights(&file), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        open(File::options().append(true).create(true), &file).unwrap();
        assert_eq!(rights(&file), 0o640);
    }

    #[cfg(all(feature = "queue", target_os = "linux"))]
    #[test]
    fn the_locks_of_a_database_that_is_open_stay() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("jobs.db");
        before_sqlite(&path);
        assert_eq!(rights(&path), 0o600);
        let held = rusqlite::Connection::open(&path).unwrap();
        held.execute_batch("CREATE TABLE t (n); BEGIN IMMEDIATE")
            .unwrap();
        let before = locks_on(&path);
        assert!(!before.is_empty());
        before_sqlite(&path);
        assert_eq!(locks_on(&path), before);
    }
}
