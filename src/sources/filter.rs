//! Decides which files a scan finds: by pattern.

use std::path::Path;

use ignore::DirEntry;
use ignore::overrides::Override;

use super::info::{FileInfo, SkipReason};

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

/// The patterns that are equivalent to a pattern for files below a folder. `./a.py` and an absolute path refer to
/// the folder itself, `src` also matches everything in a folder with that name, and `#` does not begin a comment.
pub(super) fn globs(pattern: &str, folder: &Path) -> Vec<String> {
    let (sign, pattern) = match pattern.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", pattern),
    };
    let mut glob = match (pattern.strip_prefix("./"), below(pattern, folder)) {
        (Some(rest), _) => format!("/{}", rest.trim_start_matches('/')),
        (None, Some(rest)) => rest,
        (None, None) => pattern.to_owned(),
    };
    if matches!(&*glob, "/" | ".") {
        glob = "**".to_owned();
    }
    if sign.is_empty() && glob.starts_with('#') {
        glob.insert(0, '\\');
    }
    let name = glob.trim_end_matches('/');
    let is_folder = name.len() < glob.len();
    let last = name.rsplit('/').next().unwrap_or_default();
    if is_folder || !last.contains(['*', '?', '[', '{']) {
        // A pattern that contains a slash applies to the folder itself; a pattern without one applies at any depth.
        let anywhere = if name.contains('/') { "" } else { "**/" };
        let within = format!("{sign}{anywhere}{name}/**");
        return vec![format!("{sign}{glob}"), within];
    }
    vec![format!("{sign}{glob}")]
}

/// The part of an absolute pattern below the folder, if the pattern begins with the folder.
fn below(pattern: &str, folder: &Path) -> Option<String> {
    let own = [std::path::absolute(folder), folder.canonicalize()];
    own.iter().flatten().find_map(|folder| {
        let folder = folder.to_str()?.trim_end_matches('/');
        let rest = pattern.strip_prefix(folder)?;
        match rest {
            _ if folder.is_empty() => None,
            "" => Some("/".to_owned()),
            _ => rest.starts_with('/').then(|| rest.to_owned()),
        }
    })
}

/// Whether a file matches by name. The walk itself does not filter by pattern, because it would then include hidden files
/// that match.
pub(super) fn takes(patterns: &Override, path: &Path) -> bool {
    !patterns.matched(path, false).is_ignore()
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
