//! What is read, and how.

use std::path::PathBuf;

use batchwright::sources::Split;
use clap::{Args, ValueEnum};

use super::folder::FolderArgs;
use super::values::{bytes, delimiter, name, split, text_or_file};

/// What is read, and how.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// Files of prompts, folders of source files, or - for standard input
    ///
    /// .jsonl, .json, .csv, .tsv and .txt files, each also compressed as .gz or .zst, and .parquet, .xlsx and
    /// SQLite files, one behind the other; an id must be unique in all of them. A pipe by its name is read
    /// like standard input. Of a folder each file is a prompt, or each part of one that --split makes.
    #[arg(value_name = "INPUT", required = true)]
    pub files: Vec<PathBuf>,

    /// How to handle rows that make no prompt, such as empty ones, and rows that repeat an id: `fail` names them
    /// all and sends nothing, `skip` writes them as failed items of kind `invalid`, which are not sent. The first row of
    /// an id is sent; a row that repeats it fails under an id of its own
    #[arg(help_heading = "Prompts", long, value_name = "WHAT", value_enum,
        default_value_t = BadRows::Fail, hide_short_help = true)]
    pub bad_rows: BadRows,

    /// Columns that come back in the result, or all
    ///
    /// They are under `input` in the result line. Columns of a table, or fields of a line of JSON; `all` is every
    /// column, with --template every field, and without it every field that would be refused as unknown. To
    /// keep others runs nothing again.
    #[arg(help_heading = "Prompts", long, value_name = "COLUMN,…|all", value_delimiter = ',',
        value_parser = name)]
    pub keep: Vec<String>,

    /// Answers to each prompt
    ///
    /// Each is an item of its own, with #1, #2 … behind its id; `n` in a line says it for that line. With more of
    /// them than before, only these are asked for. A seed is counted up with them.
    #[arg(help_heading = "Prompts", long, value_name = "N", hide_short_help = true,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub samples: Option<u32>,

    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How it is read.
#[derive(Debug, Args)]
pub struct ReadingArgs {
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

    /// Encoding of the text, where it is not UTF-8: windows-1252, latin1, utf-16, shift_jis and whatever
    /// else browsers know by name
    #[arg(help_heading = "Prompts", long, value_name = "NAME", value_parser = name,
        hide_short_help = true)]
    pub encoding: Option<String>,

    /// Worksheet of an .xlsx file [default: the first one]
    #[arg(help_heading = "Prompts", long, value_name = "NAME", value_parser = name,
        hide_short_help = true)]
    pub sheet: Option<String>,

    /// What is read of an SQLite file: 'SELECT id, text FROM mails'
    #[arg(help_heading = "Prompts", long, value_name = "SELECT", value_parser = text_or_file,
        hide_short_help = true)]
    pub query: Option<String>,

    /// Maximum size of an input after it is unpacked (.gz, .zst) or converted (Parquet, Excel, SQLite), for example 500M
    /// or 10G [default: 4G, or 64 times the size of the file if that is more]
    #[arg(help_heading = "Prompts", long, value_name = "SIZE", value_parser = bytes, hide_short_help = true)]
    pub max_unpacked: Option<u64>,

    /// Column of a table, or field of a line, that holds the id of each item; then all must have one
    /// [default: id or custom_id, where there is one]; `none` makes each id from the request
    #[arg(help_heading = "Prompts", long, value_name = "NAME", value_parser = name,
        hide_short_help = true)]
    pub id_column: Option<String>,

    /// How to handle a null (an empty cell of Parquet, Excel or SQLite) in a column that the prompt uses: `fail` writes
    /// the row as a failed item and sends the others, `skip` leaves the row out, `empty` fills in an empty text
    #[arg(help_heading = "Prompts", long, value_name = "WHAT", value_enum,
        default_value_t = NullsArg::Fail, hide_short_help = true)]
    pub nulls: NullsArg,

    /// Folder to which paths of files in prompts are relative, and outside of which none is read
    /// [default: the input's folder; for standard input the working folder]
    #[arg(
        help_heading = "Prompts",
        long,
        value_name = "DIR",
        hide_short_help = true
    )]
    pub root: Option<PathBuf>,

    /// Lets prompts name any file that you can read, also outside of the root
    #[arg(help_heading = "Prompts", long, hide_short_help = true)]
    pub allow_outside: bool,

    /// Fields of a line of JSON to leave out, separated by commas: `a.b` is the field b inside of a,
    /// `all` every field that would be refused as unknown [default: none]
    #[arg(help_heading = "Prompts", long, value_name = "NAMES", value_delimiter = ',',
        value_parser = name, hide_short_help = true)]
    pub ignore_fields: Vec<String>,

    /// Ask about each function, class or lines:N
    ///
    /// file, function, class, lines:N or tokens:N. Functions and classes are found in Python, Rust, JavaScript, TypeScript
    /// and Go. Each is a row with the columns id, path, name, language, lines, start_line and content; without --template
    /// the content is the prompt [default: file]
    #[arg(help_heading = "Prompts", long, value_name = "PART", value_parser = split)]
    pub split: Option<Split>,

    /// Files of a folder: '**/*.py'
    ///
    /// Written as in .gitignore, and about the path below the folder: *.py is one in any folder, /*.py one in the folder
    /// itself. Several times for several. Hidden and ignored files are left out first.
    #[arg(help_heading = "Prompts", long, value_name = "GLOB", value_parser = name)]
    pub pattern: Vec<String>,

    #[command(flatten)]
    pub folder: FolderArgs,
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
pub enum NullsArg {
    Fail,
    Skip,
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BadRows {
    Fail,
    Skip,
}
