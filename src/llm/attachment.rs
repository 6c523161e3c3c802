//! Local files in a prompt.
//!
//! A part of a message such as `{"type": "image", "path": "a.png"}` is resolved when its record is read: the file is
//! found, checked and hashed. From then on the part has its absolute path, hash and length, so that requests can be
//! stored and compared without the file. The bytes are read only when the request is sent. If they have changed,
//! nothing is sent.

mod media;
mod resolve;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::base::{Error, ErrorKind, Sent, named_file};

use crate::base::json_text::hex;

pub(crate) use media::{Kind, by_content, sound_format};
pub use resolve::Part;
pub(crate) use resolve::{Root, refusal, resolve};

/// The maximum length of a file in bytes.
const MOST: u64 = 20 << 20;

/// The types of parts that name a local file.
const TYPES: [&str; 3] = ["file", "image", "audio"];

/// Whether a part of a message's content names a local file. Parts of these types in the format of a provider have no
/// path.
pub(crate) fn is_local(part: &Value) -> bool {
    part.get("path").is_some() && TYPES.iter().any(|kind| part["type"] == *kind)
}

/// A file that was resolved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attached<'p> {
    /// Its absolute path.
    path: &'p str,
    /// SHA-256 of its bytes, in hexadecimal.
    sha256: &'p str,
    pub bytes: u64,
    pub media: &'p str,
    name: Option<&'p str>,
    /// The level of detail of an image, in OpenAI's words.
    pub detail: Option<&'p str>,
    /// Its bytes as base64, if machines without the file may send the prompt.
    data: Option<&'p str>,
}

impl<'p> Attached<'p> {
    /// The file that a [local](is_local) part names.
    ///
    /// # Errors
    /// If it was not resolved.
    pub fn read(part: &'p Value) -> Result<Self, Error> {
        let text = |field| part.get(field).and_then(Value::as_str);
        let found = || {
            Some(Self {
                path: text("path")?,
                sha256: text("sha256")?,
                bytes: part.get("bytes")?.as_u64()?,
                media: text("media_type")?,
                name: text("name"),
                detail: text("detail"),
                data: text("data"),
            })
        };
        found().ok_or_else(|| {
            let path = text("path").unwrap_or_default();
            let why = format!("the file {path:?} in a prompt was never looked at: see Part::file");
            Error::new(ErrorKind::Invalid, why)
        })
    }

    /// The file name that the provider gets.
    pub fn name(&self) -> &'p str {
        let last = || self.path.rsplit(['/', '\\']).next();
        self.name.or_else(last).unwrap_or("file")
    }

    pub fn kind(&self) -> Kind {
        Kind::of(self.media)
    }

    /// Its length as base64.
    pub fn encoded(&self) -> u64 {
        self.bytes.div_ceil(3).saturating_mul(4)
    }

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
            None => read(Path::new(self.path)).map_err(|error| unreadable(&error))?,
        };
        if hex(&Sha256::digest(&bytes)) == self.sha256 {
            return Ok(bytes);
        }
        let what =
            "changed after its prompt was read; run the command again to send the new content";
        Err(self.failed(what))
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

/// All bytes of a regular file, and one more than a file may have at most.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    named_file::regular(path, true)?
        .take(MOST + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A path or name for a message: cut at a maximum length, with spaces instead of control characters.
fn shown(path: &str) -> String {
    const MOST: usize = 200;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut out: String = path.chars().take(MOST).map(plain).collect();
    if path.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

/// The parts of a local file that change the request hash: its content, name and level of detail. Its path and its
/// detected media type do not, because later versions may detect another type.
pub(crate) fn fingerprint(part: &Value) -> Value {
    const COUNTED: [&str; 3] = ["sha256", "name", "detail"];
    let mut counted = Map::new();
    counted.insert("type".to_owned(), "local_file".into());
    for field in COUNTED {
        if let Some(value) = part.get(field) {
            counted.insert(field.to_owned(), value.clone());
        }
    }
    counted.into()
}

/// An estimate of the input tokens of local files. Only the provider knows the exact number.
pub(crate) fn estimated_tokens<'p>(files: impl Iterator<Item = &'p Value>) -> u64 {
    let files = files.filter_map(|part| Attached::read(part).ok());
    files
        .map(|file| match file.kind() {
            Kind::Image => 1_000,
            // The text and an image of each page.
            Kind::Pdf => (file.bytes / 20).clamp(1_500, 150_000),
            Kind::Audio => file.bytes / 500,
            Kind::Video => file.bytes / 1_000,
            Kind::Text | Kind::Other => file.bytes / 4,
        })
        .sum()
}

#[cfg(test)]
mod tests {
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
