//! The input side of a file run: what forms a prompt file may have, how a record becomes a
//! request, and the compact index that lets a million of them be matched with earlier results
//! and read again one by one. What is sent, and when, is decided elsewhere.

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

/// How prompts are laid out in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// One JSON object a line.
    Jsonl,
    /// One JSON list of objects.
    Json,
    /// A table with a header row; commas separate its fields, or `;`, tabs or `|` where the header
    /// and the first row agree on them.
    Csv,
    /// Tab-separated, with a header row.
    Tsv,
    /// A table with a header row whose fields this byte separates.
    Delimited(u8),
    /// A table of typed values: a JSON list a line, the first of them the names of the columns.
    JsonRows,
    /// One prompt a line.
    Text,
}

impl Form {
    /// The form that the file's extension names.
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

    /// True where a stream must be read to its end before its first record is taken.
    pub(crate) fn needs_all(self) -> bool {
        self == Self::Json || self.is_table()
    }

    fn is_table(self) -> bool {
        self == Self::JsonRows || self.delimiter().is_some()
    }

    /// What separates the fields of a table.
    fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            Self::Delimited(by) => Some(by),
            Self::Jsonl | Self::Json | Self::JsonRows | Self::Text => None,
        }
    }
}

/// What happens to a record if a field that its prompt is made of is null, or an empty cell of a typed table. Tables of
/// text (CSV, TSV) have empty texts and no nulls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Nulls {
    /// The record becomes a failed item of kind [`Invalid`](crate::ErrorKind::Invalid) that is not sent. The other
    /// records are sent. A stream, of which no record can be set aside, ends with an error there.
    #[default]
    Fail,
    /// The record is left out: it becomes no item.
    Skip,
    /// The field is an empty text.
    Empty,
}

/// What is filled in where a record does not say it itself.
// More than 15 fields: each is an option of the input that a user can set by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// What is asked for.
    pub(crate) task: RequestTask,
    /// Numbers in a vector.
    pub(crate) dimensions: Option<u32>,
    /// The model.
    pub(crate) model: Option<String>,
    /// Instructions; a conversation that begins with its own keeps those.
    pub(crate) system: Option<String>,
    /// Makes the prompt from the fields of a record.
    pub(crate) template: Option<Template>,
    /// The same as it was written.
    pub(crate) template_text: Option<String>,
    /// The most tokens to answer with.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) keep_reply: bool,
    /// Randomness.
    pub(crate) temperature: Option<f64>,
    /// The shape of the answer.
    pub(crate) format: Option<ResponseFormat>,
    /// Further fields of the request.
    pub(crate) extra: Map<String, Value>,
    /// How the input is laid out, whatever it is called.
    pub(crate) form: Option<Form>,
    /// The column, or field, that holds the id.
    pub(crate) id_column: Option<String>,
    /// No record has an id of its own.
    pub(crate) without_ids: bool,
    /// Fields of a line that are left out.
    pub(crate) ignored: Ignored,
    /// How many answers each prompt gets that does not say it itself; 0 is 1.
    pub(crate) samples: u32,
    /// Fields that come back with the result.
    pub(crate) keep: Keep,
    /// What separates the fields of tables, whatever they look like.
    pub(crate) delimiter: Option<u8>,
    /// What the text of the input is encoded in, where that is not UTF-8.
    pub(crate) encoding: Option<&'static Encoding>,
    /// Where inputs are kept that cannot be read as they stand.
    pub(crate) spool_folder: Option<PathBuf>,
    /// Where the files are that records name.
    pub(crate) files: FileAccess,
    /// Rows that make no prompt are failed items rather than the end of the run.
    pub(crate) skip_bad_rows: bool,
    /// What a null in a field of the prompt leads to.
    pub(crate) nulls: Nulls,
    /// The worksheet of a workbook.
    pub(crate) sheet: Option<String>,
    /// What is read of an SQLite file.
    pub(crate) query: Option<String>,
    /// The most bytes that an input becomes when it is unpacked or converted.
    pub(crate) max_unpacked: Option<u64>,
    /// Which files of folders are taken.
    /// The file that results go to: no part of a folder that holds it.
    #[cfg(feature = "files")]
    pub(crate) results: Option<std::path::PathBuf>,
    #[cfg(feature = "files")]
    pub(crate) scanner: Option<FileScanner>,
    /// Into what these are split.
    #[cfg(feature = "files")]
    pub(crate) split: Option<Split>,
    /// Nothing is sent: a table may have no column for prompts.
    pub(crate) for_joining: bool,
}

/// What any input may become, and what a large one may become for each of its bytes.
const UNPACKED_ANYWAY: u64 = 4 << 30;
const UNPACKED_PER_BYTE: u64 = 64;

impl Settings {
    /// Whether rows that make no prompt stand in nobody's way.
    pub(crate) fn takes_bad_rows(&self) -> bool {
        self.skip_bad_rows || self.for_joining
    }

    /// The most bytes that an input of `input` bytes may become when it is unpacked or converted.
    pub(crate) fn most_unpacked(&self, input: u64) -> u64 {
        let usual = input.saturating_mul(UNPACKED_PER_BYTE).max(UNPACKED_ANYWAY);
        self.max_unpacked.unwrap_or(usual)
    }

    /// The form of a stream that begins like this.
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
    /// The folder below which they are; the input's own where none is named.
    pub(crate) root: Option<PathBuf>,
    /// Those elsewhere too.
    pub(crate) outside: bool,
}

impl FileAccess {
    /// For an input in that folder.
    fn root(&self, folder: &Path) -> Root {
        Root::new(self.root.as_deref().unwrap_or(folder), self.outside)
    }
}

/// Fields of a line of JSON that are left out although nobody reads them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignored {
    /// Their names; `a.b` is the field `b` of the object in `a`.
    pub(crate) names: Vec<String>,
    /// All that would be refused.
    pub(crate) all: bool,
}
