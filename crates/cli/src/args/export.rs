//! The arguments of `batchwright export`.

use std::path::PathBuf;

use batchwright::files::ExportFormat;
use clap::Args;

use super::values::{delimiter, name, one_of};

/// Make a table of results: CSV, Excel, Parquet
///
/// Writes one row per item: its id, the input columns, the answer, and the message of an error. If an id has several
/// lines, the last one is used. The output file appears only when it is complete.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/export.txt"))]
pub struct ExportArgs {
    /// Files of results
    ///
    /// From `batchwright run` and `batchwright results`; they are read more than once. If an id is in several
    /// files, the last file counts.
    #[arg(value_name = "RESULTS", required = true)]
    pub results: Vec<PathBuf>,

    /// File for the table: .csv, .xlsx, .parquet …
    ///
    /// The extension selects the format: .csv, .tsv, .jsonl, .xlsx or .parquet. `-` is standard
    /// output, unless that is a terminal, as CSV or in the format of --output-format.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Make a column of each property of this JSON Schema
    ///
    /// FILE, @FILE, or the schema itself, which begins with `{`; `object` for each property that any answer has.
    /// Properties that only the answers have follow. Lists and objects are JSON, and an answer that is not a JSON object stays text.
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,

    /// Columns of the table, in this order
    ///
    /// `--columns all` writes all, with tokens, cost and latency. For some, use their names: `--columns id,text,cost_usd`.
    /// Default: at most 12, of the input, the answers and the errors.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = name)]
    pub columns: Vec<String>,

    /// Write only the ids and the answers
    ///
    /// The columns are `id` and `text`, or the properties of --json-schema, or `embedding`. A failed
    /// item has a row without an answer.
    #[arg(long, conflicts_with = "columns")]
    pub only_answers: bool,

    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,

    /// Begin CSV and TSV with a byte order mark, so that Excel detects UTF-8
    #[arg(long, hide_short_help = true)]
    pub bom: bool,

    /// Leave cells of CSV and TSV unchanged that a spreadsheet reads as formulas. Without this flag, a text whose
    /// first visible character is = + - or @ gets an apostrophe in front; numbers stay numbers
    #[arg(long, hide_short_help = true)]
    pub raw: bool,

    /// Format of the table: csv, tsv, jsonl, xlsx or parquet; overrides the extension
    #[arg(long, value_name = "FORMAT")]
    #[arg(value_parser = one_of(&TABLE_FORMATS), hide_short_help = true)]
    #[arg(hide_possible_values = true)]
    pub output_format: Option<ExportFormat>,

    /// Delimiter of CSV: one character, or `tab` [default: a comma]
    #[arg(long, value_name = "CHAR", value_parser = delimiter, hide_short_help = true)]
    pub output_delimiter: Option<u8>,
}

/// The formats of tables, by their names.
const TABLE_FORMATS: [(&str, ExportFormat); 5] = [
    ("csv", ExportFormat::Csv),
    ("tsv", ExportFormat::Tsv),
    ("jsonl", ExportFormat::Jsonl),
    ("xlsx", ExportFormat::Xlsx),
    ("parquet", ExportFormat::Parquet),
];
