//! A walk that follows symbolic links and visits each folder and file once. Otherwise links that lead to each other
//! would cause an unlimited number of paths.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::WalkBuilder;
use parking_lot::Mutex;

use super::info::{FileInfo, SkipReason};
use super::wanted::{Wanted, is_folder, not_walked};
use crate::base::Context;

/// The result of a walk.
#[derive(Default)]
pub(super) struct Found {
    /// Files that have a wanted name.
    pub(super) files: Vec<PathBuf>,
    /// Folders and files with a wanted name that are not used.
    pub(super) skipped: Vec<FileInfo>,
}

/// Walks twice, first without following links, so that a path without a link is always preferred.
pub(super) fn walk(walk: &WalkBuilder, wanted: &Wanted, ctx: &Context) -> Found {
    let visited = Arc::new(Visited::default());
    let mut direct = walk.clone();
    direct.follow_links(false);
    for entry in direct.build().flatten() {
        if ctx.is_cancelled() {
            break;
        }
        let is_link = entry.path_is_symlink() && entry.depth() > 0;
        if !is_link && (is_folder(&entry) || wanted.takes(entry.path())) {
            visited.is_first(entry.path());
        }
    }
    let mut follow = walk.clone();
    follow.follow_links(true).sort_by_file_name(Ord::cmp);
    let repeated = Arc::new(Mutex::new(Vec::new()));
    let (folders, repeats) = (Arc::clone(&visited), Arc::clone(&repeated));
    let wanted_folders = wanted.clone();
    follow.filter_entry(move |entry| {
        if !wanted_folders.enters(entry) {
            return false;
        }
        let enters = !is_folder(entry) || folders.is_first(entry.path());
        if !enters {
            repeats.lock().push(entry.path().to_owned());
        }
        enters
    });
    let mut found = Found::default();
    for entry in follow.build() {
        if ctx.is_cancelled() {
            break;
        }
        match entry {
            Ok(entry) if is_folder(&entry) || !wanted.takes(entry.path()) => {}
            Ok(entry) if visited.is_first(entry.path()) => found.files.push(entry.into_path()),
            Ok(entry) => repeated.lock().push(entry.into_path()),
            Err(error) => {
                let place = not_walked(&error, None);
                let place = place.filter(|place| !wanted.is_other_link(&place.path));
                found.skipped.extend(place);
            }
        }
    }
    let repeated = std::mem::take(&mut *repeated.lock());
    let repeated = repeated.into_iter().map(FileInfo::new);
    let skipped = repeated.map(|info| info.skipped(SkipReason::Repeated));
    found.skipped.extend(skipped);
    found
}

/// The path by which each folder and file was first found.
#[derive(Default)]
struct Visited(Mutex<HashMap<Identity, PathBuf>>);

impl Visited {
    /// Whether no other path has led to the same folder or file before.
    fn is_first(&self, path: &Path) -> bool {
        let Some(identity) = identity(path) else {
            return true;
        };
        match self.0.lock().entry(identity) {
            Entry::Occupied(first) => first.get() == path,
            Entry::Vacant(free) => {
                free.insert(path.to_owned());
                true
            }
        }
    }
}

/// The device and the inode.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let found = path.metadata().ok()?;
    // Some network file systems report no inode numbers.
    (found.ino() != 0).then(|| (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    path.canonicalize().ok()
}
