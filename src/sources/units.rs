//! The units of all files below a folder: split on all threads, returned in the order of the files.

use std::path::Path;

use rayon::prelude::*;

use super::info::{FileInfo, SkipReason};
use super::scan::FileScanner;
use super::split::{Split, Unit};
use crate::base::{Context, Error};

/// Number of files that are split at a time, so that memory does not grow with the folder.
const FILES_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: u64 = 4 << 20;

/// A file that was split or skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitFile {
    /// The file; if it was skipped, with the reason.
    pub info: FileInfo,
    /// Number of units.
    pub units: u64,
    /// The bytes that `write` made of the units.
    pub written: Vec<u8>,
}

impl FileScanner {
    /// Splits every file below a folder. `write` turns each unit into bytes, on any thread; `sink` receives each file
    /// in the order of the paths, whatever the number of threads. A few MiB of text are in memory at a time. Units name
    /// their files by the path below the folder. Returns the number of files.
    ///
    /// # Errors
    /// As [`scan_directory`](Self::scan_directory), and any error of `sink`, which ends the split.
    pub fn split_directory(
        &self,
        folder: &Path,
        split: Split,
        ctx: &Context,
        write: impl Fn(&Unit<'_>, &mut Vec<u8>) + Sync,
        mut sink: impl FnMut(SplitFile) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        // Each file is read once, when it is split.
        let files = self
            .clone()
            .check_contents(false)
            .scan_directory(folder, ctx)?;
        let found = files.len() as u64;
        let split = |info: FileInfo| self.split_file(info, folder, split, ctx, &write);
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            ctx.check()?;
            let (mut bytes, mut some) = (0, Vec::new());
            let fits = |file: &FileInfo, bytes, n| {
                n == 0 || (n < FILES_AT_ONCE && bytes + file.size <= BYTES_AT_ONCE)
            };
            while let Some(file) = files.next_if(|file| fits(file, bytes, some.len())) {
                bytes += file.size;
                some.push(file);
            }
            let done: Vec<SplitFile> = some.into_par_iter().map(split).collect();
            // Files that were skipped because of the cancellation must not appear as empty.
            ctx.check()?;
            done.into_iter().try_for_each(&mut sink)?;
        }
        Ok(found)
    }

    fn split_file(
        &self,
        info: FileInfo,
        folder: &Path,
        split: Split,
        ctx: &Context,
        write: &(impl Fn(&Unit<'_>, &mut Vec<u8>) + Sync),
    ) -> SplitFile {
        let mut file = SplitFile {
            info,
            units: 0,
            written: Vec::new(),
        };
        if !file.info.is_valid || ctx.is_cancelled() {
            return file;
        }
        let path = file.info.path.strip_prefix(folder);
        let path = path.unwrap_or(&file.info.path);
        let text = self.text_of(&file.info.path);
        let units = text.as_deref().map_err(SkipReason::clone);
        match units.and_then(|text| split.units(path, text)) {
            Ok(units) => {
                file.units = units.len() as u64;
                units.iter().for_each(|unit| write(unit, &mut file.written));
            }
            Err(reason) => file.info = file.info.skipped(reason),
        }
        file
    }
}
