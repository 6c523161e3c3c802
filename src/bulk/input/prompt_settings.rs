//! Defaults for the requests of an input, and how the input is read.

use std::fmt;
use std::path::PathBuf;

use encoding_rs::Encoding;
use serde_json::{Map, Value};

use crate::base::brief::{FieldIf, Name};
use crate::base::{Error, ErrorKind};
use crate::llm::params::{RequestTask, ResponseFormat};

use super::fields::is_set_by_itself;
use super::template::Template;
use super::{Form, PromptSettings, detect, fault};

impl fmt::Debug for PromptSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptSettings")
            .field("task", &self.task)
            .field_if("model", self.model.as_deref().map(Name))
            .field("template", &self.template.is_some())
            .finish_non_exhaustive()
    }
}

impl PromptSettings {
    /// Settings without any default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the prompt from the fields of a row or line, with placeholders `{{field}}`. Default: the field `prompt`.
    ///
    /// With the feature `templates`, a template with a block (`{% if lines|int > 40 %}`), a comment (`{#`) or a filter
    /// (`{{field|upper}}`) is written in the language of [Jinja](https://docs.rs/minijinja/2/minijinja/syntax/).
    /// Numbers and booleans of typed inputs keep their type; fields of CSV are texts, so that a comparison with a number
    /// needs a filter (`lines|int > 40`). Such a template cannot insert files. A column with blanks in its name is written
    /// `{{row["Review Text"]}}`.
    ///
    /// # Errors
    /// When the braces do not match, or a block or filter is invalid.
    pub fn template(mut self, text: &str) -> Result<Self, Error> {
        let template = Template::parse(text)
            .map_err(|why| Error::new(ErrorKind::Invalid, format!("template: {why}")))?;
        self.template = Some(template);
        Ok(self)
    }

    /// Requests JSON objects as answers, except for prompts that set the format of the answer. Default: no.
    pub fn json_mode(mut self, yes: bool) -> Self {
        self.format = yes.then_some(ResponseFormat::JsonObject);
        self
    }

    /// Requests JSON according to a schema, except for prompts that set the format of the answer; replaces
    /// [`json_mode`](Self::json_mode). Default: none.
    ///
    /// # Errors
    /// As [`ResponseFormat::json_schema`].
    pub fn json_schema(mut self, schema: Value) -> Result<Self, Error> {
        self.format = Some(ResponseFormat::json_schema(schema)?);
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
        self.extra = fields;
        Ok(self)
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
        self.encoding = Some(encoding).filter(|encoding| *encoding != encoding_rs::UTF_8);
        Ok(self)
    }

    /// Fields of the row that are copied to its result, in addition to those set before: columns of a table, fields of
    /// a line of JSON. `all` stands for every column; for JSON lines with a template for every field, and without one
    /// for every unknown field. They are under `input` in the result line, as texts for tables of text, otherwise as
    /// JSON as written, and stay as they were when the item was sent. They are not part of the request, so changing them
    /// runs nothing again. Default: none.
    pub fn keep_fields<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        for name in names.into_iter().map(N::into) {
            match name.as_str() {
                "all" => self.keep.all = true,
                _ => self.keep.names.push(name),
            }
        }
        self
    }

    /// Rows of at most this number of bytes keep all their columns: rows of tables, and lines of JSON with a template.
    /// Fields that [`keep_fields`](Self::keep_fields) names replace this. Default: 0.
    pub fn keep_rows_up_to(mut self, bytes: usize) -> Self {
        self.keep.of_rows_up_to = bytes;
        self
    }

    pub(crate) fn spool_folder_or_default(&self) -> PathBuf {
        let named = self.spool_folder.clone();
        named.unwrap_or_else(std::env::temp_dir)
    }

    /// The format of a stream with these first bytes.
    pub(crate) fn form_of_stream(&self, name: &str, start: &[u8]) -> Result<Form, Error> {
        let form = match (self.form, self.delimiter) {
            (Some(form), _) => Ok(form),
            (None, Some(_)) => Ok(Form::Csv),
            (None, None) => detect::of_stream(start),
        };
        let form = detect::check_encoding(start).and(form);
        form.map_err(|fault| fault::of_file(name, fault))
    }

    pub(crate) fn output_cap(&self) -> Option<u32> {
        match self.task {
            RequestTask::Complete => self.max_tokens,
            RequestTask::Embed | RequestTask::Speech => Some(0),
        }
    }
}
