//! `batchwright scan`: the files of a folder, their units, and why some files cannot be used.

use std::io::{self, BufWriter, Write};

use batchwright::sources::{FileInfo, FileScanner, LeftOut, Split, Unit};
use batchwright::{Context, Error, ErrorKind};
use serde_json::{Value, json};

use crate::args::scan::ScanArgs;
use crate::display;
use crate::exit::{About, Early, Exit, Refusal};
use crate::folder;
use crate::format::{count, number_of, size};
use crate::sanitize;
use crate::stdout;
use crate::table::Table;

pub fn execute(args: &ScanArgs) -> Result<Exit, Early> {
    let scanner = folder::scanner(&args.pattern, &args.files).check_contents(true);
    if args.units {
        return Ok(units(args, &scanner)?);
    }
    let files = found(args, &scanner).map_err(|error| refused(&error))?;
    let totals = Totals::of(&files);
    let shown = files
        .iter()
        .filter(|(file, _)| !args.skipped || !file.is_valid);
    if files.is_empty() {
        display::say(NOTHING);
    }
    let text = if args.json {
        json_of(shown, &totals)
    } else {
        table(shown, args.split.is_some()) + &totals.line()
    };
    Ok(stdout::print(&text, Exit::Success))
}

const NOTHING: &str = "no file matches: hidden and ignored files are skipped first, see --hidden and --no-ignore, and \
                       --pattern is about the path below the folder";

fn refused(error: &Error) -> Refusal {
    Refusal::usage(error.message()).about(About::Input)
}

/// A file, and its number of units if it was split.
type Found = (FileInfo, Option<u64>);

fn found(args: &ScanArgs, scanner: &FileScanner) -> Result<Vec<Found>, Error> {
    let ctx = Context::new();
    let Some(split) = args.split else {
        let files = scanner.scan_directory(&args.folder, &ctx)?;
        return Ok(files.into_iter().map(|file| (file, None)).collect());
    };
    let mut files = Vec::new();
    scanner.split_directory(
        &args.folder,
        split,
        &ctx,
        |_, _| {},
        |file| {
            files.push((file.info, Some(file.units)));
            Ok(())
        },
    )?;
    Ok(files)
}

/// Writes the units as they are found. If the reader closes the pipe, that is not an error.
fn units(args: &ScanArgs, scanner: &FileScanner) -> Result<Exit, Refusal> {
    let split = args.split.unwrap_or(Split::File);
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
            let told = folder::told(&left_out, "scan --skipped shows all");
            told.iter().for_each(|line| display::say(line));
            Ok(Exit::Success)
        }
    }
}

fn line(unit: &Unit<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing texts and numbers to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, unit);
    // JSON itself escapes the ASCII characters that control a terminal, except the last one.
    if out[start..].iter().any(|byte| *byte >= 0x7f) {
        let safe = sanitize::json(&String::from_utf8_lossy(&out[start..]));
        out.truncate(start);
        out.extend_from_slice(safe.as_bytes());
    }
    out.push(b'\n');
}

/// One file at a time, so that memory holds only the text.
fn json_of<'f>(files: impl Iterator<Item = &'f Found>, totals: &Totals) -> String {
    let mut out = "{\"files\":[".to_owned();
    for (i, file) in files.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&sanitize::json(&described(file)));
    }
    out + &format!("],\"totals\":{}}}\n", totals.json())
}

fn described((file, units): &Found) -> Value {
    let mut file = json!(file);
    if let Some(units) = units {
        file["units"] = (*units).into();
    }
    file
}

fn table<'f>(files: impl Iterator<Item = &'f Found>, split: bool) -> String {
    let mut head = vec!["path", "size"];
    head.extend(split.then_some("units"));
    head.push("left out because");
    let mut table = Table::new(head);
    for (file, units) in files {
        let why = file.skip_reason.as_ref();
        let why = why.map_or_else(String::new, ToString::to_string);
        let mut cells = vec![file.name().into_owned(), format!("{:>8}", size(file.size))];
        cells.extend(units.map(count));
        cells.push(why);
        table.row(cells.iter().map(String::as_str));
    }
    table.lines()
}

/// The results of a scan.
#[derive(Default)]
struct Totals {
    usable: u64,
    bytes: u64,
    units: Option<u64>,
    left_out: LeftOut,
}

impl Totals {
    fn of(files: &[Found]) -> Self {
        let mut totals = Self::default();
        for (file, units) in files {
            if file.is_valid {
                totals.usable += 1;
                totals.bytes += file.size;
            }
            totals.units = units.map(|units| totals.units.unwrap_or(0) + units);
            totals.left_out.add(file);
        }
        totals
    }

    fn json(&self) -> Value {
        let mut all = json!({
            "files": self.usable, "bytes": self.bytes, "skipped": self.left_out.count(),
            "reasons": self.left_out.reasons,
        });
        if let Some(units) = self.units {
            all["units"] = units.into();
        }
        all
    }

    fn line(&self) -> String {
        let files = number_of(self.usable, "file", "files");
        let mut out = format!("{files}, {}", size(self.bytes));
        if let Some(units) = self.units {
            out.push_str(&format!(", {} units", count(units)));
        }
        if self.left_out.count() > 0 {
            let skipped = count(self.left_out.count());
            out.push_str(&format!("; {skipped} left out: {}", self.left_out));
        }
        out + "\n"
    }
}
