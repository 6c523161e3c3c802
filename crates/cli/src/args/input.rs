//! The arguments that describe the input and its format, and those of `batchwright scan`, which lists it.

use std::path::PathBuf;

use batchwright::files::{ColumnRole, InputFormat};
use batchwright::sources::Split;
use clap::{Args, ValueEnum};

use super::values::{bytes, column, delimiter, name, one_of, split};

/// What is read, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompts")]
pub struct InputArgs {
    /// Files of prompts, folders of source files, or - for standard input
    ///
    /// .jsonl, .json, .csv, .tsv and .txt files, also compressed as .gz or .zst, and .parquet and .xlsx
    /// files. Several files form one input; an id must be unique in all of them. A named pipe is read like standard
    /// input. In a folder, each file is a prompt, or each part that --split makes.
    #[arg(help_heading = None::<&str>, value_name = "INPUT", required = true)]
    pub files: Vec<PathBuf>,

    /// How to handle invalid rows (for example empty ones) and rows that repeat an id: `fail` lists them and sends
    /// nothing; `skip` writes each as a failed item of kind `invalid` and sends the others. The first row of an id
    /// is sent; a row that repeats it fails under its own id
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = BadRows::Fail, hide_short_help = true)]
    pub bad_rows: BadRows,

    /// Input columns to copy into results, or all, or none
    ///
    /// They are in `input` of the result line, as they were when the item was sent. For JSON without --template, `all`
    /// is every field that would be rejected as unknown. Changing this flag does not run finished items again [default
    /// of run: all columns of rows of up to 4 KiB]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', value_parser = name, hide_short_help = true)]
    pub keep: Vec<String>,

    /// Input format: jsonl, json, json:FIELD, csv, csv:no-header, tsv, txt or whole
    ///
    /// json:FIELD reads the list in a field of one object. csv:no-header names the columns `column 1`, `column 2` …
    /// txt has a prompt per line; with whole each file is one. Default for standard input, pipes and unknown extensions:
    /// JSON lines if the input starts with `{`, else text; text that looks like a table or a JSON list is rejected.
    #[arg(long, value_name = "FORMAT", value_parser = format, hide_short_help = true)]
    pub format: Option<Format>,

    /// Delimiter of a table: one character, or `tab` [default: a comma, or `;`, a tab or `|` if the header and the
    /// first row have equally many columns; a first line such as `sep=;` sets it]
    #[arg(long, value_name = "CHAR", value_parser = delimiter, hide_short_help = true)]
    pub delimiter: Option<u8>,

    /// Whether fields of a table may be quoted: with off, quotation marks are text and each line is a row, as most
    /// programs write tab-separated tables [default: on, but a tab-separated field of several lines is rejected if each
    /// line could be a row]
    #[arg(long, value_name = "ON|OFF", value_parser = one_of(&SWITCH), hide_possible_values = true, hide_short_help = true)]
    pub quotes: Option<bool>,

    /// Encoding of the text if it is not UTF-8: windows-1252, latin1, utf-16, shift_jis or another name that
    /// browsers know
    #[arg(long, value_name = "NAME", value_parser = name, hide_short_help = true)]
    pub encoding: Option<String>,

    /// Worksheet of an .xlsx file [default: the first one]
    #[arg(long, value_name = "NAME", value_parser = name, hide_short_help = true)]
    pub sheet: Option<String>,

    /// The column or field with the id, model, system or messages: id=NAME
    ///
    /// Repeatable. `id=NAME`: every row must have one [default: id or custom_id, if present]; `id=none` makes each id
    /// from the request. `model=NAME`, `system=NAME`: the model and the system text of each row; empty ones are those of
    /// the flags. `messages=NAME`: the conversation; `messages=NAME[:-1]` leaves a last message of the assistant out
    #[arg(long, value_name = "ROLE=NAME", value_parser = column, hide_short_help = true)]
    pub column: Vec<(ColumnRole, String)>,

    /// Folder to which paths of files in prompts are relative; files outside of it are not read, so `/` allows every
    /// file [default: the input's folder; for standard input the working folder]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub root: Option<PathBuf>,

    /// Make a prompt of each function, class or lines:N
    ///
    /// file, function, class, lines:N or tokens:N. Functions and classes are found in Python, Rust, JavaScript,
    /// TypeScript and Go. Each is a row with the columns id, path, name, language, lines, start_line and content;
    /// without --template the content is the prompt [default: file]
    #[arg(long, value_name = "PART", value_parser = split, hide_short_help = true)]
    pub split: Option<Split>,

    /// Files of a folder: '**/*.py'
    ///
    /// Syntax of .gitignore, for the path below the folder: *.py matches in any folder, /*.py only in the folder
    /// itself. Repeatable. Hidden and ignored files are skipped first.
    #[arg(long, value_name = "GLOB", value_parser = name, hide_short_help = true)]
    pub pattern: Vec<String>,

    #[command(flatten)]
    pub folder: FolderArgs,
}

const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

/// A format of inputs of text.
#[derive(Debug, Clone)]
pub struct Format {
    pub form: InputFormat,
    /// The field with the list of a JSON object.
    pub list: Option<String>,
    pub without_header: bool,
}

fn format(text: &str) -> Result<Format, String> {
    let (name, detail) = text.split_once(':').unwrap_or((text, ""));
    let known = FORMATS.iter().find(|(known, _)| *known == name);
    let (list, without_header) = (Some(detail.to_owned()), detail == "no-header");
    match (known, text.contains(':')) {
        (Some((_, form)), false) => Some((*form, None, false)),
        (Some((_, form @ InputFormat::Json)), _) if !detail.is_empty() => {
            Some((*form, list, false))
        }
        (Some((_, form @ (InputFormat::Csv | InputFormat::Tsv))), _) if without_header => {
            Some((*form, None, true))
        }
        _ => None,
    }
    .map(|(form, list, without_header)| Format {
        form,
        list,
        without_header,
    })
    .ok_or_else(|| {
        let names = FORMATS.map(|(name, _)| name).join(", ");
        format!("write one of {names}, json:FIELD, csv:no-header, tsv:no-header")
    })
}

/// The formats of inputs of text, by their names.
const FORMATS: [(&str, InputFormat); 6] = [
    ("jsonl", InputFormat::Jsonl),
    ("json", InputFormat::Json),
    ("csv", InputFormat::Csv),
    ("tsv", InputFormat::Tsv),
    ("txt", InputFormat::Text),
    ("whole", InputFormat::Whole),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BadRows {
    Fail,
    Skip,
}

const FOLDER: &str = "Files of a folder";

/// Which files of a folder are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct FolderArgs {
    /// Include hidden files and folders
    #[arg(help_heading = FOLDER, long, hide_short_help = true)]
    pub hidden: bool,

    /// Include files that .gitignore, .ignore or git's other lists exclude
    #[arg(help_heading = FOLDER, long, hide_short_help = true)]
    pub no_ignore: bool,

    /// Follow symbolic links below the folder; without this flag they are skipped
    #[arg(help_heading = FOLDER, long, hide_short_help = true)]
    pub follow: bool,

    /// Maximum size of a file, for example 500K, 10M or 1G; larger ones are skipped [default: 10M]
    #[arg(help_heading = FOLDER, long, value_name = "SIZE", value_parser = bytes, hide_short_help = true)]
    pub max_size: Option<u64>,
}

/// List the files that run would read, and why it skips others
///
/// Files that are hidden, ignored by git or excluded by a pattern are not listed. Reasons to skip a file: too
/// large, binary, not UTF-8, unreadable, a symbolic link.
#[derive(Debug, Args)]
#[command(after_help = include_str!("../../data/help/scan.txt"))]
pub struct ScanArgs {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,

    /// Files to read: '**/*.py'; '!vendor' excludes
    ///
    /// Syntax of .gitignore, for the path below the folder: *.py matches in any folder, /*.py only in the folder
    /// itself. Repeatable. Hidden and ignored files are skipped first.
    #[arg(long, value_name = "GLOB", value_parser = name)]
    pub pattern: Vec<String>,

    #[command(flatten)]
    pub files: FolderArgs,

    /// Print the prompts of `run`: function, lines:N …
    ///
    /// file, function, class, lines:N or tokens:N. Each part is a line of JSON with its content. Files that cannot be split
    /// are skipped, with the reason.
    #[arg(long, value_name = "PART", value_parser = split)]
    pub split: Option<Split>,
}
