//! The hash and the media type of a file.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::llm::hash::hex;

use super::media;

/// The properties of the content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hashed {
    pub sha256: String,
    pub bytes: u64,
    pub media: &'static str,
}

/// Why a file was not hashed.
pub(super) enum Unhashed {
    Unreadable(io::Error),
    /// It is not a regular file; the text says what it is.
    Special(&'static str),
    Empty,
    /// Its length in bytes.
    TooLarge(u64),
    /// Its path leads to another file now.
    Moved,
}

/// The maximum length in bytes.
pub(super) const MOST: u64 = 20 << 20;

/// The hash and media type of the file at this path, which must not contain links.
pub(super) fn hashed(path: &Path) -> Result<Hashed, Unhashed> {
    let mut file = open(path)?;
    if !stands_at(path, &file).map_err(Unhashed::Unreadable)? {
        return Err(Unhashed::Moved);
    }
    let bytes = read(&mut file).map_err(Unhashed::Unreadable)?;
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match bytes.len() as u64 {
        0 => Err(Unhashed::Empty),
        length if length > MOST => Err(Unhashed::TooLarge(length)),
        length => Ok(Hashed {
            sha256: hex(&Sha256::digest(&bytes)),
            bytes: length,
            media: media::told(&bytes, &extension),
        }),
    }
}

/// All bytes, or one more than a file may have.
pub(super) fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a regular file. Anything else is an error.
pub(super) fn open(path: &Path) -> Result<File, Unhashed> {
    // This check comes before opening, because opening a pipe would wait for its writer.
    fits(&std::fs::metadata(path).map_err(Unhashed::Unreadable)?)?;
    let file = File::open(path).map_err(Unhashed::Unreadable)?;
    fits(&file.metadata().map_err(Unhashed::Unreadable)?)?;
    Ok(file)
}

fn fits(found: &Metadata) -> Result<(), Unhashed> {
    match found.len() {
        _ if found.is_dir() => Err(Unhashed::Special("a folder")),
        _ if !found.is_file() => Err(Unhashed::Special("a pipe, a device or a socket")),
        0 => Err(Unhashed::Empty),
        length if length > MOST => Err(Unhashed::TooLarge(length)),
        _ => Ok(()),
    }
}

/// Whether the open file is the one at this path. After the path was allowed, the file or a folder of the path may have
/// been replaced by a link to another place.
fn stands_at(path: &Path, file: &File) -> io::Result<bool> {
    let without_links = path.canonicalize()? == path;
    let there = std::fs::symlink_metadata(path)?;
    let opened = file.metadata()?;
    Ok(without_links && inode(&there) == inode(&opened))
}

#[cfg(unix)]
fn inode(found: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (found.dev(), found.ino())
}

#[cfg(not(unix))]
fn inode(_: &Metadata) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_path_that_became_a_link_is_not_read() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        std::fs::create_dir(place.join("out")).unwrap();
        std::fs::write(place.join("out/a.txt"), "secret").unwrap();
        symlink("out/a.txt", place.join("a.txt")).unwrap();
        symlink("out", place.join("folder")).unwrap();
        for linked in ["a.txt", "folder/a.txt"] {
            let found = hashed(&place.join(linked));
            assert!(matches!(found, Err(Unhashed::Moved)), "{linked}");
        }
        assert!(hashed(&place.join("out/a.txt")).is_ok());
    }
}
