//! `batchwright scan`: the files of a folder, or their parts, and why some files cannot be used.

use std::io::{self, BufWriter, Write};

use batchwright::sources::{FileInfo, FileScanner, LeftOut, Split, Unit};
use batchwright::{Context, Error, ErrorKind};
use serde_json::json;

use crate::args::input::ScanArgs;
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::format::{Table, number_of, size};
use crate::input::{left_out_lines, scanner};
use crate::sanitize;
use crate::stderr::is_json;
use crate::stdout;

pub fn execute(args: &ScanArgs) -> Result<Exit, Refusal> {
    let scanner = scanner(&args.pattern, &args.files).check_contents(true);
    if let Some(split) = args.split {
        return parts(args, &scanner, split);
    }
    let files = scanner.scan_directory(&args.folder, &Context::new());
    let files = files.map_err(|error| refused(&error))?;
    if files.is_empty() {
        display::say(NOTHING);
    }
    let text = if is_json() {
        let lines = files.iter().map(|file| sanitize::json(&json!(file)) + "\n");
        lines.collect()
    } else {
        table(&files)
    };
    Ok(stdout::print(&text, Exit::Success))
}

const NOTHING: &str = "no file matches: hidden and ignored files are skipped first, see --hidden and --no-ignore, and \
                       --pattern is about the path below the folder";

fn refused(error: &Error) -> Refusal {
    Refusal::usage(error.message()).about(About::Input)
}

/// Writes the parts as they are found. If the reader closes the pipe, that is not an error.
fn parts(args: &ScanArgs, scanner: &FileScanner, split: Split) -> Result<Exit, Refusal> {
    let mut out = BufWriter::new(io::stdout());
    let (mut gone, mut left_out) = (None, LeftOut::default());
    let written = scanner.split_directory(&args.folder, split, &Context::new(), line, |file| {
        left_out.add(&file.info);
        out.write_all(&file.written).map_err(|error| {
            let why = format!("cannot write to standard output: {error}");
            gone = Some(error.kind());
            Error::new(ErrorKind::Cancelled, why)
        })
    });
    let flushed = written.is_err() || out.flush().is_ok();
    match (written, gone) {
        (_, Some(io::ErrorKind::BrokenPipe)) => Ok(Exit::Success),
        (Err(error), Some(_)) => Err(Refusal::could_not_run(error.message())),
        (Err(error), None) => Err(refused(&error)),
        (Ok(_), _) if !flushed => Err(Refusal::could_not_run("cannot write to standard output")),
        (Ok(found), _) => {
            if found == 0 {
                display::say(NOTHING);
            }
            let told = left_out_lines(&left_out, "scan without --split shows all");
            told.iter().for_each(|line| display::say(line));
            Ok(Exit::Success)
        }
    }
}

fn line(unit: &Unit<'_>, out: &mut Vec<u8>) {
    // Writing texts and numbers to memory cannot fail.
    let line = serde_json::to_string(unit).unwrap_or_default();
    out.extend_from_slice(sanitize::json(&line).as_bytes());
    out.push(b'\n');
}

/// A line for each file, and the totals.
fn table(files: &[FileInfo]) -> String {
    let mut table = Table::new(["path", "size", "left out because"]);
    let (mut usable, mut bytes, mut left_out) = (0, 0, LeftOut::default());
    for file in files {
        let why = file.skip_reason.as_ref();
        let why = why.map_or_else(String::new, ToString::to_string);
        table.row([&*file.name(), &format!("{:>8}", size(file.size)), &why]);
        left_out.add(file);
        if file.is_valid {
            usable += 1;
            bytes += file.size;
        }
    }
    let mut total = format!("{}, {}", number_of(usable, "file|files"), size(bytes));
    if left_out.count() > 0 {
        total += &format!("; {} left out: {left_out}", left_out.count());
    }
    table.lines() + &total + "\n"
}
