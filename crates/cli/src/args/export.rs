//! The arguments of `batchwright export`.

use std::path::PathBuf;

use batchwright::files::ExportFormat;
use clap::Args;

use super::input::{BadRows, ReadingArgs};
use super::shared::{MORE, SayArgs, TaskArg};
use super::values::{delimiter, name, one_of, temperature, text_or_file};

/// Make a table of results: CSV, Excel, Parquet
///
/// Writes one row per item: the input columns, the answer, and tokens, cost and latency. If an id has several
/// lines, the last one is used. The output file appears only when it is complete.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/export.txt"))]
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
    /// output, as CSV or in the format of --output-format.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Make a column of each property of this JSON Schema
    ///
    /// FILE, @FILE, or the schema itself, which begins with `{`. Properties that only the answers have follow.
    /// Lists and objects are JSON, and an answer that is not a JSON object stays text.
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,

    /// Make a column of each property that any answer has
    ///
    /// For answers that are JSON objects, in the order of first appearance.
    #[arg(long)]
    pub json_mode: bool,

    /// Columns of the table, in this order [default: all]
    ///
    /// Use the names of the complete table: `--columns id,text,cost_usd`.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = name)]
    pub columns: Vec<String>,

    /// Write only the ids and the answers
    ///
    /// The columns are `id` and `text`, or the properties of --json-schema or --json-mode, or `embedding`. A failed
    /// item has a row without an answer.
    #[arg(long, conflicts_with = "columns")]
    pub only_answers: bool,

    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,

    /// Begin CSV and TSV with a byte order mark, so that Excel detects UTF-8
    #[arg(long, hide_short_help = true)]
    pub bom: bool,

    /// Leave cells of CSV and TSV unchanged that a spreadsheet reads as formulas. Without this flag, a text that
    /// begins with = + - @, a tab or a line end gets an apostrophe in front; numbers stay numbers
    #[arg(long, hide_short_help = true)]
    pub raw: bool,

    /// Format of the table: csv, tsv, jsonl, xlsx or parquet; overrides the extension
    #[arg(
        long,
        value_name = "FORMAT",
        value_parser = one_of(&TABLE_FORMATS),
        hide_short_help = true,
        hide_possible_values = true
    )]
    pub output_format: Option<ExportFormat>,

    /// Delimiter of CSV: one character, or `tab` [default: a comma]
    #[arg(long, value_name = "CHAR", value_parser = delimiter, hide_short_help = true)]
    pub output_delimiter: Option<u8>,

    /// Print the summary, or the error, as JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub say: SayArgs,

    #[command(flatten)]
    pub rows: RowsArgs,
}

/// The rows that were asked about, where the results do not keep them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rows")]
pub struct RowsArgs {
    /// Join the rows of this input, by id
    ///
    /// Any input of `run`. Rows without ids are matched by request hash and need the flags of the run that are
    /// listed below; whether the run requested JSON is detected. Repeatable, for several files.
    #[arg(long, value_name = "FILE")]
    pub input: Vec<PathBuf>,

    /// Keep the order of the results
    ///
    /// Without this flag, a table with --input has the order of the input. Without --input, the table has the order
    /// of the results; `run --ordered` writes them in the order of its input.
    #[arg(long)]
    pub unordered: bool,

    /// Order the table by the input (default with --input)
    #[arg(long, hide = true, requires = "input", conflicts_with = "unordered")]
    pub ordered: bool,

    #[command(flatten)]
    pub reading: ReadingArgs,

    /// How to handle rows of the input that repeat an id, as in the run: `fail` rejects them, `skip` joins the
    /// first row of an id with the result of that id, and the others with their failures
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = BadRows::Fail, hide_short_help = true)]
    pub bad_rows: BadRows,

    /// The template of the run
    #[arg(long, value_name = "TEXT", value_parser = text_or_file, hide_short_help = true)]
    pub template: Option<String>,

    /// The system text of the run
    #[arg(long, value_name = "TEXT", value_parser = text_or_file, hide_short_help = true)]
    pub system: Option<String>,

    /// The --model of the run
    #[arg(long, value_name = "NAME", value_parser = name, hide_short_help = true)]
    pub model: Option<String>,

    /// The --max-tokens of the run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    pub max_tokens: Option<u32>,

    /// The --temperature of the run
    #[arg(long, value_name = "X", value_parser = temperature, hide_short_help = true)]
    pub temperature: Option<f64>,

    /// The --extra of the run
    #[arg(long, value_name = "JSON", value_parser = text_or_file, hide_short_help = true)]
    pub extra: Option<String>,

    /// The --service-tier of the run
    #[arg(long, value_name = "TIER", value_parser = name, hide_short_help = true)]
    pub service_tier: Option<String>,

    /// The --task of the run
    #[arg(long, value_name = "TASK", value_enum, default_value_t = TaskArg::Complete,
        hide_default_value = true, hide_short_help = true)]
    pub task: TaskArg,

    /// The --dimensions of the run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    pub dimensions: Option<u32>,
}

/// The formats of tables, by their names.
const TABLE_FORMATS: [(&str, ExportFormat); 5] = [
    ("csv", ExportFormat::Csv),
    ("tsv", ExportFormat::Tsv),
    ("jsonl", ExportFormat::Jsonl),
    ("xlsx", ExportFormat::Xlsx),
    ("parquet", ExportFormat::Parquet),
];
