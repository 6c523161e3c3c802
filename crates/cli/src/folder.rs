//! Folders of source files as flags describe them.

use batchwright::sources::{FileScanner, SymlinkPolicy};

use super::args::folder::FolderArgs;

/// Finds the files that are meant.
pub fn scanner(args: &FolderArgs) -> FileScanner {
    let mut scanner = FileScanner::new()
        .hidden(args.hidden)
        .ignore_files(!args.no_ignore);
    if args.follow {
        scanner = scanner.symlinks(SymlinkPolicy::Follow);
    }
    for pattern in &args.pattern {
        scanner = scanner.pattern(pattern);
    }
    for name in &args.types {
        scanner = scanner.file_type(name);
    }
    if let Some(bytes) = args.max_size {
        scanner = scanner.max_file_size(bytes);
    }
    match args.threads {
        Some(threads) => scanner.threads(threads),
        None => scanner,
    }
}
