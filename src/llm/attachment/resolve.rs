//! Finds the file that a record names, and checks whether it may be read.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::base::json_text::hex;

use super::media::{self, Kind};
use super::{MOST, read, shown};

/// The folder that contains the files of an input. Their paths are relative to it.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    /// Its absolute path without links; `None` if there is no such folder.
    folder: Option<PathBuf>,
    /// Its name in messages.
    shown: String,
    /// Whether files outside of the folder may be read too.
    outside: bool,
}

impl Root {
    /// The root at `folder`. An empty path means the working folder.
    pub fn new(folder: &Path, outside: bool) -> Self {
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
            outside,
        }
    }
}

/// Why a file is not sent: what was found, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub found: String,
    pub expected: String,
}

impl Refused {
    pub fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {}; expected {}", self.found, self.expected)
    }
}

/// The fields that a record may have for a file.
const FIELDS: [&str; 4] = ["type", "path", "name", "detail"];

/// Resolves the file that a local part names.
pub(crate) fn resolve(part: &mut Value, root: &Root) -> Result<(), Refused> {
    let Value::Object(part) = part else {
        return Ok(());
    };
    if let Some(name) = part.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let what = format!(
            "an unknown field \"{}\" next to the path of a file",
            shown(name)
        );
        return Err(Refused::new(what, "only type, path, name and detail"));
    }
    for field in FIELDS {
        if part.get(field).is_some_and(|value| !value.is_string()) {
            let what = format!("a \"{field}\" of a file that is not a string");
            return Err(Refused::new(what, "a string"));
        }
    }
    let path = part["path"].as_str().unwrap_or_default().to_owned();
    if path.is_empty() {
        return Err(Refused::new("an empty path", "the path of a file"));
    }
    let Some(folder) = &root.folder else {
        let what = format!(
            "the file \"{}\" below {}, which is not a folder",
            shown(&path),
            root.shown
        );
        return Err(Refused::new(what, "--root with a folder that exists"));
    };
    found(part, &folder.join(&path), &path, Some((root, folder)))
}

/// Checks the file, and adds its properties to the part.
pub(super) fn found(
    part: &mut Map<String, Value>,
    path: &Path,
    name: &str,
    root: Option<(&Root, &Path)>,
) -> Result<(), Refused> {
    let what = format!("the file \"{}\"", shown(name));
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let below = root.map_or_else(String::new, |(root, _)| format!(" below {}", root.shown));
            Refused::new(
                format!("{what}, which is not there"),
                format!("the path of a file{below}"),
            )
        }
        _ => Refused::new(
            format!("{what}, which cannot be read ({error})"),
            "a file that can be read",
        ),
    };
    let path = path.canonicalize().map_err(unreadable)?;
    let outside = |(root, folder): &(&Root, &Path)| !root.outside && !path.starts_with(folder);
    if let Some((root, _)) = root.filter(outside) {
        return Err(Refused::new(
            format!("{what}, which is outside of {}", root.shown),
            "a file below that folder; --root sets another folder",
        ));
    }
    let Some(whole) = path.to_str() else {
        let what = format!("{what}, whose path is not UTF-8");
        return Err(Refused::new(what, "a path in UTF-8"));
    };
    let bytes = read(&path).map_err(unreadable)?;
    if !(1..=MOST).contains(&(bytes.len() as u64)) {
        let what = format!("{what}, which is empty or too large");
        return Err(Refused::new(what, format!("1 to {MOST} bytes")));
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let media = media::told(&bytes, &extension);
    let wanted = match part["type"].as_str() {
        Some("image") => Some((Kind::Image, "an image")),
        Some("audio") => Some((Kind::Audio, "audio")),
        _ => None,
    };
    if let Some((_, wanted)) = wanted.filter(|(kind, _)| *kind != Kind::of(media)) {
        let what = format!("{what}, which is {media}");
        return Err(Refused::new(what, wanted));
    }
    part.insert("path".to_owned(), whole.into());
    let sha256 = hex(&Sha256::digest(&bytes));
    part.insert("sha256".to_owned(), sha256.into());
    part.insert("bytes".to_owned(), bytes.len().into());
    part.insert("media_type".to_owned(), media.into());
    Ok(())
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
