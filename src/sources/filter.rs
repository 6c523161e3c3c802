//! Decides whether a file can be used: by its kind, extension, size and contents.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use ignore::DirEntry;

use super::info::{FileInfo, SkipReason};
use super::text;

/// Source files that people write are smaller than this.
const MAX_SIZE: u64 = 10 << 20;

/// How symbolic links below a folder are handled. The folder itself may be a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SymlinkPolicy {
    /// Links are skipped, with a reason.
    #[default]
    Skip,
    /// Links are followed. A link to a folder that contains the link is skipped with a reason. A file to which several
    /// paths lead is found by each of them.
    Follow,
}

#[derive(Debug, Clone)]
pub(super) struct FileFilter {
    pub(super) symlinks: SymlinkPolicy,
    pub(super) max_size: u64,
    pub(super) extensions: Vec<String>,
    pub(super) contents: bool,
}

impl Default for FileFilter {
    fn default() -> Self {
        Self {
            symlinks: SymlinkPolicy::default(),
            max_size: MAX_SIZE,
            extensions: Vec::new(),
            contents: true,
        }
    }
}

impl FileFilter {
    /// Checks an entry that a walk found.
    pub(super) fn judge_entry(&self, entry: DirEntry) -> FileInfo {
        if entry.path_is_symlink() && self.symlinks == SymlinkPolicy::Skip {
            return FileInfo::new(entry.into_path()).skipped(SkipReason::SymbolicLink);
        }
        let metadata = entry.metadata();
        let info = FileInfo::new(entry.into_path());
        match metadata {
            Ok(metadata) => self.judge_metadata(info, &metadata),
            Err(error) => {
                let why = match error.io_error() {
                    Some(error) => error.to_string(),
                    None => error.to_string(),
                };
                info.skipped(SkipReason::Unreadable(why))
            }
        }
    }

    /// Checks a file by its path.
    pub(super) fn judge(&self, path: PathBuf) -> FileInfo {
        let metadata = match self.symlinks {
            SymlinkPolicy::Skip => fs::symlink_metadata(&path),
            SymlinkPolicy::Follow => fs::metadata(&path),
        };
        let info = FileInfo::new(path);
        match metadata {
            Ok(metadata) if metadata.is_symlink() => info.skipped(SkipReason::SymbolicLink),
            Ok(metadata) => self.judge_metadata(info, &metadata),
            Err(error) => info.skipped(SkipReason::Unreadable(error.to_string())),
        }
    }

    fn judge_metadata(&self, mut info: FileInfo, metadata: &Metadata) -> FileInfo {
        info.modified_time = metadata.modified().ok();
        if !metadata.is_file() {
            return info.skipped(SkipReason::NotAFile);
        }
        info.size = metadata.len();
        if !self.has_extension(&info.path) {
            return info.skipped(SkipReason::Extension);
        }
        if info.size > self.max_size {
            let limit = self.max_size;
            return info.skipped(SkipReason::TooLarge { limit });
        }
        if self.contents
            && let Err(reason) = text::check(&info.path, self.max_size, self.follows())
        {
            return info.skipped(reason);
        }
        info
    }

    pub(super) fn follows(&self) -> bool {
        self.symlinks == SymlinkPolicy::Follow
    }

    fn has_extension(&self, path: &Path) -> bool {
        let own = path.extension().unwrap_or_default();
        let same = |extension: &String| own.eq_ignore_ascii_case(extension);
        self.extensions.is_empty() || self.extensions.iter().any(same)
    }
}
