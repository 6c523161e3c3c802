//! Secrets in files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::error::{Error, ErrorKind};
use super::named_file;
use super::names::quoted;
use super::secret::Secret;

/// A longer file contains no key, but something else.
const LONGEST: u64 = 64 << 10;

/// The text of the file with a secret. `what` names the secret in errors, which never contain the text.
pub(crate) fn text(what: &str, path: &Path) -> Result<String, Error> {
    named_file::read_text(path, LONGEST).map_err(|error| {
        let path = path.display();
        let why = format!("the file with {what}, {path}, cannot be read: {error}");
        Error::new(ErrorKind::Invalid, why)
    })
}

impl Secret {
    /// The API key in a file, without the white space around it. If all users of the machine may read the file, a
    /// warning is logged, once for each file.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file cannot be read, has more than 64 KiB or contains no key. The message names
    /// the file and never contains its text.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = text("the API key", path)?;
        let key = text.trim();
        if key.is_empty() {
            let why = format!("the file with the API key, {}, is empty", path.display());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        warn_if_open(path);
        Ok(Self::new(key))
    }
}

/// Logs a warning if every user of the machine may read the file.
fn warn_if_open(path: &Path) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if is_open(path) && WARNED.lock().insert(path.to_owned()) {
        let (path, quoted) = (path.display(), quoted(path));
        log::warn!("every user of this machine can read the API key in {path}; chmod 600 {quoted}");
    }
}

#[cfg(unix)]
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path);
    found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_open(_path: &Path) -> bool {
    false
}

/// The password from these sources, in this order: `password`, the first line of the given file, the first
/// variable, the first line of the file that the second variable names. `of` names the server in errors.
#[cfg(feature = "mysql")]
pub(crate) fn password(
    of: &str,
    password: Option<&Secret>,
    file: Option<&Path>,
    variables: [&str; 2],
) -> Result<Option<String>, Error> {
    if let Some(password) = password {
        return Ok(Some(password.expose().to_owned()));
    }
    let file = match file {
        Some(file) => file.to_owned(),
        None => {
            if let Ok(password) = std::env::var(variables[0]) {
                return Ok(Some(password));
            }
            match std::env::var_os(variables[1]) {
                Some(file) => file.into(),
                None => return Ok(None),
            }
        }
    };
    let text = text(&format!("the password of {of}"), &file)?;
    Ok(text.lines().next().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_read_without_its_line_end() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        for text in ["sk-1", "sk-1\n", " sk-1\r\n\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Secret::from_file(&path).unwrap().expose(), "sk-1");
        }
    }

    #[test]
    fn an_error_names_the_file_and_never_its_text() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let refused = |why: &str| {
            let error = Secret::from_file(&path).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let named = text.contains(&*path.to_string_lossy()) && text.contains(why);
            assert!(named && !text.contains("sk-"), "{text}");
        };
        refused("cannot be read");
        fs::write(&path, " \n").unwrap();
        refused("is empty");
        fs::write(&path, b"sk-\xff").unwrap();
        refused("cannot be read");
        fs::write(&path, "sk-".repeat(30_000)).unwrap();
        refused("more than 64 KiB");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("cannot be read");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_everybody_may_read_is_open() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        fs::write(&path, "sk-1").unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open(&path), open, "{mode:o}");
        }
    }
}
