//! A prompt as a job: its kind, and the request in its payload.

use serde_json::value::RawValue;

use crate::base::{Error, form};
use crate::llm::hash::request_hash;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;

use super::job::{COMPLETION_KIND, EMBEDDING_KIND, Job};

/// The kind of speech requests. No worker supports it by default, because a result line cannot contain audio.
const SPEECH_KIND: &str = "speech";

/// The kind for a task.
pub(crate) fn kind(task: RequestTask) -> &'static str {
    match task {
        RequestTask::Complete => COMPLETION_KIND,
        RequestTask::Embed => EMBEDDING_KIND,
        RequestTask::Speech => SPEECH_KIND,
    }
}

/// A job of the built-in kind for the request's task, with its id, its [request hash](crate::client::request_hash)
/// and, as its lane, its model.
impl From<&Request> for Job {
    fn from(request: &Request) -> Self {
        let payload = written(request);
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

fn written(request: &Request) -> Box<RawValue> {
    RawValue::from_string(form::write(request)).unwrap_or_default()
}

/// Replaces the files that a prompt names by their contents.
///
/// # Errors
/// If a file cannot be read, or has changed since the prompt was made.
pub(crate) fn embed_files(job: &mut Job) -> Result<(), Error> {
    // Files that were read have a hash; other payloads need no parsing.
    if job.kind != COMPLETION_KIND || !job.payload.get().contains("\"sha256\"") {
        return Ok(());
    }
    let mut request = read(job.payload.get(), RequestTask::Complete)?;
    request.embed_files()?;
    job.payload = written(&request);
    Ok(())
}

/// A request with only the fields that select its providers, models and quotas.
pub(crate) fn naming(task: RequestTask, model: &Option<String>) -> Request {
    Request {
        task,
        model: model.clone(),
        ..Request::default()
    }
}

/// The request in a payload.
pub(crate) fn read(payload: &str, kind: RequestTask) -> Result<Request, Error> {
    let what = format!("the payload of this {} job", self::kind(kind));
    let mut request: Request = form::read(&what, payload)?;
    request.task = kind;
    Ok(request)
}
