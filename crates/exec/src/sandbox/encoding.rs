//! What this program passes to its helpers and its watchdog: JSON after the version of its format.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of all that is passed; a helper of another version refuses to work.
pub const FORMAT: &str = "10";

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

/// A path. Most are UTF-8 and stay short; the others are bytes. An environment variable has room for 128 KiB.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathText {
    Utf8(String),
    Other(OsString),
}

impl From<&Path> for PathText {
    fn from(path: &Path) -> Self {
        path.to_str().map_or_else(
            || Self::Other(path.as_os_str().to_owned()),
            |text| Self::Utf8(text.to_owned()),
        )
    }
}

impl From<PathText> for PathBuf {
    fn from(path: PathText) -> Self {
        match path {
            PathText::Utf8(text) => text.into(),
            PathText::Other(text) => text.into(),
        }
    }
}

/// For a path, which need not be UTF-8.
pub mod os_path {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        PathText::from(path).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        PathText::deserialize(from).map(PathBuf::from)
    }
}

/// The same for a path that may be missing.
pub mod optional_path {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(PathText::from).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let path: Option<PathText> = Option::deserialize(from)?;
        Ok(path.map(PathBuf::from))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Paths {
        #[serde(with = "os_path")]
        one: PathBuf,
        #[serde(with = "optional_path")]
        other: Option<PathBuf>,
    }

    #[test]
    fn a_path_is_a_text_if_it_is_utf_8_and_every_path_comes_back() {
        let odd = PathBuf::from(OsStr::from_bytes(b"/o\xffdd"));
        let all = [Some(odd.clone()), Some("/some/folder".into()), None];
        for (one, other) in all
            .iter()
            .flat_map(|one| all.iter().map(move |other| (one, other)))
        {
            let paths = Paths {
                one: one.clone().unwrap_or_default(),
                other: other.clone(),
            };
            let json = encode(&paths);
            assert_eq!(decode(json.as_bytes()), Some(paths));
        }
        let plain = Paths {
            one: "/some/folder".into(),
            other: None,
        };
        assert!(encode(&plain).contains("\"/some/folder\""));
    }
}
