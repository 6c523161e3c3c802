//! A type of jobs: what it takes, how urgent it is, and how it is carried out.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};

use batchwright::queue::{ModelCall, PRIORITIES};
use batchwright::{Context, Error, ErrorKind, Handler, Job, Request};

use super::audio::AudioFolder;
use super::fields::PayloadError;

type Check = dyn Fn(&Value) -> Result<(), PayloadError> + Send + Sync;
type Prepare = dyn Fn(Value) -> Result<Value, PayloadError> + Send + Sync;
type MakePrompt = dyn Fn(&Value) -> Result<Request, PayloadError> + Send + Sync;
type Priority = dyn Fn(&Value) -> u8 + Send + Sync;

/// A type of jobs.
#[derive(Clone, derive_more::Debug)]
#[debug("JobType({name})")]
pub struct JobType {
    pub(crate) name: String,
    about: String,
    /// The field of the payload that names the item.
    id_field: Option<&'static str>,
    prepare: Option<Arc<Prepare>>,
    check: Arc<Check>,
    priority: Arc<Priority>,
    pub(crate) work: JobWork,
}

/// How the jobs of a type are carried out.
#[derive(Clone)]
pub(crate) enum JobWork {
    ModelCall(ModelCall),
    Handler(Handler),
    /// The worker's own route of prompts; the payload is made into one.
    Prompt(Arc<MakePrompt>),
    /// Other workers do it: this host lacks what it takes.
    Elsewhere,
}

impl JobType {
    /// A type whose jobs are carried out by code; the name is the jobs' kind.
    pub fn handled(name: impl Into<String>, handler: Handler) -> Self {
        Self::new(name.into(), JobWork::Handler(handler))
    }

    /// A type whose jobs are one call of a model each.
    pub fn model_call(name: impl Into<String>, call: ModelCall) -> Self {
        Self::new(name.into(), JobWork::ModelCall(call))
    }

    /// A type whose jobs are prompts, which the worker knows without it.
    pub(crate) fn prompt(
        name: impl Into<String>,
        make: impl Fn(&Value) -> Result<Request, PayloadError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(name.into(), JobWork::Prompt(Arc::new(make)))
    }

    /// A type whose jobs are checked here and carried out by other workers.
    pub(crate) fn elsewhere(name: impl Into<String>) -> Self {
        Self::new(name.into(), JobWork::Elsewhere)
    }

    fn new(name: String, work: JobWork) -> Self {
        Self {
            name,
            about: String::new(),
            id_field: None,
            prepare: None,
            check: Arc::new(|_| Ok(())),
            priority: Arc::new(|_| Job::DEFAULT_PRIORITY),
            work,
        }
    }

    /// What it does, in a line for people. Default: nothing is said.
    pub fn about(mut self, line: impl Into<String>) -> Self {
        self.about = line.into();
        self
    }

    /// Refuses what is no payload. Default: every payload is taken.
    pub fn check(
        mut self,
        check: impl Fn(&Value) -> Result<(), PayloadError> + Send + Sync + 'static,
    ) -> Self {
        self.check = Arc::new(check);
        self
    }

    /// The priority of jobs for which none was named, one of [`PRIORITIES`]. Default: 5.
    pub fn priority(self, priority: u8) -> Self {
        self.priority_of(move |_| priority)
    }

    /// The same, computed of the payload, which has been checked. What lies outside [`PRIORITIES`] is
    /// taken for the next one inside.
    pub fn priority_of(mut self, priority: impl Fn(&Value) -> u8 + Send + Sync + 'static) -> Self {
        self.priority = Arc::new(priority);
        self
    }

    /// The field of the payload that names the item.
    pub(crate) fn named_by(mut self, field: &'static str) -> Self {
        self.id_field = Some(field);
        self
    }

    /// Makes another payload of the one that was handed in, before it is checked.
    pub(crate) fn prepare(
        mut self,
        prepare: impl Fn(Value) -> Result<Value, PayloadError> + Send + Sync + 'static,
    ) -> Self {
        self.prepare = Some(Arc::new(prepare));
        self
    }

    /// Its name: the kind of its jobs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does, in a line for people.
    pub fn description(&self) -> &str {
        &self.about
    }

    /// A job of this type, with the type's priority and a fingerprint of the payload.
    ///
    /// # Errors
    /// When that is no payload of this type.
    pub fn job(&self, payload: Value) -> Result<Job, PayloadError> {
        self.checked(&self.prepared(payload)?)
    }

    /// The payload as it is enqueued.
    pub(crate) fn prepared(&self, payload: Value) -> Result<Value, PayloadError> {
        match &self.prepare {
            Some(prepare) => prepare(payload),
            None => Ok(payload),
        }
    }

    /// A job of a payload that is prepared.
    pub(crate) fn checked(&self, payload: &Value) -> Result<Job, PayloadError> {
        (self.check)(payload)?;
        let priority = (self.priority)(payload);
        let priority = priority.clamp(*PRIORITIES.start(), *PRIORITIES.end());
        if let JobWork::Prompt(make) = &self.work {
            return Ok(Job::from(make(payload)?).priority(priority));
        }
        let id = self.id_field.and_then(|field| payload.get(field)?.as_str());
        // A value that was read from JSON can be written as such.
        let raw = to_raw_value(payload).unwrap_or_default();
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update(raw.get())
            .finalize();
        let hash = format!("{digest:x}");
        let id = id.map_or_else(|| hash[..16].to_owned(), str::to_owned);
        Ok(Job::raw(&self.name, raw)
            .item_id(id)
            .request_hash(hash)
            .priority(priority))
    }
}

type Resolve = dyn Fn(&str, &Context) -> Result<String, Error> + Send + Sync;

/// Finds the texts of articles.
pub(crate) trait Articles: Send + Sync {
    /// Whether texts can be found at present.
    fn is_set(&self) -> bool {
        true
    }

    /// The text of the article with this id.
    fn find(&self, id: &str, ctx: &Context) -> Result<String, Error>;
}

impl<F: Fn(&str, &Context) -> Result<String, Error> + Send + Sync> Articles for F {
    fn find(&self, id: &str, ctx: &Context) -> Result<String, Error> {
        self(id, ctx)
    }
}

impl Host {
    /// Whether the text of an article can be found by its id at present.
    pub fn finds_articles(&self) -> bool {
        self.articles.as_ref().is_some_and(|them| them.is_set())
    }

    /// The text of an article that a payload brings or names; `None` if it does neither.
    ///
    /// # Errors
    /// When the text cannot be found or is blank.
    pub fn article(
        &self,
        content: Option<&str>,
        id: Option<&str>,
        ctx: &Context,
    ) -> Result<Option<String>, Error> {
        let text = match (content, id, &self.articles) {
            (Some(content), ..) => content.to_owned(),
            (None, Some(id), Some(articles)) => articles.find(id, ctx)?,
            _ => return Ok(None),
        };
        if text.trim().is_empty() {
            let why = format!("the article {} has no text", id.unwrap_or_default());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(Some(text))
    }
}

/// What only the host can do for the types that are built in.
#[derive(Clone, Default)]
pub(crate) struct Host {
    /// The text of an article by its id.
    pub articles: Option<Arc<dyn Articles>>,
    /// The page at an address, as HTML.
    pub pages: Option<Arc<Resolve>>,
    /// Payloads may name files of this machine.
    pub local_files: bool,
    /// Where sound is kept.
    pub audio_folder: Option<AudioFolder>,
}
