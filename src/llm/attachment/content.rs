//! The bytes of a file, read when its request is sent. They must have the hash that was computed before.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::base::{Error, ErrorKind, Sent};
use crate::llm::hash::hex;

use super::hashed::{Unhashed, open, read};
use super::{Attached, shown};

impl Attached<'_> {
    /// Its bytes as base64.
    ///
    /// # Errors
    /// If it cannot be read or has changed.
    pub fn base64(&self) -> Result<String, Error> {
        Ok(STANDARD.encode(self.content()?))
    }

    /// Its text.
    ///
    /// # Errors
    /// As [`base64`](Self::base64).
    pub fn text(&self) -> Result<String, Error> {
        let text = String::from_utf8(self.content()?).map_err(|_| self.failed("is no UTF-8"))?;
        Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        })
    }

    /// Its bytes, if they are those that were hashed.
    fn content(&self) -> Result<Vec<u8>, Error> {
        let unreadable =
            |error: &dyn fmt::Display| self.failed(&format!("cannot be read: {error}"));
        let bytes = match self.data {
            Some(data) => STANDARD.decode(data).map_err(|error| unreadable(&error))?,
            None => {
                let mut file = open(Path::new(self.path)).map_err(|why| match why {
                    Unhashed::Unreadable(error) => unreadable(&error),
                    _ => self.changed(),
                })?;
                read(&mut file).map_err(|error| unreadable(&error))?
            }
        };
        if hex(&Sha256::digest(&bytes)) == self.sha256 {
            Ok(bytes)
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
/// As [`base64`](Attached::base64).
pub(crate) fn embed(part: &mut Value) -> Result<(), Error> {
    let file = Attached::read(part)?;
    part["data"] = file.base64()?.into();
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
        for size in [1, 2, 3, 4, 70_000] {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let part = Part::file(&path).unwrap();
            let file = Attached::read(part.value()).unwrap();
            let out = file.base64().unwrap();
            assert_eq!(out.len() as u64, file.encoded());
            assert_eq!(STANDARD.decode(&out).unwrap(), bytes, "{size}");
            let mut embedded = part.value().clone();
            embed(&mut embedded).unwrap();
            std::fs::remove_file(&path).unwrap();
            let kept = Attached::read(&embedded).unwrap();
            assert_eq!(kept.base64().unwrap(), out);
            embedded["data"] = STANDARD.encode(&bytes[..size - 1]).into();
            assert!(Attached::read(&embedded).unwrap().base64().is_err());
            for other in [&bytes[..size - 1], &[bytes.clone(), vec![0]].concat()] {
                std::fs::write(&path, other).unwrap();
                let error = file.base64().unwrap_err();
                let words = "changed after its prompt was read";
                assert!(error.message().contains(words), "{error}");
            }
        }
    }
}
