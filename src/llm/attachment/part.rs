//! Parts of a message, for callers of the library.

use std::path::Path;

use serde_json::{Value, json};

use crate::base::error::{Error, ErrorKind};

use super::resolve::found;

/// A part of a [`Message`](crate::Message): a text, or a local file.
///
/// A file is looked at when its part is made, and read again when the request is sent. What it holds,
/// and not where it is, belongs to the request's fingerprint; if it has changed by then, the request
/// fails as [`ErrorKind::Invalid`] and nothing is sent. Whether a provider takes the file is known to
/// its client, which refuses what it does not take in the same way. Its `Debug` shows neither text nor
/// path.
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

    /// A file of any type that a provider takes: pictures, PDF, sound, text. How it begins says what it
    /// is, and where that says nothing its extension does.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there is no such file, it cannot be read, is empty, no regular file,
    /// or larger than any provider takes (512 MiB).
    pub fn file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::found("file", path.as_ref())
    }

    /// The same for what must be a picture.
    ///
    /// # Errors
    /// As [`file`](Self::file), and when it is none.
    pub fn image(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::found("image", path.as_ref())
    }

    /// The same for what must be sound.
    ///
    /// # Errors
    /// As [`file`](Self::file), and when it is none.
    pub fn audio(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::found("audio", path.as_ref())
    }

    fn found(kind: &str, path: &Path) -> Result<Self, Error> {
        let mut part = serde_json::Map::new();
        part.insert("type".to_owned(), kind.into());
        let invalid = |why: super::Refused| Error::new(ErrorKind::Invalid, why.to_string());
        found(&mut part, path, &path.display().to_string(), None).map_err(invalid)?;
        Ok(Self(part.into()))
    }

    /// What the provider is told that the file is called. Default: its name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        if super::is_local(&self.0) {
            self.0["name"] = Value::String(name.into());
        }
        self
    }

    /// As it stands in the content of a message.
    pub fn value(&self) -> &Value {
        &self.0
    }

    pub(crate) fn into_value(self) -> Value {
        self.0
    }
}
