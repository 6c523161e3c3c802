//! The prompts of a run: a file that was checked whole, or a stream that is checked as it comes.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::base::brief::{Bytes, FieldIf, Name};
use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::llm::request::{Request, RequestTask, ResponseFormat};

use super::input::{
    Form, Hooks, InputFile, Matching, NamedFile, Settings, Template, first_checked,
};

pub use super::input::Form as InputFormat;

/// What standard input is called.
pub(super) const STDIN: &str = "(standard input)";

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
            .field_if("input_format", set.form)
            .field_if("delimiter", set.delimiter.map(char::from))
            .field_if("id_column", set.id_column.as_deref().map(Name))
            .field("skip_bad_rows", &set.skip_bad_rows)
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
    /// # Errors
    /// When the braces do not match.
    pub fn template(mut self, text: &str) -> Result<Self, Error> {
        let template = Template::parse(text)
            .map_err(|why| Error::new(ErrorKind::Invalid, format!("template: {why}")))?;
        self.0.template = Some(template);
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

    /// How the input is laid out, whatever it is called. Default: as its extension says, and for a
    /// stream JSON lines or text; where a stream looks like something else it is refused.
    pub fn input_format(mut self, format: InputFormat) -> Self {
        self.0.form = Some(format);
        self
    }

    /// What separates the fields of tables: one ASCII character that is no quote and no line end.
    /// Default: as the [format](InputFormat) says, or a first line such as `sep=;`.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.0.delimiter = Some(delimiter);
        self
    }

    /// The column, or the field of a line, that holds the id; then every item must have one. Default:
    /// `id` or `custom_id`, and an item may have none.
    pub fn id_column(mut self, name: impl Into<String>) -> Self {
        self.0.id_column = Some(name.into());
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

    /// Whether rows that make no prompt (an empty one, say) become failed items of kind
    /// [`Invalid`](crate::ErrorKind::Invalid) that are not sent. Default: no, they are an error.
    pub fn skip_bad_rows(mut self, yes: bool) -> Self {
        self.0.skip_bad_rows = yes;
        self
    }

    pub(crate) fn output_cap(&self) -> Option<u32> {
        match self.0.task {
            RequestTask::Complete => self.0.max_tokens,
            RequestTask::Embed => Some(0),
        }
    }
}

/// Prompts that a [`FileRun`](crate::FileRun) can work off.
pub struct Prompts {
    pub(super) source: PromptSource,
    pub(super) settings: PromptSettings,
}

pub(super) enum PromptSource {
    File(CheckedFile),
    Stream {
        /// What people know it by.
        name: String,
        reader: Box<dyn Read + Send>,
    },
}

pub(super) struct CheckedFile {
    pub input: Arc<InputFile>,
    pub items: Matching,
    /// The models that requests name, by class; one for each kind of vectors that share calls.
    pub models: Vec<Option<String>>,
}

/// Two copies of a file would be paid for twice where its items have no ids.
fn refuse_twice(files: &[NamedFile<'_>]) -> Result<(), Error> {
    let places: Vec<_> = files.iter().map(|file| file.path.canonicalize()).collect();
    for (i, place) in places.iter().enumerate().skip(1) {
        let same = |other: &std::io::Result<_>| matches!((place, other), (Ok(a), Ok(b)) if a == b);
        if places[..i].iter().any(same) {
            let why = format!("{}: it is named twice as an input", files[i].name);
            return Err(Error::new(ErrorKind::Invalid, why));
        }
    }
    Ok(())
}

/// What texts that are embedded by one call must have in common beside the model.
fn shared_fields(request: &Request) -> Option<String> {
    let shared = (request.params.dimensions, &request.extra);
    let plain =
        request.task == RequestTask::Complete || (shared.0.is_none() && shared.1.is_empty());
    (!plain).then(|| serde_json::json!([shared.0, shared.1]).to_string())
}

/// A class is kept in 16 bits.
const MOST_MODELS: usize = u16::MAX as usize;

impl Prompts {
    /// Opens a `.jsonl`, `.csv`, `.tsv` or `.txt` file and checks all of it. `on_progress` hears
    /// how many of how many bytes have been checked.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with file, line, what was found and what was expected, for up to 20
    /// faults at once.
    pub fn open(
        path: &Path,
        settings: &PromptSettings,
        ctx: &Context,
        on_progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        Self::open_all(&[path], settings, ctx, on_progress)
    }

    /// The same for several files, one behind the other; an id must be unique in all of them.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when one is named twice.
    pub fn open_all(
        paths: &[impl AsRef<Path>],
        settings: &PromptSettings,
        ctx: &Context,
        on_progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            files.push(NamedFile {
                path,
                name: path.display().to_string(),
                form: match settings.0.form {
                    Some(form) => form,
                    None => Form::of(path)?,
                },
            });
        }
        refuse_twice(&files)?;
        Self::check(files, settings, ctx, on_progress)
    }

    /// The same for files by other names.
    pub(super) fn check(
        files: Vec<NamedFile<'_>>,
        settings: &PromptSettings,
        ctx: &Context,
        on_progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        let size = |file: &NamedFile| std::fs::metadata(file.path).map_or(0, |found| found.len());
        let total = files.iter().map(size).sum();
        let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        let input = InputFile::open_all(files, settings.0.clone())?;
        let known = Mutex::new((HashMap::new(), Vec::new()));
        let classify = |request: &Request| {
            let kind = (request.model.clone(), shared_fields(request));
            let mut known = known.lock();
            if let Some(class) = known.0.get(&kind) {
                return *class;
            }
            let class = u16::try_from(known.1.len().min(MOST_MODELS)).unwrap_or(u16::MAX);
            if usize::from(class) < MOST_MODELS {
                known.0.insert(kind, class);
                known.1.push(request.model.clone());
            }
            class
        };
        let items = input.check(Hooks {
            classify: &classify,
            cancelled: &|| ctx.is_cancelled(),
            progress: &|done| on_progress(done, total),
        })?;
        let models: Vec<Option<String>> = known.into_inner().1;
        if models.len() >= MOST_MODELS {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{}: more than {MOST_MODELS} different models, or kinds of vectors",
                    names.join(", ")
                ),
            ));
        }
        Ok(Self {
            source: PromptSource::File(CheckedFile {
                input: Arc::new(input),
                items,
                models,
            }),
            settings: settings.clone(),
        })
    }

    /// Reads JSON lines, or one prompt a line, from a stream such as standard input. Each line is
    /// checked when it comes. The stream is read on a thread of its own, which is left behind if
    /// it blocks when the run ends.
    pub fn from_reader(reader: impl Read + Send + 'static, settings: &PromptSettings) -> Self {
        Self::from_named(STDIN, reader, settings)
    }

    /// The same for a stream that is named so in messages, such as a pipe's path.
    pub fn from_named(
        name: impl Into<String>,
        reader: impl Read + Send + 'static,
        settings: &PromptSettings,
    ) -> Self {
        Self {
            source: PromptSource::Stream {
                name: name.into(),
                reader: Box::new(reader),
            },
            settings: settings.clone(),
        }
    }

    /// Reads a stream up to its first prompt and checks that, so that one which cannot be used is
    /// refused before a run begins; nothing of it is lost. Blocks until that much was read. A file
    /// stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the first prompt is none, the format is unclear, or the stream
    /// cannot be read.
    pub fn first_checked(mut self) -> Result<Self, Error> {
        if let PromptSource::Stream { name, reader } = self.source {
            let reader = first_checked(&name, reader, &self.settings.0)?;
            self.source = PromptSource::Stream { name, reader };
        }
        Ok(self)
    }

    /// How many there are; `None` for a stream.
    pub fn items(&self) -> Option<u64> {
        self.file().map(|file| file.items.totals().items)
    }

    /// How many make no prompt, and are not sent; `None` for a stream.
    pub fn bad_rows(&self) -> Option<u64> {
        self.file().map(|file| file.items.totals().bad)
    }

    /// How many name no model; `None` for a stream.
    pub fn without_model(&self) -> Option<u64> {
        self.file().map(|file| file.items.totals().unnamed)
    }

    /// Input tokens in all, roughly; `None` for a stream.
    pub fn estimated_tokens(&self) -> Option<u64> {
        self.file().map(|file| file.items.totals().tokens)
    }

    fn file(&self) -> Option<&CheckedFile> {
        match &self.source {
            PromptSource::File(file) => Some(file),
            PromptSource::Stream { .. } => None,
        }
    }
}
