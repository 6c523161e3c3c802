//! The path of a run's store, which is beside its output. Programs without the queue need it too.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// The path of the store of a run with this output: the output's path after resolving links, with `.batchwright`
/// appended. An earlier run has left something if and only if that file exists.
///
/// # Errors
/// If the output's folder does not exist.
pub fn store_path(output: impl AsRef<Path>) -> io::Result<PathBuf> {
    let output = output.as_ref();
    let mut name = resolved(output, 0)?.into_os_string();
    name.push(".batchwright");
    Ok(name.into())
}

/// Maximum number of links in a chain, in case they form a cycle.
const MOST_LINKS: u32 = 40;

/// The path of a file after resolving links; the file need not exist.
pub(crate) fn resolved(path: &Path, links: u32) -> io::Result<PathBuf> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound || links > MOST_LINKS => {
            return Err(error);
        }
        Err(_) => {}
    }
    // A link to a file that does not exist yet.
    if let Ok(target) = path.read_link() {
        return resolved(&parent.join(target), links + 1);
    }
    let name: OsString = path.file_name().unwrap_or_default().to_owned();
    Ok(parent.canonicalize()?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_leads_to_the_store_of_its_future_target() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link.jsonl");
        std::os::unix::fs::symlink("out.jsonl", &link).unwrap();
        let beside = folder.path().canonicalize().unwrap();
        let beside = beside.join("out.jsonl.batchwright");
        assert_eq!(store_path(&link).unwrap(), beside);
    }
}
