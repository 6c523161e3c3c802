//! Job types: the payload, the priority, and how the jobs are run.

use std::sync::Arc;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};

use batchwright::queue::{JobKinds, JobResult, ModelCall, PRIORITIES};
use batchwright::{Context, Error, ErrorKind, Handler, Job, Request};

use super::audio::AudioFolder;
use super::fields::{PayloadError, Text};

type Accept = dyn Fn(&mut Value) -> Result<Option<Request>, PayloadError> + Send + Sync;

/// A type of jobs.
///
/// ```
/// use batchwright::{Context, Handler, RunningJob};
/// use batchwright_jobs::{JobType, JobTypes, PayloadError};
/// use serde_json::{Value, json};
/// let count = Handler::new(|job: &RunningJob, _: &Context| {
///     let payload: Value = job.parse()?;
///     let text = payload["text"].as_str().unwrap_or_default();
///     Ok(json!({"words": text.split_whitespace().count()}))
/// });
/// let count_words = JobType::handled("count_words", count)
///     .about("How many words a text has")
///     .check(|payload| match payload["text"].is_string() {
///         true => Ok(()),
///         false => Err(PayloadError::new("text", "write a text")),
///     })
///     .priority(8);
/// let types = JobTypes::new().with(count_words);
/// assert!(types.job("count_words", json!({"text": 7})).is_err());
/// // A type that is one model call is made by `JobType::model_call`.
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("JobType({name})")]
pub struct JobType {
    pub(crate) name: String,
    about: String,
    /// The field of the payload that contains the item's name.
    id_field: Option<&'static str>,
    accept: Arc<Accept>,
    priority: u8,
    /// The kinds of its jobs, each with the code that runs it; none if other workers run them.
    pub(crate) kinds: JobKinds,
}

impl JobType {
    /// A type whose jobs are run by code; `name` is the kind of the jobs.
    pub fn handled(name: impl Into<String>, handler: Handler) -> Self {
        let name = name.into();
        let kinds = JobKinds::new().handler(&name, handler);
        Self::new(name, kinds)
    }

    /// A type whose jobs are one model call each.
    pub fn model_call(name: impl Into<String>, call: ModelCall) -> Self {
        let name = name.into();
        let kinds = JobKinds::new().model_call(&name, call);
        Self::new(name, kinds)
    }

    pub(crate) fn new(name: impl Into<String>, kinds: JobKinds) -> Self {
        Self {
            name: name.into(),
            about: String::new(),
            id_field: None,
            accept: Arc::new(|_| Ok(None)),
            priority: Job::DEFAULT_PRIORITY,
            kinds,
        }
    }

    /// Sets a one-line description. Default: empty.
    pub fn about(mut self, line: impl Into<String>) -> Self {
        self.about = line.into();
        self
    }

    /// Sets a function that rejects invalid payloads. Default: every payload is accepted.
    pub fn check(
        self,
        check: impl Fn(&Value) -> Result<(), PayloadError> + Send + Sync + 'static,
    ) -> Self {
        self.accept(move |payload| check(payload).map(|()| None))
    }

    /// Sets a function that rejects invalid payloads, and may change others: the job gets what it leaves. It must accept
    /// that once more without a change. If the function makes a request, the job is this prompt, which workers run on
    /// their own route without knowing the type.
    pub(crate) fn accept(
        mut self,
        accept: impl Fn(&mut Value) -> Result<Option<Request>, PayloadError> + Send + Sync + 'static,
    ) -> Self {
        self.accept = Arc::new(accept);
        self
    }

    /// The default priority of its jobs. A value outside [`PRIORITIES`] is replaced by the nearest one in it. Default: 5.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority.clamp(*PRIORITIES.start(), *PRIORITIES.end());
        self
    }

    /// Sets the field of the payload that contains the item's name.
    pub(crate) fn named_by(mut self, field: &'static str) -> Self {
        self.id_field = Some(field);
        self
    }

    /// The one with this name.
    pub(crate) fn find<'t>(types: &'t [Self], name: &str) -> Result<&'t Self, PayloadError> {
        let found = types.iter().find(|one| one.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = types.iter().map(Self::name).collect();
            let why = format!("unknown type; known types: {}", names.join(", "));
            PayloadError::new("type", why)
        })
    }

    /// Its name: the kind of its jobs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its one-line description.
    pub fn description(&self) -> &str {
        &self.about
    }

    /// A job of this type, with the type's priority and a hash of the payload.
    ///
    /// # Errors
    /// If the payload is invalid for this type.
    pub fn job(&self, mut payload: Value) -> Result<Job, PayloadError> {
        self.accepted(&mut payload)
    }

    /// The same, with the payload in the form in which it is enqueued.
    pub(crate) fn accepted(&self, payload: &mut Value) -> Result<Job, PayloadError> {
        if let Some(prompt) = (self.accept)(payload)? {
            return Ok(Job::from(prompt).priority(self.priority));
        }
        let id = self.id_field.and_then(|field| payload.get(field)?.as_str());
        // A value that was read from JSON can always be written as JSON.
        let raw = to_raw_value(payload).unwrap_or_default();
        let hash = format!("{:x}", Sha256::digest(format!("{}{raw}", self.name)));
        let id = id.map_or_else(|| hash[..16].to_owned(), str::to_owned);
        Ok(Job::raw(&self.name, raw)
            .item_id(id)
            .request_hash(hash)
            .priority(self.priority))
    }
}

type Resolve = dyn Fn(&str, &Context) -> Result<String, Error> + Send + Sync;

impl Host {
    /// Rejects a payload without a text, unless articles can be looked up by id.
    pub fn check_article(
        &self,
        content: Option<&Text>,
        id: Option<&Text>,
    ) -> Result<(), PayloadError> {
        if content.is_some() || id.is_some() && self.articles.is_some() {
            Ok(())
        } else {
            Err(no_article())
        }
    }

    /// The text of the article that a payload contains or names.
    ///
    /// # Errors
    /// If there is none, or it cannot be found or is blank.
    pub fn article(
        &self,
        content: Option<&Text>,
        id: Option<&Text>,
        ctx: &Context,
    ) -> Result<String, Error> {
        match (content, id, &self.articles) {
            (Some(content), ..) => Ok(content.0.clone()),
            (None, Some(Text(id)), Some(find)) => match find(id, ctx)? {
                text if text.trim().is_empty() => {
                    let why = format!("the article {id} has no text");
                    Err(Error::new(ErrorKind::Invalid, why))
                }
                text => Ok(text),
            },
            _ => Err(no_article().into()),
        }
    }
}

fn no_article() -> PayloadError {
    let why = "it is missing: send the text of the article, or set jobs.articles, which finds it by article_id";
    PayloadError::new("content", why)
}

/// What the host must provide for built-in types.
#[derive(Clone, Default)]
pub(crate) struct Host {
    /// The text of an article by its id.
    pub articles: Option<Arc<Resolve>>,
    /// Whether payloads may name files of this machine.
    pub local_files: bool,
    /// The folder for audio.
    pub audio_folder: Option<AudioFolder>,
}

/// What a model call of a job made, or why the job fails without it.
pub(crate) fn made<T: DeserializeOwned>(call: Option<&JobResult>, why: &str) -> Result<T, Error> {
    let made = call.map(|call| call.parse::<T>());
    let made = made.unwrap_or_else(|| Err(Error::cancelled()));
    made.map_err(|error| Error::new(ErrorKind::Invalid, format!("{why}: {}", error.message())))
}

/// The present time, for example `2026-11-21T23:14:39Z`.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
