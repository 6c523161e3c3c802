//! Defaults for the requests of an input, and how the input is read.

use std::fmt;
use std::path::PathBuf;

use encoding_rs::Encoding;
use serde_json::{Map, Value};

use crate::base::brief::{Bytes, FieldIf, Many, Name};
use crate::base::error::{Error, ErrorKind};
use crate::llm::params::{RequestTask, ResponseFormat};
#[cfg(feature = "files")]
use crate::sources::{FileScanner, Split};

use super::input::{Form as InputFormat, Nulls, Settings, Template, is_set_by_itself};

/// Defaults for values that a prompt does not set itself, which are part of the request; and how the input is read. Its
/// `Debug` output omits the texts.
#[derive(Clone, Default)]
pub struct PromptSettings(pub(super) Settings);

impl fmt::Debug for PromptSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = &self.0;
        let system = set.system.as_ref().map(|text| Bytes(text.len()));
        f.debug_struct("PromptSettings")
            .field("task", &set.task)
            .field_if("dimensions", set.dimensions)
            .field_if("model", set.model.as_deref().map(Name))
            .field_if("system", system)
            .field("template", &set.template.is_some())
            .field_if("max_tokens", set.max_tokens)
            .field_if("temperature", set.temperature)
            .field_if("response_format", set.format.as_ref())
            .field_if("keep_reply", set.keep_reply.then_some(true))
            .field_if(
                "extra",
                Some(set.extra.len()).filter(|many| *many > 0).map(Many),
            )
            .field_if("input_format", set.form)
            .field_if("delimiter", set.delimiter.map(char::from))
            .field_if("max_unpacked", set.max_unpacked)
            .field_if("encoding", set.encoding.map(Encoding::name))
            .field_if("id_column", set.id_column.as_deref().map(Name))
            .field_if("without_ids", set.without_ids.then_some(true))
            .field_if("samples", (set.samples > 1).then_some(set.samples))
            .field("keeps", &set.keep.is_on())
            .field("skip_bad_rows", &set.skip_bad_rows)
            .field("nulls", &set.nulls)
            .finish()
    }
}

impl PromptSettings {
    /// Settings without any default.
    pub fn new() -> Self {
        Self::default()
    }

    /// The task. Default: [`RequestTask::Complete`]. For [`RequestTask::Embed`] each record is one text, and only the
    /// model, the template and the dimensions can be set in addition.
    pub fn task(mut self, task: RequestTask) -> Self {
        self.0.task = task;
        self
    }

    /// Numbers per embedding, with [`RequestTask::Embed`]. Default: the model's own number.
    pub fn dimensions(mut self, numbers: u32) -> Self {
        self.0.dimensions = Some(numbers);
        self
    }

    /// The model. Default: the client's own model, which is not part of the request.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.0.model = Some(model.into());
        self
    }

    /// System text for conversations without one. Default: none.
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.0.system = Some(text.into());
        self
    }

    /// Makes the prompt from the fields of a row or line, with placeholders `{{field}}`. Default: the field `prompt`.
    ///
    /// With the feature `templates`, a template with a block (`{% if lines|int > 40 %}`), a comment (`{#`) or a filter
    /// (`{{field|upper}}`) is written in the language of [Jinja](https://docs.rs/minijinja/2/minijinja/syntax/).
    /// Numbers and booleans of typed inputs keep their type; fields of CSV are texts. Comparing a text with a number is
    /// a fault of the record. Such a template cannot insert files. A column with blanks in its name is written
    /// `{{row["Review Text"]}}`.
    ///
    /// # Errors
    /// When the braces do not match, or a block or filter is invalid.
    pub fn template(mut self, text: &str) -> Result<Self, Error> {
        let template = Template::parse(text)
            .map_err(|why| Error::new(ErrorKind::Invalid, format!("template: {why}")))?;
        self.0.template = Some(template);
        self.0.template_text = Some(text.to_owned());
        Ok(self)
    }

    /// Maximum number of output tokens. Default: the provider's, see [`Params::max_tokens`](crate::Params::max_tokens).
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.0.max_tokens = Some(tokens);
        self
    }

    /// The sampling temperature. Default: the provider's.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.0.temperature = Some(temperature);
        self
    }

    /// Whether results contain the provider's whole reply, see [`Request::keep_reply`](crate::Request::keep_reply).
    /// Finished items do not run again because of it. Default: false.
    pub fn keep_reply(mut self, yes: bool) -> Self {
        self.0.keep_reply = yes;
        self
    }

    /// Requests JSON objects as answers, except for prompts that set the format of the answer. Default: no.
    pub fn json_mode(mut self, yes: bool) -> Self {
        self.0.format = yes.then_some(ResponseFormat::JsonObject);
        self
    }

    /// Requests JSON according to a schema, except for prompts that set the format of the answer; replaces
    /// [`json_mode`](Self::json_mode). Default: none.
    ///
    /// # Errors
    /// As [`ResponseFormat::json_schema`].
    pub fn json_schema(mut self, schema: Value) -> Result<Self, Error> {
        self.0.format = Some(ResponseFormat::json_schema(schema)?);
        Ok(self)
    }

    /// Further fields of every request; those of a line take precedence. See [`Request::extra`](crate::Request::extra).
    /// They replace earlier ones. Default: none.
    ///
    /// # Errors
    /// When a field has its own setting, such as `temperature`, or can only be set by the line, such as `messages`.
    pub fn extra(mut self, fields: Map<String, Value>) -> Result<Self, Error> {
        if let Some(name) = fields.keys().find(|name| is_set_by_itself(name)) {
            let why = format!("`{name}` has its own flag or field and cannot be an extra field");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        self.0.extra = fields;
        Ok(self)
    }

    /// The format of the input, whatever its name. Default: according to its extension, and for a stream JSON lines or
    /// text; a stream that looks like another format is rejected.
    pub fn input_format(mut self, format: InputFormat) -> Self {
        self.0.form = Some(format);
        self
    }

    /// The separator of a table's fields: one ASCII character that is not a quote or a line end. Default: according to
    /// the [format](InputFormat), or a first line such as `sep=;`.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.0.delimiter = Some(delimiter);
        self
    }

    /// The encoding of the input's text, by its name in the [Encoding
    /// Standard](https://encoding.spec.whatwg.org/#names-and-labels), such as `windows-1252`, `latin1`, `utf-16`,
    /// `shift_jis`. Default: UTF-8; invalid UTF-8 is rejected.
    ///
    /// # Errors
    /// When there is no such encoding.
    pub fn encoding(mut self, name: &str) -> Result<Self, Error> {
        let encoding = Encoding::for_label_no_replacement(name.trim().as_bytes());
        let encoding = encoding.ok_or_else(|| {
            let why = format!(
                "there is no encoding named {name:?}; there are utf-8, utf-16, windows-1252, latin1, \
                 windows-1251, iso-8859-2, shift_jis, gb18030, euc-kr and others"
            );
            Error::new(ErrorKind::Invalid, why)
        })?;
        self.0.encoding = Some(encoding).filter(|encoding| *encoding != encoding_rs::UTF_8);
        Ok(self)
    }

    /// The column, or the field of a line, with the id; then every item must have one. Default: `id` or `custom_id`,
    /// which are optional.
    pub fn id_column(mut self, name: impl Into<String>) -> Self {
        self.0.id_column = Some(name.into());
        self
    }

    /// Whether ids of the input are ignored: every item gets an id made from its request, like an item without an id.
    /// Default: no.
    pub fn without_ids(mut self, yes: bool) -> Self {
        self.0.without_ids = yes;
        self
    }

    /// Unknown fields of a line of JSON that are ignored, in addition to those set before: `a.b` is the field `b`
    /// inside of `a`, and `all` stands for all that would be rejected. Default: a line with such fields is rejected,
    /// because misspelled fields would be lost unnoticed.
    pub fn ignore_fields<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        for name in names.into_iter().map(N::into) {
            match name.as_str() {
                "all" => self.0.ignored.all = true,
                _ => self.0.ignored.names.push(name),
            }
        }
        self
    }

    /// Number of answers per prompt, except for records that set `n`. Each is a separate item with `#1`, `#2` …
    /// appended to its id, and a [sample](crate::Request::sample) of its prompt. If the number changes, existing
    /// answers are not requested again: the first sample equals the item without samples. Maximum: 1000. Default: 1.
    pub fn samples(mut self, answers: u32) -> Self {
        self.0.samples = answers;
        self
    }

    /// Fields of the row that are copied to its result, in addition to those set before: columns of a table, fields of
    /// a line of JSON. `all` stands for every column; for JSON lines with a template for every field, and without one
    /// for every unknown field. They are under `input` in the result line, as texts for tables of text, otherwise as
    /// JSON as written. They are not part of the request, so changing them runs nothing again. Default: none.
    pub fn keep_fields<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        for name in names.into_iter().map(N::into) {
            match name.as_str() {
                "all" => self.0.keep.all = true,
                _ => self.0.keep.names.push(name),
            }
        }
        self
    }

    /// Whether rows that make no prompt (for example empty ones) become failed items of kind
    /// [`Invalid`](crate::ErrorKind::Invalid) that are not sent. Default: no, they are an error.
    pub fn skip_bad_rows(mut self, yes: bool) -> Self {
        self.0.skip_bad_rows = yes;
        self
    }

    /// How to handle a record if a field of its prompt is null. Columns that the template does not use do not matter.
    /// Default: [`Nulls::Fail`].
    pub fn nulls(mut self, nulls: Nulls) -> Self {
        self.0.nulls = nulls;
        self
    }

    /// The worksheet of an `.xlsx` file. Default: the first one.
    pub fn sheet(mut self, name: impl Into<String>) -> Self {
        self.0.sheet = Some(name.into());
        self
    }

    /// The query for an SQLite file, which is required: `SELECT id, text FROM mails`. Its columns are the columns of
    /// the table.
    pub fn query(mut self, select: impl Into<String>) -> Self {
        self.0.query = Some(select.into());
        self
    }

    /// Maximum number of bytes of an input after unpacking or conversion; a larger one is rejected. Default: 4 GiB, or
    /// 64 times the size of the input file if that is more. Standard input is limited only if this is set.
    pub fn max_unpacked(mut self, bytes: u64) -> Self {
        self.0.max_unpacked = Some(bytes);
        self
    }

    /// The folder for converted inputs, such as unpacked ones: each is stored there in a file that is deleted when the
    /// program ends. Default: the system's folder for temporary files.
    pub fn spool_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.spool_folder = Some(folder.into());
        self
    }

    pub(super) fn spool_folder_or_default(&self) -> PathBuf {
        let named = self.0.spool_folder.clone();
        named.unwrap_or_else(std::env::temp_dir)
    }

    /// The folder of the files in prompts: their paths are relative to it, and files outside of it are not read.
    /// Default: the input's own folder; for a stream the working folder.
    pub fn root(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.files.root = Some(folder.into());
        self
    }

    /// Whether prompts may name files outside of the [root](Self::root), with absolute paths, `..` or links. Default:
    /// no, because the author of the prompts could read every file that you can.
    pub fn allow_outside(mut self, yes: bool) -> Self {
        self.0.files.outside = yes;
        self
    }

    /// The results file. If the input is a folder that contains it, it is not read as an input; otherwise a second run
    /// would send the answers of the first one. Default: none.
    #[cfg(feature = "files")]
    pub fn results(mut self, file: impl Into<PathBuf>) -> Self {
        self.0.results = Some(file.into());
        self
    }

    /// Which files of a folder are read. Default: those of [`FileScanner::new`].
    #[cfg(feature = "files")]
    pub fn scanner(mut self, scanner: FileScanner) -> Self {
        self.0.scanner = Some(scanner);
        self
    }

    /// How the files of a folder are split: each part is a row with the columns `id`, `path`, `name`, `language`,
    /// `lines` (their number), `start_line` and `content`, which is the prompt if there is no template. Paths are
    /// relative to the folder. Default: [`Split::File`].
    #[cfg(feature = "files")]
    pub fn split(mut self, split: Split) -> Self {
        self.0.split = Some(split);
        self
    }

    /// Whether the rows are only read to be [joined](crate::files::Export::input) with results by id, and not sent.
    /// Then they need not make prompts, and a table needs no column for prompts. If several rows have one id, the first
    /// is joined with [`skip_bad_rows`](Self::skip_bad_rows); otherwise they are rejected. Default: no.
    pub fn for_joining(mut self, yes: bool) -> Self {
        self.0.for_joining = yes;
        self
    }

    pub(crate) fn output_cap(&self) -> Option<u32> {
        match self.0.task {
            RequestTask::Complete => self.0.max_tokens,
            RequestTask::Embed | RequestTask::Speech => Some(0),
        }
    }
}
