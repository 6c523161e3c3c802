//! What is filled in where a prompt does not say it itself, and how the input is read.

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

/// What is filled in where a prompt does not say it itself, which is part of what makes two requests
/// the same; and how the input is read. Its `Debug` shows none of the texts.
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
    /// Nothing is filled in.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is asked for. Default: [`RequestTask::Complete`]. For [`RequestTask::Embed`] each record is one text,
    /// and no other setting than the model, the template and the dimensions may be made.
    pub fn task(mut self, task: RequestTask) -> Self {
        self.0.task = task;
        self
    }

    /// Numbers in a vector, with [`RequestTask::Embed`]. Default: the model's own length.
    pub fn dimensions(mut self, numbers: u32) -> Self {
        self.0.dimensions = Some(numbers);
        self
    }

    /// The model. Default: none; the client's own is used and is no part of the request.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.0.model = Some(model.into());
        self
    }

    /// Instructions for conversations that bring none. Default: none.
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.0.system = Some(text.into());
        self
    }

    /// Makes the prompt from the fields of a row or line, each named as `{{field}}`. Default: a
    /// row's or line's `prompt` field.
    ///
    /// With the feature `templates`, one that has a block (`{% if lines|int > 40 %}`), a comment (`{#`) or a filter
    /// (`{{field|upper}}`) is written in the language of [Jinja](https://docs.rs/minijinja/2/minijinja/syntax/). Numbers
    /// and booleans of typed inputs are such there, fields of CSV are texts. To compare a text with a number is a fault of
    /// the record. It names no files. A column whose name has blanks is written `{{row["Review Text"]}}`.
    ///
    /// # Errors
    /// When the braces do not match, or a block or filter is none.
    pub fn template(mut self, text: &str) -> Result<Self, Error> {
        let template = Template::parse(text)
            .map_err(|why| Error::new(ErrorKind::Invalid, format!("template: {why}")))?;
        self.0.template = Some(template);
        self.0.template_text = Some(text.to_owned());
        Ok(self)
    }

    /// The most tokens to answer with. Default: the provider's, see
    /// [`Params::max_tokens`](crate::Params::max_tokens).
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.0.max_tokens = Some(tokens);
        self
    }

    /// Randomness. Default: the provider's.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.0.temperature = Some(temperature);
        self
    }

    /// Whether results keep the provider's whole reply, see
    /// [`Request::keep_reply`](crate::Request::keep_reply). What is finished already does not run again for
    /// it. Default: false.
    pub fn keep_reply(mut self, yes: bool) -> Self {
        self.0.keep_reply = yes;
        self
    }

    /// Asks for JSON objects where a prompt says nothing of the answer's shape. Default: no.
    pub fn json_mode(mut self, yes: bool) -> Self {
        self.0.format = yes.then_some(ResponseFormat::JsonObject);
        self
    }

    /// Asks for JSON that fits a schema where a prompt says nothing of the answer's shape; takes
    /// the place of [`json_mode`](Self::json_mode). Default: none.
    ///
    /// # Errors
    /// As [`ResponseFormat::json_schema`].
    pub fn json_schema(mut self, schema: Value) -> Result<Self, Error> {
        self.0.format = Some(ResponseFormat::json_schema(schema)?);
        Ok(self)
    }

    /// Further fields of every request, beneath those that a line brings itself; see
    /// [`Request::extra`](crate::Request::extra). They replace those that were set before. Default: none.
    ///
    /// # Errors
    /// When one is set by a setting of its own, such as `temperature`, or by the line alone, such as
    /// `messages`.
    pub fn extra(mut self, fields: Map<String, Value>) -> Result<Self, Error> {
        if let Some(name) = fields.keys().find(|name| is_set_by_itself(name)) {
            let why = format!("`{name}` has its own flag or field and cannot be an extra field");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        self.0.extra = fields;
        Ok(self)
    }

    /// How the input is laid out, whatever it is called. Default: as its extension says, and for a
    /// stream JSON lines or text; where a stream looks like something else it is refused.
    pub fn input_format(mut self, format: InputFormat) -> Self {
        self.0.form = Some(format);
        self
    }

    /// What separates the fields of tables: one ASCII character that is not a quote or a line end.
    /// Default: as the [format](InputFormat) says, or a first line such as `sep=;`.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.0.delimiter = Some(delimiter);
        self
    }

    /// The encoding of the input's text, by its name in the [Encoding Standard](https://encoding.spec.whatwg.org/#names-and-labels),
    /// such as `windows-1252`, `latin1`, `utf-16`, `shift_jis`. Default: UTF-8; what is none is refused.
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

    /// The column, or the field of a line, that holds the id; then every item must have one. Default:
    /// `id` or `custom_id`, and an item may have none.
    pub fn id_column(mut self, name: impl Into<String>) -> Self {
        self.0.id_column = Some(name.into());
        self
    }

    /// Whether ids of the input are ignored: every item gets an id made of its request, like one without an id. Default: no.
    pub fn without_ids(mut self, yes: bool) -> Self {
        self.0.without_ids = yes;
        self
    }

    /// Fields of a line of JSON that are left out although nothing reads them, besides those named
    /// before: `a.b` is the field `b` inside of `a`, and `all` stands for all that would be refused.
    /// Default: a line with such fields is refused, since a misspelt one would be lost in silence.
    pub fn ignore_fields<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        for name in names.into_iter().map(N::into) {
            match name.as_str() {
                "all" => self.0.ignored.all = true,
                _ => self.0.ignored.names.push(name),
            }
        }
        self
    }

    /// How many answers each prompt gets that does not say so itself, by `n`: each is an item of its own, with `#1`, `#2` …
    /// behind its id, and a [sample](crate::Request::sample) of its prompt. With more of them, or none, what was answered before
    /// is not asked again: the first is the item without samples. At most 1000. Default: 1.
    pub fn samples(mut self, answers: u32) -> Self {
        self.0.samples = answers;
        self
    }

    /// Fields of the row that come back with its result, besides those named before: columns of a table, fields
    /// of a line of JSON. `all` stands for every column, with a template for every field of a line, and without one for
    /// every field that would be refused as unknown. They are under `input` in the result line, texts for tables of
    /// text, else JSON as it stood, and are no part of what is asked: to keep others runs nothing again. Default: none.
    pub fn keep_fields<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        for name in names.into_iter().map(N::into) {
            match name.as_str() {
                "all" => self.0.keep.all = true,
                _ => self.0.keep.names.push(name),
            }
        }
        self
    }

    /// Whether rows that make no prompt (an empty one, say) become failed items of kind
    /// [`Invalid`](crate::ErrorKind::Invalid) that are not sent. Default: no, they are an error.
    pub fn skip_bad_rows(mut self, yes: bool) -> Self {
        self.0.skip_bad_rows = yes;
        self
    }

    /// What happens to a record if a field that its prompt is made of is null. A column that the template does not use
    /// does not matter. Default: [`Nulls::Fail`].
    pub fn nulls(mut self, nulls: Nulls) -> Self {
        self.0.nulls = nulls;
        self
    }

    /// The worksheet of an `.xlsx` file. Default: the first one.
    pub fn sheet(mut self, name: impl Into<String>) -> Self {
        self.0.sheet = Some(name.into());
        self
    }

    /// What is read of an SQLite file, which must be told: `SELECT id, text FROM mails`. Its columns are those of
    /// the table.
    pub fn query(mut self, select: impl Into<String>) -> Self {
        self.0.query = Some(select.into());
        self
    }

    /// The most bytes that an input becomes when it is unpacked or converted; a larger one is refused. Default: 4 GiB, or
    /// 64 times the size of the input file if that is more. Standard input is limited only if this is set.
    pub fn max_unpacked(mut self, bytes: u64) -> Self {
        self.0.max_unpacked = Some(bytes);
        self
    }

    /// The folder for inputs that cannot be read as they stand, such as compressed ones: each is kept there, in
    /// a file that lasts until the program ends. Default: the system's folder for temporary files.
    pub fn spool_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.spool_folder = Some(folder.into());
        self
    }

    pub(super) fn spool_folder_or_default(&self) -> PathBuf {
        let named = self.0.spool_folder.clone();
        named.unwrap_or_else(std::env::temp_dir)
    }

    /// The folder to which the paths of files in prompts are relative, and outside of which none is
    /// read. Default: the input's own folder, and for a stream the working folder.
    pub fn root(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.files.root = Some(folder.into());
        self
    }

    /// Whether prompts may name files outside of the [root](Self::root), by absolute paths, `..` or
    /// links. Default: no; whoever wrote the prompts could read every file that you can.
    pub fn allow_outside(mut self, yes: bool) -> Self {
        self.0.files.outside = yes;
        self
    }

    /// The file that results are written to. Where the input is a folder that holds it, it is none of the
    /// input's files: a second run would ask about the answers of the first. Default: none.
    #[cfg(feature = "files")]
    pub fn results(mut self, file: impl Into<PathBuf>) -> Self {
        self.0.results = Some(file.into());
        self
    }

    /// Which files of a folder are taken. Default: those of [`FileScanner::new`].
    #[cfg(feature = "files")]
    pub fn scanner(mut self, scanner: FileScanner) -> Self {
        self.0.scanner = Some(scanner);
        self
    }

    /// Into what the files of a folder are split: each part is a row with the columns `id`, `path`, `name`, `language`,
    /// `lines` (how many), `start_line` and `content`, which is the prompt where there is no template. Paths are those
    /// below the folder. Default: [`Split::File`].
    #[cfg(feature = "files")]
    pub fn split(mut self, split: Split) -> Self {
        self.0.split = Some(split);
        self
    }

    /// Whether the rows are read to be [joined](crate::files::Export::input) with results, by their ids, and
    /// nothing of them is sent. Then they need make no prompt, and a table need have no column for it. Of rows with one id
    /// the first is joined with [`skip_bad_rows`](Self::skip_bad_rows), and else they are refused. Default: no.
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
