//! The data folder's list of the stores of runs: it is a hint and may be outdated.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use batchwright::ProcessId;
use batchwright::files::store_path;
use batchwright::unstable::{AtomicFile, make_private_folder};

/// The folder with one file per store. Its name is computed from the path of the store, which is its content.
fn list(folder: &Path) -> PathBuf {
    folder.join("runs")
}

/// Adds the store of this output to the list. If that fails, only a line of `status` is missing.
pub fn note(folder: &Path, output: &Path) {
    let Ok(store) = store_path(output) else {
        return;
    };
    let path = store.as_os_str().as_encoded_bytes();
    let entry = list(folder).join(ProcessId::named(path).to_string());
    if entry.exists() {
        return;
    }
    let add = || {
        make_private_folder(&list(folder))?;
        let file = AtomicFile::create(&entry, File::options().write(true))?;
        file.file().write_all(path)?;
        file.replace()
    };
    if let Err(error) = add() {
        log::debug!("{}: {error}", entry.display());
    }
}

/// The existing stores on the list; the others are dropped from it.
pub fn known(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(list(folder)).into_iter().flatten().flatten();
    let store = |entry: fs::DirEntry| {
        let path = fs::read(entry.path()).ok()?;
        // Other files in the folder are not touched.
        if entry.file_name().to_str()? != ProcessId::named(&path).to_string() {
            return None;
        }
        let store = path_of(path)?;
        if store.is_file() {
            return Some(store);
        }
        let _ = fs::remove_file(entry.path());
        None
    };
    let mut stores: Vec<PathBuf> = entries.filter_map(store).collect();
    stores.sort_unstable();
    stores
}

#[cfg(unix)]
fn path_of(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Some(OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> Option<PathBuf> {
    let text = String::from_utf8(bytes).ok()?;
    Some(OsString::from(text).into())
}

/// The output of the run with this store.
pub fn output_of(store: &Path) -> Option<PathBuf> {
    let is_store = store.extension().is_some_and(|e| e == "batchwright");
    is_store.then(|| store.with_extension(""))
}

/// Stores that may belong to an output which was renamed without them: known stores, and those in the folder of the
/// output, if their own output does not exist.
pub fn without_output(folder: Option<&Path>, output: &Path) -> Vec<PathBuf> {
    let store = store_path(output).ok();
    let entries = store.and_then(|store| fs::read_dir(store.parent()?).ok());
    let beside = entries.into_iter().flatten().flatten();
    let all = folder
        .map(known)
        .into_iter()
        .flatten()
        .chain(beside.map(|entry| entry.path()));
    let mut found: Vec<PathBuf> = all
        .filter(|store| output_of(store).is_some_and(|output| !output.exists()) && store.is_file())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_recorded_twice_is_listed_once_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert!(known(&data).is_empty());
        let stores = ["b.jsonl", "a\nb.jsonl"].map(|name| {
            let output = folder.path().join(name);
            let store = store_path(&output).unwrap();
            File::create(&store).unwrap();
            note(&data, &output);
            note(&data, &output);
            store
        });
        assert_eq!(known(&data), [stores[1].clone(), stores[0].clone()]);
        fs::remove_file(&stores[0]).unwrap();
        assert_eq!(known(&data), [stores[1].clone()]);
        assert_eq!(fs::read_dir(list(&data)).unwrap().count(), 1);
    }
}
