//! What is read, and how.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::{delimiter, name};

/// What is read, and how.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// Files of prompts, or - for standard input
    ///
    /// .jsonl, .json, .csv, .tsv and .txt files, one behind the other; an id must be unique in all of
    /// them. A pipe by its name is read like standard input.
    #[arg(value_name = "INPUT", required = true)]
    pub files: Vec<PathBuf>,

    /// jsonl, json, csv, tsv or txt, whatever the name
    ///
    /// What the input is, whatever its name: for files of other names, standard input and pipes. Of
    /// those JSON lines and text are told without it, unless the text looks like something else.
    #[arg(
        help_heading = "Prompts",
        long,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true
    )]
    pub format: Option<Format>,

    /// What separates the columns of a table: one character, or `tab` [default: a comma, or `;`, a tab
    /// or `|` where the header and the first row agree; as a first line `sep=;` says]
    #[arg(help_heading = "Prompts", long, value_name = "CHAR", value_parser = delimiter,
        hide_short_help = true)]
    pub delimiter: Option<u8>,

    /// Column of a table, or field of a line, that holds the id of each item; then all must have one
    /// [default: id or custom_id, where there is one]
    #[arg(help_heading = "Prompts", long, value_name = "NAME", value_parser = name,
        hide_short_help = true)]
    pub id_column: Option<String>,

    /// What becomes of rows that make no prompt, such as empty ones: `fail` names them all and sends
    /// nothing, `skip` writes them as failed items of kind `invalid`, which are not sent. Ids that occur
    /// twice are refused with both
    #[arg(help_heading = "Prompts", long, value_name = "WHAT", value_enum,
        default_value_t = BadRows::Fail, hide_short_help = true)]
    pub bad_rows: BadRows,

    /// Fields of a line of JSON to leave out, separated by commas: `a.b` is the field b inside of a,
    /// `all` every field that would be refused as unknown [default: none]
    #[arg(help_heading = "Prompts", long, value_name = "NAMES", value_delimiter = ',',
        value_parser = name, hide_short_help = true)]
    pub ignore_fields: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Jsonl,
    /// One JSON list of objects
    Json,
    /// Comma-separated, with a header row
    Csv,
    /// Tab-separated, with a header row
    Tsv,
    /// One prompt a line
    Txt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BadRows {
    Fail,
    Skip,
}
