//! The input side of a file run: the formats of a prompt file, the conversion of records to requests, and the compact
//! index for matching a million items with earlier results and reading them again one by one. It does not decide which
//! items are sent, or when.

mod cells;
mod check;
mod columns;
mod detect;
mod entry;
#[cfg(feature = "templates")]
mod expression;
pub(crate) mod fault;
mod fields;
mod file;
mod id;
mod index;
#[cfg(feature = "templates")]
mod jinja;
mod json;
mod keep;
mod layout;
mod messages;
mod parse;
mod path;
mod prompt_settings;
mod records;
mod roles;
mod row;
mod shape;
mod source;
mod table;
mod template;

#[cfg(test)]
mod linear_tests;
#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use derive_setters::Setters;
use encoding_rs::Encoding;
use serde_json::{Map, Value};

use crate::base::Error;
use crate::llm::params::{RequestTask, ResponseFormat};

pub(crate) use cells::{Row, Rows};
pub(crate) use check::Hooks;
pub(crate) use columns::Columns;
pub(crate) use detect::{check_encoding, check_file, delimiter};
pub(crate) use entry::{Entry, State};
pub(crate) use fault::{Fault, Place, text_of};
pub(crate) use file::{InputFile, Item, Named, NamedFile, Unread};
pub(crate) use id::{hash_prefix, is_automatic};
pub(crate) use index::{FileIndex, Fit, refused};
pub(crate) use keep::Kept;
pub(crate) use parse::parse_alone;
pub(crate) use records::{Bounded, MAX_RECORD_BYTES, too_long};
pub(crate) use shape::of_object;
pub(crate) use source::Source;
pub(crate) use template::Template;

#[cfg(feature = "files")]
use crate::sources::{FileScanner, Split};
use keep::Keep;
pub use roles::ColumnRole;
use roles::Roles;

/// The format of prompts in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// One JSON object per line.
    Jsonl,
    /// One JSON list of objects, or an object with such a [list](PromptSettings::list).
    Json,
    /// A table with a header row; its fields are separated by commas, or by `;`, tabs or `|` if the header and the
    /// first row agree on them.
    Csv,
    /// Tab-separated, with a header row.
    Tsv,
    /// One prompt per line.
    Text,
    /// One prompt: the whole file. Its row has the columns `id`, `path`, `name` and `content`.
    Whole,
}

impl Form {
    /// The format according to the file's extension.
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        const ACCEPTED: &str = ".jsonl, .json, .csv, .tsv, .txt, .parquet or .xlsx";
        let error = |text: String| Err(fault::of_file(path.display(), text));
        if path.is_dir() {
            return error("found a folder; expected a file: this program was built without the feature `files`".to_owned());
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "txt" => Ok(Self::Text),
            "json" | "geojson" => Ok(Self::Json),
            other => error(shape::of_other(path, other, ACCEPTED).to_string()),
        }
    }
}

/// Defaults for values that a prompt does not set itself, which are part of the request; and how the input is read. Its
/// `Debug` output omits the texts.
// More than 15 fields: each is an option of the input that a user can set separately.
#[derive(Clone, Default, Setters)]
#[setters(strip_option)]
pub struct PromptSettings {
    /// The task. Default: [`RequestTask::Complete`]. For [`RequestTask::Embed`] each record is one text, and only the
    /// model, the template and the dimensions can be set in addition.
    pub(crate) task: RequestTask,
    /// Numbers per embedding, with [`RequestTask::Embed`]. Default: the model's own number.
    pub(crate) dimensions: Option<u32>,
    /// The model. Default: the client's own model, which is not part of the request.
    #[setters(into)]
    pub(crate) model: Option<String>,
    /// System text for conversations without one. Default: none.
    #[setters(into)]
    pub(crate) system: Option<String>,
    /// Makes the prompt from the fields of a record.
    #[setters(skip)]
    pub(crate) template: Option<Template>,
    /// Maximum number of output tokens. Default: the provider's, see [`Params::max_tokens`](crate::Params::max_tokens).
    pub(crate) max_tokens: Option<u32>,
    /// Whether results contain the provider's whole reply, see [`Request::keep_reply`](crate::Request::keep_reply).
    /// Finished items do not run again because of it. Default: false.
    pub(crate) keep_reply: bool,
    /// The sampling temperature. Default: the provider's.
    pub(crate) temperature: Option<f64>,
    /// The format of the answer.
    #[setters(skip)]
    pub(crate) format: Option<ResponseFormat>,
    /// Further fields of the request.
    #[setters(skip)]
    pub(crate) extra: Map<String, Value>,
    /// The format of the input, whatever its name. Default: according to its extension, and for a stream JSON lines or
    /// text; a stream that looks like another format is rejected.
    #[setters(rename = "input_format")]
    pub(crate) form: Option<Form>,
    /// The field with the list, if the input is one JSON object. Default: the input is the list.
    #[setters(into)]
    pub(crate) list: Option<String>,
    /// Whether a table of text has no header: its columns are `column 1`, `column 2` and so on. Default: no.
    pub(crate) without_header: bool,
    /// The named columns.
    #[setters(skip)]
    pub(crate) roles: Roles,
    /// Whether ids of the input are ignored: every item gets an id made from its request, like an item without an id.
    /// Default: no.
    pub(crate) without_ids: bool,
    /// Fields that are copied to the result.
    #[setters(skip)]
    pub(crate) keep: Keep,
    /// The separator of a table's fields: one ASCII character that is not a quote or a line end. Default: according to
    /// the [format](crate::files::InputFormat), or a first line such as `sep=;`.
    pub(crate) delimiter: Option<u8>,
    /// Whether fields of a table may be quoted; if not, quotation marks are text, and each line is a row. Default: yes,
    /// but a quoted field of a tab-separated table is rejected if each of its lines could be a row.
    pub(crate) quotes: Option<bool>,
    /// The encoding of the input's text, if it is not UTF-8.
    #[setters(skip)]
    pub(crate) encoding: Option<&'static Encoding>,
    /// The folder for converted inputs, such as unpacked ones: each is stored there in a file that is deleted when the
    /// program ends. Default: the system's folder for temporary files.
    #[setters(into)]
    pub(crate) spool_folder: Option<PathBuf>,
    /// The folder of the files in prompts: their paths are relative to it, and files outside of it are not read, because the
    /// author of the prompts could read every file that you can. Default: the input's own folder; for a stream the
    /// working folder.
    #[setters(into)]
    pub(crate) root: Option<PathBuf>,
    /// Whether rows that make no prompt (for example empty ones) become failed items of kind
    /// [`Invalid`](crate::ErrorKind::Invalid) that are not sent. Default: no, they are an error.
    pub(crate) skip_bad_rows: bool,
    /// The worksheet of an `.xlsx` file. Default: the first one.
    #[setters(into)]
    pub(crate) sheet: Option<String>,
    /// The results file. If the input is a folder that contains it, it is not read as an input; otherwise a second run
    /// would send the answers of the first one. Default: none.
    #[cfg(feature = "files")]
    #[setters(into)]
    pub(crate) results: Option<PathBuf>,
    /// Which files of a folder are read. Default: those of [`FileScanner::new`].
    #[cfg(feature = "files")]
    pub(crate) scanner: Option<FileScanner>,
    /// How the files of a folder are split: each part is a row with the columns `id`, `path`, `name`, `language`,
    /// `lines` (their number), `start_line` and `content`, which is the prompt if there is no template. Paths are
    /// relative to the folder. Default: [`Split::File`].
    #[cfg(feature = "files")]
    pub(crate) split: Option<Split>,
}
