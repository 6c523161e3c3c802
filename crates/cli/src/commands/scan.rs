//! `batchwright scan`: the files of a folder, and why some of them cannot be used.

use std::collections::BTreeMap;
use std::fmt::Write;

use batchwright::Context;
use batchwright::sources::{FileInfo, FileScanner};
use serde_json::json;

use crate::args::scan::ScanArgs;
use crate::exit::{About, Exit, Refusal};
use crate::folder;
use crate::format::{count, size};
use crate::sanitize;
use crate::stdout;
use crate::table::{Table, width};

pub fn execute(args: &ScanArgs) -> Exit {
    scan(args).unwrap_or_else(|refusal| refusal.end(args.json, false))
}

fn scan(args: &ScanArgs) -> Result<Exit, Refusal> {
    let scanner = folder::scanner(&args.files).check_contents(!args.no_check);
    let files = found(args, &scanner)?;
    let totals = Totals::of(&files);
    let shown = files.iter().filter(|file| !args.skipped || !file.is_valid);
    let text = match args.json {
        true => {
            let shown: Vec<&FileInfo> = shown.collect();
            let all = json!({ "files": shown, "totals": totals.json() });
            sanitize::json(&format!("{all}\n"))
        }
        false => table(shown) + &totals.line(),
    };
    Ok(stdout::print(&text, Exit::Success))
}

fn found(args: &ScanArgs, scanner: &FileScanner) -> Result<Vec<FileInfo>, Refusal> {
    let found = scanner.scan_directory(&args.folder, &Context::new());
    found.map_err(|error| Refusal::usage(error.message()).about(About::Input))
}

fn table<'f>(files: impl Iterator<Item = &'f FileInfo>) -> String {
    let mut table = Table::default();
    table.row(["path", "size"], "left out because");
    for file in files {
        let why = file.skip_reason.as_ref();
        let why = why.map_or_else(String::new, ToString::to_string);
        table.row([&file.name(), &format!("{:>8}", size(file.size))], &why);
    }
    table.lines(width())
}

/// What a scan came to.
#[derive(Default)]
struct Totals {
    usable: u64,
    bytes: u64,
    left_out: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn of(files: &[FileInfo]) -> Self {
        let mut totals = Self::default();
        for file in files {
            match &file.skip_reason {
                None => {
                    totals.usable += 1;
                    totals.bytes += file.size;
                }
                Some(reason) => *totals.left_out.entry(reason.kind()).or_default() += 1,
            }
        }
        totals
    }

    fn json(&self) -> serde_json::Value {
        let skipped: u64 = self.left_out.values().sum();
        json!({ "files": self.usable, "bytes": self.bytes, "skipped": skipped, "reasons": self.left_out })
    }

    fn line(&self) -> String {
        let files = if self.usable == 1 { "file" } else { "files" };
        let mut out = format!("{} {files}, {}", count(self.usable), size(self.bytes));
        let skipped: u64 = self.left_out.values().sum();
        if skipped > 0 {
            let reasons = self.left_out.iter();
            let reasons: Vec<String> = reasons
                .map(|(kind, n)| format!("{} {}", count(*n), kind.replace('_', " ")))
                .collect();
            let _ = write!(out, "; {} left out: {}", count(skipped), reasons.join(", "));
        }
        out + "\n"
    }
}
