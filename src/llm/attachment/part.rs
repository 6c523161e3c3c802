//! Parts of a message, for callers of the library.

use std::path::Path;

use serde_json::{Value, json};

use crate::base::{Error, ErrorKind};

use super::resolve::found;

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
        let mut part = serde_json::Map::new();
        part.insert("type".to_owned(), kind.into());
        let invalid = |why: super::Refused| Error::new(ErrorKind::Invalid, why.to_string());
        found(&mut part, path, &path.display().to_string(), None).map_err(invalid)?;
        Ok(Self(part.into()))
    }

    /// Sets the file name that is sent to the provider. Default: the name of the file.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        if super::is_local(&self.0) {
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
