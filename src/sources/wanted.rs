//! Which entries of a walk match.

use std::path::Path;
use std::sync::Arc;

use ignore::DirEntry;
use ignore::overrides::Override;
use ignore::types::Types;

use super::info::{FileInfo, SkipReason};

/// Which files match by name. The walk itself does not filter by type, because it would then include hidden files
/// of these types.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) patterns: Arc<Override>,
    pub(super) types: Types,
}

impl Wanted {
    pub(super) fn takes(&self, path: &Path) -> bool {
        !self.patterns.matched(path, false).is_ignore()
            && !self.types.matched(path, false).is_ignore()
    }

    /// False for a folder that a pattern excludes.
    pub(super) fn enters(&self, entry: &DirEntry) -> bool {
        let leaves_out = self.patterns.num_ignores() > 0;
        !(leaves_out && is_folder(entry) && self.patterns.matched(entry.path(), true).is_ignore())
    }

    /// Whether a dangling link has a name that does not match. An unreadable folder may contain matching names.
    pub(super) fn is_other_link(&self, path: &Path) -> bool {
        path.is_symlink() && !path.is_dir() && !self.takes(path)
    }
}

pub(super) fn is_folder(entry: &DirEntry) -> bool {
    entry.file_type().is_some_and(|kind| kind.is_dir())
}

/// The entry for a path that could not be read; `None` for a faulty line of an ignore file.
pub(super) fn not_walked(error: &ignore::Error, at: Option<&Path>) -> Option<FileInfo> {
    use ignore::Error::{Io, Loop, WithDepth, WithPath};
    match error {
        WithDepth { err, .. } => not_walked(err, at),
        WithPath { path, err } => not_walked(err, Some(path)),
        Loop { child, .. } => Some(FileInfo::new(child.clone()).skipped(SkipReason::Loop)),
        Io(error) => {
            let reason = SkipReason::Unreadable(error.to_string());
            Some(FileInfo::new(at?.to_owned()).skipped(reason))
        }
        _ => None,
    }
}
