//! The walk below a folder. Files that are excluded by name, pattern or ignore file are not reported. Files with a
//! matching name that cannot be used are reported with the reason.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::unbounded;
use derive_setters::Setters;

use ignore::overrides::{Override, OverrideBuilder};
use ignore::{DirEntry, WalkBuilder, WalkState};
use parking_lot::Mutex;
use rayon::prelude::*;

use super::filter::{SymlinkPolicy, globs, is_folder, not_walked, takes};
use super::info::{FileInfo, SkipReason, shown_path};
use super::text;
use crate::base::{Context, Error, ErrorKind};

/// Source files that people write are smaller than this.
const MAX_SIZE: u64 = 10 << 20;

/// Finds files below folders, on several threads, and checks whether each can be used.
#[derive(Debug, Clone, Setters)]
#[setters(generate = false)]
pub struct FileScanner {
    patterns: Vec<String>,
    /// Whether hidden files and folders (names that begin with a dot) are included. Default: no.
    #[setters(generate)]
    hidden: bool,
    /// Whether `.ignore`, `.gitignore` (within a repository), `.git/info/exclude` and git's global ignore file apply,
    /// including those of parent folders. Default: yes.
    #[setters(generate)]
    ignore_files: bool,
    /// How symbolic links are handled. Default: [`SymlinkPolicy::Skip`].
    #[setters(generate)]
    symlinks: SymlinkPolicy,
    /// Maximum size of a file in bytes. Larger files are skipped without being opened. Default: 10 MiB.
    #[setters(generate)]
    max_file_size: u64,
    extensions: Vec<String>,
    /// Whether each file is read completely, piece by piece, to skip files that are unreadable, binary or not UTF-8.
    /// Without this check, a scan reads only names and sizes and takes a fraction of the time. Default: yes.
    #[setters(generate)]
    check_contents: bool,
    without: Vec<PathBuf>,
}

impl Default for FileScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl FileScanner {
    /// Finds every text file that is neither hidden nor ignored.
    pub fn new() -> Self {
        Self {
            patterns: Vec::new(),
            hidden: false,
            ignore_files: true,
            symlinks: SymlinkPolicy::default(),
            max_file_size: MAX_SIZE,
            extensions: Vec::new(),
            check_contents: true,
            without: Vec::new(),
        }
    }

    /// Excludes this file, whatever its name, for example the results file. Default: no file is excluded.
    pub fn without(mut self, file: impl Into<PathBuf>) -> Self {
        self.without.push(file.into());
        self
    }

    /// Includes only files whose path below the folder matches this pattern or an earlier one, in the syntax of
    /// `.gitignore`: `*.py` matches in every folder, `/*.py` only in the folder itself, `**/tests/*.py` in every
    /// `tests`. A pattern that names a folder matches everything in it. A leading `!` excludes matching files. Default:
    /// all files.
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push(pattern.into());
        self
    }

    /// Skips files with other extensions, and reports them with a reason, unlike a [pattern](Self::pattern). Extensions
    /// are written without the dot; case is ignored. Default: all extensions.
    pub fn extensions<E: Into<String>>(mut self, extensions: impl IntoIterator<Item = E>) -> Self {
        self.extensions = extensions.into_iter().map(Into::into).collect();
        self
    }

    /// The files below a folder, sorted by path, byte by byte: the usable files, and files with a matching name that
    /// cannot be used. Unreadable folders are among the latter.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the folder does not exist, or a pattern is invalid; [`ErrorKind::Cancelled`]
    /// if `ctx` is cancelled.
    pub fn scan_directory(
        &self,
        folder: impl AsRef<Path>,
        ctx: &Context,
    ) -> Result<Vec<FileInfo>, Error> {
        let folder = folder.as_ref();
        check_folder(folder)?;
        let patterns = self.patterns_below(folder)?;
        let mut walk = WalkBuilder::new(folder);
        walk.standard_filters(self.ignore_files)
            .hidden(!self.hidden)
            .follow_links(self.follows());
        if self.ignore_files {
            let whole = std::path::absolute(folder)?;
            whole.ancestors().try_for_each(check_rules)?;
        }
        let odd: Arc<Mutex<Option<Error>>> = Arc::default();
        let (excluded, found_odd) = (Arc::clone(&patterns), Arc::clone(&odd));
        let (excludes, reads_rules) = (patterns.num_ignores() > 0, self.ignore_files);
        walk.filter_entry(move |entry| {
            if !is_folder(entry) {
                return true;
            }
            if excludes && excluded.matched(entry.path(), true).is_ignore() {
                return false;
            }
            let checked = if reads_rules {
                check_rules(entry.path())
            } else {
                Ok(())
            };
            checked
                .map_err(|error| *found_odd.lock() = Some(error))
                .is_ok()
        });
        let mut files = self.walk(&walk, &patterns, ctx);
        ctx.check()?;
        if let Some(error) = odd.lock().take() {
            return Err(error);
        }
        for file in &self.without {
            if let Ok(file) = file.canonicalize() {
                files.retain(|found| {
                    found.path.file_name() != file.file_name()
                        || found.path.canonicalize().ok().as_ref() != Some(&file)
                });
            }
        }
        // Not as `Path`, which splits paths into components at each comparison.
        files.par_sort_unstable_by(|a, b| {
            let (a, b) = (a.path.as_os_str(), b.path.as_os_str());
            a.as_encoded_bytes().cmp(b.as_encoded_bytes())
        });
        Ok(files)
    }

    fn walk(&self, walk: &WalkBuilder, patterns: &Override, ctx: &Context) -> Vec<FileInfo> {
        let (sender, found) = unbounded();
        walk.build_parallel().run(|| {
            let sender = sender.clone();
            Box::new(move |entry| {
                if ctx.is_cancelled() {
                    return WalkState::Quit;
                }
                let file = match entry {
                    Ok(entry) if is_folder(&entry) || !takes(patterns, entry.path()) => None,
                    Ok(entry) => Some(self.judge_entry(entry)),
                    Err(error) => not_walked(&error, None).filter(|place| {
                        // An unreadable folder may contain matching names; a dangling link is only a name.
                        let is_link = place.path.is_symlink() && !place.path.is_dir();
                        !is_link || takes(patterns, &place.path)
                    }),
                };
                if let Some(file) = file {
                    // The receiver outlives the walk.
                    let _ = sender.send(file);
                }
                WalkState::Continue
            })
        });
        drop(sender);
        found.into_iter().collect()
    }

    /// Checks the named files in the same way, in their order. [Ignore files](Self::ignore_files) apply; patterns and the
    /// rule for hidden files do not.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] if `ctx` is cancelled.
    pub fn filter_files<P: Into<PathBuf>>(
        &self,
        files: impl IntoIterator<Item = P>,
        ctx: &Context,
    ) -> Result<Vec<FileInfo>, Error> {
        let files: Vec<PathBuf> = files.into_iter().map(Into::into).collect();
        let judge = |path| ctx.check().map(|()| self.judge_path(path));
        let judged = files.into_par_iter().map(judge);
        let mut judged = judged.collect::<Result<Vec<_>, _>>()?;
        if self.ignore_files {
            let usable = judged.iter_mut().filter(|file| file.is_valid);
            leave_out_ignored(usable.collect())?;
        }
        Ok(judged)
    }

    /// Checks an entry that a walk found.
    fn judge_entry(&self, entry: DirEntry) -> FileInfo {
        let metadata = entry.metadata().map_err(|error| {
            let told = error.io_error().map(ToString::to_string);
            told.unwrap_or_else(|| error.to_string())
        });
        let is_link = entry.path_is_symlink() && !self.follows();
        self.judge_metadata(entry.into_path(), is_link, metadata)
    }

    /// Checks a file by its path.
    fn judge_path(&self, path: PathBuf) -> FileInfo {
        let metadata = if self.follows() {
            fs::metadata(&path)
        } else {
            fs::symlink_metadata(&path)
        };
        let is_link = metadata.as_ref().is_ok_and(Metadata::is_symlink);
        self.judge_metadata(path, is_link, metadata.map_err(|error| error.to_string()))
    }

    fn judge_metadata(
        &self,
        path: PathBuf,
        is_link: bool,
        metadata: Result<Metadata, String>,
    ) -> FileInfo {
        let mut info = FileInfo::new(path);
        if is_link {
            return info.skipped(SkipReason::SymbolicLink);
        }
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(why) => return info.skipped(SkipReason::Unreadable(why)),
        };
        info.modified_time = metadata.modified().ok();
        if !metadata.is_file() {
            return info.skipped(SkipReason::NotAFile);
        }
        info.size = metadata.len();
        if !self.has_extension(&info.path) {
            return info.skipped(SkipReason::Extension);
        }
        if info.size > self.max_file_size {
            let limit = self.max_file_size;
            return info.skipped(SkipReason::TooLarge { limit });
        }
        if self.check_contents
            && let Err(reason) = self.text_of(&info.path)
        {
            return info.skipped(reason);
        }
        info
    }

    /// The text of a file, without a byte order mark. The file may have changed or been deleted since a scan.
    pub(super) fn text_of(&self, path: &Path) -> Result<String, SkipReason> {
        text::read(path, self.max_file_size, self.follows())
    }

    fn follows(&self) -> bool {
        self.symlinks == SymlinkPolicy::Follow
    }

    fn has_extension(&self, path: &Path) -> bool {
        let own = path.extension().unwrap_or_default();
        let same = |extension: &String| own.eq_ignore_ascii_case(extension);
        self.extensions.is_empty() || self.extensions.iter().any(same)
    }

    fn patterns_below(&self, folder: &Path) -> Result<Arc<Override>, Error> {
        let mut patterns = OverrideBuilder::new(folder);
        for glob in self.patterns.iter().flat_map(|glob| globs(glob, folder)) {
            patterns.add(&glob).map_err(|error| refused(&error))?;
        }
        Ok(Arc::new(patterns.build().map_err(|error| refused(&error))?))
    }
}

/// Skips files that a scan of their repository would not find, or outside a repository, a scan of their folder.
fn leave_out_ignored(files: Vec<&mut FileInfo>) -> Result<(), Error> {
    let real = |path: &Path| {
        let path = std::path::absolute(path).ok()?;
        // If the file is a link, its target does not matter.
        Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
    };
    let mut by_root: HashMap<PathBuf, Vec<(PathBuf, &mut FileInfo)>> = HashMap::new();
    for file in files {
        let Some(path) = real(&file.path) else {
            continue;
        };
        let folders = path.ancestors().skip(1);
        let repository = folders.clone().find(|folder| folder.join(".git").exists());
        if let Some(root) = repository.or_else(|| path.parent()) {
            let root = root.to_owned();
            by_root.entry(root).or_default().push((path, file));
        }
    }
    for (root, files) in by_root {
        let on_the_way = |path: &PathBuf| path.ancestors().map(Path::to_owned).collect::<Vec<_>>();
        let wanted: HashSet<PathBuf> = files
            .iter()
            .flat_map(|(path, _)| on_the_way(path))
            .collect();
        wanted.iter().try_for_each(|folder| check_rules(folder))?;
        let walk = WalkBuilder::new(&root)
            .hidden(false)
            .filter_entry(move |entry| wanted.contains(entry.path()))
            .build();
        let found: HashSet<PathBuf> = walk.flatten().map(DirEntry::into_path).collect();
        for (path, file) in files {
            if !found.contains(&path) {
                file.is_valid = false;
                file.skip_reason = Some(SkipReason::Ignored);
            }
        }
    }
    Ok(())
}

/// Checks the files of a folder from which a walk takes rules, because it would wait for a pipe.
///
/// # Errors
/// When one is a pipe, a socket or a device.
fn check_rules(folder: &Path) -> Result<(), Error> {
    let rules = [".ignore", ".gitignore", ".git/info/exclude"];
    let mut rules = rules.iter().map(|name| folder.join(name));
    let is_odd =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    rules.find(is_odd).map_or(Ok(()), |path| {
        let why = format!(
            "{}: it is not a regular file, but has the name of an ignore file: move it away, or do without ignore files",
            shown_path(&path)
        );
        Err(Error::new(ErrorKind::Invalid, why))
    })
}

fn refused(error: &ignore::Error) -> Error {
    let why = match error {
        ignore::Error::Glob { glob, err } => {
            format!(
                "the pattern {:?} is invalid: {err}",
                glob.as_deref().unwrap_or_default()
            )
        }
        other => other.to_string(),
    };
    Error::new(ErrorKind::Invalid, why)
}

fn check_folder(folder: &Path) -> Result<(), Error> {
    let why = match std::fs::read_dir(folder).map_err(|error| (error.kind(), error)) {
        Ok(_) => return Ok(()),
        Err((io::ErrorKind::NotFound, _)) => "the folder does not exist".to_owned(),
        Err((io::ErrorKind::NotADirectory, _)) => "found a file; expected a folder".to_owned(),
        Err((_, error)) => format!("cannot be read: {error}"),
    };
    let name = shown_path(folder);
    Err(Error::new(ErrorKind::Invalid, format!("{name}: {why}")))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
pub(super) mod tests;
