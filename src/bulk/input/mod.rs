//! The input side of a file run: the formats of a prompt file, the conversion of records to requests, and the compact
//! index for matching a million items with earlier results and reading them again one by one. It does not decide which
//! items are sent, or when.

mod array;
mod attached;
mod cells;
mod check;
mod delimiter;
mod detect;
mod duplicates;
mod entry;
#[cfg(feature = "templates")]
mod expression;
#[cfg(feature = "templates")]
mod expression_compare;
#[cfg(feature = "templates")]
mod expression_filters;
#[cfg(feature = "templates")]
mod expression_rewrite;
mod fault;
mod fields;
mod file;
mod growing;
mod id;
mod index;
mod json;
mod json_object;
mod keep;
mod kept_reader;
mod layout;
mod messages;
mod names;
mod parse;
mod queued;
mod records;
mod refused_files;
mod row_json;
mod rows;
mod said;
mod source;
mod stream;
mod table;
mod template;
mod template_tokens;

#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use encoding_rs::Encoding;
use serde_json::{Map, Value};

use crate::llm::attachment::Root;
use crate::llm::params::RequestTask;

pub(crate) use attached::AttachedFiles;
pub(crate) use check::Hooks;
pub(crate) use entry::{EarlierResult, State};
pub(crate) use fault::InputError;
pub(crate) use fields::is_set_by_itself;
pub(crate) use file::{BadRow, InputFile, Item, NamedFile, Unread};
pub(crate) use growing::Arrival;
pub(crate) use id::{hash_prefix, is_automatic, renamed};
pub(crate) use index::{FileIndex, Match, Matching, Totals};
pub(crate) use json_object::{JsonObject, JsonString};
pub(crate) use keep::TYPES;
pub(crate) use kept_reader::KeptReader;
pub(crate) use parse::parse_alone;
pub(crate) use queued::Fit;
pub(crate) use rows::{Bounded, MAX_RECORD_BYTES};
pub(crate) use source::{Origin, Source};
pub(crate) use stream::{StreamLines, StreamedItem, first_checked};
pub(crate) use template::Template;

use crate::llm::params::ResponseFormat;
#[cfg(feature = "files")]
use crate::sources::{FileScanner, Split};
use keep::Keep;

/// The format of prompts in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// One JSON object per line.
    Jsonl,
    /// One JSON list of objects.
    Json,
    /// A table with a header row; its fields are separated by commas, or by `;`, tabs or `|` if the header and the
    /// first row agree on them.
    Csv,
    /// Tab-separated, with a header row.
    Tsv,
    /// A table with a header row whose fields are separated by this byte.
    Delimited(u8),
    /// A table of typed values: one JSON list per line; the first one has the names of the columns.
    JsonRows,
    /// One prompt per line.
    Text,
}

impl Form {
    /// The format according to the file's extension.
    pub(crate) fn of(path: &Path) -> Result<Self, InputError> {
        const ACCEPTED: &str = ".jsonl, .json, .csv, .tsv, .txt, .parquet, .xlsx or .sqlite";
        let error = |text: String| Err(InputError::of_file(path.display(), text));
        if path.is_dir() {
            return error("found a folder; expected a file: this program was built without the feature `files`".to_owned());
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "txt" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "" => error(format!(
                "found a file without an extension; expected {ACCEPTED}, or --format with its format"
            )),
            "xls" | "ods" | "numbers" => error(format!(
                "found a spreadsheet (.{extension}); expected {ACCEPTED}: save it as .xlsx or CSV UTF-8"
            )),
            other => error(format!(
                "found a .{other} file; expected {ACCEPTED}, or --format with its format"
            )),
        }
    }

    /// True if a stream must be read to its end before its first record can be used.
    pub(crate) fn needs_all(self) -> bool {
        self == Self::Json || self.is_table()
    }

    fn is_table(self) -> bool {
        self == Self::JsonRows || self.delimiter().is_some()
    }

    /// The separator of a table's fields.
    fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            Self::Delimited(by) => Some(by),
            Self::Jsonl | Self::Json | Self::JsonRows | Self::Text => None,
        }
    }
}

/// How to handle a record if a field of its prompt is null, or an empty cell of a typed table. Tables of text (CSV,
/// TSV) have empty texts and no nulls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Nulls {
    /// The record becomes a failed item of kind [`Invalid`](crate::ErrorKind::Invalid) that is not sent. The other
    /// records are sent. A stream ends with an error at this record.
    #[default]
    Fail,
    /// The record is left out: it becomes no item.
    Skip,
    /// The field counts as an empty text.
    Empty,
}

/// Defaults for records, and how the input is read.
// More than 15 fields: each is an option of the input that a user can set separately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// The task.
    pub(crate) task: RequestTask,
    /// Numbers per embedding.
    pub(crate) dimensions: Option<u32>,
    /// The model.
    pub(crate) model: Option<String>,
    /// System text; a conversation with its own keeps that.
    pub(crate) system: Option<String>,
    /// Makes the prompt from the fields of a record.
    pub(crate) template: Option<Template>,
    /// The text of the template.
    pub(crate) template_text: Option<String>,
    /// Maximum number of output tokens.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) keep_reply: bool,
    /// The sampling temperature.
    pub(crate) temperature: Option<f64>,
    /// The format of the answer.
    pub(crate) format: Option<ResponseFormat>,
    /// Further fields of the request.
    pub(crate) extra: Map<String, Value>,
    /// The format of the input, whatever its name.
    pub(crate) form: Option<Form>,
    /// The column, or field, with the id.
    pub(crate) id_column: Option<String>,
    /// Whether own ids of records are ignored.
    pub(crate) without_ids: bool,
    /// Unknown fields of a line that are ignored.
    pub(crate) ignored: Ignored,
    /// Number of answers per prompt if the record does not set it; 0 means 1.
    pub(crate) samples: u32,
    /// Fields that are copied to the result.
    pub(crate) keep: Keep,
    /// The separator of tables; `None` to detect it.
    pub(crate) delimiter: Option<u8>,
    /// The encoding of the input's text, if it is not UTF-8.
    pub(crate) encoding: Option<&'static Encoding>,
    /// The folder for converted inputs.
    pub(crate) spool_folder: Option<PathBuf>,
    /// Access to the files that records name.
    pub(crate) files: FileAccess,
    /// Whether rows that make no prompt become failed items instead of ending the run.
    pub(crate) skip_bad_rows: bool,
    /// How to handle a null in a field of the prompt.
    pub(crate) nulls: Nulls,
    /// The worksheet of a workbook.
    pub(crate) sheet: Option<String>,
    /// The query for an SQLite file.
    pub(crate) query: Option<String>,
    /// Maximum size of an input after unpacking or conversion.
    pub(crate) max_unpacked: Option<u64>,
    /// The results file; it is not an input file of a folder that contains it.
    #[cfg(feature = "files")]
    pub(crate) results: Option<std::path::PathBuf>,
    #[cfg(feature = "files")]
    pub(crate) scanner: Option<FileScanner>,
    /// How the files of a folder are split.
    #[cfg(feature = "files")]
    pub(crate) split: Option<Split>,
    /// Whether nothing is sent, so that a table needs no column for prompts.
    pub(crate) for_joining: bool,
}

/// The maximum unpacked size of any input, and of a large one per byte.
const UNPACKED_ANYWAY: u64 = 4 << 30;
const UNPACKED_PER_BYTE: u64 = 64;

impl Settings {
    /// Whether rows that make no prompt do not end the run.
    pub(crate) fn takes_bad_rows(&self) -> bool {
        self.skip_bad_rows || self.for_joining
    }

    /// Maximum number of bytes of an input of `input` bytes after unpacking or conversion.
    pub(crate) fn most_unpacked(&self, input: u64) -> u64 {
        let usual = input.saturating_mul(UNPACKED_PER_BYTE).max(UNPACKED_ANYWAY);
        self.max_unpacked.unwrap_or(usual)
    }

    /// The format of a stream with these first bytes.
    pub(crate) fn form_of_stream(&self, name: &str, start: &[u8]) -> Result<Form, InputError> {
        let form = match (self.form, self.delimiter) {
            (Some(form), _) => Ok(form),
            (None, Some(_)) => Ok(Form::Csv),
            (None, None) => detect::of_stream(start),
        };
        let form = detect::check_encoding(start).and(form);
        form.map_err(|fault| InputError::of_file(name, fault.to_string()))
    }
}

/// Which files a record may name.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileAccess {
    /// Their folder; `None` for the input's own folder.
    pub(crate) root: Option<PathBuf>,
    /// Whether files outside of it are allowed too.
    pub(crate) outside: bool,
}

impl FileAccess {
    /// The root for an input in that folder.
    fn root(&self, folder: &Path) -> Root {
        Root::new(self.root.as_deref().unwrap_or(folder), self.outside)
    }
}

/// Unknown fields of a line of JSON that are ignored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignored {
    /// Their names; `a.b` is the field `b` of the object in `a`.
    pub(crate) names: Vec<String>,
    /// Whether all fields are ignored that would be rejected.
    pub(crate) all: bool,
}
