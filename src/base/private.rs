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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn rights(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
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
}
