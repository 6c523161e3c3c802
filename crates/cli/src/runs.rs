//! The stores of runs that the data folder has heard of: a hint where to look, never the truth.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use batchwright::files::store_path;
use batchwright::unstable::{AtomicFile, make_private_folder};

/// The list in the data folder, a path a line.
fn list(folder: &Path) -> PathBuf {
    folder.join("runs.txt")
}

/// Adds the store of this output to the list. What goes wrong costs a line of `status`, and no more.
pub fn note(folder: &Path, output: &Path) {
    let Ok(store) = store_path(output) else {
        return;
    };
    let Some(line) = store.to_str().filter(|path| !path.contains('\n')) else {
        return;
    };
    if known(folder).contains(&store) {
        return;
    }
    let add = || {
        make_private_folder(folder)?;
        let file = File::options().append(true).create(true).open(list(folder));
        file?.write_all(format!("{line}\n").as_bytes())
    };
    if let Err(error) = add() {
        log::debug!("{}: {error}", list(folder).display());
    }
}

/// The stores on the list that are still there; the others are dropped from it.
pub fn known(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(list(folder)).unwrap_or_default();
    let all = text.lines().map(PathBuf::from);
    let known: Vec<PathBuf> = all.filter(|path| path.is_file()).collect();
    if known.len() < text.lines().count() {
        let rest: String = known
            .iter()
            .map(|path| format!("{}\n", path.display()))
            .collect();
        let replace = || {
            let file = AtomicFile::create(&list(folder), File::options().write(true))?;
            file.file().write_all(rest.as_bytes())?;
            file.replace()
        };
        if let Err(error) = replace() {
            log::debug!("{}: {error}", list(folder).display());
        }
    }
    known
}

/// The output of the run that has this store.
pub fn output_of(store: &Path) -> Option<PathBuf> {
    let is_store = store.extension().is_some_and(|e| e == "batchwright");
    is_store.then(|| store.with_extension(""))
}

/// Stores that may belong to an output which was renamed without them: those that are known, and those in the folder of
/// the output, whose own output is not there.
pub fn without_output(folder: &Path, output: &Path) -> Vec<PathBuf> {
    let parent = output.parent().filter(|path| *path != Path::new(""));
    let entries = fs::read_dir(parent.unwrap_or(Path::new("."))).into_iter();
    let beside = entries.flatten().flatten().map(|entry| entry.path());
    let all = known(folder).into_iter().chain(beside);
    all.filter(|store| output_of(store).is_some_and(|output| !output.exists()) && store.is_file())
        .collect()
}
