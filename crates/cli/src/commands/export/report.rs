//! Messages about a table for people and scripts.

use batchwright::files::ExportReport;
use serde_json::{Value, json};

use super::name;
use crate::args::export::ExportArgs;
use crate::format::{count, counts};
use crate::stdout;

const REPLACED: &str = "lines skipped, because later lines have the same id";
const IN_SEVERAL_FILES: &str = "ids are in several files: the last file is used";
const CUT_CELLS: &str = "cells exceed the 32,767 characters of .xlsx: they are truncated, and end with the name of the \
                         file that has the complete text";

/// Lines for people; the first one reports what was written.
pub fn lines(args: &ExportArgs, report: &ExportReport) -> Vec<String> {
    let place = if stdout::is_named(Some(&args.output)) {
        String::new()
    } else {
        format!(" to {}", name(&args.output))
    };
    let failed = match report.failed {
        0 => String::new(),
        failed => format!(", {} of them without success", count(failed)),
    };
    let (rows, columns) = (count(report.rows), report.columns.len());
    let mut lines = vec![format!(
        "{rows} rows of {columns} columns written{place}{failed}"
    )];
    let counted = [
        (report.replaced, REPLACED),
        (report.in_several_files, IN_SEVERAL_FILES),
        (report.cut_cells, CUT_CELLS),
    ];
    lines.extend(counts(counted).iter().map(|line| format!("  {line}")));
    if report.left_out > 0 {
        lines.push(format!(
            "  {} more columns of the input or the answers: --columns all",
            count(report.left_out)
        ));
    }
    match report.without_row {
        0 => {}
        n if n == report.rows => lines.push(
            "  the results have no input columns: `run --keep all` keeps those of all rows"
                .to_owned(),
        ),
        n => lines.push(format!("  {} items have no input columns", count(n))),
    }
    if report.could_be_columns {
        lines.push(
            "  the answers are JSON objects: --json-schema object, or a schema, makes a column of each property"
                .to_owned(),
        );
    }
    for path in &report.torn {
        lines.push(format!(
            "  {}: skipped the incomplete last line (the writer crashed or is still writing)",
            name(path)
        ));
    }
    lines
}

/// The same for scripts.
pub fn json(report: &ExportReport) -> Value {
    let torn: Vec<String> = report.torn.iter().map(|path| name(path)).collect();
    json!({
        "rows": report.rows,
        "failed": report.failed,
        "columns": report.columns,
        "columns_left_out": report.left_out,
        "replaced_lines": report.replaced,
        "ids_in_several_files": report.in_several_files,
        "torn_files": torn,
        "cut_cells": report.cut_cells,
        "items_without_row": report.without_row,
    })
}
