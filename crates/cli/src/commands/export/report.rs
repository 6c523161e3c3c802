//! Messages about a table for people and scripts.

use batchwright::files::ExportReport;
use serde_json::{Value, json};

use super::name;
use crate::args::export::ExportArgs;
use crate::format::{count, counts};
use crate::stdout;

const REPLACED: &str = "lines skipped, because later lines have the same id";
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
    let counted = [(report.replaced, REPLACED), (report.cut_cells, CUT_CELLS)];
    lines.extend(counts(counted).iter().map(|line| format!("  {line}")));
    if report.left_out > 0 {
        lines.push(format!(
            "  {} more columns of the input or the answers: --columns all",
            count(report.left_out)
        ));
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
        "torn_files": torn,
        "cut_cells": report.cut_cells,
    })
}
