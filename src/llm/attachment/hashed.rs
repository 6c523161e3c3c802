//! The hash and the media type of a file. A file that many records name is read once, unless it changes.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::llm::hash::hex;

use super::media;

/// The properties of the content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hashed {
    pub sha256: String,
    pub bytes: u64,
    pub media: &'static str,
    /// The likely encoding, if it is text that is not UTF-8.
    pub encoding: Option<&'static str>,
}

/// Why a file was not hashed.
pub(super) enum Unhashed {
    Unreadable(io::Error),
    /// It is not a regular file; the text says what it is.
    Special(&'static str),
    Empty,
    /// Its length in bytes.
    TooLarge(u64),
    /// Its content does not match its extension.
    Misnamed(String),
    /// Its path leads to another file now.
    Moved,
}

/// The maximum length in bytes. No provider accepts more in one request.
pub(super) const MOST: u64 = 512 << 20;

/// The number of bytes read at a time.
const PIECE: usize = 256 << 10;

/// The properties that identify an unchanged file.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
    inode: [i64; 4],
}

/// The maximum number of files in the cache. When it is full, it is emptied.
const KNOWN: usize = 4096;

static CACHE: Mutex<Option<HashMap<Key, Hashed>>> = Mutex::new(None);

/// The hash and media type of the file at this path, which must not contain links.
pub(super) fn hashed(path: &Path) -> Result<Hashed, Unhashed> {
    // This check comes before opening, because opening a pipe would wait for its writer.
    let found = std::fs::metadata(path).map_err(Unhashed::Unreadable)?;
    fits(&found)?;
    let key = Key {
        path: path.to_owned(),
        bytes: found.len(),
        modified: found.modified().ok(),
        inode: inode(&found),
    };
    if let Some(known) = CACHE.lock().as_ref().and_then(|cache| cache.get(&key)) {
        return Ok(known.clone());
    }
    let hashed = read(path)?;
    if hashed.bytes == key.bytes {
        let mut cache = CACHE.lock();
        let cache = cache.get_or_insert_with(HashMap::new);
        if cache.len() >= KNOWN {
            cache.clear();
        }
        cache.insert(key, hashed.clone());
    }
    Ok(hashed)
}

/// Opens a regular file. Anything else is an error.
pub(super) fn open(path: &Path) -> Result<File, Unhashed> {
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
        MOST.. => Err(Unhashed::TooLarge(found.len())),
        _ => Ok(()),
    }
}

/// Whether the open file is the one at this path. After the path was allowed, the file or a folder of the path may have
/// been replaced by a link to another place.
fn stands_at(path: &Path, file: &File) -> io::Result<bool> {
    let without_links = path.canonicalize()? == path;
    let there = std::fs::symlink_metadata(path)?;
    let opened = file.metadata()?;
    Ok(without_links && inode(&there)[..2] == inode(&opened)[..2])
}

#[cfg(unix)]
fn inode(found: &Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt;
    let number = |n: u64| n.cast_signed();
    [
        number(found.dev()),
        number(found.ino()),
        found.ctime(),
        found.ctime_nsec(),
    ]
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> [i64; 4] {
    [0; 4]
}

fn read(path: &Path) -> Result<Hashed, Unhashed> {
    #[cfg(test)]
    tests::READ.set(tests::READ.get() + 1);
    let file = open(path)?;
    if !stands_at(path, &file).map_err(Unhashed::Unreadable)? {
        return Err(Unhashed::Moved);
    }
    let mut file = file.take(MOST);
    let mut piece = vec![0; PIECE];
    let (mut hash, mut head, mut bytes) = (Sha256::new(), Vec::new(), 0);
    let mut text = Text::default();
    loop {
        let n = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Unhashed::Unreadable(error)),
        };
        let read = &piece[..n];
        if head.len() < 1024 {
            head.extend_from_slice(&read[..n.min(1024)]);
        }
        hash.update(read);
        text.add(read);
        bytes += n as u64;
    }
    if bytes == 0 {
        return Err(Unhashed::Empty);
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let media = media::told(&head, text.is_text(), &extension).map_err(Unhashed::Misnamed)?;
    Ok(Hashed {
        sha256: hex(&hash.finalize()),
        bytes,
        media,
        encoding: (media == media::UNKNOWN)
            .then(|| media::other_encoding(&head, &extension))
            .flatten(),
    })
}

/// Whether all added bytes are UTF-8 without NUL.
#[derive(Default)]
struct Text {
    broken: bool,
    /// The first bytes of a character that is not complete yet.
    open: Vec<u8>,
}

impl Text {
    fn add(&mut self, mut piece: &[u8]) {
        if self.broken {
            return;
        }
        while !self.open.is_empty() {
            let Some((first, rest)) = piece.split_first() else {
                return;
            };
            self.open.push(*first);
            piece = rest;
            match std::str::from_utf8(&self.open) {
                Ok(_) => self.open.clear(),
                Err(error) if error.error_len().is_none() => {}
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
        self.broken = piece.contains(&0);
        if let Err(error) = std::str::from_utf8(piece) {
            self.broken |= error.error_len().is_some();
            self.open.extend_from_slice(&piece[error.valid_up_to()..]);
        }
    }

    fn is_text(&self) -> bool {
        !self.broken && self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_detected_across_pieces() {
        let is_text = |bytes: &[u8], size: usize| {
            let mut text = Text::default();
            bytes.chunks(size).for_each(|piece| text.add(piece));
            text.is_text()
        };
        for size in 1..9 {
            assert!(is_text("añ€😀 end".as_bytes(), size), "{size}");
            assert!(!is_text(b"a\0b", size), "{size}");
            assert!(!is_text(b"caf\xe9 au lait", size), "{size}");
            assert!(!is_text("cut 😀".as_bytes().split_last().unwrap().1, size));
        }
    }

    thread_local! {
        /// How many files this thread has read.
        pub(super) static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    #[test]
    fn a_file_that_many_records_name_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("logo.png");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\n").unwrap();
        let before = READ.get();
        for _ in 0..100 {
            assert!(hashed(&path).is_ok());
        }
        assert_eq!(READ.get() - before, 1);
    }

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

    #[test]
    fn a_file_that_changes_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("a.txt");
        std::fs::write(&path, "one").unwrap();
        let hashed = |path: &Path| hashed(path).ok().unwrap();
        let one = hashed(&path);
        assert_eq!(one.media, "text/plain");
        assert_eq!(one, hashed(&path));
        std::fs::write(&path, "three").unwrap();
        let three = hashed(&path);
        assert_ne!(one.sha256, three.sha256);
        assert_eq!(three.bytes, 5);
    }
}
