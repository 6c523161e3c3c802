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
use crate::llm::request::{Request, ResponseFormat, Task};

use super::input::{Form, Hooks, InputFile, Matching, Settings, Template};
use super::requests::Requests;

/// What is filled in where a prompt does not say it itself. All of it is part of what makes two
/// requests the same. Its `Debug` shows none of the texts.
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
            .finish()
    }
}

impl PromptSettings {
    /// Nothing is filled in.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is asked for. Default: [`Task::Complete`]. For [`Task::Embed`] each record is one text,
    /// and no other setting than the model, the template and the dimensions may be made.
    pub fn task(mut self, task: Task) -> Self {
        self.0.task = task;
        self
    }

    /// Numbers in a vector, with [`Task::Embed`]. Default: the model's own length.
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

    pub(crate) fn output_cap(&self) -> Option<u32> {
        match self.0.task {
            Task::Complete => self.0.max_tokens,
            Task::Embed => Some(0),
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
    Stream(Box<dyn Read + Send>),
}

pub(super) struct CheckedFile {
    pub input: Arc<InputFile>,
    pub items: Matching,
    /// The models that requests name, by class; one for each kind of vectors that share calls.
    pub models: Vec<Option<String>>,
}

/// What texts that are embedded by one call must have in common beside the model.
fn shared_fields(request: &Request) -> Option<String> {
    let shared = (request.params.dimensions, &request.extra);
    let plain = request.task == Task::Complete || (shared.0.is_none() && shared.1.is_empty());
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
        let name = path.display().to_string();
        Self::check(path, &name, Form::of(path)?, settings, ctx, on_progress)
    }

    /// The same for a file of that form which people know by another name.
    pub(super) fn check(
        path: &Path,
        name: &str,
        form: Form,
        settings: &PromptSettings,
        ctx: &Context,
        on_progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        let input = InputFile::open_as(path, name, form, settings.0.clone())?;
        let total = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
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
                format!("{name}: more than {MOST_MODELS} different models, or kinds of vectors"),
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
        Self {
            source: PromptSource::Stream(Box::new(reader)),
            settings: settings.clone(),
        }
    }

    /// How many there are; `None` for a stream.
    pub fn items(&self) -> Option<u64> {
        self.file().map(|file| file.items.totals().items)
    }

    /// How many name no model; `None` for a stream.
    pub fn without_model(&self) -> Option<u64> {
        self.file().map(|file| file.items.totals().unnamed)
    }

    /// Input tokens in all, roughly; `None` for a stream.
    pub fn estimated_tokens(&self) -> Option<u64> {
        self.file().map(|file| file.items.totals().tokens)
    }

    /// The requests, in the order of the input and each with its id, as a
    /// [`FileRun`](crate::FileRun) would send them: for a queue, say. A file is read again as the
    /// iterator goes on, a stream is checked as it is read; neither is kept in memory.
    ///
    /// An item is an error, the last one, when the file is no longer what was checked, a line of the
    /// stream is no prompt, or they cannot be read.
    pub fn into_requests(self) -> Requests {
        Requests::of(self)
    }

    fn file(&self) -> Option<&CheckedFile> {
        match &self.source {
            PromptSource::File(file) => Some(file),
            PromptSource::Stream(_) => None,
        }
    }
}
