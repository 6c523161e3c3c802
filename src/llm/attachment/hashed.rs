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
}

/// The maximum length in bytes.
pub(super) const MOST: u64 = 20 << 20;

/// The hash and media type of the file at this path.
pub(super) fn hashed(path: &Path) -> Result<Hashed, Unhashed> {
    let mut file = open(path)?;
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
