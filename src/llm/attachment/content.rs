//! The bytes of a file, read when its request is sent. They must have the hash that was computed before.

use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::read::DecoderReader;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::base::{Error, ErrorKind, Sent};
use crate::llm::hash::hex;

use super::hashed::{Unhashed, open};
use super::{Attached, shown};

/// The number of bytes read at a time, a multiple of 3: base64 encodes groups of 3 bytes.
const PIECE: usize = 3 << 16;

impl Attached<'_> {
    /// Appends its bytes as base64.
    ///
    /// # Errors
    /// If it cannot be read or has changed.
    pub fn append_base64(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.pieces(&mut |piece| {
            let start = out.len();
            out.resize(start + piece.len().div_ceil(3) * 4, 0);
            STANDARD
                .encode_slice(piece, &mut out[start..])
                .expect("there is room for it");
        })
    }

    /// Its text.
    ///
    /// # Errors
    /// As [`append_base64`](Self::append_base64).
    pub fn text(&self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        self.pieces(&mut |piece| bytes.extend_from_slice(piece))?;
        let text = String::from_utf8(bytes).map_err(|_| self.failed("is no UTF-8"))?;
        Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        })
    }

    /// Calls `each` with pieces of the file. All pieces but the last have the same length.
    fn pieces(&self, each: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        let unreadable = |error: io::Error| self.failed(&format!("cannot be read: {error}"));
        let mut file: Box<dyn Read + '_> = match self.data {
            Some(data) => Box::new(DecoderReader::new(data.as_bytes(), &STANDARD)),
            None => Box::new(open(Path::new(self.path)).map_err(|why| match why {
                Unhashed::Unreadable(error) => unreadable(error),
                _ => self.changed(),
            })?),
        };
        let mut piece = Vec::with_capacity(PIECE);
        let (mut hash, mut left) = (Sha256::new(), self.bytes);
        loop {
            piece.clear();
            let mut next = (&mut file).take(PIECE as u64);
            next.read_to_end(&mut piece).map_err(unreadable)?;
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or_else(|| self.changed())?;
            hash.update(&piece);
            each(&piece);
            if piece.len() < PIECE {
                break;
            }
        }
        if left == 0 && hex(&hash.finalize()) == self.sha256 {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    fn changed(&self) -> Error {
        self.failed(
            "changed after its prompt was read; run the command again to send the new content",
        )
    }

    fn failed(&self, what: &str) -> Error {
        let why = format!("the file {} {what}; nothing was sent", shown(self.path));
        Error::new(ErrorKind::Invalid, why).with_sent(Sent::No)
    }
}

/// Puts the bytes of a file into the part that names it, because a machine without the file may send the prompt.
///
/// # Errors
/// As [`append_base64`](Attached::append_base64).
pub(crate) fn embed(part: &mut Value) -> Result<(), Error> {
    let file = Attached::read(part)?;
    let mut data = Vec::with_capacity(usize::try_from(file.encoded()).unwrap_or(0));
    file.append_base64(&mut data)?;
    // Base64 is ASCII.
    part["data"] = String::from_utf8_lossy(&data).into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Part;
    use super::*;

    #[test]
    fn what_is_sent_is_what_was_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        for size in [1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 2] {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let part = Part::file(&path).unwrap();
            let file = Attached::read(part.value()).unwrap();
            let mut out = b"x".to_vec();
            file.append_base64(&mut out).unwrap();
            assert_eq!(out.len() as u64, 1 + file.encoded());
            assert_eq!(STANDARD.decode(&out[1..]).unwrap(), bytes, "{size}");
            {
                let mut embedded = part.value().clone();
                embed(&mut embedded).unwrap();
                std::fs::remove_file(&path).unwrap();
                let file = Attached::read(&embedded).unwrap();
                let mut away = b"x".to_vec();
                file.append_base64(&mut away).unwrap();
                assert_eq!(away, out);
                embedded["data"] = STANDARD.encode(&bytes[..size - 1]).into();
                let file = Attached::read(&embedded).unwrap();
                assert!(file.append_base64(&mut Vec::new()).is_err());
            }
            for other in [&bytes[..size - 1], &[bytes.clone(), vec![0]].concat()] {
                std::fs::write(&path, other).unwrap();
                let error = file.append_base64(&mut Vec::new()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid);
                assert!(
                    error
                        .message()
                        .contains("changed after its prompt was read"),
                    "{error}"
                );
            }
        }
        let part = {
            std::fs::write(&path, b"gone").unwrap();
            Part::file(&path).unwrap()
        };
        std::fs::remove_file(&path).unwrap();
        let error = Attached::read(part.value()).unwrap().text().unwrap_err();
        assert!(error.message().contains("cannot be read"), "{error}");
    }
}
