//! A prompt as a job: its kind, and the request in its payload.

use serde_json::value::{RawValue, to_raw_value};

use crate::base::error::{Error, ErrorKind};
use crate::llm::hash::request_hash;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;

use super::job::{COMPLETION_KIND, EMBEDDING_KIND, Job};

/// The kind of requests for sound, which no worker carries out by itself: a result line has no place for it.
const SPEECH_KIND: &str = "speech";

/// The kind for a task.
pub(crate) fn kind(task: RequestTask) -> &'static str {
    match task {
        RequestTask::Complete => COMPLETION_KIND,
        RequestTask::Embed => EMBEDDING_KIND,
        RequestTask::Speech => SPEECH_KIND,
    }
}

/// A job of the built-in kind that the request's task names, with its id, its
/// [fingerprint](crate::client::request_hash) and, as its lane, its model.
impl From<&Request> for Job {
    fn from(request: &Request) -> Self {
        // Strings, numbers and maps with strings as keys: none of it can fail.
        let payload = to_raw_value(request).unwrap_or_default();
        let mut job = Job::raw(kind(request.task), payload).request_hash(request_hash(request));
        job.item_id.clone_from(&request.id);
        job.lane.clone_from(&request.model);
        job
    }
}

impl From<Request> for Job {
    fn from(request: Request) -> Self {
        Job::from(&request)
    }
}

/// Puts the bytes of the files that a prompt names into its job.
///
/// # Errors
/// When a file cannot be read, or is not what it was when the prompt was made.
pub(crate) fn embed_files(job: &mut Job) -> Result<(), Error> {
    if job.kind == COMPLETION_KIND
        && let Some(payload) = embedded(job.payload.get())?
    {
        job.payload = RawValue::from_string(payload).unwrap_or_default();
    }
    Ok(())
}

/// The payload of a prompt with the bytes of the files that it names; `None` if it names none.
///
/// # Errors
/// As [`embed_files`].
pub(crate) fn embedded(payload: &str) -> Result<Option<String>, Error> {
    // What was looked at has a hash; nothing else is parsed.
    if !payload.contains("\"sha256\"") {
        return Ok(None);
    }
    let mut request = read(payload, RequestTask::Complete)?;
    request.embed_files()?;
    // Serializing strings, numbers and maps with string keys cannot fail.
    Ok(serde_json::to_string(&request).ok())
}

/// The request in a payload.
pub(crate) fn read(payload: &str, kind: RequestTask) -> Result<Request, Error> {
    let read = serde_json::from_str::<Request>(payload);
    let mut request = read.map_err(|error| {
        let name = self::kind(kind);
        Error::new(
            ErrorKind::Invalid,
            format!("the payload of this {name} job is not a request: {error}"),
        )
    })?;
    request.task = kind;
    Ok(request)
}
