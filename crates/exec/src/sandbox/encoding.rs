//! What this program passes to its helpers and its watchdog: JSON after the version of its format.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of all that is passed; a helper of another version refuses to work.
pub const FORMAT: &str = "6";

/// A value as JSON, after the version of the format. Texts that need not be UTF-8 are lists of bytes.
pub fn encode(value: &impl Serialize) -> String {
    // Nothing is lost without a message: an empty text is rejected.
    serde_json::to_string(&(FORMAT, value)).unwrap_or_default()
}

/// `None` if another version has encoded the value.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let (format, value): (String, T) = serde_json::from_slice(json).ok()?;
    (format == FORMAT).then_some(value)
}

/// A path, which need not be UTF-8, as an [`OsString`].
pub mod os_path {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(from).map(PathBuf::from)
    }
}

/// The same for a path that may be missing.
pub mod optional_path {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let path: Option<OsString> = Option::deserialize(from)?;
        Ok(path.map(PathBuf::from))
    }
}
