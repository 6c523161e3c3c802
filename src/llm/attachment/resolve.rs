//! Finds the file that a record or a caller of the library names, and checks whether it may be read.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::base::json_text::hex;
use crate::base::{Error, ErrorKind};

use super::media::{self, Kind};
use super::{MOST, is_local, read, shown};

/// The folder that contains the files of an input. Their paths are relative to it.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    /// Its absolute path without links; `None` if there is no such folder.
    folder: Option<PathBuf>,
    /// Its name in messages.
    shown: String,
}

impl Root {
    /// The root at `folder`. An empty path means the working folder.
    pub fn new(folder: &Path) -> Self {
        let here = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        Self {
            folder: here.canonicalize().ok(),
            shown: if here == Path::new(".") {
                "the working folder".to_owned()
            } else {
                here.display().to_string()
            },
        }
    }
}

/// Why a file is not sent.
pub(crate) fn refusal(found: &str, expected: &str) -> String {
    format!("found {found}; expected {expected}")
}

/// The fields that a record may have for a file.
const FIELDS: [&str; 4] = ["type", "path", "name", "detail"];

/// Resolves the file that a local part names.
pub(crate) fn resolve(part: &mut Value, root: &Root) -> Result<(), String> {
    let Value::Object(part) = part else {
        return Ok(());
    };
    if let Some(name) = part.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let what = format!(
            "an unknown field \"{}\" next to the path of a file",
            shown(name)
        );
        return Err(refusal(&what, "only type, path, name and detail"));
    }
    for field in FIELDS {
        if part.get(field).is_some_and(|value| !value.is_string()) {
            let what = format!("a \"{field}\" of a file that is not a string");
            return Err(refusal(&what, "a string"));
        }
    }
    let path = part["path"].as_str().unwrap_or_default().to_owned();
    if path.is_empty() {
        return Err(refusal("an empty path", "the path of a file"));
    }
    let Some(folder) = &root.folder else {
        let what = format!(
            "the file \"{}\" below {}, which is not a folder",
            shown(&path),
            root.shown
        );
        return Err(refusal(&what, "--root with a folder that exists"));
    };
    found(part, &folder.join(&path), &path, Some((root, folder)))
}

/// Checks the file, and adds its properties to the part.
fn found(
    part: &mut Map<String, Value>,
    path: &Path,
    name: &str,
    root: Option<(&Root, &Path)>,
) -> Result<(), String> {
    let refused = |which: String, expected: &str| {
        refusal(
            &format!("the file \"{}\", which {which}", shown(name)),
            expected,
        )
    };
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let below = root.map_or_else(String::new, |(root, _)| format!(" below {}", root.shown));
            refused("is not there".into(), &format!("the path of a file{below}"))
        }
        _ => refused(
            format!("cannot be read ({error})"),
            "a file that can be read",
        ),
    };
    let path = path.canonicalize().map_err(unreadable)?;
    let outside = |(_, folder): &(&Root, &Path)| !path.starts_with(folder);
    if let Some((root, _)) = root.filter(outside) {
        let expected = "a file below that folder; --root sets another folder";
        return Err(refused(format!("is outside of {}", root.shown), expected));
    }
    let Some(whole) = path.to_str() else {
        return Err(refused(
            "has a path that is not UTF-8".into(),
            "one in UTF-8",
        ));
    };
    let bytes = read(&path).map_err(unreadable)?;
    if !(1..=MOST).contains(&(bytes.len() as u64)) {
        let which = "is empty or too large".to_owned();
        return Err(refused(which, &format!("1 to {MOST} bytes")));
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let media = media::told(&bytes, &extension);
    let wanted = match part["type"].as_str() {
        Some("image") => Some((Kind::Image, "an image")),
        Some("audio") => Some((Kind::Audio, "audio")),
        _ => None,
    };
    if let Some((_, wanted)) = wanted.filter(|(kind, _)| *kind != Kind::of(media)) {
        return Err(refused(format!("is {media}"), wanted));
    }
    part.insert("path".to_owned(), whole.into());
    let sha256 = hex(&Sha256::digest(&bytes));
    part.insert("sha256".to_owned(), sha256.into());
    part.insert("bytes".to_owned(), bytes.len().into());
    part.insert("media_type".to_owned(), media.into());
    Ok(())
}

/// A part of a [`Message`](crate::Message): a text, or a local file.
///
/// A file is read when its part is made, and again when the request is sent. Its content, but not its path, is part of
/// the fingerprint of the request. If the file has changed in between, the request fails as [`ErrorKind::Invalid`] and
/// is not sent. It fails in the same way if the provider does not accept the file. `Debug` shows neither text nor path.
///
/// ```no_run
/// use batchwright::client::Part;
/// use batchwright::{Message, Request, Role};
/// let parts = [Part::text("What does this say?"), Part::file("scan.pdf")?];
/// let request = Request::chat(vec![Message::of_parts(Role::User, parts)]);
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, PartialEq, derive_more::Debug)]
#[debug("Part({})", _0["type"])]
pub struct Part(Value);

impl Part {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self(json!({"type": "text", "text": text.into()}))
    }

    /// A file of any type that a provider accepts: images, PDF, sound, text. Its extension determines its type, unless its
    /// first bytes show another.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file does not exist, cannot be read, is empty, is not a regular file, or is larger
    /// than 20 MiB.
    pub fn file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::found("file", path.as_ref())
    }

    /// The same for a file that must be an image.
    ///
    /// # Errors
    /// The same as for [`file`](Self::file), and if it is not an image.
    pub fn image(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::found("image", path.as_ref())
    }

    /// The same for a file that must be sound.
    ///
    /// # Errors
    /// The same as for [`file`](Self::file), and if it is not sound.
    pub fn audio(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::found("audio", path.as_ref())
    }

    fn found(kind: &str, path: &Path) -> Result<Self, Error> {
        let mut part = Map::new();
        part.insert("type".to_owned(), kind.into());
        let invalid = |why| Error::new(ErrorKind::Invalid, why);
        found(&mut part, path, &path.display().to_string(), None).map_err(invalid)?;
        Ok(Self(part.into()))
    }

    /// Sets the file name that is sent to the provider. Default: the name of the file.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        if is_local(&self.0) {
            self.0["name"] = Value::String(name.into());
        }
        self
    }

    /// The part in the format of the content of a message.
    pub fn value(&self) -> &Value {
        &self.0
    }

    pub(crate) fn into_value(self) -> Value {
        self.0
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
