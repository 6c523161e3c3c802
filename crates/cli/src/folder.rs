//! Folders of source files, as the flags describe them.

use std::path::PathBuf;

use batchwright::Prompts;
use batchwright::files::PromptSettings;
use batchwright::sources::{FileScanner, LeftOut, SymlinkPolicy};

use super::args::folder::FolderArgs;
use super::args::input::ReadingArgs;
use super::exit::Refusal;
use super::format::number_of;
use super::sanitize::one_line;
use batchwright::unstable::Optional;

/// Finds the selected files.
pub fn scanner(patterns: &[String], args: &FolderArgs) -> FileScanner {
    let links = args.follow.then_some(SymlinkPolicy::Follow);
    let scanner = FileScanner::new()
        .hidden(args.hidden)
        .ignore_files(!args.no_ignore)
        .set(links, FileScanner::symlinks)
        .set(args.max_size, FileScanner::max_file_size);
    patterns.iter().fold(scanner, FileScanner::pattern)
}

/// Adds the selection and splitting of files in folders; rejects flags for that if no input is a folder.
pub fn settings(
    settings: PromptSettings,
    reading: &ReadingArgs,
    inputs: &[PathBuf],
) -> Result<PromptSettings, Refusal> {
    let told = reading.split.is_some()
        || !reading.pattern.is_empty()
        || reading.folder != FolderArgs::default();
    match (inputs.iter().any(|path| path.is_dir()), reading.split) {
        (false, _) if told => Err(Refusal::usage(
            "--split, --pattern and their like choose among the files of a folder, and no input is one",
        )),
        (false, _) => Ok(settings),
        (true, split) => Ok(settings
            .scanner(scanner(&reading.pattern, &reading.folder))
            .split(split.unwrap_or_default())),
    }
}

/// Messages about files that were not used as prompts.
pub fn left_out_lines(prompts: &Prompts) -> Vec<String> {
    told(prompts.left_out(), "--log-level debug names all")
}

/// Messages about skipped files; `all` is the command that lists them.
pub fn told(left_out: &LeftOut, all: &str) -> Vec<String> {
    if left_out.count() == 0 {
        return Vec::new();
    }
    let files = number_of(left_out.count(), "file is", "files are");
    let mut lines = vec![format!("{files} left out: {left_out}")];
    for file in &left_out.first {
        let why = file
            .skip_reason
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
        lines.push(format!("  {}: {}", one_line(&file.name()), one_line(&why)));
    }
    if left_out.count() > left_out.first.len() as u64 {
        lines.push(format!("  and others; {all}"));
    }
    lines
}
