//! `batchwright export`: a table of results.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use batchwright::files::{Export, ExportReport};
use batchwright::{Context, Error, ErrorKind};
use serde_json::json;

use crate::args::export::ExportArgs;
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::format::{count, counts, number_of};
use crate::prompts::{asks_any_object, schema};
use crate::signals::Signals;
use crate::stderr::is_json;
use crate::stdout;
use batchwright::unstable::Optional;

/// This name means all columns.
const ALL: &str = "all";

pub fn execute(args: &ExportArgs) -> Result<Exit, Refusal> {
    let to_stdout = stdout::is_named(Some(&args.output));
    if is_json() && to_stdout {
        let why = "--json needs -o FILE, because the table is on standard output";
        return Err(Refusal::usage(why));
    }
    if to_stdout && io::stdout().is_terminal() {
        // Its cells could control the terminal.
        let why =
            "a table is not for a terminal: name a file with -o, or pipe it, for example into less";
        return Err(Refusal::usage(why));
    }
    if args.results.iter().any(|path| path == Path::new("-")) {
        let why = "results are read more than once, which standard input does not allow: save them to a file first";
        return Err(Refusal::usage(why));
    }
    let ctx = Context::new();
    let stopping = if to_stdout {
        "stopping: the table ends here; press Ctrl-C again to stop now"
    } else {
        "stopping: no file is written; press Ctrl-C again to stop now"
    };
    let signals = Signals::watch(&ctx, stopping.to_owned())?;
    let table = table(args)?;
    let written = if to_stdout {
        match to_stdout_unless_gone(table, &ctx) {
            Some(written) => written,
            None => return Ok(Exit::Success),
        }
    } else {
        table.to_file(&args.output, &ctx)
    };
    match written {
        Ok(report) => Ok(show(args, &report)),
        Err(error) => Err(refused(&error, &signals)),
    }
}

fn table(args: &ExportArgs) -> Result<Export, Refusal> {
    let mut table = Export::new(&args.results)
        .overwrite(args.overwrite)
        .raw(args.raw)
        .bom(args.bom);
    if let Some(given) = &args.json_schema {
        table = if asks_any_object(given) {
            table.by_property(true)
        } else {
            let (name, schema) = schema(given)?;
            let bad = |error: Error| Refusal::usage(format!("{name}: {}", error.message()));
            table.json_schema(schema).map_err(bad)?
        };
    }
    let all = args.columns == [ALL];
    let columns = (!args.columns.is_empty() && !all).then(|| args.columns.iter().cloned());
    let table = table
        .set(columns, Export::columns)
        .when(all, |table| table.all_columns(true))
        .when(args.only_answers, |table| table.only_answers(true))
        .set(args.output_delimiter, Export::delimiter)
        .set(args.output_format, Export::format);
    Ok(table)
}

/// Writes to standard output; `None` if its reader closed the pipe, which is not an error.
fn to_stdout_unless_gone(table: Export, ctx: &Context) -> Option<Result<ExportReport, Error>> {
    let mut out = TableStdout::default();
    let written = table.to_writer(&mut out, ctx);
    (!out.is_gone).then_some(written)
}

fn show(args: &ExportArgs, report: &ExportReport) -> Exit {
    lines(args, report).iter().for_each(display::note);
    if !is_json() {
        return Exit::Success;
    }
    let facts = json!({
        "rows": report.rows,
        "failed": report.failed,
        "columns": report.columns,
        "columns_left_out": report.left_out,
        "replaced_lines": report.replaced,
        "torn_files": report.torn,
        "cut_cells": report.cut_cells,
        "guarded_cells": report.guarded_cells,
        "cut_rows": report.cut_rows,
    });
    stdout::json(&facts, Exit::Success)
}

/// Lines for people; the first one reports what was written.
fn lines(args: &ExportArgs, report: &ExportReport) -> Vec<String> {
    let place = if stdout::is_named(Some(&args.output)) {
        String::new()
    } else {
        format!(" to {}", args.output.display())
    };
    let failed = match report.failed {
        0 => String::new(),
        failed => format!(", {} of them without success", count(failed)),
    };
    let rows = number_of(report.rows, "row|rows");
    let columns = number_of(report.columns.len() as u64, "column|columns");
    let first = format!("{rows} of {columns} written{place}{failed}");
    let details = counts([
        (
            report.replaced,
            "line|lines skipped, because later lines have the same id",
        ),
        (
            report.cut_cells,
            "cell|cells truncated: .xlsx takes at most 32,767 characters",
        ),
        (
            report.guarded_cells,
            "cell|cells got an apostrophe, because spreadsheets read such texts as formulas: --raw leaves cells unchanged",
        ),
        (
            report.cut_rows,
            "row|rows lacks|lack columns, because the results keep only short ones of rows over 4 KiB: run --keep all keeps all of rows that it sends",
        ),
        (
            report.left_out,
            "more column|columns of the input or the answers: --columns all",
        ),
        (
            report.torn.len() as u64,
            "file|files ends|end with an incomplete line, which was skipped",
        ),
    ]);
    [first]
        .into_iter()
        .chain(details.iter().map(|line| format!("  {line}")))
        .collect()
}

fn refused(error: &Error, signals: &Signals) -> Refusal {
    let message = error.message();
    match error.kind() {
        ErrorKind::Cancelled => Refusal::ended(signals.exit().unwrap_or(Exit::CouldNotRun)),
        ErrorKind::Invalid => Refusal::usage(message).about(About::Output),
        _ => Refusal::could_not_run(message).about(About::Output),
    }
}

/// Standard output for a table, whose reader may close the pipe.
#[derive(Default)]
struct TableStdout {
    is_gone: bool,
}

impl TableStdout {
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        self.is_gone |= result.as_ref().err().is_some_and(is_gone);
        result
    }
}

impl Write for TableStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.noted(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.noted(io::stdout().flush())
    }
}
